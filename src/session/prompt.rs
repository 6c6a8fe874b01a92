//! What a reply is made from: as much of the conversation as the responder wants to see.

use std::sync::Arc;

use super::{
    History, Message, MessageId, Page, Prompt, Result,
    active_session::{ActiveSession, Turn},
    gateway::Gateway,
};

impl Gateway {
    pub(super) async fn prompt(
        &self,
        handle: &ActiveSession,
        turn: &Turn,
        reply: MessageId,
    ) -> Result<Prompt> {
        let session = handle.session();
        Ok(Prompt {
            session: session.id,
            name: session.name.clone(),
            reply,
            attempt: turn.attempt,
            history: self.history(handle, &turn.message).await?,
            message: Arc::clone(&turn.message),
        })
    }

    async fn history(
        &self,
        handle: &ActiveSession,
        message: &Message,
    ) -> Result<Vec<Arc<Message>>> {
        let wanted = self.responder().history();
        if wanted.messages == 0 || message.seq == 1 {
            return Ok(Vec::new());
        }
        // Messages that wait behind this one stand before the replies to those ahead of
        // it: the page has to reach over them.
        let settings = self.settings();
        let waiting = settings.max_queued_turns;
        let page = Page {
            after: None,
            until: u32::MAX,
            limit: wanted.messages.saturating_add(waiting),
            max_size: wanted.size.saturating_add(waiting as usize * settings.max_message_size),
        };
        let now = self.clock().now();
        let mut log = self.store().read(handle.session().id, now, page).await?.messages;
        log.retain(|other| other.seq < message.seq || other.in_reply_to().is_some());
        Ok(newest(log, wanted))
    }
}

/// The end of a log, as much as is wanted of it.
fn newest(mut log: Vec<Arc<Message>>, wanted: History) -> Vec<Arc<Message>> {
    let mut left = wanted.size;
    let fits = log.iter().rev().take(wanted.messages as usize).take_while(|message| {
        let room = left.checked_sub(message.text.len());
        left = room.unwrap_or(0);
        room.is_some()
    });
    let fits = fits.count();
    log.split_off(log.len() - fits)
}
