//! Time, through one value, so that tests can hold it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// What the operating system's wall clock says.
    #[must_use]
    pub fn of_wall_clock() -> Self {
        Self::from(SystemTime::now())
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(0).plus(since)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

/// The clock that deadlines are measured by: it starts at the wall clock's time and
/// goes on with the monotonic clock, so that a wall clock that jumps neither kills
/// nor resurrects a session of a running process. Under `tokio::time::pause` it
/// stands still with the runtime's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    /// Anchors the clock here and now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), started_at: Timestamp::of_wall_clock() }
    }

    /// The present, for deadlines. For what people read, take
    /// [`Timestamp::of_wall_clock`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.started_at.plus(self.started.elapsed())
    }
}
