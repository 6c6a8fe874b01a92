//! The content of a reply as a late subscriber receives it.

use std::sync::Arc;

use super::{OpenKind, ReplyDraft, extent, offset};
use crate::session::{
    live::{
        encoded::EncodedForms,
        event::{Delta, Event, ReplyPart},
    },
    model::{MessageId, Part, PartContent},
};

/// Largest piece, in bytes.
pub(super) const PIECE: usize = 16 << 10;

#[derive(Clone, Debug)]
enum SentPart {
    Ended(Arc<Part>),
    Open(OpenKind, String),
}

/// The content of a reply from an offset on, as events of at most 16 KiB.
#[derive(Debug)]
pub(in crate::session) struct DraftEvents {
    reply: MessageId,
    parts: std::vec::IntoIter<(u32, SentPart)>,
    /// Index of the next part.
    index: u32,
    /// Offset of the next event.
    from: u32,
    end: u32,
    /// The part that is sent in pieces.
    current: Option<GrowingPart>,
}

#[derive(Debug)]
struct GrowingPart {
    index: u32,
    base: u32,
    kind: OpenKind,
    text: Arc<str>,
    /// The part has ended, and that was sent.
    done: bool,
}

impl ReplyDraft {
    /// Returns the events that a subscriber still needs, after an offset.
    pub(in crate::session::live) fn events_after(&self, from: u32) -> DraftEvents {
        let parts =
            self.ended.iter().map(|ended| (ended.base, SentPart::Ended(Arc::clone(&ended.part))));
        let open = self.open.clone().map(|open| (open.base, SentPart::Open(open.kind, open.text)));
        let skipped = self.ended.iter().take_while(|it| it.base + extent(&it.part.content) <= from);
        let skipped = skipped.count();
        let parts: Vec<_> = parts.chain(open).skip(skipped).collect();
        DraftEvents {
            reply: self.reply,
            parts: parts.into_iter(),
            index: offset(skipped),
            from,
            end: self.end,
            current: None,
        }
    }
}

impl Iterator for DraftEvents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if let Some(part) = self.current.take() {
            return Some(self.piece_of(part));
        }
        if self.from >= self.end {
            return None;
        }
        let (base, part) = self.parts.next()?;
        let index = self.index;
        self.index += 1;
        let (kind, text, done) = match part {
            SentPart::Open(kind, text) => (kind, text.into(), false),
            SentPart::Ended(part) => {
                let end = base + extent(&part.content);
                match &part.content {
                    PartContent::Text(text) if !text.is_empty() && part.citations.is_empty() => {
                        (OpenKind::Text, Arc::clone(text), end <= self.end)
                    }
                    PartContent::Reasoning(text) if !text.is_empty() => {
                        (OpenKind::Reasoning, Arc::clone(text), end <= self.end)
                    }
                    _ => {
                        let (reply, offset) = (self.reply, std::mem::replace(&mut self.from, end));
                        let encoded = EncodedForms::default();
                        let part = ReplyPart { reply, index, offset, end, part, encoded };
                        return Some(Event::ReplyPart(part));
                    }
                }
            }
        };
        let growing = GrowingPart { index, base, kind, text, done };
        // An open part of which everything, or nothing, was sent.
        if growing.is_sent(self.from) {
            return self.next();
        }
        Some(self.piece_of(growing))
    }
}

impl GrowingPart {
    fn is_sent(&self, from: u32) -> bool {
        from >= self.base + offset(self.text.len()) + u32::from(self.done)
    }
}

impl DraftEvents {
    fn piece_of(&mut self, part: GrowingPart) -> Event {
        let sent = (self.from - part.base) as usize;
        let until = part.text.floor_char_boundary((sent + PIECE).min(part.text.len()));
        let done = part.done && until == part.text.len();
        let piece = part.kind.piece(part.text[sent..until].to_owned());
        let end = part.base + offset(until) + u32::from(done);
        let from = std::mem::replace(&mut self.from, end);
        let index = part.index;
        if !part.is_sent(end) {
            self.current = Some(part);
        }
        let (reply, encoded) = (self.reply, EncodedForms::default());
        Event::Delta(Delta { reply, index, offset: from, end, piece, done, encoded })
    }
}
