//! The core's limits, in one place.

use std::time::Duration;

/// Deadlines and limits of sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A session expires after this long without activity.
    pub session_ttl: Duration,
    /// A session expires at this age, whatever happens.
    pub session_max_age: Duration,
    /// Longest user message, in bytes.
    pub max_message_size: usize,
    /// User messages of one session that wait for their reply, the one being answered included.
    pub max_queued_turns: u32,
    /// Messages of one session.
    pub max_session_messages: u32,
    /// Streams attached to one session.
    pub max_session_streams: usize,
    /// Longest reply, in bytes; a longer one is cut and committed as interrupted.
    pub max_reply_size: usize,
    /// What one stream may leave unread: events …
    pub max_backlog_events: usize,
    /// … and bytes of text.
    pub max_backlog_size: usize,
    /// What one read of a log returns: messages …
    pub max_page_messages: u32,
    /// … and bytes of text, as JSON. The default stays below the 4 MiB that gRPC clients accept.
    pub max_page_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            session_ttl: Duration::from_secs(3600),
            session_max_age: Duration::from_secs(24 * 3600),
            max_message_size: 64 << 10,
            max_queued_turns: 16,
            max_session_messages: 10_000,
            max_session_streams: 64,
            max_reply_size: 1 << 20,
            max_backlog_events: 4096,
            max_backlog_size: 4 << 20,
            max_page_messages: 1000,
            max_page_size: 3 << 20,
        }
    }
}
