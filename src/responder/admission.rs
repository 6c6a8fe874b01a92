//! Who may ask an upstream, and when: so many replies at a time, so many that wait for
//! their place, and nobody before the moment that the upstream asked for.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::Reason;

/// How many replies an upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// At a time.
    pub concurrency: u32,
    /// Beyond these, the ones that wait for a place; whoever comes then is refused.
    pub waiting_room: u32,
    /// Longest wait for a place.
    pub waiting_timeout: Duration,
}

impl Capacity {
    /// Beyond that tokio's semaphore panics on some platforms, and nobody means it.
    const MOST: u32 = 1 << 20;

    /// Finds values that are impossible.
    ///
    /// # Errors
    /// The name of the value, and what it must be.
    pub(super) fn validate(self) -> Result<(), (&'static str, &'static str)> {
        if self.concurrency == 0 || self.concurrency > Self::MOST {
            return Err(("concurrency", "must be 1 to 1048576"));
        }
        if self.waiting_room > Self::MOST {
            return Err(("waiting_room", "must not be more than 1048576"));
        }
        Ok(())
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self { concurrency: 64, waiting_room: 256, waiting_timeout: Duration::from_secs(30) }
    }
}

/// Shared by all replies of an upstream.
pub(super) struct Admission {
    /// For those that are served, and those that wait for it.
    room: Arc<Semaphore>,
    /// For those that are served.
    places: Arc<Semaphore>,
    waiting_timeout: Duration,
    /// The upstream asked not to be asked before. Set in one go: a panic cannot leave it
    /// half done.
    not_before: Mutex<Option<Instant>>,
}

/// A place among those that are served. Dropping it makes room for the next.
#[derive(Debug)]
pub(super) struct Place {
    _permits: [OwnedSemaphorePermit; 2],
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many wait already.
    Full,
    /// None became free in time.
    Late,
    /// The upstream wants to be left alone for a while.
    Cooling,
}

impl Refused {
    /// What it comes to for the reply.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Full | Self::Late => Reason::Overloaded,
            Self::Cooling => Reason::RateLimited,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the waiting room is full",
            Self::Late => "no place became free in time",
            Self::Cooling => "the upstream is cooling down",
        })
    }
}

impl Admission {
    pub(super) fn new(capacity: Capacity) -> Self {
        let (places, waiting) = (capacity.concurrency as usize, capacity.waiting_room as usize);
        Self {
            room: Arc::new(Semaphore::new(places + waiting)),
            places: Arc::new(Semaphore::new(places)),
            waiting_timeout: capacity.waiting_timeout,
            not_before: Mutex::new(None),
        }
    }

    /// Waits for `back_off`, then for a place. Dropping the future gives up at once.
    pub(super) async fn enter(&self, back_off: Duration) -> Result<Place, Refused> {
        let waiting = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Refused::Full)?;
        if !back_off.is_zero() {
            sleep(back_off).await;
        }
        let free = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = timeout(self.waiting_timeout, free).await else {
            return Err(Refused::Late);
        };
        // While this one waited, another may have been told to wait.
        if self.cooldown().is_zero() {
            Ok(Place { _permits: [waiting, place] })
        } else {
            Err(Refused::Cooling)
        }
    }

    /// How long the upstream still wants to be left alone.
    pub(super) fn cooldown(&self) -> Duration {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The upstream wants to be left alone for so long. What it asked for before counts,
    /// if that is longer.
    pub(super) fn cool_down(&self, asked: Duration) {
        let until = Instant::now().checked_add(asked);
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(until);
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("free_places", &self.places.available_permits())
            .field("cooldown", &self.cooldown())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn admission(concurrency: u32, waiting_room: u32) -> Admission {
        let waiting_timeout = Duration::from_secs(3);
        Admission::new(Capacity { concurrency, waiting_room, waiting_timeout })
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_taken_waited_for_in_order_and_refused() {
        let admission = admission(1, 1);
        let place = admission.enter(NOW).await.unwrap();
        let mut second = Box::pin(admission.enter(NOW));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(admission.enter(NOW).await.err(), Some(Refused::Full));
        drop(place);
        let place = second.await.unwrap();
        assert_eq!(admission.enter(NOW).await.err(), Some(Refused::Late));
        // Who gave up is not counted any more.
        let third = Box::pin(admission.enter(NOW)).now_or_never();
        assert!(third.is_none());
        drop(place);
        assert!(admission.enter(NOW).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cooldown_holds_for_everybody_and_only_grows() {
        let admission = admission(1, 1);
        let place = admission.enter(NOW).await.unwrap();
        let waiting = admission.enter(NOW);
        admission.cool_down(Duration::from_secs(10));
        admission.cool_down(Duration::from_secs(5));
        admission.cool_down(Duration::MAX);
        assert_eq!(admission.cooldown(), Duration::from_secs(10), "no clock shows the last");
        drop(place);
        assert_eq!(waiting.await.err(), Some(Refused::Cooling));
        assert_eq!(admission.enter(NOW).await.err(), Some(Refused::Cooling));
        assert!(admission.enter(Duration::from_secs(10)).await.is_ok());
    }
}
