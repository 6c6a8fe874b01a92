//! Sends user messages, asks questions again, and stops replies.

use super::Gateway;
use crate::session::{
    caller::Caller,
    live::event::Accepted,
    model::{NewMessage, Regeneration, Result, Token},
    ports::FoundSession,
    turn::{append, stop},
};

impl Gateway {
    /// Sends a user message. Returns when it is durable. It is committed once, however often it
    /// is sent under one `client_message_id`. The reply goes to the subscribers.
    ///
    /// # Errors
    /// `SessionExpired`, `Forbidden`, `InvalidArgument`, `MessageTooLarge`, `MessageIdReused`,
    /// `QueueFull`, `SessionFull`, `StoreFull`, `Draining`.
    pub async fn send(
        &self,
        caller: &Caller,
        token: &Token,
        message: NewMessage,
    ) -> Result<Accepted> {
        self.core.check_serving()?;
        let (session, sender) = self.core.open_to_write(caller, &token.hash()).await?;
        append::send(&self.core, &session, sender.token, &sender.accounts, message).end().await
    }

    /// Asks for another reply to a question: commits a user message with the content and the
    /// parent of the original.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn regenerate(
        &self,
        caller: &Caller,
        token: &Token,
        again: Regeneration,
    ) -> Result<Accepted> {
        self.core.check_serving()?;
        let (session, sender) = self.core.open_to_write(caller, &token.hash()).await?;
        append::regenerate(&self.core, &session, sender.token, &sender.accounts, again).end().await
    }

    /// Stops the turn of a user message's number. Without a number: the reply in progress, or the
    /// next one. Returns false if there is none, or if it has been answered.
    ///
    /// # Errors
    /// `SessionExpired`, `Forbidden`.
    pub async fn stop(&self, caller: &Caller, token: &Token, seq: Option<u32>) -> Result<bool> {
        let FoundSession { session, token } = self.authenticate(caller, token).await?;
        token.scope.check_write()?;
        let active = self.core.registry.get(session.id);
        stop::stop(&self.core, session.id, active.as_ref(), seq).end().await
    }
}
