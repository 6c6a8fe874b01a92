//! The counts of one address, subject or API key.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    account_key::AccountKey,
    bucket::{Bucket, Rate},
    limits::Limits,
};
use crate::session::model::{Error, ErrorKind, Result, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Seconds whose messages may come at once.
const MESSAGE_BURST: f64 = 10.0;

/// An account. While a stream or a connection holds it, it is not forgotten.
#[derive(Debug)]
pub(in crate::session) struct Account {
    kind: &'static str,
    limits: Limits,
    // A std mutex: it is held for a few instructions and never across an await.
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sessions: Bucket,
    messages: Bucket,
    messages_of_day: Bucket,
    bytes: Bucket,
    failures: Bucket,
    streams: u32,
    connections: u32,
}

impl Account {
    pub(super) fn new(key: &AccountKey, limits: Limits) -> Self {
        Self { kind: key.kind(), limits, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn charge_session(&self, now: Timestamp) -> Result<()> {
        let Some(rate) = per(self.limits.sessions_per_minute, MINUTE) else { return Ok(()) };
        let bucket = &mut self.counts().sessions;
        if let Some(wait) = bucket.wait(1.0, rate, now) {
            return Err(self.exceeded("new sessions", "sessions-per-minute", wait));
        }
        bucket.take(1.0, rate, now);
        Ok(())
    }

    /// Charges all three limits of messages or none.
    #[inline]
    pub(super) fn charge_message(&self, size: usize, now: Timestamp) -> Result<()> {
        let Limits { messages_per_second, messages_per_day, bytes_per_minute, .. } = self.limits;
        let second = per(messages_per_second, SECOND).map(|rate| rate.with_burst(MESSAGE_BURST));
        let day = per(messages_per_day, DAY);
        let minute = (bytes_per_minute > 0).then(|| Rate::per(bytes_per_minute as f64, MINUTE));
        let size = size as f64;
        let counts = &mut *self.counts();
        let Counts { messages, messages_of_day, bytes, .. } = counts;
        let charges = [
            (messages, second, 1.0, "messages", "messages-per-second"),
            (messages_of_day, day, 1.0, "messages in a day", "messages-per-day"),
            (bytes, minute, size, "bytes of messages", "bytes-per-minute"),
        ];
        for (bucket, rate, units, limit, setting) in &charges {
            if let Some(wait) = rate.and_then(|rate| bucket.wait(*units, rate, now)) {
                return Err(self.exceeded(limit, setting, wait));
            }
        }
        for (bucket, rate, units, ..) in charges {
            if let Some(rate) = rate {
                bucket.take(units, rate, now);
            }
        }
        Ok(())
    }

    /// Fails if there were too many failures.
    pub(super) fn check_failures(&self, now: Timestamp) -> Result<()> {
        let Some(rate) = per(self.limits.failures_per_minute, MINUTE) else { return Ok(()) };
        match self.counts().failures.wait(1.0, rate, now) {
            Some(wait) => {
                Err(self.exceeded("wrong tokens or credentials", "failures-per-minute", wait))
            }
            None => Ok(()),
        }
    }

    pub(super) fn count_failure(&self, now: Timestamp) {
        if let Some(rate) = per(self.limits.failures_per_minute, MINUTE) {
            self.counts().failures.take(1.0, rate, now);
        }
    }

    /// Takes a stream, until [`Self::return_stream`].
    pub(super) fn take_stream(&self) -> Result<()> {
        let streams = &mut self.counts().streams;
        if self.limits.streams > 0 && *streams >= self.limits.streams {
            return Err(self.exceeded("streams", "streams", SECOND));
        }
        *streams += 1;
        Ok(())
    }

    pub(super) fn return_stream(&self) {
        self.counts().streams -= 1;
    }

    pub(super) fn connection(self: &Arc<Self>) -> Result<ConnectionSlot> {
        let connections = &mut self.counts().connections;
        if self.limits.connections > 0 && *connections >= self.limits.connections {
            return Err(self.exceeded("connections", "connections", SECOND));
        }
        *connections += 1;
        Ok(ConnectionSlot(Arc::clone(self)))
    }

    /// Returns the part of its limits that the account has used most of, from 0 to 1.
    pub(super) fn use_of_limits(&self, now: Timestamp) -> f64 {
        let Limits { sessions_per_minute, messages_per_second, messages_per_day, .. } = self.limits;
        let counts = self.counts();
        let used = |bucket: &Bucket, rate: Option<Rate>| {
            rate.map_or(0.0, |rate| bucket.missing(rate, now) / rate.burst)
        };
        let second = per(messages_per_second, SECOND).map(|rate| rate.with_burst(MESSAGE_BURST));
        [
            used(&counts.sessions, per(sessions_per_minute, MINUTE)),
            used(&counts.messages, second),
            used(&counts.messages_of_day, per(messages_per_day, DAY)),
            used(&counts.failures, per(self.limits.failures_per_minute, MINUTE)),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    /// Returns the refusal by a limit. The sentence names the limit and its setting.
    fn exceeded(&self, limit: &str, setting: &str, wait: Duration) -> Error {
        let message =
            format!("Too many {limit} for this {} (--{}-{setting})", self.kind, self.kind);
        Error::new(ErrorKind::RateLimited, message).retry_after(wait)
    }
}

fn per(units: u32, period: Duration) -> Option<Rate> {
    (units > 0).then(|| Rate::per(units.into(), period))
}

/// A connection of an address, until it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<Account>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.counts().connections -= 1;
    }
}
