//! Bounds the bytes of responses that wait to be read.
//!
//! A peer can ask for many pages of a history and read none of them. Each page reserves its size
//! here before it is encoded, for its connection and for the process, and gives it back when the
//! response has been written or dropped.

use std::sync::Arc;

use metrics::gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::{Error, ErrorKind, Result, Snapshot};

/// Bytes per permit: a semaphore counts to 2^29 on some platforms.
const UNIT: usize = 1024;

/// Pages that are read and encoded at a time.
const PAGES: usize = 8;

/// The budget of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResponseBudget {
    process: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    max_size: usize,
    max_connection_size: usize,
}

/// The budget of one connection, in the extensions of its requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConnectionBudget {
    of_process: ResponseBudget,
    connection: Arc<Semaphore>,
}

/// A reservation, in the extensions of a response. Dropping the last clone gives it back.
#[derive(Clone, Debug)]
pub struct ResponsePermit {
    _reserved: Arc<Reservation>,
}

#[derive(Debug)]
struct Reservation {
    _permits: [OwnedSemaphorePermit; 2],
    size: usize,
}

impl ResponseBudget {
    /// Creates a budget of `max_size` bytes, of which one connection may use
    /// `max_connection_size`.
    #[must_use]
    pub fn new(max_size: usize, max_connection_size: usize) -> Self {
        Self {
            process: Arc::new(Semaphore::new(max_size / UNIT)),
            pages: Arc::new(Semaphore::new(PAGES)),
            max_size,
            max_connection_size,
        }
    }

    /// Returns the budget of a new connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionBudget {
        let connection = Arc::new(Semaphore::new(self.max_connection_size / UNIT));
        ConnectionBudget { of_process: self.clone(), connection }
    }
}

impl ConnectionBudget {
    /// Waits until fewer than eight pages are being read and encoded.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub(super) async fn page(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.of_process.pages).acquire_owned().await.map_err(Error::internal)
    }

    /// Reserves bytes for a response. A response that is larger than a budget takes all of it.
    ///
    /// # Errors
    /// `Overloaded` if too many bytes of earlier responses wait to be read.
    pub(super) fn reserve(&self, size: usize) -> Result<ResponsePermit> {
        let reserve = |budget: &Arc<Semaphore>, max_size: usize| {
            let units = u32::try_from(size.div_ceil(UNIT).min(max_size / UNIT)).unwrap_or(u32::MAX);
            Arc::clone(budget).try_acquire_many_owned(units).ok()
        };
        let full = || {
            let message = "Too many bytes of earlier responses wait to be read";
            Error::new(ErrorKind::Overloaded, message)
        };
        let connection =
            reserve(&self.connection, self.of_process.max_connection_size).ok_or_else(full)?;
        let process =
            reserve(&self.of_process.process, self.of_process.max_size).ok_or_else(full)?;
        gauge!("duologue_waiting_response_bytes").increment(size as f64);
        let reserved = Reservation { _permits: [connection, process], size };
        Ok(ResponsePermit { _reserved: Arc::new(reserved) })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        gauge!("duologue_waiting_response_bytes").decrement(self.size as f64);
    }
}

/// Returns the approximate size of a page as JSON: the texts, and 300 bytes for the fields of each
/// message.
pub(super) fn page_size(snapshot: &Snapshot) -> usize {
    snapshot.messages.iter().map(|message| message.json_size() + 300).sum::<usize>() + 300
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_the_process_have_a_limit_each_and_get_it_back() {
        let budget = ResponseBudget::new(30 * UNIT, 20 * UNIT);
        let (one, other) = (budget.connection(), budget.connection());
        let refused = |connection: &ConnectionBudget, units| {
            connection.reserve(units * UNIT).err().map(|error| error.kind())
        };
        let held = one.reserve(20 * UNIT).unwrap();
        assert_eq!(refused(&one, 1), Some(ErrorKind::Overloaded), "its own limit");
        assert_eq!(refused(&other, 20), Some(ErrorKind::Overloaded), "that of the process");
        assert_eq!(refused(&other, 10), None);
        drop(held);
        assert_eq!(refused(&one, 20), None);
        assert_eq!(refused(&one, 99), None, "larger than the budget, which is free");
    }
}
