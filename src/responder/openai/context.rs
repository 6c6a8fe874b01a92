//! Selects the part of a branch that the model reads.
//!
//! The system prompt and the last user message are always sent. Of the turns between them, the
//! newest ones that fit are sent as a whole, so that roles alternate, as the templates of several
//! models require. A turn whose reply has no content (it failed or was stopped before any) is left
//! out: users repeat the message, and the cause of the failure would persist. Turns that bring the
//! results of tools stay together with the calls.

use std::{collections::HashMap, sync::Arc};

use super::{
    chat_message::{ChatMessage, sum},
    messages::{has_content, push_outputs, push_question, push_reply, results},
    provider_data::Reader,
    request::{ChatRequest, tool_tokens},
};
use crate::session::{Message, Prompt};

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

/// A branch, and the part of it that is sent.
#[derive(Clone, Debug)]
pub(super) struct Context {
    system: Option<String>,
    /// Turns that are kept together, oldest first.
    groups: Vec<TurnGroup>,
    last: Arc<Message>,
    /// The first group that is sent.
    from: usize,
    /// Groups that are sent in any case: the last message brings results for their calls.
    required: usize,
    /// Older messages exist that the core did not hand over.
    cut: bool,
    /// Tokens of the system prompt, the tools and the last message.
    fixed: u32,
}

/// Turns that belong together: results of tools follow the calls.
#[derive(Clone, Debug, Default)]
struct TurnGroup {
    turns: Vec<PromptTurn>,
    tokens: u32,
}

#[derive(Clone, Debug)]
struct PromptTurn {
    question: Arc<Message>,
    reply: Option<Arc<Message>>,
}

impl Context {
    /// Selects the turns that fit into the budget.
    pub(super) fn new(prompt: &Prompt, budget: &Budget) -> Self {
        // Replaced in one pass: "{name}" in a name is not a placeholder.
        let system =
            budget.system_prompt.as_ref().map(|text| text.replace("{name}", prompt.name.as_str()));
        let options = prompt.options();
        let instructions = options.and_then(|options| options.instructions.as_deref());
        let system = match (system, instructions) {
            (Some(system), Some(more)) => Some(format!("{system}\n\n{more}")),
            (system, more) => system.or_else(|| more.map(Into::into)),
        };
        let last = Arc::clone(&prompt.message);
        let mut groups = groups(&prompt.history, &last);
        measure(&mut groups, &last);
        let required = usize::from(brings_results(&last)).min(groups.len());
        let cut = prompt.is_trimmed;
        let mut context = Self { system, groups, last, from: 0, required, cut, fixed: 0 };
        let tools = options.map_or(0, tool_tokens);
        context.fixed = sum(context.fixed_lines().iter().map(ChatMessage::tokens).chain([tools]));
        let limit = options.and_then(|options| options.max_output_tokens).unwrap_or(u32::MAX);
        let room = budget.context_tokens.saturating_sub(budget.answer_tokens.min(limit));
        context.shrink(room.saturating_sub(context.fixed));
        context
    }

    /// Returns the context without about half of its history, for an upstream that counts more
    /// tokens. `None` if there is no history that can be left out.
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

    /// Returns the request to the upstream of this name.
    pub(super) fn request(&self, upstream: &str) -> ChatRequest<'_> {
        let options = self.last.user().and_then(|user| user.options.as_deref());
        ChatRequest { messages: self.lines(Some(upstream)), options }
    }

    /// Returns the messages of the request.
    pub(super) fn lines(&self, reader: Reader<'_>) -> Vec<ChatMessage<'_>> {
        let mut lines = Vec::new();
        if let Some(system) = &self.system {
            lines.push(ChatMessage::text("system", system.as_str()));
        }
        let groups = &self.groups[self.from..];
        for (n, group) in groups.iter().enumerate() {
            group.push(&mut lines, following(groups, n, &self.last), reader);
        }
        push_question(&mut lines, &self.last);
        // The calls that it answers do not fit.
        if lines.last().is_none_or(|line| !matches!(line.role, "user" | "tool")) {
            push_outputs(&mut lines, &self.last);
        }
        lines
    }

    /// Returns the lines that are sent in any case.
    fn fixed_lines(&self) -> Vec<ChatMessage<'_>> {
        let mut lines: Vec<_> =
            self.system.iter().map(|text| ChatMessage::text("system", text.as_str())).collect();
        push_question(&mut lines, &self.last);
        lines
    }

    fn history_tokens(&self) -> u32 {
        sum(self.groups[self.from..].iter().map(|group| group.tokens))
    }

    fn shrink(&mut self, room: u32) {
        while self.from + self.required < self.groups.len() && self.history_tokens() > room {
            self.from += 1;
        }
    }
}

impl TurnGroup {
    /// Adds the messages of the turns. `next` is the user message after them.
    fn push<'a>(&'a self, lines: &mut Vec<ChatMessage<'a>>, next: &'a Message, reader: Reader<'_>) {
        let following = self.turns.iter().skip(1).map(|turn| &*turn.question).chain([next]);
        for (turn, next) in self.turns.iter().zip(following) {
            push_question(lines, &turn.question);
            if let Some(reply) = &turn.reply {
                push_reply(lines, reply, next, reader);
            }
        }
    }

    fn has_content(&self) -> bool {
        self.turns.iter().filter_map(|turn| turn.reply.as_ref()).any(|reply| has_content(reply))
    }
}

fn brings_results(message: &Message) -> bool {
    results(message).next().is_some()
}

/// Returns the user message after a group.
fn following<'a>(groups: &'a [TurnGroup], n: usize, last: &'a Message) -> &'a Message {
    groups.get(n + 1).and_then(|group| group.turns.first()).map_or(last, |turn| &turn.question)
}

/// Estimates the tokens of each group.
fn measure(groups: &mut [TurnGroup], last: &Message) {
    for n in 0..groups.len() {
        let mut lines = Vec::new();
        groups[n].push(&mut lines, following(groups, n, last), None);
        groups[n].tokens = sum(lines.iter().map(ChatMessage::tokens));
    }
}

/// Returns the turns of a history, oldest first, as far as a prompt repeats them.
fn groups(history: &[Arc<Message>], last: &Message) -> Vec<TurnGroup> {
    let replies: HashMap<_, _> =
        history.iter().filter_map(|message| Some((message.in_reply_to()?, message))).collect();
    let mut groups: Vec<TurnGroup> = Vec::new();
    for question in history.iter().filter(|message| message.user().is_some()) {
        let reply = replies.get(&question.id).map(|reply| Arc::clone(reply));
        let turn = PromptTurn { question: Arc::clone(question), reply };
        match groups.last_mut() {
            Some(group) if brings_results(question) => group.turns.push(turn),
            // The calls are not in the history, so their results are of no use.
            None if brings_results(question) => {}
            Some(_) | None => groups.push(TurnGroup { turns: vec![turn], tokens: 0 }),
        }
    }
    let is_answered = brings_results(last);
    let count = groups.len();
    let kept = groups.into_iter().enumerate();
    let kept = kept.filter(|(n, group)| {
        let is_last = n + 1 == count;
        group.has_content() || (is_last && is_answered)
    });
    kept.map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests;
