//! JSON texts inside of values. The core checks them and does not interpret them.

use serde::de::IgnoredAny;

use super::{Error, ErrorKind, Result};

/// Longest id that a responder or a client may choose, in bytes.
const MAX_ID: usize = 256;

/// Returns the bytes of a text in a JSON string (RFC 8259, section 7), without its quotes.
pub(super) fn escaped_len(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(size).sum()
}

/// Checks that a field holds one JSON value.
pub(super) fn check(field: &str, text: &str) -> Result<()> {
    let parsed = serde_json::from_str::<IgnoredAny>(text);
    parsed
        .map(drop)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("{field} is not valid JSON")))
}

/// Returns true for one JSON object.
pub(crate) fn is_object(text: &str) -> bool {
    text.trim_ascii_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Checks an id that a client refers to or chooses.
pub(super) fn check_id(field: &str, id: &str) -> Result<()> {
    if (1..=MAX_ID).contains(&id.len()) && !id.contains('\0') {
        return Ok(());
    }
    let message = format!("{field} must be 1 to {MAX_ID} bytes");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
