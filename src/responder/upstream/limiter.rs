//! Limits the requests to an upstream: concurrent ones, and waiting ones. Delays all of them while
//! the upstream asks for it.
//!
//! A turn is refused before it is accepted if there is no room ([`Limiter::has_room`]). A turn that
//! was accepted waits, however long it takes.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::failure::Reason;

/// Limits of the requests to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Concurrent requests.
    pub concurrency: u32,
    /// Replies that may wait for a permit. Further ones go to another upstream, and further turns
    /// are refused.
    pub queue_size: u32,
    /// Longest wait for a permit while there is another upstream.
    pub queue_timeout: Duration,
}

impl Capacity {
    /// tokio's semaphore panics beyond this on some platforms.
    const MOST: u32 = 1 << 20;

    /// Checks the values.
    ///
    /// # Errors
    /// The name of the wrong value, and the allowed range.
    pub(in crate::responder) fn validate(self) -> Result<(), (&'static str, &'static str)> {
        if self.concurrency == 0 || self.concurrency > Self::MOST {
            return Err(("concurrency", "must be 1 to 1048576"));
        }
        if self.queue_size > Self::MOST {
            return Err(("queue_size", "must not be more than 1048576"));
        }
        Ok(())
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self { concurrency: 64, queue_size: 256, queue_timeout: Duration::from_secs(30) }
    }
}

/// Shared by all replies of an upstream.
pub(in crate::responder) struct Limiter {
    /// Permits of running and waiting replies together.
    room: Arc<Semaphore>,
    /// Permits of running replies.
    permits: Arc<Semaphore>,
    queue_timeout: Duration,
    /// The upstream asked for no request before. Written in one assignment: a panic cannot leave it
    /// inconsistent.
    not_before: Mutex<Option<Instant>>,
}

/// The permission for one request. Dropping it lets the next one run.
#[derive(Debug)]
pub(in crate::responder) struct Permit {
    _permits: [OwnedSemaphorePermit; 2],
}

/// How long a reply waits for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::responder) enum Patience {
    /// There is another upstream: not if the queue is full, and not beyond the queue timeout.
    Limited,
    /// There is no other one: as long as it takes.
    Unlimited,
}

/// The reason why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::responder) enum LimiterError {
    Full,
    /// No permit became free in time.
    Late,
    /// The upstream asked for a pause.
    Cooling,
}

impl LimiterError {
    /// Returns the reason that the reply fails with.
    pub(in crate::responder) const fn reason(self) -> Reason {
        match self {
            Self::Full | Self::Late => Reason::Overloaded,
            Self::Cooling => Reason::RateLimited,
        }
    }
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::Late => "no permit became free in time",
            Self::Cooling => "the upstream is cooling down",
        })
    }
}

impl Limiter {
    pub(in crate::responder) fn new(capacity: Capacity) -> Self {
        let (permits, waiting) = (capacity.concurrency as usize, capacity.queue_size as usize);
        Self {
            room: Arc::new(Semaphore::new(permits + waiting)),
            permits: Arc::new(Semaphore::new(permits)),
            queue_timeout: capacity.queue_timeout,
            not_before: Mutex::new(None),
        }
    }

    /// Returns true if another reply can run or wait.
    pub(in crate::responder) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Waits for `backoff`, then for a permit. Dropping the future gives up at once.
    pub(in crate::responder) async fn acquire(
        &self,
        backoff: Duration,
        patience: Patience,
    ) -> Result<Permit, LimiterError> {
        let room = Arc::clone(&self.room);
        let waiting = match patience {
            Patience::Limited => room.try_acquire_owned().map_err(|_| LimiterError::Full)?,
            Patience::Unlimited => room.acquire_owned().await.map_err(|_| LimiterError::Full)?,
        };
        if !backoff.is_zero() {
            sleep(backoff).await;
        }
        let free = Arc::clone(&self.permits).acquire_owned();
        let permit = match patience {
            Patience::Limited => timeout(self.queue_timeout, free).await.ok(),
            Patience::Unlimited => Some(free.await),
        };
        let Some(Ok(permit)) = permit else { return Err(LimiterError::Late) };
        // The upstream may have asked another reply for a pause meanwhile.
        if self.cooldown().is_zero() {
            Ok(Permit { _permits: [waiting, permit] })
        } else {
            Err(LimiterError::Cooling)
        }
    }

    /// Returns the rest of the pause that the upstream asked for.
    pub(in crate::responder) fn cooldown(&self) -> Duration {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Records the pause that the upstream asked for. A longer one that is running stays.
    pub(in crate::responder) fn cool_down(&self, asked: Duration) {
        let until = Instant::now().checked_add(asked);
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(until);
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("free_places", &self.permits.available_permits())
            .field("cooldown", &self.cooldown())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn limiter(concurrency: u32, queue_size: u32) -> Limiter {
        let queue_timeout = Duration::from_secs(3);
        Limiter::new(Capacity { concurrency, queue_size, queue_timeout })
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_taken_waited_for_in_order_and_refused() {
        let limiter = limiter(1, 1);
        let permit = limiter.acquire(NOW, Patience::Limited).await.unwrap();
        let mut second = Box::pin(limiter.acquire(NOW, Patience::Limited));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(limiter.acquire(NOW, Patience::Limited).await.err(), Some(LimiterError::Full));
        drop(permit);
        let permit = second.await.unwrap();
        assert_eq!(limiter.acquire(NOW, Patience::Limited).await.err(), Some(LimiterError::Late));
        // Who gave up is not counted any more.
        let third = Box::pin(limiter.acquire(NOW, Patience::Limited)).now_or_never();
        assert!(third.is_none());
        drop(permit);
        assert!(limiter.acquire(NOW, Patience::Limited).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_reply_waits_beyond_the_queue_and_its_timeout() {
        let limiter = limiter(1, 1);
        let patient = || limiter.acquire(NOW, Patience::Unlimited);
        let permit = patient().await.unwrap();
        assert!(limiter.has_room());
        let (mut second, mut third) = (Box::pin(patient()), Box::pin(patient()));
        assert!(second.as_mut().now_or_never().is_none() && !limiter.has_room());
        assert!(third.as_mut().now_or_never().is_none());
        sleep(Duration::from_secs(3600)).await;
        drop(permit);
        drop(second.await.unwrap());
        drop(third.await.unwrap());
        assert!(limiter.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cooldown_holds_for_everybody_and_only_grows() {
        let limiter = limiter(1, 1);
        let permit = limiter.acquire(NOW, Patience::Limited).await.unwrap();
        let waiting = limiter.acquire(NOW, Patience::Limited);
        limiter.cool_down(Duration::from_secs(10));
        limiter.cool_down(Duration::from_secs(5));
        limiter.cool_down(Duration::MAX);
        assert_eq!(limiter.cooldown(), Duration::from_secs(10), "no clock shows the last");
        drop(permit);
        assert_eq!(waiting.await.err(), Some(LimiterError::Cooling));
        assert_eq!(
            limiter.acquire(NOW, Patience::Limited).await.err(),
            Some(LimiterError::Cooling)
        );
        assert!(limiter.acquire(Duration::from_secs(10), Patience::Limited).await.is_ok());
    }
}
