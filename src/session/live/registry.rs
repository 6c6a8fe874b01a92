//! The sessions that are active in this process.
//!
//! The registry holds weak references. A [`SessionHandle`] keeps a session active: one for each
//! subscriber, each call in progress, and the runner of its turns. An idle session without a
//! subscriber uses no memory outside its store.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{Notify, OnceCell};

use super::active_session::ActiveSession;
use crate::session::model::{Error, ErrorKind, Result, SessionId, Timestamp};

/// The active sessions by id.
#[derive(Debug, Default)]
pub(in crate::session) struct Registry {
    index: Mutex<Index>,
    /// [`Self::take_left`] is called: a session is registered with its store while it is active.
    is_shared: bool,
    /// A session is in `Index::left`.
    someone_left: Notify,
    /// A session was removed from `Index::leaving`.
    has_left: Notify,
}

#[derive(Debug, Default)]
struct Index {
    slots: HashMap<SessionId, Slot>,
    /// The time at which each loaded session is checked for expiry. A renewal does not move it: the
    /// check may be too early, and then sets the next one.
    reviews: BTreeSet<(Timestamp, SessionId)>,
    /// Sessions that are no longer active, and still registered.
    left: HashSet<SessionId>,
    /// Sessions whose registration is being ended.
    leaving: HashSet<SessionId>,
}

#[derive(Debug)]
struct Slot {
    entry: Weak<Entry>,
    review_at: Option<Timestamp>,
}

/// A session that is loaded or being loaded. It is loaded once, before any append in this process,
/// so that it starts from the right head of the log.
#[derive(Debug)]
struct Entry {
    id: SessionId,
    registry: Arc<Registry>,
    live: OnceCell<ActiveSession>,
}

/// Keeps a session active while one handle exists.
#[derive(Clone, Debug)]
pub(in crate::session) struct SessionHandle {
    entry: Arc<Entry>,
}

/// A session that a note of another process is about.
#[derive(Debug)]
pub(in crate::session) enum Noted {
    Active(SessionHandle),
    Loading,
    Inactive,
}

impl Registry {
    /// Creates it. `is_shared`: [`Self::take_left`] is called.
    pub(in crate::session) fn new(is_shared: bool) -> Self {
        Self { is_shared, ..Self::default() }
    }

    /// Returns a handle. Loads the session if it is not active.
    pub(in crate::session) async fn get_or_load(
        self: &Arc<Self>,
        id: SessionId,
        load: impl Future<Output = Result<ActiveSession>>,
    ) -> Result<SessionHandle> {
        let entry = self.entry(id);
        let mut loaded = false;
        let load = async || {
            self.wait_while_leaving(id).await;
            let live = load.await;
            loaded = live.is_ok();
            live
        };
        entry.live.get_or_try_init(load).await?;
        let live = SessionHandle { entry };
        // Registered after the session is visible: otherwise a sweep could miss it.
        if loaded {
            self.review(&live);
        }
        Ok(live)
    }

    /// Returns a handle if the session is active.
    pub(in crate::session) fn get(&self, id: SessionId) -> Option<SessionHandle> {
        let entry = self.index().slots.get(&id)?.entry.upgrade()?;
        SessionHandle::if_loaded(entry)
    }

    /// As [`Self::get`], but waits while the session is being loaded.
    pub(in crate::session) async fn get_once_loaded(&self, id: SessionId) -> Option<SessionHandle> {
        let entry = self.index().slots.get(&id)?.entry.upgrade()?;
        let not_loaded = async || Err::<ActiveSession, Error>(ErrorKind::SessionExpired.into());
        entry.live.get_or_try_init(not_loaded).await.ok()?;
        Some(SessionHandle { entry })
    }

    /// Returns the session that a note is about.
    pub(in crate::session) fn noted(&self, id: SessionId) -> Noted {
        let entry = self.index().slots.get(&id).and_then(|slot| slot.entry.upgrade());
        match entry {
            Some(entry) if entry.live.initialized() => Noted::Active(SessionHandle { entry }),
            Some(_) => Noted::Loading,
            None => Noted::Inactive,
        }
    }

    /// Waits for sessions that are no longer active, and returns them, for the end of their
    /// registration. None of them is loaded again before [`Self::registrations_ended`].
    pub(in crate::session) async fn take_left(&self) -> Vec<SessionId> {
        loop {
            self.someone_left.notified().await;
            let mut index = self.index();
            let left = std::mem::take(&mut index.left);
            if !left.is_empty() {
                index.leaving.clone_from(&left);
                return left.into_iter().collect();
            }
        }
    }

    /// Permits that the sessions of [`Self::take_left`] are loaded again.
    pub(in crate::session) fn registrations_ended(&self) {
        self.index().leaving.clear();
        self.has_left.notify_waiters();
    }

    /// A registration that ended after the session was loaded again would lose notes.
    async fn wait_while_leaving(&self, id: SessionId) {
        if !self.is_shared {
            return;
        }
        loop {
            let has_left = self.has_left.notified();
            if !self.index().leaving.contains(&id) {
                return;
            }
            has_left.await;
        }
    }

    /// Schedules the next check at the session's next deadline.
    pub(in crate::session) fn review(&self, live: &SessionHandle) {
        self.index().review(live.session().id, live.next_deadline());
    }

    /// Returns the number of active sessions.
    pub(in crate::session) fn len(&self) -> usize {
        self.index().slots.len()
    }

    pub(in crate::session) fn all(&self) -> Vec<SessionHandle> {
        // Dropped after the lock, which dropping an entry takes.
        let index = self.index();
        let entries: Vec<_> =
            index.slots.values().filter_map(|slot| slot.entry.upgrade()).collect();
        drop(index);
        entries.into_iter().filter_map(SessionHandle::if_loaded).collect()
    }

    /// Returns the active sessions of which a deadline has passed.
    pub(in crate::session) fn expired(&self, now: Timestamp) -> Vec<SessionHandle> {
        let due = self.index().take_due(now);
        let live = due.into_iter().filter_map(|id| self.get(id));
        let (expired, renewed): (Vec<_>, Vec<_>) =
            live.partition(|live| live.next_deadline() <= now);
        for live in renewed {
            self.review(&live);
        }
        expired
    }

    fn entry(self: &Arc<Self>, id: SessionId) -> Arc<Entry> {
        let mut index = self.index();
        if let Some(entry) = index.slots.get(&id).and_then(|slot| slot.entry.upgrade()) {
            return entry;
        }
        // Replaces the schedule of an earlier entry of this session.
        index.forget(id);
        index.left.remove(&id);
        let entry = Arc::new(Entry { id, registry: Arc::clone(self), live: OnceCell::new() });
        let slot = Slot { entry: Arc::downgrade(&entry), review_at: None };
        index.slots.insert(id, slot);
        entry
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn review(&mut self, id: SessionId, at: Timestamp) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Some(earlier) = slot.review_at.replace(at) {
            self.reviews.remove(&(earlier, id));
        }
        self.reviews.insert((at, id));
    }

    fn take_due(&mut self, now: Timestamp) -> Vec<SessionId> {
        let due: Vec<_> = self.reviews.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for review in &due {
            self.reviews.remove(review);
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    fn forget(&mut self, id: SessionId) {
        if let Some(Slot { review_at: Some(at), .. }) = self.slots.remove(&id) {
            self.reviews.remove(&(at, id));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut index = self.registry.index();
        let dead = |slot: &Slot| slot.entry.strong_count() == 0;
        if index.slots.get(&self.id).is_some_and(dead) {
            index.forget(self.id);
            if self.registry.is_shared {
                index.left.insert(self.id);
                self.registry.someone_left.notify_one();
            }
        }
    }
}

impl SessionHandle {
    fn if_loaded(entry: Arc<Entry>) -> Option<Self> {
        entry.live.initialized().then_some(Self { entry })
    }
}

impl Deref for SessionHandle {
    type Target = ActiveSession;

    fn deref(&self) -> &ActiveSession {
        // A handle is created only from a loaded entry, and an entry is never unloaded.
        self.entry
            .live
            .get()
            .unwrap_or_else(|| unreachable!("a SessionHandle of a session that was not loaded"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::{
        model::{Epoch, Metadata, Name, Session},
        ports::{Entered, Lease},
    };

    fn live(id: SessionId, expires_at: u64) -> ActiveSession {
        let expires_at = Timestamp::from_millis(expires_at);
        let session = Session {
            id,
            name: Name::trusted("Ada"),
            epoch: Epoch::generate(),
            created_at: Timestamp::default(),
            expires_at,
            ends_at: expires_at.plus(Duration::from_secs(1000)),
            delete_at: None,
            title: None,
            metadata: Metadata::default(),
            subject: None,
        };
        let (waiting, lease) = (Vec::new(), Some(Lease::UNSHARED));
        ActiveSession::new(Entered {
            session,
            head_seq: 0,
            head: None,
            waiting,
            owner: None,
            lease,
            newest_lease: None,
            earlier: None,
            lost: 0,
        })
    }

    #[tokio::test]
    async fn a_session_is_loaded_once_and_forgotten_with_its_last_share() -> Result<()> {
        let registry = Arc::new(Registry::default());
        let id = SessionId::generate();
        let first = registry.get_or_load(id, async { Ok(live(id, 5)) }).await?;
        let second = registry.get_or_load(id, async { unreachable!("loaded already") }).await?;
        assert!(registry.get(id).is_some_and(|live| std::ptr::eq(&*live, &*first)));
        drop(first);
        assert!(registry.get(id).is_some());
        drop(second);
        assert!(registry.get(id).is_none());
        assert!(registry.index().slots.is_empty() && registry.index().reviews.is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn a_failed_load_leaves_nothing() {
        let registry = Arc::new(Registry::default());
        let failed =
            registry.get_or_load(SessionId::generate(), async { Err(ErrorKind::Internal.into()) });
        assert!(failed.await.is_err());
        assert!(registry.index().slots.is_empty());
    }

    #[tokio::test]
    async fn a_renewed_session_is_looked_at_again_at_its_new_deadline() -> Result<()> {
        let registry = Arc::new(Registry::default());
        let id = SessionId::generate();
        let share = registry.get_or_load(id, async { Ok(live(id, 10)) }).await?;
        share.renewed(Timestamp::from_millis(20));
        let expired = |now| registry.expired(Timestamp::from_millis(now)).len();
        assert_eq!([5, 10, 15, 20, 20].map(expired), [0, 0, 0, 1, 0]);
        Ok(())
    }

    /// A sweep during the load must not miss the session.
    #[test]
    fn a_session_that_expires_during_its_load_is_found_by_a_sweep() {
        const SESSIONS: usize = 50_000;
        let registry = Arc::new(Registry::default());
        let loading = AtomicBool::new(true);
        let mut shares = Vec::new();
        let found = std::thread::scope(|threads| {
            let sweeping = threads.spawn(|| {
                let mut found = 0;
                while loading.load(Ordering::SeqCst) {
                    found += registry.expired(Timestamp::from_millis(10)).len();
                }
                found
            });
            for id in std::iter::repeat_with(SessionId::generate).take(SESSIONS) {
                shares.push(registry.get_or_load(id, async { Ok(live(id, 10)) }).now_or_never());
            }
            loading.store(false, Ordering::SeqCst);
            sweeping.join().unwrap_or_default()
        });
        let rest = registry.expired(Timestamp::from_millis(10)).len();
        assert_eq!(found + rest, SESSIONS);
    }
}
