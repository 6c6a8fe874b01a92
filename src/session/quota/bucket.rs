//! A token bucket.

use std::time::Duration;

use crate::session::model::Timestamp;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Units per millisecond.
    pub(super) per_millisecond: f64,
    /// Units that it holds at most.
    pub(super) burst: f64,
}

impl Rate {
    /// A rate of `units` per period, all of which may be used at once.
    pub(super) fn per(units: f64, period: Duration) -> Self {
        Self { per_millisecond: units / period.as_millis() as f64, burst: units }
    }

    /// As [`Self::per`], with room for `periods` of them.
    pub(super) fn with_burst(self, periods: f64) -> Self {
        Self { burst: self.burst * periods, ..self }
    }

    /// The part of one of several processes. At least one unit fits.
    pub(super) fn shared_by(self, processes: u32) -> Self {
        let processes = f64::from(processes.max(1));
        let per_millisecond = self.per_millisecond / processes;
        Self { per_millisecond, burst: (self.burst / processes).max(1.0) }
    }
}

/// A bucket of units, which fills over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Units that are missing to a full bucket, at `at`. A new bucket is full.
    missing: f64,
    at: Timestamp,
}

impl Bucket {
    /// Returns the units that are missing now.
    pub(super) fn missing(&self, rate: Rate, now: Timestamp) -> f64 {
        let filled = now.since(self.at).as_millis() as f64 * rate.per_millisecond;
        (self.missing - filled).max(0.0)
    }

    /// Returns the time until the bucket holds this many units, or `None` if it does. A request for
    /// more than its capacity waits until it is full.
    pub(super) fn wait(&self, units: f64, rate: Rate, now: Timestamp) -> Option<Duration> {
        let lacking = self.missing(rate, now) + units.min(rate.burst) - rate.burst;
        // Rounding errors are far below a millionth of a unit.
        (lacking > 1e-6).then(|| {
            let milliseconds = (lacking / rate.per_millisecond - 1e-6).ceil();
            Duration::from_millis((milliseconds as u64).max(1))
        })
    }

    /// Takes units, even if the bucket holds fewer.
    pub(super) fn take(&mut self, units: f64, rate: Rate, now: Timestamp) {
        self.missing = (self.missing(rate, now) + units).min(2.0 * rate.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn after(millis: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::per(60.0, Duration::from_secs(60));
        let mut bucket = Bucket::default();
        for _ in 0..60 {
            assert_eq!(bucket.wait(1.0, rate, NOW), None);
            bucket.take(1.0, rate, NOW);
        }
        assert_eq!(bucket.wait(1.0, rate, NOW), Some(Duration::from_secs(1)));
        assert_eq!(bucket.wait(1.0, rate, after(400)), Some(Duration::from_millis(600)));
        assert_eq!(bucket.wait(1.0, rate, after(1000)), None, "the wait was honest");
        bucket.take(1.0, rate, after(1000));
        assert!(bucket.wait(1.0, rate, after(1999)).is_some());
        let later = after(3_600_000);
        assert_eq!(bucket.missing(rate, later), 0.0, "it holds no more than its burst");
    }

    #[test]
    fn a_request_for_more_than_the_bucket_holds_waits_for_a_full_one() {
        let rate = Rate::per(10.0, Duration::from_secs(1)).with_burst(2.0);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.wait(1000.0, rate, NOW), None);
        bucket.take(1000.0, rate, NOW);
        assert_eq!(bucket.wait(1.0, rate, NOW), Some(Duration::from_millis(2100)));
        assert_eq!(bucket.wait(1.0, rate, after(2100)), None);
    }

    #[test]
    fn a_clock_that_stands_still_fills_nothing() {
        let rate = Rate::per(1.0, Duration::from_secs(1));
        let mut bucket = Bucket::default();
        bucket.take(1.0, rate, NOW);
        assert!(bucket.wait(1.0, rate, NOW).is_some());
        assert!(
            bucket.wait(1.0, rate, Timestamp::from_millis(5)).is_some(),
            "nor one that goes back"
        );
    }

    #[test]
    fn processes_share_a_rate_and_each_grants_at_least_one_unit() {
        let rate = Rate::per(60.0, Duration::from_secs(60)).shared_by(3);
        assert_eq!((rate.per_millisecond, rate.burst), (20.0 / 60_000.0, 20.0));
        assert_eq!(Rate::per(2.0, Duration::from_secs(60)).shared_by(4).burst, 1.0);
    }
}
