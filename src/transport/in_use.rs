//! The use of a connection by its requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;

use crate::session::ConnectionSlot;

/// A use of a connection. While another one exists besides the connection's own, the connection
/// is not idle, and its permit is taken. A shutdown waits for all of them. Every request carries
/// one in its extensions.
#[derive(Debug)]
pub struct InUse(Arc<Uses>);

#[derive(Debug)]
struct Uses {
    uses: AtomicUsize,
    _permit: OwnedSemaphorePermit,
    _slot: Option<ConnectionSlot>,
}

impl InUse {
    /// Returns the connection's own use, which holds its permit and its place among those of its
    /// address.
    #[must_use]
    pub fn new(permit: OwnedSemaphorePermit, slot: Option<ConnectionSlot>) -> Self {
        Self(Arc::new(Uses { uses: AtomicUsize::new(1), _permit: permit, _slot: slot }))
    }

    /// Returns the number of uses, the connection's own included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.uses.load(Ordering::Relaxed)
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        self.0.uses.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn uses_are_counted_and_the_permit_goes_with_the_last() {
        let permits = Arc::new(Semaphore::new(1));
        let own = InUse::new(Arc::clone(&permits).try_acquire_owned().unwrap(), None);
        let request = own.clone();
        assert_eq!(own.count(), 2);
        drop(own);
        assert_eq!((request.count(), permits.available_permits()), (1, 0));
        drop(request);
        assert_eq!(permits.available_permits(), 1);
    }
}
