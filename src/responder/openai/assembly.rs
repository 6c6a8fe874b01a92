//! Converts the pieces of a response to the chunks of a reply: pure, without I/O.

use std::sync::Arc;

use super::{
    citations::Citations,
    failure::UpstreamError,
    provider_data::{self, ReplyData},
    tool_calls::ToolCalls,
    wire::{DocumentForm, WirePiece},
};
use crate::session::{Chunk, File, Part, PartContent, Piece};

/// The reply so far.
#[derive(Debug)]
pub(super) struct Assembly {
    upstream: Arc<str>,
    calls: ToolCalls,
    citations: Citations,
    forms: Forms,
    /// The text is a refusal.
    refuses: bool,
    /// Data to send back to the upstream.
    data: ReplyData,
}

/// The field that each kind of content came in. Some servers repeat the whole reply in another one.
#[derive(Debug, Default)]
struct Forms {
    text: Option<DocumentForm>,
    reasoning: Option<DocumentForm>,
    calls: Option<DocumentForm>,
    images: Option<DocumentForm>,
}

/// The content that a piece brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    Nothing,
    Reasoning,
    /// Text, a call or an image.
    Answer,
}

impl Assembly {
    /// Creates the assembly of a reply of an upstream.
    pub(super) fn new(upstream: &Arc<str>) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            calls: ToolCalls::new(Arc::clone(upstream)),
            citations: Citations::default(),
            forms: Forms::default(),
            refuses: false,
            data: ReplyData::default(),
        }
    }

    /// Adds a piece. `chunks` receives what can be sent.
    ///
    /// # Errors
    /// `upstream_protocol`: the tool calls contradict each other.
    pub(super) fn take(
        &mut self,
        mut piece: WirePiece,
        chunks: &mut Vec<Chunk>,
    ) -> Result<Brought, UpstreamError> {
        self.forms.leave_out_repeated(&mut piece);
        provider_data::add_details(&mut self.data.reasoning_details, piece.reasoning_details);
        let mut brought = Brought::Nothing;
        if !piece.reasoning.is_empty() {
            brought = Brought::Reasoning;
            self.citations.end_text(chunks);
            self.calls.end(chunks)?;
            self.data.reasoning_content |= piece.is_reasoning_content;
            chunks.push(Chunk::Delta(Piece::Reasoning(piece.reasoning)));
        }
        if !piece.text.is_empty() {
            brought = Brought::Answer;
            self.calls.end(chunks)?;
            self.refuses |= piece.refuses;
            self.citations.text(&piece.text);
            chunks.push(Chunk::Delta(Piece::Text(piece.text)));
        }
        self.citations.add(piece.annotations);
        for call in piece.calls {
            brought = Brought::Answer;
            self.citations.end_text(chunks);
            self.calls.add(call, chunks)?;
        }
        for url in piece.images {
            brought = Brought::Answer;
            self.calls.end(chunks)?;
            self.citations.end_text(chunks);
            chunks.push(Chunk::Part(image(&url)));
        }
        Ok(brought)
    }

    /// Ends the open part: with the sources of a text, or with the calls that were held back.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn end(&mut self, chunks: &mut Vec<Chunk>) -> Result<(), UpstreamError> {
        self.citations.end(chunks);
        self.calls.end(chunks)
    }

    /// Returns the finish reason of a reply in the words of the contract. Servers name the one of
    /// calls and refusals differently.
    pub(super) fn finish_reason(&self, reason: Option<&Arc<str>>) -> Option<Arc<str>> {
        let has_calls = !self.calls.is_empty();
        match reason.map(|reason| &**reason) {
            None | Some("stop" | "function_call") if has_calls => Some("tool_calls".into()),
            Some("stop") if self.refuses => Some("refusal".into()),
            None | Some(_) => reason.map(Arc::clone),
        }
    }

    /// Returns the data that the upstream wants back with the reply.
    pub(super) fn provider_data(&self) -> Option<Arc<str>> {
        let data = ReplyData {
            reasoning_content: self.data.reasoning_content && !self.calls.is_empty(),
            reasoning_details: self.data.reasoning_details.clone(),
        };
        (data != ReplyData::default()).then(|| provider_data::written(&self.upstream, &data))
    }
}

impl Forms {
    fn leave_out_repeated(&mut self, piece: &mut WirePiece) {
        let form = piece.form;
        let is_repeated = |known: &mut Option<DocumentForm>| *known.get_or_insert(form) != form;
        if !piece.text.is_empty() && is_repeated(&mut self.text) {
            piece.text.clear();
        }
        if !piece.reasoning.is_empty() && is_repeated(&mut self.reasoning) {
            piece.reasoning.clear();
        }
        if !piece.calls.is_empty() && is_repeated(&mut self.calls) {
            piece.calls.clear();
        }
        if !piece.images.is_empty() && is_repeated(&mut self.images) {
            piece.images.clear();
        }
    }
}

/// Returns an image of a reply as a part.
fn image(url: &str) -> Part {
    let media_type = url.strip_prefix("data:").and_then(|rest| rest.split([';', ',']).next());
    let media_type = media_type.filter(|kind| kind.starts_with("image/")).unwrap_or("image/*");
    let (media_type, url) = (media_type.into(), url.into());
    PartContent::File(File { media_type, url, name: None, size: None }).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::openai::{tool_calls::CallPiece, wire::Annotation};

    fn text(text: &str) -> WirePiece {
        WirePiece { text: text.into(), ..WirePiece::default() }
    }

    fn reasoning(reasoning: &str) -> WirePiece {
        WirePiece { reasoning: reasoning.into(), ..WirePiece::default() }
    }

    fn call(arguments: &str) -> WirePiece {
        let (id, name) = (Some("c".into()), Some("f".into()));
        let arguments = arguments.into();
        let call = CallPiece { index: Some(0), id, name, arguments, ..CallPiece::default() };
        WirePiece { calls: vec![call], ..WirePiece::default() }
    }

    /// Returns the chunks in short: kind and text.
    fn assembled(pieces: Vec<WirePiece>) -> (Vec<String>, Assembly) {
        let (mut assembly, mut chunks) = (Assembly::new(&"one".into()), Vec::new());
        for piece in pieces {
            assembly.take(piece, &mut chunks).unwrap();
        }
        assembly.end(&mut chunks).unwrap();
        let short = chunks.into_iter().map(|chunk| match chunk {
            Chunk::Delta(Piece::Text(text)) => format!("text {text}"),
            Chunk::Delta(Piece::Reasoning(text)) => format!("reasoning {text}"),
            Chunk::Delta(Piece::ToolCall(call)) => format!("call {}", call.arguments),
            Chunk::PartEnd { citations, .. } => format!("end {}", citations.len()),
            Chunk::Part(Part { content: PartContent::Source(source), .. }) => {
                format!("source {}", source.id)
            }
            Chunk::Part(Part { content: PartContent::File(file), .. }) => {
                format!("file {} {}", file.media_type, file.url)
            }
            other => panic!("{other:?}"),
        });
        (short.collect(), assembly)
    }

    #[test]
    fn parts_follow_each_other_and_a_call_ends_where_another_part_begins() {
        let pieces = vec![
            reasoning("Hm"),
            text("Let me see."),
            call("{"),
            call("}"),
            text("And"),
            reasoning("Oh"),
            text("so on"),
        ];
        let expected = [
            "reasoning Hm",
            "text Let me see.",
            "call {",
            "call }",
            "end 0",
            "text And",
            "reasoning Oh",
            "text so on",
        ];
        assert_eq!(assembled(pieces).0, expected);
    }

    #[test]
    fn a_reply_that_is_repeated_in_another_field_counts_once() {
        let again = |piece: WirePiece| WirePiece { form: DocumentForm::Message, ..piece };
        let first = [reasoning("Hm"), text("a"), call("{}")];
        let repeated = [again(reasoning("Hm")), again(text("a")), again(call("{}"))];
        let chunks = assembled(first.into_iter().chain(repeated).collect()).0;
        assert_eq!(chunks, ["reasoning Hm", "text a", "call {}", "end 0"]);
        // Each kind may come in a field of its own.
        let chunks = assembled(vec![reasoning("Hm"), again(text("a"))]).0;
        assert_eq!(chunks, ["reasoning Hm", "text a"]);
    }

    #[test]
    fn sources_come_with_the_end_of_their_text() {
        let annotation = |url: &str| Annotation { url: url.into(), ..Annotation::default() };
        let mut cited = text("b");
        cited.annotations = vec![annotation("https://a"), annotation("https://b")];
        let expected = ["text a", "text b", "end 2", "source s1", "source s2", "call {}", "end 0"];
        assert_eq!(assembled(vec![text("a"), cited, call("{}")]).0, expected);
    }

    #[test]
    fn images_are_files() {
        let images = ["data:image/png;base64,AA==", "https://a/b.png"].map(Into::into).into();
        let piece = WirePiece { images, ..WirePiece::default() };
        let expected =
            ["file image/png data:image/png;base64,AA==", "file image/* https://a/b.png"];
        assert_eq!(assembled(vec![piece]).0, expected);
    }

    #[test]
    fn finish_reasons_are_those_of_the_contract() {
        let refusal = WirePiece { refuses: true, ..text("No.") };
        for (pieces, reason, expected) in [
            (vec![text("a")], Some("stop"), Some("stop")),
            (vec![text("a")], None, None),
            (vec![refusal], Some("stop"), Some("refusal")),
            (vec![call("{}")], Some("stop"), Some("tool_calls")),
            (vec![call("{}")], Some("function_call"), Some("tool_calls")),
            (vec![call("{}")], Some("tool_calls"), Some("tool_calls")),
            (vec![call("{}")], None, Some("tool_calls")),
            (vec![call("{")], Some("length"), Some("length")),
        ] {
            let reason = reason.map(Into::into);
            let found = assembled(pieces).1.finish_reason(reason.as_ref());
            assert_eq!(found.as_deref(), expected, "{reason:?}");
        }
    }

    #[test]
    fn reasoning_that_has_to_return_is_marked_only_beside_calls() {
        let reasoning = || WirePiece { is_reasoning_content: true, ..reasoning("Hm") };
        assert_eq!(assembled(vec![reasoning(), text("a")]).1.provider_data(), None);
        let data = assembled(vec![reasoning(), call("{}")]).1.provider_data().unwrap();
        assert_eq!(&*data, r#"{"openai":{"upstream":"one","reasoning_content":true}}"#);
    }
}
