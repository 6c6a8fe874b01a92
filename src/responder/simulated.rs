//! A responder without a model: it says a fixed text, at once or word by word, so
//! that everything about streaming can be seen and tested anywhere.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::session::{Chunk, History, Outcome, Prompt, Reply, Responder, estimate_tokens};

/// See the module.
#[derive(Debug)]
pub struct Simulated {
    template: Vec<Part>,
    delay: Duration,
    finish_reason: Arc<str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Fixed(String),
    Text,
    Name,
}

impl Simulated {
    /// Says `template`, in which `{text}` and `{name}` stand for the message and the
    /// visitor's name, with a `delay` between words.
    #[must_use]
    pub fn new(template: &str, delay: Duration) -> Self {
        Self { template: parse(template), delay, finish_reason: "stop".into() }
    }

    fn reply(&self, prompt: &Prompt) -> String {
        let parts = self.template.iter().map(|part| match part {
            Part::Fixed(text) => text.as_str(),
            Part::Text => &prompt.message.text,
            Part::Name => prompt.name.as_str(),
        });
        parts.collect()
    }
}

impl Responder for Simulated {
    fn history(&self) -> History {
        History::NONE
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        let text = self.reply(&prompt);
        let end = Chunk::End(Outcome::complete(Some(Arc::clone(&self.finish_reason)), None));
        let chunks = if self.delay.is_zero() {
            stream::iter([Chunk::Delta(text), end]).boxed()
        } else {
            let delay = self.delay;
            let deltas: Vec<_> =
                text.split_inclusive(' ').map(|word| Chunk::Delta(word.into())).collect();
            stream::iter(deltas)
                .then(move |delta| tokio::time::sleep(delay).map(|()| delta))
                .chain(stream::iter([end]))
                .boxed()
        };
        let input_tokens = Some(estimate_tokens(&prompt.message.text));
        Reply { chunks, context_trimmed: false, input_tokens }
    }
}

/// Replacing in one pass: a message that holds "{name}" is not a template.
fn parse(template: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((at, length, part)) = next_placeholder(rest) {
        parts.push(Part::Fixed(rest[..at].into()));
        parts.push(part);
        rest = &rest[at + length..];
    }
    parts.push(Part::Fixed(rest.into()));
    parts
}

fn next_placeholder(text: &str) -> Option<(usize, usize, Part)> {
    [("{text}", Part::Text), ("{name}", Part::Name)]
        .into_iter()
        .filter_map(|(placeholder, part)| Some((text.find(placeholder)?, placeholder.len(), part)))
        .min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Message, MessageId, Name, Role, SessionId, Timestamp};

    fn prompt(text: &str) -> Prompt {
        let message = Message {
            seq: 1,
            id: MessageId::generate(),
            text: text.into(),
            created_at: Timestamp::default(),
            role: Role::User { client_message_id: None },
        };
        Prompt {
            session: SessionId::generate(),
            name: Name::trusted("Ada"),
            reply: MessageId::generate(),
            attempt: 1,
            history: Vec::new(),
            message: Arc::new(message),
        }
    }

    async fn deltas(template: &str, delay: Duration, text: &str) -> Vec<String> {
        let reply = Simulated::new(template, delay).respond(prompt(text));
        let deltas = reply.chunks.filter_map(async |chunk| match chunk {
            Chunk::Delta(text) => Some(text),
            Chunk::ContextTrimmed { .. } | Chunk::Finished { .. } | Chunk::End(_) => None,
        });
        deltas.collect().await
    }

    #[tokio::test]
    async fn without_delay_the_reply_is_one_delta() {
        let said = deltas("{name} said: {text}.", Duration::ZERO, "I am {name}").await;
        assert_eq!(said, ["Ada said: I am {name}."]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_delay_it_streams_word_by_word() {
        let said = deltas("one two  three", Duration::from_secs(1), "").await;
        assert_eq!(said, ["one ", "two ", " ", "three"]);
    }
}
