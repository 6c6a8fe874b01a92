//! The sources of a reply's text.
//!
//! Servers send them with or after the text, with ranges in characters. The core counts bytes.

use std::sync::Arc;

use super::wire::Annotation;
use crate::session::{Chunk, Citation, Part, PartContent, Source};

/// Most sources of a reply.
const MAX_SOURCES: usize = 256;

/// The sources so far, and the text that they belong to.
#[derive(Debug, Default)]
pub(super) struct Citations {
    /// The open text part.
    text: String,
    /// Characters of the text parts before it, which ranges count.
    before: u32,
    /// The text part has ended: its citations cannot be sent any more.
    is_ended: bool,
    annotations: Vec<Annotation>,
    /// Sources that were sent.
    sent: usize,
}

impl Citations {
    /// Adds text of the open part.
    pub(super) fn text(&mut self, text: &str) {
        if std::mem::take(&mut self.is_ended) {
            let length = self.text.chars().count();
            self.before = self.before.saturating_add(length.try_into().unwrap_or(u32::MAX));
            self.text.clear();
        }
        self.text.push_str(text);
    }

    /// Ends the text part, since a part of another kind follows.
    pub(super) fn end_text(&mut self, chunks: &mut Vec<Chunk>) {
        self.end(chunks);
        self.is_ended = true;
    }

    /// Adds sources. Servers repeat them.
    pub(super) fn add(&mut self, annotations: Vec<Annotation>) {
        for annotation in annotations {
            if self.annotations.len() < MAX_SOURCES && !self.annotations.contains(&annotation) {
                self.annotations.push(annotation);
            }
        }
    }

    /// Ends the text part with its citations, and sends the sources.
    pub(super) fn end(&mut self, chunks: &mut Vec<Chunk>) {
        let new = &self.annotations[self.sent..];
        if new.is_empty() {
            return;
        }
        let mut urls: Vec<&str> = self.annotations[..self.sent].iter().map(|it| &*it.url).collect();
        let (mut citations, mut sources) = (Vec::new(), Vec::new());
        for Annotation { url, title, range } in new {
            let known = urls.iter().position(|known| known == url);
            let place = known.unwrap_or_else(|| {
                urls.push(url);
                urls.len() - 1
            });
            let id: Arc<str> = format!("s{}", place + 1).into();
            let own = range.map(|range| self.byte_range(range));
            let (start, end) = own.flatten().unzip();
            // A range of an earlier part is no range of this one.
            if range.is_none_or(|(_, end)| end > self.before) {
                let source_id = Arc::clone(&id);
                citations.push(Citation { source_id, start, end, quote: None });
            }
            if known.is_none() {
                let (url, title) = (Some(url.as_str().into()), title.as_deref().map(Into::into));
                let source = Source { id, url, title, media_type: None, name: None };
                sources.push(Chunk::Part(Part::from(PartContent::Source(source))));
            }
        }
        if !self.is_ended && !self.text.is_empty() {
            chunks.push(Chunk::PartEnd { citations, provider_data: None });
            self.is_ended = true;
        }
        chunks.extend(sources);
        self.sent = self.annotations.len();
    }

    /// Converts a range of the whole text to bytes of the open part.
    fn byte_range(&self, (start, end): (u32, u32)) -> Option<(u32, u32)> {
        let start = start.checked_sub(self.before)?;
        byte_range(&self.text, (start, end.checked_sub(self.before)?))
    }
}

/// Converts a range of characters to one of bytes. `None` if it lies outside of the text.
fn byte_range(text: &str, (start, end): (u32, u32)) -> Option<(u32, u32)> {
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let mut places = ends.skip(start as usize);
    let first = places.next()?;
    let last = places.nth((end - start) as usize - 1)?;
    Some((u32::try_from(first).ok()?, u32::try_from(last).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_characters_become_ranges_of_bytes() {
        let text = "aé漢b";
        for (range, expected) in [
            ((0, 1), Some((0, 1))),
            ((1, 2), Some((1, 3))),
            ((1, 3), Some((1, 6))),
            ((0, 4), Some((0, 7))),
            ((3, 5), None),
            ((9, 10), None),
        ] {
            assert_eq!(byte_range(text, range), expected, "{range:?}");
        }
    }

    #[test]
    fn sources_are_sent_once_and_the_text_ends_with_its_citations() {
        let source = |url: &str, range| Annotation { url: url.into(), title: None, range };
        let mut citations = Citations::default();
        citations.text("It is ");
        citations.text("4 °C.");
        citations.add(vec![source("https://a", Some((0, 5))), source("https://b", None)]);
        citations.add(vec![source("https://a", Some((0, 5))), source("https://a", Some((6, 8)))]);
        let mut chunks = Vec::new();
        citations.end(&mut chunks);
        citations.end(&mut chunks);
        let Chunk::PartEnd { citations, .. } = &chunks[0] else { panic!("{chunks:?}") };
        let shown: Vec<_> = citations.iter().map(|it| (&*it.source_id, it.start, it.end)).collect();
        let expected = [("s1", Some(0), Some(5)), ("s2", None, None), ("s1", Some(6), Some(8))];
        assert_eq!(shown, expected);
        assert_eq!(chunks.len(), 3, "two sources: {chunks:?}");
    }

    #[test]
    fn ranges_count_the_earlier_text_parts() {
        let source = |range| Annotation { url: "https://a".into(), title: None, range };
        let (mut citations, mut chunks) = (Citations::default(), Vec::new());
        citations.text("é, ");
        citations.end_text(&mut chunks);
        citations.text("è.");
        citations.add(vec![source(Some((0, 1))), source(Some((3, 4)))]);
        citations.end(&mut chunks);
        let Chunk::PartEnd { citations, .. } = &chunks[0] else { panic!("{chunks:?}") };
        let shown: Vec<_> = citations.iter().map(|it| (it.start, it.end)).collect();
        assert_eq!(shown, [(Some(0), Some(2))]);
    }
}
