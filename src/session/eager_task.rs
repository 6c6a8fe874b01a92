//! Work that is polled once in place and gets a task only if it must wait.
//!
//! A message that is durable must be published even if the connection that sent it closes. A
//! task for each turn would guarantee that, at twice the price of a turn (`benches/gateway`).

use std::task::{Context, Poll, Waker};

use super::{
    model::{Error, Result},
    sync::{JoinHandle, spawn},
};

/// Work that runs to its end even if its caller is dropped.
#[derive(Debug)]
#[must_use]
pub enum EagerTask<T> {
    /// The work is done: it did not have to wait.
    Done(T),
    /// A task does the rest.
    Running(JoinHandle<T>),
}

impl<T> EagerTask<Result<T>> {
    /// Waits for the result.
    ///
    /// # Errors
    /// The error of the work; `Internal` if it panicked.
    pub async fn end(self) -> Result<T> {
        match self {
            Self::Done(done) => done,
            Self::Running(task) => task.await.map_err(Error::internal)?,
        }
    }
}

/// Polls the work once, and spawns a task if it is pending.
pub(super) fn spawn_eager<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> EagerTask<T> {
    let mut work = Box::pin(work);
    // The task polls it again: no waker is needed before that.
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => EagerTask::Done(done),
        Poll::Pending => EagerTask::Running(spawn(work)),
    }
}
