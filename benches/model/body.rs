//! The part of HTTP/1.1 that a streamed response needs: heads, and chunked bodies.

use crate::Result;

/// Where the body begins.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The length of a body, from its head.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let head = str::from_utf8(head).ok()?;
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case("content-length"))?;
    length.trim().parse().ok()
}

/// Decodes a chunked body.
#[derive(Default)]
pub(crate) struct Chunks {
    /// Of the chunk at hand, its line end included.
    left: usize,
}

impl Chunks {
    /// Moves what is complete from `raw` to `body`; true once that was the last of it.
    pub(crate) fn decode(&mut self, raw: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool> {
        let mut rest = &raw[..];
        let is_over = loop {
            if self.left > 0 {
                let here = self.left.min(rest.len());
                let data = here.min(self.left.saturating_sub(2));
                body.extend(&rest[..data]);
                rest = &rest[here..];
                self.left -= here;
                if self.left > 0 {
                    break false;
                }
            }
            let Some(end) = find(rest, b"\r\n") else { break false };
            let size = usize::from_str_radix(str::from_utf8(&rest[..end])?.trim(), 16)?;
            if size > 0 {
                self.left = size + 2;
                rest = &rest[end + 2..];
            } else if rest.len() >= end + 4 {
                rest = &rest[end + 4..];
                break true;
            } else {
                break false;
            }
        };
        let done = raw.len() - rest.len();
        raw.drain(..done);
        Ok(is_over)
    }
}

/// Where `what` begins.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
