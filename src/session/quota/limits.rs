//! The limits of callers, as settings.

/// The limits of each kind of account. 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerLimits {
    /// Of an IPv4 address, or of a /64 of IPv6.
    pub address: Limits,
    /// Of an owner of sessions.
    pub subject: Limits,
    /// Of an API key, over all users of a service.
    pub key: Limits,
}

/// The limits of one account. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// New sessions per minute.
    pub sessions_per_minute: u32,
    /// User messages per second. Ten seconds' worth may come at once.
    pub messages_per_second: u32,
    /// User messages per day.
    pub messages_per_day: u32,
    /// Bytes of user messages per minute.
    pub bytes_per_minute: usize,
    /// Sessions in the store.
    pub stored_sessions: u32,
    /// Bytes of messages in the store.
    pub stored_bytes: usize,
    /// Streams at a time.
    pub streams: u32,
    /// Connections at a time. Of addresses alone.
    pub connections: u32,
    /// Wrong tokens and credentials per minute. Of addresses alone.
    pub failures_per_minute: u32,
}

impl Limits {
    /// Returns true if there is a limit on the use of sessions.
    pub(super) const fn has_any(&self) -> bool {
        self.sessions_per_minute > 0
            || self.messages_per_second > 0
            || self.messages_per_day > 0
            || self.bytes_per_minute > 0
            || self.streams > 0
            || self.has_share()
    }

    /// Returns true if there is a limit on the part of the store.
    pub(super) const fn has_share(&self) -> bool {
        self.stored_sessions > 0 || self.stored_bytes > 0
    }
}

impl CallerLimits {
    /// No limits.
    #[must_use]
    pub fn none() -> Self {
        let none = Limits::default();
        Self { address: none, subject: none, key: none }
    }
}

/// Protects an open gateway from one address, and leaves room for a hundred people behind it.
impl Default for CallerLimits {
    fn default() -> Self {
        Self {
            address: Limits {
                sessions_per_minute: 300,
                messages_per_second: 50,
                messages_per_day: 200_000,
                bytes_per_minute: 128 << 20,
                stored_sessions: 20_000,
                stored_bytes: 4 << 30,
                streams: 1000,
                connections: 1000,
                failures_per_minute: 300,
            },
            subject: Limits {
                sessions_per_minute: 60,
                messages_per_second: 10,
                messages_per_day: 20_000,
                bytes_per_minute: 32 << 20,
                stored_sessions: 10_000,
                stored_bytes: 2 << 30,
                streams: 100,
                connections: 0,
                failures_per_minute: 0,
            },
            key: Limits::default(),
        }
    }
}
