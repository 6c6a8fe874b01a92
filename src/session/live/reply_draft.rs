//! The content of a reply in progress: pure, without locks or I/O.
//!
//! Parts are produced one after the other. At most one is open; it grows by pieces. Every event
//! covers a range of offsets that depends on the content alone, so that it is the same for every
//! subscriber, on every process.

mod draft_events;
mod mirror;

use std::sync::Arc;

use tokio::time::Instant;

pub(in crate::session) use draft_events::DraftEvents;
pub(super) use mirror::Mirrored;

use super::{
    encoded::EncodedForms,
    event::{Delta, DeltaPiece, Event, ReplyPart, ToolCallPiece},
};
use crate::session::{
    model::{Citation, Content, MessageId, Part, PartContent, ToolCall},
    ports::Piece,
};

/// Most parts of a reply.
const MAX_PARTS: usize = 1024;

/// Limits of a reply, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct ReplyLimits {
    pub(in crate::session) max_size: usize,
    /// Of all text parts together.
    pub(in crate::session) max_text_size: usize,
}

/// The result of adding to a reply.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Extended {
    /// Everything was added.
    Whole,
    /// The reply reached a limit: a part of it was dropped.
    TooLong,
    /// The addition contradicts the reply: a tool call that has ended grows, or an id is repeated.
    Invalid,
    /// No reply is in progress.
    NoReply,
}

/// Receives the events of a change. `None`: no subscriber wants them.
pub(in crate::session::live) type Sink<'a> = Option<&'a mut dyn FnMut(Event)>;

fn emit(sink: &mut Sink<'_>, event: impl FnOnce() -> Event) {
    if let Some(send) = sink {
        send(event());
    }
}

/// The content of one reply.
#[derive(Clone, Debug)]
pub(in crate::session) struct ReplyDraft {
    reply: MessageId,
    ended: Vec<EndedPart>,
    open: Option<OpenPart>,
    /// The end of the last event. Less than the sizes of the parts while the end of the last part
    /// has not been sent.
    end: u32,
    /// Bytes of all fields.
    size: usize,
    /// Bytes of the text parts.
    text_size: usize,
}

#[derive(Clone, Debug)]
struct EndedPart {
    base: u32,
    part: Arc<Part>,
}

#[derive(Clone, Debug)]
struct OpenPart {
    base: u32,
    kind: OpenKind,
    text: String,
    started: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OpenKind {
    Text,
    Reasoning,
    /// Without arguments, which are the text of the part.
    ToolCall(Arc<ToolCallPiece>),
}

impl OpenKind {
    fn of(piece: &Piece) -> Self {
        match piece {
            Piece::Text(_) => Self::Text,
            Piece::Reasoning(_) => Self::Reasoning,
            Piece::ToolCall(call) => {
                Self::ToolCall(Arc::new(ToolCallPiece { arguments: String::new(), ..call.clone() }))
            }
        }
    }

    /// Returns true if the piece continues this part.
    fn continues_with(&self, piece: &Piece) -> bool {
        match (self, piece) {
            (Self::Text, Piece::Text(_)) | (Self::Reasoning, Piece::Reasoning(_)) => true,
            (Self::ToolCall(call), Piece::ToolCall(piece)) => call.id == piece.id,
            (Self::Text | Self::Reasoning | Self::ToolCall(_), _) => false,
        }
    }

    fn piece(&self, text: String) -> DeltaPiece {
        match self {
            Self::Text => DeltaPiece::Text(Arc::new(text)),
            Self::Reasoning => DeltaPiece::Reasoning(Arc::new(text)),
            Self::ToolCall(call) => DeltaPiece::ToolCall(Arc::new(ToolCallPiece {
                arguments: text,
                ..ToolCallPiece::clone(call)
            })),
        }
    }

    fn content(self, text: Arc<str>) -> PartContent {
        match self {
            Self::Text => PartContent::Text(text),
            Self::Reasoning => PartContent::Reasoning(text),
            Self::ToolCall(call) => {
                let ToolCallPiece { id, name, plain_text, responder_executed, .. } =
                    Arc::unwrap_or_clone(call);
                let arguments = text;
                PartContent::ToolCall(ToolCall {
                    id,
                    name,
                    arguments,
                    plain_text,
                    responder_executed,
                })
            }
        }
    }
}

/// Converts a size to an offset. Replies are far smaller than 4 GiB: their limit is checked before
/// they grow.
fn offset(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Returns the size of a part in offsets.
fn extent(part: &PartContent) -> u32 {
    offset(part.growing_text().map_or(0, |text| text.len())) + 1
}

impl ReplyDraft {
    pub(super) const fn new(reply: MessageId) -> Self {
        let ended = Vec::new();
        Self { reply, ended, open: None, end: 0, size: 0, text_size: 0 }
    }

    /// Returns the offset of the content that follows.
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    /// Appends a piece to the open part, or begins a part with it.
    pub(super) fn append(
        &mut self,
        mut piece: Piece,
        limits: ReplyLimits,
        sink: &mut Sink<'_>,
    ) -> Extended {
        let continues = self.open.as_ref().is_some_and(|open| open.kind.continues_with(&piece));
        let is_text = matches!(piece, Piece::Text(_));
        let envelope = match &piece {
            Piece::ToolCall(call) if !continues => call.id.len() + call.name.len(),
            Piece::Text(_) | Piece::Reasoning(_) | Piece::ToolCall(_) => 0,
        };
        let mut room = limits.max_size.saturating_sub(self.size + envelope);
        if is_text {
            room = room.min(limits.max_text_size.saturating_sub(self.text_size));
        }
        let text = piece.text_mut();
        let extended = if text.len() <= room { Extended::Whole } else { Extended::TooLong };
        text.truncate(text.floor_char_boundary(room));
        // A tool call may begin without arguments.
        let is_call = matches!(piece, Piece::ToolCall(_));
        let text = piece.text();
        if text.is_empty() && (continues || !is_call || extended == Extended::TooLong) {
            return extended;
        }
        if !continues {
            if let Piece::ToolCall(call) = &piece
                && self.has_call(&call.id)
            {
                return Extended::Invalid;
            }
            if self.count() >= MAX_PARTS {
                return Extended::TooLong;
            }
            self.close(sink);
            let kind = OpenKind::of(&piece);
            let (base, started) = (self.end, Instant::now());
            self.open = Some(OpenPart { base, kind, text: String::new(), started });
            self.size += envelope;
        }
        let text = piece.into_text();
        self.size += text.len();
        if is_text {
            self.text_size += text.len();
        }
        let index = self.ended.len();
        let Some(open) = &mut self.open else { return extended };
        // A tool call that has begun without arguments is announced with its first piece, or whole.
        if text.is_empty() {
            return extended;
        }
        let from = self.end;
        self.end += offset(text.len());
        if sink.is_none() && open.text.is_empty() {
            open.text = text;
            return extended;
        }
        open.text.push_str(&text);
        emit(sink, || {
            Event::Delta(Delta {
                reply: self.reply,
                index: offset(index),
                offset: from,
                end: self.end,
                piece: open.kind.piece(text),
                done: false,
                encoded: EncodedForms::default(),
            })
        });
        extended
    }

    /// Adds a whole part. Ends the open one.
    pub(super) fn push(
        &mut self,
        part: Part,
        limits: ReplyLimits,
        sink: &mut Sink<'_>,
    ) -> Extended {
        let (size, text) = (part.size(), part.content.text().map_or(0, |text| text.len()));
        if part.content.tool_call().is_some_and(|call| self.has_call(&call.id)) {
            return Extended::Invalid;
        }
        let fits = self.size + size <= limits.max_size
            && self.text_size + text <= limits.max_text_size
            && self.count() < MAX_PARTS;
        if !fits {
            return Extended::TooLong;
        }
        self.close(sink);
        self.size += size;
        self.text_size += text;
        let base = self.end;
        self.add(base, part, sink);
        Extended::Whole
    }

    /// Ends the open part, with its citations and provider data, which are known only now. Beyond
    /// the limit they are dropped.
    pub(super) fn end_part(
        &mut self,
        citations: Vec<Citation>,
        provider_data: Option<Arc<str>>,
        limits: ReplyLimits,
        sink: &mut Sink<'_>,
    ) -> Extended {
        let Some(open) = self.open.take() else { return Extended::Whole };
        let (base, part) = open.into_part();
        let before = part.size();
        let is_text = part.content.text().is_some();
        let citations = if is_text { citations } else { Vec::new() };
        let full = Part { citations, provider_data, ..part.clone() };
        let added = full.size() - before;
        if self.size + added > limits.max_size {
            self.add(base, part, sink);
            return Extended::TooLong;
        }
        self.size += added;
        self.add(base, full, sink);
        Extended::Whole
    }

    /// Ends the open part as it is.
    fn end_open(&mut self, sink: &mut Sink<'_>) {
        if let Some(open) = self.open.take() {
            let (base, part) = open.into_part();
            self.add(base, part, sink);
        }
    }

    /// Ends the reply and returns its content. The open part is kept, except for a tool call
    /// without its end: half of the arguments are of no use.
    pub(super) fn finish(&mut self, complete: bool, sink: &mut Sink<'_>) -> Content {
        match &self.open {
            Some(OpenPart { kind: OpenKind::ToolCall(_), .. }) if !complete => self.open = None,
            Some(OpenPart { kind: OpenKind::ToolCall(_), .. }) => self.end_open(sink),
            Some(_) | None => {}
        }
        self.content()
    }

    /// Returns the content so far.
    pub(super) fn content(&self) -> Content {
        match (&self.ended[..], &self.open) {
            ([], None) => Content::default(),
            ([], Some(OpenPart { kind: OpenKind::Text, text, .. })) => {
                Content::of_text(text.as_str())
            }
            (ended, open) => {
                let ended = ended.iter().map(|ended| Part::clone(&ended.part));
                let open = open.clone().filter(|open| !matches!(open.kind, OpenKind::ToolCall(_)));
                Content::of_parts(ended.chain(open.map(|open| open.into_part().1)).collect())
            }
        }
    }

    /// Returns true if a subscriber can continue from an offset: it has been sent, and lies between
    /// two characters.
    pub(super) fn is_boundary(&self, at: u32) -> bool {
        if at > self.end {
            return false;
        }
        let parts = self.ended.iter().map(|it| (it.base, it.part.content.growing_text()));
        let parts = parts.map(|(base, text)| (base, text.map_or("", |text| text)));
        let open = self.open.iter().map(|open| (open.base, open.text.as_str()));
        let within = parts.chain(open).take_while(|(base, _)| *base <= at).last();
        within.is_none_or(|(base, text)| {
            let inside = (at - base) as usize;
            inside == text.len() + 1 || text.is_char_boundary(inside)
        })
    }

    fn count(&self) -> usize {
        self.ended.len() + usize::from(self.open.is_some())
    }

    fn has_call(&self, id: &str) -> bool {
        let mut calls = self.ended.iter().filter_map(|ended| ended.part.content.tool_call());
        calls.any(|call| *call.id == *id)
            || self.open.as_ref().is_some_and(
                |open| matches!(&open.kind, OpenKind::ToolCall(call) if *call.id == *id),
            )
    }

    /// Ends the open part, and sends the end of the last part if that was not sent: another part
    /// begins.
    fn close(&mut self, sink: &mut Sink<'_>) {
        self.end_open(sink);
        let Some(last) = self.ended.last() else { return };
        let end = last.base + extent(&last.part.content);
        if self.end < end {
            let from = std::mem::replace(&mut self.end, end);
            let nothing = Arc::new(String::new());
            let piece = match &last.part.content {
                PartContent::Reasoning(_) => DeltaPiece::Reasoning(nothing),
                _ => DeltaPiece::Text(nothing),
            };
            let index = offset(self.ended.len() - 1);
            let (reply, done, encoded) = (self.reply, true, EncodedForms::default());
            emit(sink, || {
                Event::Delta(Delta { reply, index, offset: from, end, piece, done, encoded })
            });
        }
    }

    /// Adds an ended part and sends what was not sent of it. The end of a part that ends by
    /// `done` is sent when the next part begins.
    fn add(&mut self, base: u32, part: Part, sink: &mut Sink<'_>) {
        let (index, reply) = (offset(self.ended.len()), self.reply);
        let part = Arc::new(part);
        if part.content.ends_by_done() && part.citations.is_empty() {
            let text = part.content.growing_text().map_or("", |text| text);
            let sent = (self.end - base) as usize;
            if sent < text.len() {
                let text = Arc::new(text[sent..].to_owned());
                let piece = match &part.content {
                    PartContent::Reasoning(_) => DeltaPiece::Reasoning(text),
                    _ => DeltaPiece::Text(text),
                };
                let from = self.end;
                self.end += offset(piece.text().len());
                let (end, done, encoded) = (self.end, false, EncodedForms::default());
                emit(sink, || {
                    Event::Delta(Delta { reply, index, offset: from, end, piece, done, encoded })
                });
            }
        } else {
            let end = base + extent(&part.content);
            let from = std::mem::replace(&mut self.end, end);
            let (part, encoded) = (Arc::clone(&part), EncodedForms::default());
            emit(sink, || {
                Event::ReplyPart(ReplyPart { reply, index, offset: from, end, part, encoded })
            });
        }
        self.ended.push(EndedPart { base, part });
    }
}

impl OpenPart {
    fn into_part(self) -> (u32, Part) {
        let millis = self.started.elapsed().as_millis();
        let part = Part {
            duration_ms: Some(u32::try_from(millis).unwrap_or(u32::MAX)),
            ..self.kind.content(self.text.into()).into()
        };
        (self.base, part)
    }
}

#[cfg(test)]
mod tests;
