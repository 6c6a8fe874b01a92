//! The counts of one address, subject or API key.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    account_key::AccountKey,
    bucket::{Bucket, Rate},
    limits::Limits,
};
use crate::session::{
    model::{Error, ErrorKind, Result, Timestamp},
    ports::{Share, ShareOf},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Burst of messages, in seconds of their rate.
const MESSAGE_BURST: f64 = 10.0;

/// An account. It stays in the table while a stream or a connection holds it.
#[derive(Debug)]
pub(in crate::session) struct Account {
    kind: &'static str,
    limits: Limits,
    /// `None`: it has no limit of the store.
    share: Option<ShareOf>,
    /// Living processes that share the store. Each grants its part of the rates.
    processes: Arc<AtomicU32>,
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
    stored: Option<Stored>,
}

/// The part of the store that an account uses: as it was read, and what was added since.
#[derive(Clone, Copy, Debug)]
struct Stored {
    share: Share,
    read_at: Timestamp,
    /// A session or message was refused since the read.
    has_refused: bool,
}

/// Age at which the share of the store is read again: sessions may have been deleted.
const SHARE_AGE: Duration = MINUTE;

/// The same after a refusal.
const SHARE_AGE_AFTER_REFUSAL: Duration = SECOND;

impl Account {
    pub(super) fn new(
        key: &AccountKey,
        limits: Limits,
        secret: &[u8; 32],
        processes: Arc<AtomicU32>,
    ) -> Self {
        let share = key.share(secret).filter(|_| limits.has_share());
        Self { kind: key.kind(), limits, share, processes, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges a new token, or with `is_session` a new session.
    pub(super) fn charge_session(&self, is_session: bool, now: Timestamp) -> Result<()> {
        let counts = &mut *self.counts();
        let mut stored = counts.stored.as_mut().filter(|_| is_session);
        self.check_share(&mut stored, 0)?;
        if let Some(rate) = self.per(self.limits.sessions_per_minute, MINUTE) {
            if let Some(wait) = counts.sessions.wait(1.0, rate, now) {
                return Err(self.exceeded("new sessions", "sessions-per-minute", wait));
            }
            counts.sessions.take(1.0, rate, now);
        }
        if let Some(stored) = stored {
            stored.share.sessions += 1;
        }
        Ok(())
    }

    /// Returns the part of the store, if it has to be read before the next check.
    pub(super) fn share_to_read(&self, now: Timestamp) -> Option<&ShareOf> {
        let of = self.share.as_ref()?;
        let is_old = self.counts().stored.is_none_or(|Stored { read_at, has_refused, .. }| {
            let age = if has_refused { SHARE_AGE_AFTER_REFUSAL } else { SHARE_AGE };
            now.since(read_at) >= age
        });
        is_old.then_some(of)
    }

    pub(super) fn share_was_read(&self, share: Share, read_at: Timestamp) {
        self.counts().stored = Some(Stored { share, read_at, has_refused: false });
    }

    /// Returns true if the part of the store leaves no room for another session, or for a message of
    /// this size.
    fn is_at_limit(&self, share: Share, size: usize) -> bool {
        let Limits { stored_sessions, stored_bytes, .. } = self.limits;
        let sessions = stored_sessions > 0 && share.sessions >= stored_sessions.into();
        let bytes =
            stored_bytes > 0 && share.size.saturating_add(size as u64) >= stored_bytes as u64;
        if size > 0 { bytes } else { sessions || bytes }
    }

    /// Fails if the part of the store leaves no room.
    fn check_share(&self, stored: &mut Option<&mut Stored>, size: usize) -> Result<()> {
        match stored {
            Some(stored) if self.is_at_limit(stored.share, size) => {
                stored.has_refused = true;
                Err(self.without_room())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn without_room(&self) -> Error {
        let message = format!(
            "This {} has used its share of the store (--{}-stored-sessions, --{}-stored-bytes)",
            self.kind, self.kind, self.kind
        );
        Error::new(ErrorKind::StoreFull, message)
    }

    /// Charges all three limits of messages or none.
    #[inline]
    pub(super) fn charge_message(&self, size: usize, now: Timestamp) -> Result<()> {
        let Limits { messages_per_second, messages_per_day, bytes_per_minute, .. } = self.limits;
        let second =
            self.per(messages_per_second, SECOND).map(|rate| rate.with_burst(MESSAGE_BURST));
        let day = self.per(messages_per_day, DAY);
        let minute = self.rate(bytes_per_minute as f64, MINUTE);
        let (message_size, size) = (size.max(1), size as f64);
        let counts = &mut *self.counts();
        let Counts { messages, messages_of_day, bytes, stored, .. } = counts;
        let charges = [
            (messages, second, 1.0, "messages", "messages-per-second"),
            (messages_of_day, day, 1.0, "messages in a day", "messages-per-day"),
            (bytes, minute, size, "bytes of messages", "bytes-per-minute"),
        ];
        let mut stored = stored.as_mut();
        self.check_share(&mut stored, message_size)?;
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
        if let Some(stored) = stored {
            stored.share.size += message_size as u64;
        }
        Ok(())
    }

    /// Fails if there were too many failures.
    pub(super) fn check_failures(&self, now: Timestamp) -> Result<()> {
        let Some(rate) = self.per(self.limits.failures_per_minute, MINUTE) else { return Ok(()) };
        match self.counts().failures.wait(1.0, rate, now) {
            Some(wait) => {
                Err(self.exceeded("wrong tokens or credentials", "failures-per-minute", wait))
            }
            None => Ok(()),
        }
    }

    pub(super) fn count_failure(&self, now: Timestamp) {
        if let Some(rate) = self.per(self.limits.failures_per_minute, MINUTE) {
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
        let second =
            self.per(messages_per_second, SECOND).map(|rate| rate.with_burst(MESSAGE_BURST));
        [
            used(&counts.sessions, self.per(sessions_per_minute, MINUTE)),
            used(&counts.messages, second),
            used(&counts.messages_of_day, self.per(messages_per_day, DAY)),
            used(&counts.failures, self.per(self.limits.failures_per_minute, MINUTE)),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    fn per(&self, units: u32, period: Duration) -> Option<Rate> {
        self.rate(units.into(), period)
    }

    /// Returns the part of a rate that this process grants. `None` for no limit.
    fn rate(&self, units: f64, period: Duration) -> Option<Rate> {
        let rate = (units > 0.0).then(|| Rate::per(units, period))?;
        Some(rate.shared_by(self.processes.load(Ordering::Relaxed)))
    }

    /// Returns the refusal by a limit. The sentence names the limit and its setting.
    fn exceeded(&self, limit: &str, setting: &str, wait: Duration) -> Error {
        let message =
            format!("Too many {limit} for this {} (--{}-{setting})", self.kind, self.kind);
        Error::new(ErrorKind::RateLimited, message).retry_after(wait)
    }
}

/// A connection of an address, until it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<Account>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.counts().connections -= 1;
    }
}
