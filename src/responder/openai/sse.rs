//! Parses server-sent events from bytes (HTML Living Standard, section 9.2.6).
//!
//! A chunk of the network may end anywhere: inside a UTF-8 character, between CR and LF. So bytes
//! are kept until their line is complete, and events are returned as bytes; the caller checks the
//! encoding. The size of an event is limited.

/// Largest event in bytes, with its incomplete line. An event of a reply has some hundred bytes.
pub(super) const MAX_EVENT: usize = 1 << 20;

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SseEvent<'a> {
    /// Its `data` lines, joined by LF.
    pub(super) data: &'a [u8],
    pub(super) kind: EventKind,
}

/// The type of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EventKind {
    /// `message`, or none.
    #[default]
    Message,
    Error,
    Other,
}

/// An event grew beyond [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The parser: takes bytes, returns events.
#[derive(Debug, Default)]
pub(super) struct Framer {
    bytes: Vec<u8>,
    /// Bytes of lines that have been read.
    read: usize,
    /// Bytes that are known to contain no line end.
    searched: usize,
    /// The last line ended with CR. A LF that follows belongs to it.
    after_cr: bool,
    /// Input has been read. A byte order mark is valid at the beginning only.
    begun: bool,
    data: Vec<u8>,
    has_data: bool,
    kind: EventKind,
    /// The event in `data` was returned.
    dispatched: bool,
}

impl Framer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.searched -= self.read;
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next complete event.
    pub(super) fn next(&mut self) -> Result<Option<SseEvent<'_>>, TooLong> {
        Ok(if self.advance()? { Some(self.dispatch()) } else { None })
    }

    /// Returns the next event, and true if it is complete. At the end of the stream, the last event
    /// may lack its empty line.
    pub(super) fn next_or_rest(&mut self) -> Result<Option<(SseEvent<'_>, bool)>, TooLong> {
        if self.advance()? {
            return Ok(Some((self.dispatch(), true)));
        }
        Ok(self.finish().map(|event| (event, false)))
    }

    /// Reads lines up to the end of an event. Returns false if there is none.
    fn advance(&mut self) -> Result<bool, TooLong> {
        self.forget_dispatched();
        while let Some(line) = self.line() {
            if self.bytes[line.clone()].is_empty() {
                if self.has_data {
                    return Ok(true);
                }
                self.kind = EventKind::Message;
            } else {
                self.field(line);
            }
            if self.data.len() > MAX_EVENT {
                return Err(TooLong);
            }
        }
        if self.data.len() + self.bytes.len() - self.read > MAX_EVENT {
            Err(TooLong)
        } else {
            Ok(false)
        }
    }

    /// Returns an event without its empty line at the end of the stream. The standard discards it,
    /// but some servers omit the line.
    pub(super) fn finish(&mut self) -> Option<SseEvent<'_>> {
        self.forget_dispatched();
        let rest = self.read..self.bytes.len();
        self.read = rest.end;
        self.searched = rest.end;
        if !rest.is_empty() {
            self.field(rest);
        }
        self.has_data.then(|| self.dispatch())
    }

    fn dispatch(&mut self) -> SseEvent<'_> {
        self.dispatched = true;
        SseEvent { data: &self.data, kind: self.kind }
    }

    fn forget_dispatched(&mut self) {
        if self.dispatched {
            self.data.clear();
            (self.dispatched, self.has_data, self.kind) = (false, false, EventKind::Message);
        }
    }

    /// Returns the range of the next complete line, without its end. LF, CR and CRLF end a line.
    fn line(&mut self) -> Option<std::ops::Range<usize>> {
        if self.after_cr && self.bytes.get(self.read) == Some(&b'\n') {
            self.read += 1;
            self.searched = self.searched.max(self.read);
            self.after_cr = false;
        }
        if !self.begun {
            let rest = &self.bytes[self.read..];
            if rest.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(rest) {
                return None;
            }
            self.read += if rest.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            self.searched = self.searched.max(self.read);
            self.begun = true;
        }
        let unseen = &self.bytes[self.searched..];
        let Some(length) = unseen.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            // The byte after the CR was not a LF.
            self.after_cr &= unseen.is_empty() && self.read == self.bytes.len();
            self.searched = self.bytes.len();
            return None;
        };
        let line = self.read..self.searched + length;
        self.after_cr = self.bytes[line.end] == b'\r';
        self.read = line.end + 1;
        self.searched = self.read;
        Some(line)
    }

    fn field(&mut self, line: std::ops::Range<usize>) {
        let line = &self.bytes[line];
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.kind = match value {
                    b"error" => EventKind::Error,
                    b"message" | b"" => EventKind::Message,
                    _ => EventKind::Other,
                }
            }
            // Comments (their name is empty), `id`, `retry`, and future fields.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Vec<(String, bool)>;

    fn take(framer: &mut Framer, seen: &mut Seen) {
        while let Some(event) = framer.next().unwrap_or_else(|_| panic!("too long")) {
            seen.push((
                String::from_utf8(event.data.to_vec()).unwrap(),
                event.kind == EventKind::Error,
            ));
        }
    }

    fn events(pieces: &[&[u8]]) -> Seen {
        let (mut framer, mut seen) = (Framer::default(), Vec::new());
        for piece in pieces {
            framer.push(piece);
            take(&mut framer, &mut seen);
        }
        if let Some(event) = framer.finish() {
            seen.push((
                String::from_utf8(event.data.to_vec()).unwrap(),
                event.kind == EventKind::Error,
            ));
        }
        seen
    }

    fn data(texts: &[&str]) -> Seen {
        texts.iter().map(|text| ((*text).to_owned(), false)).collect()
    }

    /// Everything that the standard lets a server write, in each kind of line.
    fn stream(end: &str) -> String {
        let lines = [
            "\u{feff}: a comment",
            "data: é日🦀",
            "",
            "data:no space",
            "",
            "data:  two",
            "",
            "data: one",
            "data:",
            "data: three",
            "",
            "",
            ": only a comment",
            "",
            "id: 7",
            "retry: 10",
            "unknown: x",
            "data",
            "",
            "event: error",
            "data: {}",
            "",
            "event: error",
            "",
            "data: [DONE]",
            "",
            "",
        ];
        lines.join(end)
    }

    fn expected() -> Seen {
        let mut all = data(&["é日🦀", "no space", " two", "one\n\nthree", "", "{}", "[DONE]"]);
        all[5].1 = true;
        all
    }

    #[test]
    fn a_stream_means_the_same_wherever_it_is_split_and_however_its_lines_end() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = stream(end);
            let bytes = stream.as_bytes();
            assert_eq!(events(&[bytes]), expected(), "{end:?} in one piece");
            for at in 0..=bytes.len() {
                let (one, two) = bytes.split_at(at);
                assert_eq!(events(&[one, two]), expected(), "{end:?} split at {at}");
                assert_eq!(events(&[one, b"", two]), expected(), "{end:?} nothing at {at}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(events(&single), expected(), "{end:?} byte by byte");
            for size in 2..40 {
                let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
                assert_eq!(events(&pieces), expected(), "{end:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn ends_of_lines_may_be_mixed() {
        let seen = events(&[b"data: a\r", b"\n\ndata: b\r\rdata: c\n\r", b"data: d\r\n\r\n"]);
        assert_eq!(seen, data(&["a", "b", "c", "d"]));
    }

    #[test]
    fn an_event_without_its_empty_line_counts_at_the_end() {
        assert_eq!(events(&[b"data: a\n\ndata: b"]), data(&["a", "b"]));
        assert_eq!(events(&[b"data: a\n\ndata: b\n"]), data(&["a", "b"]));
        assert_eq!(events(&[b"data: a\n\n: b"]), data(&["a"]));
        assert_eq!(events(&[b""]), data(&[]));
    }

    #[test]
    fn events_that_never_end_are_refused() {
        let long = vec![b'x'; MAX_EVENT / 4];
        for piece in [[b"data: ", &long[..], b"\n"].concat(), [b": ", &long[..]].concat()] {
            let mut framer = Framer::default();
            let refused = (0..6).any(|_| {
                framer.push(&piece);
                framer.next() == Err(TooLong)
            });
            assert!(refused);
        }
    }

    #[test]
    fn what_was_read_is_not_kept() {
        let mut framer = Framer::default();
        for _ in 0..10_000 {
            framer.push(&[b"data: ", &[b'x'; 1000][..], b"\n\n: "].concat());
            take(&mut framer, &mut Vec::new());
            framer.push(b"\n");
            take(&mut framer, &mut Vec::new());
        }
        assert!(framer.bytes.capacity() + framer.data.capacity() < 10_000);
    }
}
