//! Times in the answers of REST.

use std::time::SystemTime;

use crate::session::Timestamp;

/// Writes a time as RFC 3339 in UTC, with milliseconds.
pub(super) fn rfc3339(time: Timestamp) -> String {
    humantime::format_rfc3339_millis(SystemTime::from(time)).to_string()
}
