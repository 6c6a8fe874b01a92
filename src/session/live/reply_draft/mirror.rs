//! The content of a reply that another process produces, rebuilt from its events.

use std::sync::Arc;

use tokio::time::Instant;

use super::{EndedPart, OpenKind, OpenPart, ReplyDraft, extent, offset};
use crate::session::live::{
    encoded::EncodedForms,
    event::{Delta, DeltaPiece, Event, ReplyPart, ToolCallPiece},
};

/// The result of an event of another process.
#[must_use]
#[derive(Debug)]
pub(in crate::session::live) enum Mirrored {
    /// The part of the event that had not arrived, for the subscribers of this process.
    New(Event),
    /// All of it had arrived before.
    Known,
    /// Content before it has not arrived.
    Gap,
}

impl ReplyDraft {
    /// Adds the content of an event of the process that produces the reply. Events may be repeated
    /// and overlap.
    pub(in crate::session::live) fn mirror(&mut self, event: Event) -> Mirrored {
        match event {
            Event::Delta(delta) => self.mirror_delta(delta),
            Event::ReplyPart(part) => self.mirror_part(part),
            Event::Message(_) | Event::ReplyStarted(_) | Event::GoAway(_) => Mirrored::Known,
        }
    }

    fn mirror_delta(&mut self, mut delta: Delta) -> Mirrored {
        if delta.end <= self.end {
            return Mirrored::Known;
        }
        let index = offset(self.ended.len());
        if delta.offset > self.end || delta.index != index {
            return Mirrored::Gap;
        }
        let known = (self.end - delta.offset) as usize;
        if known > 0 {
            let text = delta.piece.text();
            if !text.is_char_boundary(known) {
                return Mirrored::Gap;
            }
            let kind = OpenKind::of_piece(&delta.piece);
            delta.piece = kind.piece(text[known..].to_owned());
            (delta.offset, delta.encoded) = (self.end, EncodedForms::default());
        }
        let base = self.end;
        let open = self.open.get_or_insert_with(|| OpenPart {
            base,
            kind: OpenKind::of_piece(&delta.piece),
            text: String::new(),
            started: Instant::now(),
        });
        open.text.push_str(delta.piece.text());
        self.end = delta.end;
        if delta.done
            && let Some(open) = self.open.take()
        {
            let (base, part) = open.into_part();
            self.ended.push(EndedPart { base, part: Arc::new(part) });
        }
        Mirrored::New(Event::Delta(delta))
    }

    fn mirror_part(&mut self, mut part: ReplyPart) -> Mirrored {
        if part.end <= self.end {
            return Mirrored::Known;
        }
        if part.offset > self.end || part.index != offset(self.ended.len()) {
            return Mirrored::Gap;
        }
        self.open = None;
        let base = part.end - extent(&part.part.content);
        self.ended.push(EndedPart { base, part: Arc::clone(&part.part) });
        if part.offset < self.end {
            (part.offset, part.encoded) = (self.end, EncodedForms::default());
        }
        self.end = part.end;
        Mirrored::New(Event::ReplyPart(part))
    }
}

impl OpenKind {
    fn of_piece(piece: &DeltaPiece) -> Self {
        match piece {
            DeltaPiece::Text(_) => Self::Text,
            DeltaPiece::Reasoning(_) => Self::Reasoning,
            DeltaPiece::ToolCall(call) => Self::ToolCall(Arc::new(ToolCallPiece {
                arguments: String::new(),
                ..ToolCallPiece::clone(call)
            })),
        }
    }
}
