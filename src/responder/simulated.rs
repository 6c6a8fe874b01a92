//! A responder without a model. It replies with a fixed text, at once or word by word, so that
//! streaming can be tried and tested without an upstream.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::session::{Chunk, History, Outcome, Piece, Prompt, Reply, Responder, estimate_tokens};

/// The simulated responder.
#[derive(Debug)]
pub struct Simulated {
    template: Vec<TemplatePart>,
    delay: Duration,
    finish_reason: Arc<str>,
}

#[derive(Debug, PartialEq, Eq)]
enum TemplatePart {
    Fixed(String),
    Text,
    Name,
}

impl Simulated {
    /// Builds a responder that replies with `template`, with a `delay` between words. `{text}`
    /// stands for the message, `{name}` for the user's name.
    #[must_use]
    pub fn new(template: &str, delay: Duration) -> Self {
        Self { template: parse(template), delay, finish_reason: "stop".into() }
    }

    fn reply(&self, prompt: &Prompt) -> String {
        let mut reply = String::new();
        for part in &self.template {
            reply.push_str(match part {
                TemplatePart::Fixed(text) => text,
                TemplatePart::Text => prompt.message.text(),
                TemplatePart::Name => prompt.name.as_str(),
            });
        }
        reply
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
            stream::iter([Chunk::Delta(Piece::Text(text)), end]).boxed()
        } else {
            let delay = self.delay;
            let words = text.split_inclusive(' ');
            let deltas: Vec<_> = words.map(|word| Chunk::Delta(Piece::Text(word.into()))).collect();
            stream::iter(deltas)
                .then(move |delta| tokio::time::sleep(delay).map(|()| delta))
                .chain(stream::iter([end]))
                .boxed()
        };
        let input_tokens = Some(estimate_tokens(prompt.message.text()));
        Reply { chunks, context_trimmed: false, input_tokens }
    }
}

/// Splits the template. Placeholders are replaced in one pass: "{name}" in a message is not a
/// placeholder.
fn parse(template: &str) -> Vec<TemplatePart> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((at, length, part)) = next_placeholder(rest) {
        parts.push(TemplatePart::Fixed(rest[..at].into()));
        parts.push(part);
        rest = &rest[at + length..];
    }
    parts.push(TemplatePart::Fixed(rest.into()));
    parts
}

fn next_placeholder(text: &str) -> Option<(usize, usize, TemplatePart)> {
    [("{text}", TemplatePart::Text), ("{name}", TemplatePart::Name)]
        .into_iter()
        .filter_map(|(placeholder, part)| Some((text.find(placeholder)?, placeholder.len(), part)))
        .min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        Content, Message, MessageId, Metadata, Name, Role, SessionId, Timestamp, UserFields,
    };

    fn prompt(text: &str) -> Prompt {
        let message = Message {
            seq: 1,
            id: MessageId::generate(),
            content: Content::of_text(text),
            created_at: Timestamp::default(),
            metadata: Metadata::default(),
            role: Role::User(UserFields::default()),
        };
        Prompt {
            session: SessionId::generate(),
            name: Name::trusted("Ada"),
            reply: MessageId::generate(),
            attempt: 1,
            metadata: Metadata::default(),
            is_trimmed: false,
            history: Vec::new(),
            message: Arc::new(message),
        }
    }

    async fn deltas(template: &str, delay: Duration, text: &str) -> Vec<String> {
        let reply = Simulated::new(template, delay).respond(prompt(text));
        let deltas = reply.chunks.filter_map(async |chunk| match chunk {
            Chunk::Delta(piece) => Some(piece.text().to_owned()),
            Chunk::Part(_)
            | Chunk::PartEnd { .. }
            | Chunk::ContextTrimmed { .. }
            | Chunk::Finished { .. }
            | Chunk::End(_) => None,
        });
        deltas.collect().await
    }

    #[tokio::test]
    async fn without_delay_the_reply_is_one_delta() {
        let pieces = deltas("{name} said: {text}.", Duration::ZERO, "I am {name}").await;
        assert_eq!(pieces, ["Ada said: I am {name}."]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_delay_it_streams_word_by_word() {
        let pieces = deltas("one two  three", Duration::from_secs(1), "").await;
        assert_eq!(pieces, ["one ", "two ", " ", "three"]);
    }
}
