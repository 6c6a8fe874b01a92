//! Creates, renews, reads and revokes sessions.

use std::sync::Arc;

use super::Gateway;
use crate::session::{
    caller::Caller,
    core::{Core, PEER},
    eager_task::spawn_eager,
    model::{
        Epoch, Error, ErrorKind, Identity, Message, Metadata, Name, Result, Scope, Session,
        SessionId, Timestamp, Token, TokenId, TokenRecord, check_label, check_title,
    },
    ports::{FoundSession, NewSession, Page, Snapshot},
};

/// A request for a session, or for another token of one.
#[derive(Clone, Debug, Default)]
pub struct NewToken<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The metadata of the session.
    pub metadata: Metadata,
    /// The title of the session.
    pub title: Option<&'a str>,
    /// The operations that the token permits. `None`: those of `session_token`, or all.
    pub scope: Option<Scope>,
    /// The label of the token.
    pub label: Option<&'a str>,
    /// One of the users of a service, who will own the session. Only with the credential of a
    /// service.
    pub subject: Option<&'a str>,
}

/// A token and its session.
#[derive(Debug)]
pub struct Created {
    /// The secret. It is shown to the client once and stored only as a hash.
    pub token: Token,
    /// The session.
    pub session: Session,
    /// Sequence number of the last message of its log.
    pub head_seq: u32,
}

/// The part of a log to read. Without a bound: the newest messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Only messages after this number, the oldest of them.
    pub after: Option<u32>,
    /// Only messages before this number, the newest of them.
    pub before: Option<u32>,
    /// Most messages. `None`: as many as a page may have.
    pub limit: Option<u32>,
}

/// The extent of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The session with all its tokens.
    Session,
    /// The token alone. A session without an owner ends with its last token.
    Token,
}

impl Gateway {
    /// Creates a session for a user, and its first token.
    ///
    /// # Errors
    /// `Unauthenticated`, `InvalidName`, `InvalidArgument`, `Forbidden`, `Overloaded`, `StoreFull`,
    /// `Draining`.
    pub async fn create_token(&self, caller: &Caller, new: NewToken<'_>) -> Result<Created> {
        let Core { settings, clock, store, metrics, .. } = &*self.core;
        let subject = match &caller.identity {
            Some(identity) => Some(identity.subject_for(new.subject)?),
            None if !settings.access.open => return Err(ErrorKind::Unauthenticated.into()),
            None if new.subject.is_some() => return Err(Identity::not_a_service()),
            None => None,
        };
        let name = Name::parse(new.name)?;
        new.metadata.check()?;
        let title = new.title.map(check_title).transpose()?.flatten();
        let label = new.label.map(check_label).transpose()?.flatten();
        self.core.check_serving()?;
        let now = clock.now();
        let accounts = self.core.quota.accounts(caller, subject.as_ref());
        accounts.read_shares(&**store, now).await?;
        accounts.charge_session(now)?;
        let origin = self.core.quota.origin(caller).filter(|_| subject.is_none());
        let (expires_at, ends_at, delete_at) = if subject.is_some() {
            let delete_at = self.core.delete_at(now);
            (delete_at.unwrap_or(Timestamp::NEVER), Timestamp::NEVER, delete_at)
        } else {
            let (expires_at, ends_at) = self.core.token_deadlines(now);
            (expires_at.min(now.plus(settings.unused_session_ttl)), ends_at, Some(ends_at))
        };
        let token = Token::generate();
        let session = Session {
            id: SessionId::generate_in(token.hash().partition()),
            name,
            epoch: Epoch::generate(),
            created_at: Timestamp::of_wall_clock(),
            expires_at,
            ends_at,
            delete_at,
            title,
            metadata: new.metadata,
            subject,
        };
        let scope = new.scope.unwrap_or_default();
        let record = self.record(&token, &session, scope, label);
        store
            .create(NewSession { session: session.clone(), token: record.clone(), origin })
            .await?;
        let session = session.seen_with(&record);
        metrics.sessions_started.increment(1);
        let address = self.core.addresses.of(caller.address);
        tracing::info!(target: PEER, session = %session.id, address, "session started");
        Ok(Created { token, session, head_seq: 0 })
    }

    /// Issues another token for the session that a token opens. Its scope is never wider than that
    /// of the given token.
    ///
    /// # Errors
    /// `SessionExpired`, `InvalidArgument`, `Forbidden`, `Overloaded`, `StoreFull`, `Draining`.
    pub async fn issue_token(
        &self,
        caller: &Caller,
        session_token: &Token,
        new: NewToken<'_>,
    ) -> Result<Created> {
        let is_of_session = !new.name.is_empty() || !new.metadata.is_empty();
        if is_of_session || new.title.is_some() || new.subject.is_some() {
            let message = "name, metadata, title and subject are set when the session starts";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.core.check_serving()?;
        let FoundSession { session, token } = self.authenticate(caller, session_token).await?;
        token.scope.check_write()?;
        self.issue(caller, &session, new.scope.unwrap_or(token.scope), new.label).await
    }

    /// Issues another token for a session. It is charged as a session is.
    pub(super) async fn issue(
        &self,
        caller: &Caller,
        session: &Session,
        scope: Scope,
        label: Option<&str>,
    ) -> Result<Created> {
        let label = label.map(check_label).transpose()?.flatten();
        let Core { settings, clock, store, .. } = &*self.core;
        let token = Token::generate_in(session.id.partition());
        let record = self.record(&token, session, scope, label);
        let now = clock.now();
        self.core.quota.accounts(caller, session.subject.as_ref()).charge_token(now)?;
        store.issue(session.id, now, record.clone(), settings.max_session_tokens).await?;
        let snapshot = store.read(session.id, now, Page::HEAD).await?;
        tracing::info!(session = %session.id, "token issued");
        let session = snapshot.session.seen_with(&record);
        Ok(Created { token, session, head_seq: snapshot.head_seq })
    }

    /// Returns the record of a new token. In open mode all tokens of a session share its deadlines.
    fn record(
        &self,
        token: &Token,
        session: &Session,
        scope: Scope,
        label: Option<Arc<str>>,
    ) -> TokenRecord {
        let (id, hash) = (TokenId::generate(), token.hash());
        let core = &self.core;
        let deadlines = session.subject.as_ref().map(|_| core.token_deadlines(core.clock.now()));
        TokenRecord { id, hash, scope, label, deadlines }
    }

    /// Renews a session's idle deadline and reads a page of it in one consistent snapshot.
    ///
    /// # Errors
    /// `SessionExpired`; `InvalidArgument` for a page with two bounds.
    pub async fn refresh_token(
        &self,
        caller: &Caller,
        token: &Token,
        page: PageRequest,
    ) -> Result<Snapshot> {
        let PageRequest { after, before, limit } = page;
        if after.is_some() && before.is_some() {
            let message = "after and before exclude each other";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let found = self.authenticate(caller, token).await?;
        let has_own_deadlines = found.token.deadlines.is_some();
        let Core { settings, clock, store, .. } = &*self.core;
        let session = self.core.renew(found).await?;
        let now = clock.now();
        let max = settings.max_page_messages;
        let page = Page {
            after,
            until: before.map_or(u32::MAX, |before| before.saturating_sub(1)),
            limit: limit.unwrap_or(max).min(max),
            max_size: settings.max_page_size,
        };
        let mut snapshot = store.read(session.id, now, page).await?;
        if has_own_deadlines {
            let Session { expires_at, ends_at, .. } = session;
            snapshot.session = Session { expires_at, ends_at, ..snapshot.session };
        }
        shorten_to(settings.max_page_size, &mut snapshot, after.is_some());
        Ok(snapshot)
    }

    /// Ends a session or one token. The streams that it opened are closed at once.
    ///
    /// # Errors
    /// `SessionExpired`, `Forbidden`.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        token: &Token,
        extent: Revocation,
    ) -> Result<()> {
        let FoundSession { session, token } = self.authenticate(caller, token).await?;
        let core = Arc::clone(&self.core);
        match extent {
            Revocation::Session => {
                token.scope.check_write()?;
                spawn_eager(async move { revoke(&core, session.id).await }).end().await
            }
            Revocation::Token => {
                let has_owner = session.subject.is_some();
                let revoke =
                    async move { revoke_token(&core, session.id, token.id, has_owner).await };
                spawn_eager(revoke).end().await
            }
        }
    }

    /// Returns the session that a token opens for a caller, and the token.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn authenticate(&self, caller: &Caller, token: &Token) -> Result<FoundSession> {
        self.core.authenticate(caller, &token.hash()).await
    }
}

/// Limits a page by its encoded size: a text of control characters is six times as long in JSON.
/// At least one message is left, if there is one.
fn shorten_to(max_size: usize, snapshot: &mut Snapshot, oldest_first: bool) {
    let mut size = 0;
    let mut fits = |message: &Arc<Message>| {
        size += message.json_size();
        size <= max_size
    };
    let messages = &mut snapshot.messages;
    let count = match oldest_first {
        true => messages.iter().take_while(|message| fits(message)).count(),
        false => messages.iter().rev().take_while(|message| fits(message)).count(),
    };
    let count = count.max(1).min(messages.len());
    snapshot.has_more |= count < messages.len();
    if oldest_first {
        messages.truncate(count);
    } else {
        messages.drain(..messages.len() - count);
    }
}

pub(super) async fn revoke(core: &Core, id: SessionId) -> Result<()> {
    core.store.revoke(id, core.clock.now()).await?;
    let active = core.registry.get_once_loaded(id).await;
    if active.is_none_or(|active| active.revoke()) {
        core.record_revoked(id);
    }
    Ok(())
}

pub(super) async fn revoke_token(
    core: &Core,
    id: SessionId,
    token: TokenId,
    has_owner: bool,
) -> Result<()> {
    let left = core.store.revoke_token(id, core.clock.now(), token).await?;
    // Before the streams are closed: a stream that is registered later asks for it.
    core.revoked_tokens.add(token);
    if let Some(active) = core.registry.get_once_loaded(id).await {
        active.end_token(token, ErrorKind::SessionRevoked);
    }
    tracing::info!(session = %id, "token revoked");
    if left == 0 && !has_owner { revoke(core, id).await } else { Ok(()) }
}
