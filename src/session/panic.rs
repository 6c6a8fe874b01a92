//! Contains panics: a panic ends one reply or call, not the session.

use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

use super::model::{Error, Result};

/// The payload of a caught panic.
pub(super) type Panic = Box<dyn Any + Send>;

/// Returns the message of a panic if it is a constant. A formatted message may quote the text of a
/// user. The hook has logged the location.
pub(super) fn cause(panic: &Panic) -> &'static str {
    panic.downcast_ref::<&str>().copied().unwrap_or("not shown")
}

/// Runs a call, and converts a panic to an error.
// Not an `async fn`: its future would hold the call twice, before and during the wait.
pub(super) fn caught<T>(call: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
    AssertUnwindSafe(call).catch_unwind().map(|caught| {
        caught.unwrap_or_else(|panic| Err(Error::internal(format!("a panic: {}", cause(&panic)))))
    })
}
