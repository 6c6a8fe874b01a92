//! Sends user messages and stops replies.

use super::Gateway;
use crate::session::{
    caller::Caller,
    live::event::Accepted,
    model::{NewMessage, Result, Token},
    turn::append,
};

impl Gateway {
    /// Sends a user message. Returns when it is durable. It is committed once, however often it
    /// is sent under one `client_message_id`. The reply goes to the subscribers.
    ///
    /// # Errors
    /// `SessionExpired`, `InvalidArgument`, `MessageTooLarge`, `MessageIdReused`, `QueueFull`,
    /// `SessionFull`, `StoreFull`, `Draining`.
    pub async fn send(
        &self,
        caller: &Caller,
        token: &Token,
        message: NewMessage,
    ) -> Result<Accepted> {
        self.core.check_serving()?;
        let session = self.core.open_session(caller, &token.hash()).await?;
        append::send(&self.core, &session, message).end().await
    }

    /// Stops the reply in progress, or the next one. Returns false if there is none.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn stop(&self, caller: &Caller, token: &Token) -> Result<bool> {
        let session = self.authenticate(caller, token).await?;
        let active = self.core.registry.get(session.id);
        Ok(active.is_some_and(|active| active.stop()))
    }
}
