//! A clock that the test controls.

use std::{sync::mpsc, time::Duration};

/// Stops the clock of this test. A clock that is merely paused would jump to the next timer
/// whenever all tasks wait, without waiting for sockets.
pub struct Clock {
    /// While a blocking task runs, the clock does not jump.
    _held: mpsc::Sender<()>,
}

impl Drop for Clock {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

impl Clock {
    pub fn hold() -> Self {
        tokio::time::pause();
        let (held, until) = mpsc::channel::<()>();
        // A test that hangs gets its timers back after a minute, and fails by them.
        tokio::task::spawn_blocking(move || until.recv_timeout(Duration::from_secs(60)));
        Self { _held: held }
    }

    /// Waits until all tasks are idle, then advances the time.
    pub async fn pass(&self, time: Duration) {
        self.rest().await;
        tokio::time::advance(time).await;
        self.rest().await;
    }

    /// Advances the time until an event.
    pub async fn until<T>(&self, event: impl Future<Output = T>) -> T {
        tokio::pin!(event);
        loop {
            tokio::select! {
                biased;
                happened = &mut event => return happened,
                () = self.pass(Duration::from_millis(50)) => {}
            }
        }
    }

    /// Each yield lets every task run and looks at every socket.
    pub async fn rest(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}
