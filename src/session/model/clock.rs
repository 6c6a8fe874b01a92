//! Time, as one value that tests can control.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds of a day.
const DAY: u64 = 24 * 3600 * 1000;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Creates a timestamp from milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The end of the year 9999, the last time that the contract can express: a deadline that never
    /// comes.
    pub const NEVER: Self = Self(253_402_300_799_999);

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time of the system's wall clock.
    #[must_use]
    pub fn of_wall_clock() -> Self {
        Self::from(SystemTime::now())
    }

    /// Returns a later time. Saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Returns the number of the day, from the Unix epoch, in UTC.
    #[must_use]
    pub const fn day(self) -> u64 {
        self.0 / DAY
    }

    /// Returns the beginning of the next day, in UTC.
    #[must_use]
    pub const fn next_day(self) -> Self {
        Self((self.day() + 1) * DAY)
    }

    /// Returns the time from an earlier one to this one. Zero if that one is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
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

/// The clock for deadlines. It starts at the time of the wall clock and continues with the
/// monotonic clock, so that a jump of the wall clock neither ends nor revives a session.
/// `tokio::time::pause` stops it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    /// Starts the clock at the current time.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), started_at: Timestamp::of_wall_clock() }
    }

    /// Returns the time for deadlines. Times for people are [`Timestamp::of_wall_clock`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.started_at.plus(self.started.elapsed())
    }
}
