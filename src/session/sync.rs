//! The lock and the tasks of the types whose schedules are tested.
//!
//! They are those of std and tokio. With the feature `schedules`, the unit tests replace them by
//! those of shuttle, which runs one thread at a time and chooses the next one at each lock.

#[cfg(not(all(test, feature = "schedules")))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, feature = "schedules"))]
pub(super) use shuttle::{
    future::{JoinHandle, spawn},
    sync::{Mutex, MutexGuard},
};
#[cfg(not(all(test, feature = "schedules")))]
pub(super) use tokio::{spawn, task::JoinHandle};
