//! Settings of the core.

use std::time::Duration;

/// Deadlines and limits of sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Idle time after which a session expires.
    pub session_ttl: Duration,
    /// Age at which a session expires, active or not.
    pub session_max_age: Duration,
    /// Longest user message, in bytes.
    pub max_message_size: usize,
    /// Most user messages of a session without a reply, the one that is being answered included.
    pub max_queued_turns: u32,
    /// Most messages of a session.
    pub max_session_messages: u32,
    /// Most streams attached to a session.
    pub max_session_streams: usize,
    /// Longest reply, in bytes. A longer one is cut and committed as interrupted.
    pub max_reply_size: usize,
    /// Most unread events of a stream.
    pub max_backlog_events: usize,
    /// Most unread bytes of text of a stream.
    pub max_backlog_size: usize,
    /// Most messages of a page.
    pub max_page_messages: u32,
    /// Most bytes of text of a page, as JSON. The default stays below the 4 MiB that gRPC clients
    /// accept.
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
