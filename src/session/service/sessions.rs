//! Creates, renews, reads and revokes sessions.

use std::sync::Arc;

use super::Gateway;
use crate::session::{
    caller::Caller,
    core::{Core, PEER},
    eager_task::spawn_eager,
    model::{Epoch, ErrorKind, Message, Name, Result, Session, SessionId, Timestamp, Token},
    ports::{NewSession, Page, Snapshot},
};

/// A new session and its secret.
#[derive(Debug)]
pub struct Created {
    /// The secret. It is shown to the client once and stored only as a hash.
    pub token: Token,
    /// The session.
    pub session: Session,
}

impl Gateway {
    /// Creates a session for a user.
    ///
    /// # Errors
    /// `InvalidName`, `Overloaded`, `StoreFull`, `Draining`.
    pub async fn create_token(&self, caller: &Caller, name: &str) -> Result<Created> {
        let name = Name::parse(name)?;
        let Core { settings, clock, store, metrics, .. } = &*self.core;
        self.core.check_serving()?;
        let now = clock.now();
        let session = Session {
            id: SessionId::generate(),
            name,
            epoch: Epoch::generate(),
            created_at: Timestamp::of_wall_clock(),
            expires_at: now.plus(settings.session_ttl.min(settings.session_max_age)),
            ends_at: now.plus(settings.session_max_age),
        };
        let token = Token::generate();
        store.create(NewSession { session: session.clone(), token: token.hash() }).await?;
        metrics.sessions_started.increment(1);
        let address = caller.address.map(tracing::field::display);
        // Addresses of users are logged at this level only.
        tracing::debug!(target: PEER, session = %session.id, address, "session created");
        tracing::info!(target: PEER, session = %session.id, "session started");
        Ok(Created { token, session })
    }

    /// Renews a session's idle deadline and reads the session in one consistent snapshot: up
    /// to `limit` messages after a sequence number, or the newest ones.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn refresh_token(
        &self,
        caller: &Caller,
        token: &Token,
        after: Option<u32>,
        limit: Option<u32>,
    ) -> Result<Snapshot> {
        let session = self.authenticate(caller, token).await?;
        let Core { settings, clock, store, registry, closing, .. } = &*self.core;
        let now = clock.now();
        match store.renew(session.id, now, now.plus(settings.session_ttl)).await {
            Ok(renewed) => {
                if let Some(active) = registry.get(session.id) {
                    active.renewed(renewed.expires_at);
                }
            }
            // A store that is full, or closed to writes by a shutdown, can still be read.
            Err(error) if error.kind() == ErrorKind::StoreFull || closing.is_cancelled() => {
                tracing::warn!(session = %session.id, %error, "session was read but not renewed");
            }
            Err(error) => return Err(error),
        }
        let max = settings.max_page_messages;
        let page = Page {
            after,
            until: u32::MAX,
            limit: limit.unwrap_or(max).min(max),
            max_size: settings.max_page_size,
        };
        let mut snapshot = store.read(session.id, now, page).await?;
        shorten_to(settings.max_page_size, &mut snapshot, after.is_some());
        Ok(snapshot)
    }

    /// Ends a session. Its streams end at once.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn revoke_token(&self, caller: &Caller, token: &Token) -> Result<()> {
        let id = self.authenticate(caller, token).await?.id;
        let core = Arc::clone(&self.core);
        spawn_eager(async move { revoke(&core, id).await }).end().await
    }

    /// Returns the session that a token opens for a caller.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn authenticate(&self, caller: &Caller, token: &Token) -> Result<Session> {
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

async fn revoke(core: &Core, id: SessionId) -> Result<()> {
    core.store.revoke(id, core.clock.now()).await?;
    let active = core.registry.get_once_loaded(id).await;
    if active.is_none_or(|active| active.revoke()) {
        core.record_revoked(id);
    }
    Ok(())
}
