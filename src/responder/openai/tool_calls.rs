//! Assembles tool calls from the pieces of a streamed response.
//!
//! Providers write several calls at a time. A reply has one open part, so the first call streams
//! and the others are held back until it has ended.

use std::sync::Arc;

use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{
    failure::UpstreamError,
    provider_data::{self, CallData},
};
use crate::{
    responder::upstream::Reason,
    session::{Chunk, Piece, ToolCallPiece},
};

/// Most calls of a reply.
const MAX_CALLS: usize = 256;

/// Most bytes of arguments that are held back.
const MAX_HELD: usize = 2 << 20;

/// Longest id that is kept, in bytes. The core accepts results for ids of up to 256.
const MAX_ID: usize = 200;

/// A piece of a call, as the server sent it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CallPiece {
    /// Place of the call among those of the reply.
    pub(super) index: Option<u32>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arguments: String,
    /// The arguments are text and not JSON.
    pub(super) plain_text: bool,
    /// Data of the server's own.
    pub(super) extra: Option<serde_json::Value>,
}

/// The calls of a reply so far.
#[derive(Debug)]
pub(super) struct ToolCalls {
    /// The name of the upstream, which alone gets its data back.
    upstream: Arc<str>,
    calls: Vec<Call>,
    /// The call that streams.
    open: Option<usize>,
    held: usize,
}

#[derive(Debug)]
struct Call {
    index: Option<u32>,
    /// The id that the server gave it. May be empty, or repeated.
    given_id: String,
    /// Unique in the reply.
    id: Arc<str>,
    name: String,
    arguments: String,
    plain_text: bool,
    extra: Option<serde_json::Value>,
    /// Bytes of the arguments that were sent. `None`: nothing was.
    sent: Option<usize>,
    ended: bool,
}

impl ToolCalls {
    pub(super) const fn new(upstream: Arc<str>) -> Self {
        Self { upstream, calls: Vec::new(), open: None, held: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a piece. `chunks` receives what can be sent.
    ///
    /// # Errors
    /// `upstream_protocol`: a call grows after its end, or there are too many.
    pub(super) fn add(
        &mut self,
        piece: CallPiece,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), UpstreamError> {
        let place = self.place(&piece)?;
        let call = &mut self.calls[place];
        if call.ended {
            if piece.arguments.is_empty() {
                return Ok(());
            }
            return Err(wrong("a tool call grew after its end"));
        }
        if call.name.is_empty() {
            call.name = piece.name.unwrap_or_default();
        }
        call.plain_text |= piece.plain_text;
        call.arguments.push_str(&piece.arguments);
        call.extra = piece.extra.or(call.extra.take());
        match self.open {
            Some(open) if open != place && self.calls[open].is_whole() => {
                self.end_open(chunks);
                self.open(place, chunks);
            }
            Some(open) if open != place => {
                self.held += piece.arguments.len();
                if self.held > MAX_HELD {
                    return Err(wrong("too many bytes of tool calls at the same time"));
                }
            }
            Some(_) => self.send(place, chunks),
            None => self.open(place, chunks),
        }
        Ok(())
    }

    /// Ends all calls: text follows, or the response ends.
    ///
    /// # Errors
    /// `upstream_protocol`: a call has no name.
    pub(super) fn end(&mut self, chunks: &mut Vec<Chunk>) -> Result<(), UpstreamError> {
        self.end_open(chunks);
        for place in 0..self.calls.len() {
            if !self.calls[place].ended {
                if self.calls[place].name.is_empty() {
                    return Err(wrong("a tool call without a name"));
                }
                self.open(place, chunks);
                self.end_open(chunks);
            }
        }
        self.held = 0;
        Ok(())
    }

    /// Returns the place of the call that a piece belongs to.
    fn place(&mut self, piece: &CallPiece) -> Result<usize, UpstreamError> {
        let given = piece.id.as_deref().unwrap_or_default();
        let has_name = piece.name.as_deref().is_some_and(|name| !name.is_empty());
        let found = match piece.index {
            // The last one: Gemini gives all calls the same index.
            Some(index) => self.calls.iter().rposition(|call| call.index == Some(index)),
            None if given.is_empty() => self.calls.len().checked_sub(1).filter(|_| !has_name),
            None => self.calls.iter().rposition(|call| call.given_id == given),
        };
        let found = found.filter(|&found| {
            let call = &self.calls[found];
            let is_another =
                !given.is_empty() && !call.given_id.is_empty() && call.given_id != given;
            !(is_another && has_name && !call.name.is_empty())
        });
        if let Some(found) = found {
            return Ok(found);
        }
        if self.calls.len() >= MAX_CALLS {
            return Err(wrong("too many tool calls"));
        }
        let id = self.unique_id(given);
        self.calls.push(Call {
            index: piece.index,
            given_id: given.into(),
            id,
            name: String::new(),
            arguments: String::new(),
            plain_text: false,
            extra: None,
            sent: None,
            ended: false,
        });
        Ok(self.calls.len() - 1)
    }

    /// Returns an id that no other call of the reply has.
    fn unique_id(&self, given: &str) -> Arc<str> {
        let is_taken = |id: &str| self.calls.iter().any(|call| *call.id == *id);
        if given.is_empty() || given.len() > MAX_ID || given.contains('\0') {
            let (high, _) = Uuid::new_v4().as_u64_pair();
            return format!("call_{high:016x}").into();
        }
        let numbered = (2..).map(|number| format!("{given}_{number}"));
        let mut ids = std::iter::once(given.to_owned()).chain(numbered);
        // The sequence does not end.
        ids.find(|id| !is_taken(id)).unwrap_or_default().into()
    }

    fn open(&mut self, place: usize, chunks: &mut Vec<Chunk>) {
        // The name comes with the first piece of every delta.
        if !self.calls[place].name.is_empty() {
            self.open = Some(place);
            self.send(place, chunks);
        }
    }

    /// Sends what was not sent of a call.
    fn send(&mut self, place: usize, chunks: &mut Vec<Chunk>) {
        let call = &mut self.calls[place];
        let sent = call.sent.unwrap_or(0);
        if call.sent.is_some() && sent == call.arguments.len() {
            return;
        }
        call.sent = Some(call.arguments.len());
        chunks.push(Chunk::Delta(Piece::ToolCall(ToolCallPiece {
            id: Arc::clone(&call.id),
            name: call.name.as_str().into(),
            arguments: call.arguments[sent..].into(),
            plain_text: call.plain_text,
            responder_executed: false,
        })));
    }

    fn end_open(&mut self, chunks: &mut Vec<Chunk>) {
        let Some(place) = self.open.take() else { return };
        self.send(place, chunks);
        let call = &mut self.calls[place];
        call.ended = true;
        let from = &self.upstream;
        let data = call.extra.take().map(|extra_content| CallData { extra_content });
        let provider_data = data.map(|data| provider_data::written(from, &data));
        chunks.push(Chunk::PartEnd { citations: Vec::new(), provider_data });
    }
}

impl Call {
    /// Returns true if the arguments are one JSON object.
    fn is_whole(&self) -> bool {
        // Most pieces are refused without reading everything before them.
        self.arguments.trim_ascii_end().ends_with('}')
            && serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok()
    }
}

fn wrong(problem: &str) -> UpstreamError {
    UpstreamError::new(Reason::Protocol, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: Option<u32>, id: &str, name: &str, arguments: &str) -> CallPiece {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (id, name, arguments) = (given(id), given(name), arguments.into());
        CallPiece { index, id, name, arguments, ..CallPiece::default() }
    }

    /// Returns the calls that a client assembles: id, name, arguments, in the order of their ends.
    fn assembled(pieces: Vec<CallPiece>) -> Result<Vec<(String, String, String)>, UpstreamError> {
        let (mut calls, mut chunks) = (ToolCalls::new("one".into()), Vec::new());
        for piece in pieces {
            calls.add(piece, &mut chunks)?;
        }
        calls.end(&mut chunks)?;
        let mut whole: Vec<(String, String, String)> = Vec::new();
        let mut open = false;
        for chunk in chunks {
            match chunk {
                Chunk::Delta(Piece::ToolCall(call)) => {
                    let (id, name) = (call.id.to_string(), call.name.to_string());
                    if !std::mem::replace(&mut open, true) {
                        whole.push((id.clone(), name.clone(), String::new()));
                    }
                    let last = whole.last_mut().unwrap();
                    assert_eq!((&last.0, &last.1), (&id, &name), "one call is open at a time");
                    last.2.push_str(&call.arguments);
                }
                Chunk::PartEnd { .. } => assert!(std::mem::replace(&mut open, false)),
                other => panic!("{other:?}"),
            }
        }
        Ok(whole)
    }

    fn expected(calls: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
        let owned = |(id, name, arguments): &(&str, &str, &str)| {
            ((*id).into(), (*name).into(), (*arguments).into())
        };
        calls.iter().map(owned).collect()
    }

    #[test]
    fn calls_are_assembled_in_every_form() {
        let two = expected(&[("a", "f", "{\"x\":1}"), ("b", "g", "{}")]);
        // One after the other, interleaved, complete arguments, and no index.
        for pieces in [
            vec![
                piece(Some(0), "a", "f", ""),
                piece(Some(0), "", "", "{\"x\""),
                piece(Some(0), "", "", ":1}"),
                piece(Some(1), "b", "g", "{}"),
            ],
            vec![
                piece(Some(0), "a", "f", "{\"x\""),
                piece(Some(1), "b", "g", "{"),
                piece(Some(0), "a", "f", ":1}"),
                piece(Some(1), "b", "g", "}"),
            ],
            vec![piece(None, "a", "f", "{\"x\":1}"), piece(None, "b", "g", "{}")],
            vec![
                piece(None, "a", "f", "{\"x\""),
                piece(None, "", "", ":1}"),
                piece(None, "b", "g", "{}"),
            ],
            vec![
                piece(Some(0), "a", "", "{\"x\""),
                piece(Some(0), "", "f", ":1}"),
                piece(Some(1), "b", "g", "{}"),
            ],
            // The same index for all, and the id in each piece.
            vec![piece(Some(0), "a", "f", "{\"x\":1}"), piece(Some(0), "b", "g", "{}")],
            vec![
                piece(Some(0), "a", "f", "{\"x\""),
                piece(Some(0), "a", "f", ":1}"),
                piece(Some(1), "b", "g", ""),
                piece(Some(1), "b", "", "{}"),
            ],
            // Another id in each piece of a call.
            vec![
                piece(Some(0), "a", "f", "{\"x\""),
                piece(Some(0), "a2", "", ":1}"),
                piece(Some(1), "b", "g", "{}"),
            ],
        ] {
            let shown = format!("{pieces:?}");
            assert_eq!(assembled(pieces).unwrap(), two, "{shown}");
        }
    }

    #[test]
    fn missing_and_repeated_ids_become_unique() {
        let calls = assembled(vec![
            piece(Some(0), "", "f", "{}"),
            piece(Some(1), "", "f", "{}"),
            piece(Some(2), "x", "f", "{}"),
            piece(Some(3), "x", "f", "{}"),
            piece(Some(4), &"y".repeat(201), "f", "{}"),
        ])
        .unwrap();
        let mut ids: Vec<_> = calls.iter().map(|(id, ..)| id.as_str()).collect();
        assert!(ids[0].starts_with("call_") && ids[2..4] == ["x", "x_2"], "{ids:?}");
        assert!(ids[4].starts_with("call_"), "{ids:?}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn the_lowest_call_streams_and_the_others_wait_for_it() {
        let (mut calls, mut chunks) = (ToolCalls::new("one".into()), Vec::new());
        for (piece, sent) in [
            (piece(Some(0), "a", "f", "{"), 1),
            (piece(Some(1), "b", "g", "{"), 1),
            (piece(Some(1), "", "", "}"), 1),
            (piece(Some(0), "", "", "}"), 2),
            // The first call is whole: it ends, and the next one begins.
            (piece(Some(2), "c", "h", ""), 4),
            (piece(Some(2), "", "", "{}"), 5),
        ] {
            calls.add(piece, &mut chunks).unwrap();
            assert_eq!(chunks.len(), sent, "{chunks:?}");
        }
        calls.end(&mut chunks).unwrap();
        assert_eq!(chunks.len(), 8, "the end of the third call, and the second call: {chunks:?}");
    }

    #[test]
    fn the_data_of_a_call_comes_with_its_end() {
        let (mut calls, mut chunks) = (ToolCalls::new("one".into()), Vec::new());
        let extra = Some(serde_json::json!({"google": {"thought_signature": "x"}}));
        calls.add(CallPiece { extra, ..piece(Some(0), "a", "f", "{}") }, &mut chunks).unwrap();
        calls.end(&mut chunks).unwrap();
        let Some(Chunk::PartEnd { provider_data: Some(data), .. }) = chunks.pop() else {
            panic!("{chunks:?}")
        };
        assert!(provider_data::read::<CallData>(Some(&data), Some("one")).is_some(), "{data}");
    }

    #[test]
    fn what_cannot_be_assembled_is_a_violation() {
        for pieces in [
            vec![
                piece(Some(0), "a", "f", "{}"),
                piece(Some(1), "b", "g", "{"),
                piece(Some(0), "", "", "{}"),
            ],
            vec![piece(Some(0), "a", "", "{}")],
        ] {
            let failed = assembled(pieces).unwrap_err();
            assert_eq!(failed.reason, Reason::Protocol);
        }
    }
}
