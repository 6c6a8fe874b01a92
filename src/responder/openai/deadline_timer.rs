//! A timer that is reused.
//!
//! Registering a timer for each chunk costs more than reading the chunk. This timer is reset only
//! if it must fire earlier, or if it fired too early.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug)]
pub(super) struct DeadlineTimer(Pin<Box<Sleep>>);

impl DeadlineTimer {
    pub(super) fn at(first: Instant) -> Self {
        Self(Box::pin(sleep_until(first)))
    }

    /// Runs `work` until the limit. Returns `None` if the limit is reached first.
    pub(super) async fn within<T>(
        &mut self,
        limit: Instant,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        // Work that is always ready would starve the timer.
        if Instant::now() >= limit {
            return None;
        }
        let mut work = pin!(work);
        let mut is_late = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            ready!(self.poll(limit, cx));
            if is_late {
                return Poll::Ready(None);
            }
            // After a pause of the whole process, the timer fires before the data that arrived
            // meanwhile is read.
            is_late = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn poll(&mut self, limit: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.deadline() > limit {
            self.0.as_mut().reset(limit);
        }
        ready!(self.0.as_mut().poll(cx));
        if Instant::now() >= limit {
            return Poll::Ready(());
        }
        self.0.as_mut().reset(limit);
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_each_limit_sooner_or_later_than_the_one_before() {
        let begun = Instant::now();
        let mut timer = DeadlineTimer::at(begun + 10 * SECOND);
        for after in [2, 20, 21] {
            let limit = begun + after * SECOND;
            assert_eq!(timer.within(limit, pending::<()>()).await, None);
            assert_eq!(begun.elapsed(), after * SECOND);
        }
    }

    /// Stopped for longer than the limit, while what it waits for comes: it must be seen.
    #[tokio::test]
    async fn what_came_while_the_process_was_stopped_counts() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let limit = Instant::now() + Duration::from_millis(20);
        tokio::spawn(async move {
            // Nothing else runs meanwhile.
            std::thread::sleep(Duration::from_millis(60));
            tokio::task::yield_now().await;
            tell.send(1)
        });
        let result = DeadlineTimer::at(limit).within(limit, told).await;
        assert_eq!(result, Some(Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_work_that_waits_and_work_that_is_always_ready() {
        let limit = Instant::now() + SECOND;
        let mut timer = DeadlineTimer::at(limit);
        assert_eq!(timer.within(limit, async { 1 }).await, Some(1));
        tokio::time::advance(SECOND).await;
        assert_eq!(timer.within(limit, async { 1 }).await, None);
    }
}
