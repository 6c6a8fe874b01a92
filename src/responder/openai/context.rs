//! Selects the part of a conversation that the model reads.
//!
//! The system prompt and the last user message are always sent. Of the turns between them, the
//! newest ones that fit are sent as a whole, so that roles alternate, as the templates of several
//! models require. A turn whose reply has no text (it failed or was stopped before any) is left
//! out: users repeat the message, and the cause of the failure would persist.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::Serialize;

use crate::session::{Message, Prompt, estimate_tokens};

/// Tokens of a message beside its text: its role and its delimiters.
const PER_MESSAGE: u32 = 4;

/// A message as the model reads it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ChatMessage<'a> {
    pub(super) role: &'static str,
    pub(super) content: Cow<'a, str>,
}

/// Limits of the prompt.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// System prompt. `{name}` stands for the user's name.
    pub(super) system_prompt: Option<String>,
    /// Tokens of prompt and reply together.
    pub(super) context_tokens: u32,
    /// Tokens that are reserved for the reply.
    pub(super) answer_tokens: u32,
}

/// A conversation, and the part of it that is sent.
#[derive(Clone, Debug)]
pub(super) struct Context {
    system: Option<String>,
    /// Turns, oldest first, with their tokens.
    turns: Vec<(PromptTurn, u32)>,
    last: Arc<Message>,
    /// The first turn that is sent.
    from: usize,
    /// Older messages exist that the core did not hand over.
    cut: bool,
    /// Tokens of the system prompt and the last message.
    fixed: u32,
}

#[derive(Clone, Debug)]
struct PromptTurn {
    question: Arc<Message>,
    reply: Arc<Message>,
}

impl Context {
    /// Selects the turns that fit into the budget.
    pub(super) fn new(prompt: &Prompt, budget: &Budget) -> Self {
        // Replaced in one pass: "{name}" in a name is not a placeholder.
        let system =
            budget.system_prompt.as_ref().map(|text| text.replace("{name}", prompt.name.as_str()));
        let fixed = cost(&prompt.message.text).saturating_add(system.as_deref().map_or(0, cost));
        let turns = turns(&prompt.history);
        let mut context = Self {
            system,
            from: 0,
            cut: prompt.history.first().unwrap_or(&prompt.message).seq > 1,
            last: Arc::clone(&prompt.message),
            turns,
            fixed,
        };
        let room = budget.context_tokens.saturating_sub(budget.answer_tokens);
        context.shrink(room.saturating_sub(fixed));
        context
    }

    /// Returns the context without about half of its history, for an upstream that counts more
    /// tokens. `None` if there is no history.
    pub(super) fn halved(&self) -> Option<Self> {
        let mut half = self.clone();
        half.shrink(self.history_tokens() / 2);
        (half.from > self.from).then_some(half)
    }

    /// Returns true if older messages are left out because they do not fit.
    pub(super) fn is_trimmed(&self) -> bool {
        self.cut || self.from > 0
    }

    /// Returns the estimated tokens of the prompt.
    pub(super) fn tokens(&self) -> u32 {
        self.fixed.saturating_add(self.history_tokens())
    }

    /// Returns the messages of the request.
    pub(super) fn lines(&self) -> Vec<ChatMessage<'_>> {
        let mut lines = Vec::with_capacity(2 * (self.turns.len() - self.from) + 2);
        if let Some(system) = &self.system {
            lines.push(ChatMessage { role: "system", content: system.as_str().into() });
        }
        for (turn, _) in &self.turns[self.from..] {
            lines.push(ChatMessage { role: "user", content: turn.question.text.as_ref().into() });
            lines.push(ChatMessage { role: "assistant", content: turn.reply.text.as_ref().into() });
        }
        lines.push(ChatMessage { role: "user", content: self.last.text.as_ref().into() });
        lines
    }

    fn history_tokens(&self) -> u32 {
        self.turns[self.from..].iter().fold(0, |sum, (_, tokens)| sum.saturating_add(*tokens))
    }

    fn shrink(&mut self, room: u32) {
        while self.from < self.turns.len() && self.history_tokens() > room {
            self.from += 1;
        }
    }
}

fn cost(text: &str) -> u32 {
    estimate_tokens(text).saturating_add(PER_MESSAGE)
}

/// Returns the turns of a history whose message and reply both have text. A reply may stand after
/// messages that were queued meanwhile, so it is looked up by its message.
fn turns(history: &[Arc<Message>]) -> Vec<(PromptTurn, u32)> {
    let replies: HashMap<_, _> =
        history.iter().filter_map(|message| Some((message.in_reply_to()?, message))).collect();
    let questions = history.iter().filter(|message| message.in_reply_to().is_none());
    let told = questions.filter_map(|question| {
        let reply = replies.get(&question.id).filter(|reply| !reply.text.trim().is_empty())?;
        let tokens = cost(&question.text).saturating_add(cost(&reply.text));
        Some((PromptTurn { question: Arc::clone(question), reply: Arc::clone(reply) }, tokens))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{MessageId, Name, Role, SessionId, Status, Timestamp};

    fn message(seq: u32, text: &str, role: Role) -> Arc<Message> {
        let (id, created_at) = (MessageId::generate(), Timestamp::default());
        Arc::new(Message { seq, id, text: text.into(), created_at, role })
    }

    fn user(seq: u32, text: &str) -> Arc<Message> {
        message(seq, text, Role::User { client_message_id: None })
    }

    fn reply(seq: u32, text: &str, to: &Message, status: Status) -> Arc<Message> {
        let role = Role::Assistant { in_reply_to: to.id, status, finish_reason: None, usage: None };
        message(seq, text, role)
    }

    /// Questions and replies; the last question has none yet.
    fn prompt(turns: &[(&str, &str)], last: &str) -> Prompt {
        let mut history = Vec::new();
        for (question, response_stream) in turns {
            let seq = u32::try_from(history.len()).unwrap() + 1;
            let question = user(seq, question);
            history.push(Arc::clone(&question));
            history.push(reply(seq + 1, response_stream, &question, Status::Complete));
        }
        let message = user(u32::try_from(history.len()).unwrap() + 1, last);
        Prompt {
            session: SessionId::generate(),
            name: Name::trusted("Ada {name}"),
            reply: MessageId::generate(),
            attempt: 1,
            history,
            message,
        }
    }

    fn budget(context_tokens: u32) -> Budget {
        Budget { system_prompt: None, context_tokens, answer_tokens: 0 }
    }

    fn messages_of(context: &Context) -> Vec<(&'static str, String)> {
        let lines = context.lines().into_iter();
        lines.map(|line| (line.role, line.content.into_owned())).collect()
    }

    fn texts(context: &Context) -> String {
        messages_of(context).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn everything_that_fits_is_sent_in_order() {
        let prompt = prompt(&[("a", "A"), ("b", "B")], "c");
        let system_prompt = Some("You talk to {name}, {name}.".to_owned());
        let budget = Budget { system_prompt, ..budget(1000) };
        let context = Context::new(&prompt, &budget);
        let expected = [
            ("system", "You talk to Ada {name}, Ada {name}."),
            ("user", "a"),
            ("assistant", "A"),
            ("user", "b"),
            ("assistant", "B"),
            ("user", "c"),
        ];
        assert_eq!(messages_of(&context), expected.map(|(role, text)| (role, text.to_owned())));
        assert!(!context.is_trimmed());
    }

    #[test]
    fn the_oldest_turns_go_first_and_the_last_message_never() {
        // Each turn costs 10 tokens, the last message 5.
        let prompt = prompt(&[("a", "A"), ("b", "B"), ("c", "C")], "d");
        for (room, expected) in [
            (35, "a A b B c C d"),
            (34, "b B c C d"),
            (25, "b B c C d"),
            (24, "c C d"),
            (15, "c C d"),
            (14, "d"),
            (0, "d"),
        ] {
            let context = Context::new(&prompt, &budget(room));
            assert_eq!(texts(&context), expected, "{room}");
            assert_eq!(context.is_trimmed(), room < 35, "{room}");
            let reserved = Budget { answer_tokens: 100, ..budget(room + 100) };
            assert_eq!(texts(&Context::new(&prompt, &reserved)), expected, "{room}");
        }
    }

    #[test]
    fn a_context_that_was_refused_loses_half_of_its_history() {
        let prompt = prompt(&[("a", "A"), ("b", "B"), ("c", "C")], "d");
        let mut context = Context::new(&prompt, &budget(1000));
        assert_eq!(context.tokens(), 35);
        for expected in ["c C d", "d"] {
            context = context.halved().unwrap();
            assert_eq!(texts(&context), expected);
            assert!(context.is_trimmed());
        }
        assert!(context.halved().is_none());
    }

    #[test]
    fn turns_without_both_sides_are_left_out_and_that_is_no_trimming() {
        let (one, two, three) = (user(1, "one"), user(2, "two"), user(3, "three"));
        let failed = Status::Stopped;
        // Queued together: the replies stand behind all of them.
        let replies = [
            reply(4, "", &one, failed.clone()),
            reply(5, "half of two", &two, Status::Interrupted),
            reply(6, " \n", &three, failed),
        ];
        let mut prompt = prompt(&[], "four");
        prompt.history = [vec![one, two, three], replies.into()].concat();
        let context = Context::new(&prompt, &budget(1000));
        assert_eq!(texts(&context), "two half of two four");
        assert!(!context.is_trimmed());
    }

    #[test]
    fn a_history_that_begins_in_the_middle_is_a_trimmed_one() {
        let mut prompt = prompt(&[("a", "A"), ("b", "B")], "c");
        prompt.history.remove(0);
        let context = Context::new(&prompt, &budget(1000));
        assert_eq!(texts(&context), "b B c");
        assert!(context.is_trimmed());
    }
}
