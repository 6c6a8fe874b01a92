//! The sessions of a subject: lists them, changes their title, manages their tokens, deletes them.
//!
//! These operations take a credential and the id of a session, where others take a token. Without
//! a credential there is no owner, and in open mode there are no credentials.

use std::sync::Arc;

use super::{
    Created, Gateway,
    sessions::{revoke, revoke_token},
};
use crate::session::{
    caller::Caller,
    eager_task::spawn_eager,
    model::{
        Error, ErrorKind, Identity, Result, Scope, Session, SessionId, TokenId, TokenRecord,
        check_title,
    },
    ports::{ListCursor, ListedSession, Page, Snapshot},
};

/// A request for a page of the sessions of a subject.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListRequest<'a> {
    /// One of a service's users. `None`: the caller itself.
    pub subject: Option<&'a str>,
    /// Only sessions after this place.
    pub after: Option<ListCursor>,
    /// Most sessions. `None`: as many as a page may have.
    pub limit: Option<u32>,
}

/// A page of the sessions of a subject, newest activity first.
#[derive(Clone, Debug)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<ListedSession>,
    /// The place of the last one, if there are more.
    pub next: Option<ListCursor>,
}

impl Gateway {
    /// Returns the identity of a caller.
    ///
    /// # Errors
    /// `Forbidden` if the gateway accepts no credentials, `Unauthenticated` without one.
    fn owner<'a>(&self, caller: &'a Caller) -> Result<&'a Identity> {
        if !self.core.settings.access.credentials {
            let message = "This gateway has no owners of sessions: it accepts no credentials";
            return Err(Error::new(ErrorKind::Forbidden, message));
        }
        caller.authenticated().map(|identity| &**identity)
    }

    /// Returns a session of the caller.
    async fn owned(&self, caller: &Caller, id: SessionId) -> Result<Snapshot> {
        let owner = self.owner(caller)?;
        let core = &self.core;
        match core.store.read(id, core.clock.now(), Page::HEAD).await {
            Ok(snapshot) => {
                let subject = snapshot.session.subject.as_deref();
                let is_own = subject.is_some_and(|subject| owner.owns(subject));
                if is_own { Ok(snapshot) } else { Err(ErrorKind::NotFound.into()) }
            }
            Err(error) => Err(not_found(error)),
        }
    }

    /// Returns a page of the sessions of the caller, or of one of a service's users.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `InvalidArgument`.
    pub async fn list_sessions(
        &self,
        caller: &Caller,
        request: ListRequest<'_>,
    ) -> Result<SessionList> {
        let subject = self.owner(caller)?.subject_for(request.subject)?;
        let core = &self.core;
        let max = core.settings.max_page_sessions;
        let limit = request.limit.unwrap_or(max).min(max);
        // Reads one more to see whether there are more.
        let found = core.store.list(&subject, core.clock.now(), request.after, limit + 1).await;
        let mut sessions = found?;
        let has_more = sessions.len() > limit as usize;
        sessions.truncate(limit as usize);
        let next = sessions.last().filter(|_| has_more).map(ListedSession::cursor);
        Ok(SessionList { sessions, next })
    }

    /// Issues another token for a session of the caller.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `NotFound`, `InvalidArgument`, `Overloaded`, `StoreFull`,
    /// `Draining`.
    pub async fn issue_token_by_owner(
        &self,
        caller: &Caller,
        id: SessionId,
        scope: Option<Scope>,
        label: Option<&str>,
    ) -> Result<Created> {
        self.core.check_serving()?;
        let Snapshot { session, .. } = self.owned(caller, id).await?;
        let scope = scope.unwrap_or_default();
        self.issue(caller, &session, scope, label).await.map_err(not_found)
    }

    /// Returns the tokens of a session of the caller, oldest first.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `NotFound`.
    pub async fn list_tokens(&self, caller: &Caller, id: SessionId) -> Result<Vec<TokenRecord>> {
        self.owned(caller, id).await?;
        self.core.store.tokens(id, self.core.clock.now()).await.map_err(not_found)
    }

    /// Ends a token of a session of the caller. The streams that it opened are closed at once.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `NotFound`.
    pub async fn revoke_token_by_owner(
        &self,
        caller: &Caller,
        id: SessionId,
        token: TokenId,
    ) -> Result<()> {
        let has_owner = self.owned(caller, id).await?.session.subject.is_some();
        let core = Arc::clone(&self.core);
        let revoke = async move { revoke_token(&core, id, token, has_owner).await };
        spawn_eager(revoke).end().await.map_err(not_found)
    }

    /// Sets the title of a session of the caller. A blank one is removed.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `NotFound`, `InvalidArgument`, `StoreFull`, `Draining`.
    pub async fn set_title(&self, caller: &Caller, id: SessionId, title: &str) -> Result<Session> {
        self.core.check_serving()?;
        let title = check_title(title)?;
        self.owned(caller, id).await?;
        let core = &self.core;
        core.store.set_title(id, core.clock.now(), title).await.map_err(not_found)
    }

    /// Deletes a session of the caller. Its streams are closed at once.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`, `NotFound`.
    pub async fn delete_session(&self, caller: &Caller, id: SessionId) -> Result<()> {
        self.owned(caller, id).await?;
        let core = Arc::clone(&self.core);
        spawn_eager(async move { revoke(&core, id).await }).end().await.map_err(not_found)
    }
}

/// A session or token that does not exist is not told apart from that of another subject.
fn not_found(error: Error) -> Error {
    if error.kind() == ErrorKind::SessionExpired { ErrorKind::NotFound.into() } else { error }
}
