//! Builds the prompt of a turn: as much of the conversation as the responder asks for.

use std::sync::Arc;

use crate::session::{
    core::Core,
    live::{ActiveSession, Turn},
    model::{Message, MessageId, Result, Session, SessionId},
    ports::{History, Page, Prompt},
};

pub(super) async fn build(
    core: &Core,
    session: &ActiveSession,
    turn: &Turn,
    reply: MessageId,
) -> Result<Prompt> {
    let Session { id, name, .. } = session.session();
    Ok(Prompt {
        session: *id,
        name: name.clone(),
        reply,
        attempt: turn.attempt,
        history: history(core, *id, &turn.message).await?,
        message: Arc::clone(&turn.message),
    })
}

async fn history(core: &Core, id: SessionId, message: &Message) -> Result<Vec<Arc<Message>>> {
    let wanted = core.responder.history();
    if wanted.messages == 0 || message.seq == 1 {
        return Ok(Vec::new());
    }
    // In the log, user messages that are queued behind this one stand before the replies to
    // the messages ahead of it: the page has to reach over them.
    let queued = core.settings.max_queued_turns;
    let page = Page {
        after: None,
        until: u32::MAX,
        limit: wanted.messages.saturating_add(queued),
        max_size: wanted.size.saturating_add(queued as usize * core.settings.max_message_size),
    };
    let mut log = core.store.read(id, core.clock.now(), page).await?.messages;
    log.retain(|other| other.seq < message.seq || other.in_reply_to().is_some());
    Ok(newest(log, wanted))
}

/// Returns the newest messages of a log within both limits.
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
