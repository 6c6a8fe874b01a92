//! A panic ends what panicked, not the session that it happened in: its turns go on.

use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

use super::model::{Error, Result};

/// What a panic was caught with.
pub(super) type Panic = Box<dyn Any + Send>;

/// What of a panic may be logged. A message that was put together may hold what a text
/// held: that of a slice out of bounds quotes it. The hook has logged the place.
pub(super) fn cause(panic: &Panic) -> &'static str {
    panic.downcast_ref::<&str>().copied().unwrap_or("not shown")
}

/// A call whose panic is a failure like any other.
pub(super) async fn caught<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let caught = AssertUnwindSafe(call).catch_unwind().await;
    caught.unwrap_or_else(|panic| Err(Error::internal(format!("a panic: {}", cause(&panic)))))
}
