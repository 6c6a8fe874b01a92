//! Builds the prompt of a turn: as much of its branch as the responder asks for.

use std::{collections::HashMap, sync::Arc};

use crate::session::{
    core::Core,
    live::{ActiveSession, Turn},
    model::{Content, Message, MessageId, PartContent, Result, Role, Session, SessionId},
    ports::{History, Page, Prompt},
};

/// Most pages of the log that are read for a prompt. A branch may be short in a long log.
const MAX_PAGES: u32 = 8;

pub(super) async fn build(
    core: &Core,
    session: &ActiveSession,
    turn: &Turn,
    reply: MessageId,
) -> Result<Prompt> {
    let Session { id, name, metadata, .. } = session.session();
    let branch = branch(core, *id, &turn.message).await?;
    Ok(Prompt {
        session: *id,
        name: name.clone(),
        reply,
        attempt: turn.attempt,
        metadata: metadata.clone(),
        is_trimmed: branch.parent_seq != 0,
        history: branch.into_messages(),
        message: Arc::clone(&turn.message),
    })
}

/// Reads the branch of a turn backwards along the parents.
async fn branch(core: &Core, id: SessionId, message: &Message) -> Result<Branch> {
    let wanted = core.responder.history();
    let mut branch = Branch::of(message, wanted);
    // In the log, user messages that are queued behind this one stand before the replies to
    // the messages ahead of it: the first page has to reach over them.
    let queued = core.settings.max_queued_turns;
    let mut page = Page {
        after: None,
        until: u32::MAX,
        limit: wanted.messages.saturating_add(queued),
        max_size: wanted
            .size
            .saturating_add(queued as usize * core.settings.messages.content.max_text_size),
    };
    for _ in 0..MAX_PAGES {
        if branch.is_complete() {
            break;
        }
        let log = core.store.read(id, core.clock.now(), page).await?.messages;
        let Some(first) = log.first() else { break };
        page.until = first.seq - 1;
        log.into_iter().rev().for_each(|message| branch.add(message));
        if page.until == 0 {
            break;
        }
    }
    Ok(branch)
}

/// The turns of a branch, as far as they are known.
struct Branch {
    /// Newest first: replies stand before the user messages that they answer.
    messages: Vec<Arc<Message>>,
    /// Number of the next user message of the branch. 0: there is none.
    parent_seq: u32,
    /// The replies to turns that may belong to the branch, by turn.
    replies: HashMap<u32, Arc<Message>>,
    /// Limits of what is still to be added.
    left: History,
    is_full: bool,
}

impl Branch {
    fn of(message: &Message, wanted: History) -> Self {
        Self {
            messages: Vec::new(),
            parent_seq: message.user().map_or(0, |user| user.parent_seq),
            replies: HashMap::new(),
            left: wanted,
            is_full: wanted.messages == 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.is_full || self.parent_seq == 0
    }

    /// Adds a message of the log if it belongs to the branch. Messages come newest first.
    fn add(&mut self, message: Arc<Message>) {
        if self.is_complete() {
            return;
        }
        match &message.role {
            Role::Assistant(reply) if reply.turn_seq <= self.parent_seq => {
                self.replies.insert(reply.turn_seq, message);
            }
            Role::Assistant(_) => {}
            Role::User(user) => {
                let (seq, parent_seq) = (message.seq, user.parent_seq);
                let reply = self.replies.remove(&seq);
                if seq != self.parent_seq {
                    return;
                }
                let fits = reply.is_none_or(|reply| self.take(reply)) && self.take(message);
                if fits {
                    self.parent_seq = parent_seq;
                }
                self.is_full = !fits;
            }
        }
    }

    /// Adds a message within the limits.
    fn take(&mut self, message: Arc<Message>) -> bool {
        let left = self
            .left
            .messages
            .checked_sub(1)
            .zip(self.left.size.checked_sub(text_size(&message.content)));
        let Some((messages, size)) = left else { return false };
        self.left = History { messages, size };
        self.messages.push(message);
        true
    }

    /// Returns the messages, oldest first.
    fn into_messages(mut self) -> Vec<Arc<Message>> {
        self.messages.reverse();
        self.messages
    }
}

/// Returns the bytes of a content without its inline files. An image is far larger than the text that
/// a model reads in its place; responders have limits of their own for it.
fn text_size(content: &Content) -> usize {
    let files = content.parts().iter().flat_map(|part| match &part.content {
        PartContent::File(file) => std::slice::from_ref(file),
        PartContent::ToolResult(result) => &result.files,
        PartContent::Text(_)
        | PartContent::Reasoning(_)
        | PartContent::ToolCall(_)
        | PartContent::Source(_)
        | PartContent::Data(_)
        | PartContent::ApprovalRequest(_)
        | PartContent::ApprovalResponse(_) => &[],
    });
    content.size() - files.map(|file| file.url.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::model::{File, Metadata, Part, ReplyFields, Status, Timestamp, UserFields};

    fn message(seq: u32, role: Role) -> Arc<Message> {
        let (id, created_at) = (MessageId::generate(), Timestamp::default());
        let (content, metadata) = (Content::of_text("abcd"), Metadata::default());
        Arc::new(Message { seq, id, content, created_at, metadata, role })
    }

    fn user(seq: u32, parent_seq: u32) -> Arc<Message> {
        message(seq, Role::User(UserFields { parent_seq, ..UserFields::default() }))
    }

    fn reply(seq: u32, to: &Message) -> Arc<Message> {
        message(seq, Role::Assistant(ReplyFields::new(to.id, to.seq, Status::Complete)))
    }

    fn seqs(log: &[Arc<Message>], of: &Message, wanted: History) -> (Vec<u32>, u32) {
        let mut branch = Branch::of(of, wanted);
        log.iter().rev().for_each(|message| branch.add(Arc::clone(message)));
        let parent_seq = branch.parent_seq;
        (branch.into_messages().iter().map(|message| message.seq).collect(), parent_seq)
    }

    const ALL: History = History { messages: 100, size: 1000 };

    #[test]
    fn a_branch_leaves_out_its_siblings() {
        let (one, two) = (user(1, 0), user(3, 1));
        let (edited, last) = (user(5, 1), user(7, 5));
        let log = [
            Arc::clone(&one),
            reply(2, &one),
            Arc::clone(&two),
            reply(4, &two),
            Arc::clone(&edited),
            reply(6, &edited),
            Arc::clone(&last),
        ];
        assert_eq!(seqs(&log, &last, ALL), (vec![1, 2, 5, 6], 0));
        assert_eq!(seqs(&log, &two, ALL), (vec![1, 2], 0));
        assert_eq!(seqs(&log, &one, ALL), (vec![], 0));
    }

    #[test]
    fn queued_turns_are_read_with_the_replies_behind_them() {
        let (one, two, three) = (user(1, 0), user(2, 1), user(3, 2));
        let log = [
            Arc::clone(&one),
            Arc::clone(&two),
            Arc::clone(&three),
            reply(4, &one),
            reply(5, &two),
        ];
        assert_eq!(seqs(&log, &two, ALL), (vec![1, 4], 0));
        assert_eq!(seqs(&log, &three, ALL), (vec![1, 4, 2, 5], 0));
    }

    #[test]
    fn the_limits_keep_the_newest_messages_and_report_the_rest() {
        let (one, two) = (user(1, 0), user(3, 1));
        let last = user(5, 3);
        let log = [Arc::clone(&one), reply(2, &one), Arc::clone(&two), reply(4, &two)];
        for (messages, size, expected) in [
            (0, 1000, (vec![], 3)),
            (1, 1000, (vec![4], 3)),
            (2, 1000, (vec![3, 4], 1)),
            (3, 1000, (vec![2, 3, 4], 1)),
            (4, 1000, (vec![1, 2, 3, 4], 0)),
            (4, 15, (vec![2, 3, 4], 1)),
            (4, 0, (vec![], 3)),
        ] {
            let wanted = History { messages, size };
            assert_eq!(seqs(&log, &last, wanted), expected, "{wanted:?}");
        }
    }
    #[test]
    fn inline_files_do_not_count() {
        let image = File {
            media_type: "image/png".into(),
            url: "data:image/png;base64,AA==".into(),
            name: None,
            size: None,
        };
        let parts = vec![Part::text("abcd"), PartContent::File(image).into()];
        assert_eq!(text_size(&Content::of_parts(parts)), 4 + "image/png".len());
    }
}
