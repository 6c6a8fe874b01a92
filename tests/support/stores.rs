//! A store with delayed, lost or failed answers, as of a disk or a network.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use duologue::{
    session::{
        Answered, AppendLimits, Appended, Checkpoint, Checkpointed, Entered, Error, ErrorKind,
        FoundSession, Head, Known, Lease, ListCursor, ListedSession, NewReply, NewSession, NewTurn,
        NodeId, Page, Peer, PeerMessage, Peers, Received, Result, Session, SessionId, Share,
        ShareOf, Snapshot, Store, Swept, Timestamp, TokenHash, TokenId, TokenRecord, Turns,
        Unfinished,
    },
    store::MemoryStore,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// An operation that may be delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Find,
    Read,
    Append,
    Checkpoint,
    Heads,
}

/// A memory store that performs operations at once, and answers when the test allows it.
pub struct DelayedStore {
    inner: MemoryStore,
    held: Mutex<Vec<(Call, Arc<Semaphore>)>>,
    /// Of these calls, only the next answer.
    held_once: Mutex<Vec<(Call, Arc<Semaphore>)>>,
    waiting: AtomicUsize,
    /// Duration of every read of messages.
    pub read_time: Mutex<Duration>,
    /// The next append is done, and answered with a failure.
    pub lose_answer: AtomicBool,
    /// Sessions are gone when their turns are taken up.
    pub reads_fail: AtomicBool,
    /// The next reads of messages fail, each with one of these.
    pub refuse_reads: Mutex<Vec<ErrorKind>>,
    /// The next of these calls panics.
    pub panics: Mutex<Option<Call>>,
    /// Pages of messages that were asked for.
    pub reads: AtomicUsize,
    /// The next appends fail, each with one of these.
    pub refuse_appends: Mutex<Vec<ErrorKind>>,
    /// Another process writes to the store all the time.
    pub written_elsewhere: AtomicBool,
    /// Times and sizes of the checkpoints.
    pub noted: Mutex<Vec<(Instant, usize)>>,
    /// Every call takes a random time, up to this, before and after its effect.
    jitter: Option<(Mutex<StdRng>, Duration)>,
    paused: watch::Sender<bool>,
}

impl DelayedStore {
    pub fn new() -> Arc<Self> {
        Self::with_room(1000)
    }

    pub fn with_room(max_sessions: usize) -> Arc<Self> {
        Arc::new(Self::over(MemoryStore::new(max_sessions, 1 << 28), None))
    }

    /// The same over a node of a shared store. With a seed, every call takes a random time.
    pub fn of_node(node: MemoryStore, jitter: Option<(u64, Duration)>) -> Arc<Self> {
        let random = |(seed, longest)| (Mutex::new(StdRng::seed_from_u64(seed)), longest);
        Arc::new(Self::over(node, jitter.map(random)))
    }

    fn over(inner: MemoryStore, jitter: Option<(Mutex<StdRng>, Duration)>) -> Self {
        Self {
            inner,
            jitter,
            paused: watch::Sender::new(false),
            held: Mutex::default(),
            held_once: Mutex::default(),
            waiting: AtomicUsize::new(0),
            read_time: Mutex::default(),
            lose_answer: AtomicBool::new(false),
            reads_fail: AtomicBool::new(false),
            refuse_reads: Mutex::default(),
            panics: Mutex::default(),
            reads: AtomicUsize::new(0),
            refuse_appends: Mutex::default(),
            written_elsewhere: AtomicBool::new(false),
            noted: Mutex::default(),
        }
    }

    async fn pass_time(&self) {
        if let Some((random, longest)) = &self.jitter {
            let micros = random.lock().unwrap().random_range(0..=longest.as_micros() as u64);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }

    /// Performs a call between two pauses.
    async fn slowly<T>(&self, call: impl Future<Output = T>) -> T {
        self.pass_time().await;
        self.while_paused().await;
        let result = call.await;
        self.pass_time().await;
        self.while_paused().await;
        result
    }

    async fn while_paused(&self) {
        let mut paused = self.paused.subscribe();
        let _running = paused.wait_for(|paused| !paused).await;
    }

    /// Keeps every call of this node waiting, and every answer, as if its process were stopped.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    pub fn unpause(&self) {
        self.paused.send_replace(false);
    }

    /// Holds back the answers to these calls from now on.
    pub fn hold(&self, call: Call) {
        self.held.lock().unwrap().push((call, Arc::new(Semaphore::new(0))));
    }

    /// Holds back the answer to the next of these calls, until the gate is closed.
    pub fn hold_next(&self, call: Call) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.held_once.lock().unwrap().push((call, Arc::clone(&gate)));
        gate
    }

    /// Releases the answers that wait and all further ones.
    pub fn release(&self) {
        for (_, gate) in self.held.lock().unwrap().drain(..) {
            gate.close();
        }
    }

    /// Waits until this many answers are held back.
    pub async fn holds(&self, answers: usize) {
        super::soon("a call of the store", async {
            while self.waiting.load(Ordering::SeqCst) < answers {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn may_panic(&self, call: Call) {
        let panics = self.panics.lock().unwrap().take_if(|panics| *panics == call);
        assert!(panics.is_none(), "as the test wants it");
    }

    async fn delay(&self, call: Call) {
        let gate = {
            let held = self.held.lock().unwrap();
            held.iter().find(|(held, _)| *held == call).map(|(_, gate)| Arc::clone(gate))
        };
        let once = {
            let mut held = self.held_once.lock().unwrap();
            let at = held.iter().position(|(held, _)| *held == call);
            at.map(|at| held.remove(at).1)
        };
        if let Some(gate) = once.or(gate) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _closed_means_released = gate.acquire().await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl DelayedStore {
    /// Appends a message, unless the test wants it otherwise.
    async fn appending<T>(&self, append: impl Future<Output = Result<T>>) -> Result<T> {
        self.may_panic(Call::Append);
        let refusal = self.refuse_appends.lock().unwrap().pop();
        if let Some(kind) = refusal {
            return Err(kind.into());
        }
        let appended = self.slowly(append).await;
        self.delay(Call::Append).await;
        if self.lose_answer.swap(false, Ordering::SeqCst) {
            return Err(Error::internal("the answer was lost"));
        }
        appended
    }
}

#[async_trait]
impl Store for DelayedStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        self.inner.create(new).await
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession> {
        let found = self.slowly(self.inner.find(token, now)).await;
        self.delay(Call::Find).await;
        found
    }

    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()> {
        self.inner.issue(id, now, token, max_tokens).await
    }

    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32> {
        self.slowly(self.inner.revoke_token(id, now, token)).await
    }

    async fn renew(
        &self,
        id: SessionId,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session> {
        self.inner.renew(id, token, now, expires_at).await
    }

    async fn secret(&self) -> Result<[u8; 32]> {
        self.inner.secret().await
    }

    async fn share(&self, of: &ShareOf, now: Timestamp) -> Result<Share> {
        self.inner.share(of, now).await
    }

    async fn list(
        &self,
        subject: &str,
        now: Timestamp,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<ListedSession>> {
        self.inner.list(subject, now, after, limit).await
    }

    async fn set_title(
        &self,
        id: SessionId,
        now: Timestamp,
        title: Option<Arc<str>>,
    ) -> Result<Session> {
        self.inner.set_title(id, now, title).await
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        self.slowly(self.inner.revoke(id, now)).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        self.inner.sweep(now, limit).await
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        Ok(self.written_elsewhere.load(Ordering::SeqCst))
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let heads = self.inner.heads(sessions, now).await;
        self.delay(Call::Heads).await;
        heads
    }

    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>> {
        self.slowly(self.inner.tokens(id, now)).await
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        self.may_panic(Call::Read);
        let snapshot = self.slowly(self.inner.read(id, now, page)).await;
        if page.limit > 0 {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let time = *self.read_time.lock().unwrap();
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            let refusal = self.refuse_reads.lock().unwrap().pop();
            if let Some(kind) = refusal {
                return Err(kind.into());
            }
        }
        if self.reads_fail.load(Ordering::SeqCst) {
            return Err(ErrorKind::SessionExpired.into());
        }
        self.delay(Call::Read).await;
        snapshot
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    async fn failed(&self) -> Error {
        self.inner.failed().await
    }
}

#[async_trait]
impl Turns for DelayedStore {
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        self.appending(self.inner.append(id, turn, limits)).await
    }

    async fn answer(
        &self,
        id: SessionId,
        lease: Lease,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Answered> {
        self.appending(self.inner.answer(id, lease, reply, now)).await
    }

    async fn checkpoint(
        &self,
        id: SessionId,
        lease: Lease,
        at: Checkpoint,
        now: Timestamp,
    ) -> Result<Checkpointed> {
        self.may_panic(Call::Checkpoint);
        self.noted.lock().unwrap().push((Instant::now(), at.content.size()));
        let noted = self.slowly(self.inner.checkpoint(id, lease, at, now)).await;
        self.delay(Call::Checkpoint).await;
        noted
    }

    async fn stop(&self, id: SessionId, seq: Option<u32>, now: Timestamp) -> Result<bool> {
        self.slowly(self.inner.stop(id, seq, now)).await
    }

    async fn unanswered(&self, id: SessionId, now: Timestamp) -> Result<Vec<Unfinished>> {
        self.slowly(self.inner.unanswered(id, now)).await
    }

    async fn hand_over(
        &self,
        id: SessionId,
        lease: Lease,
        to: NodeId,
        now: Timestamp,
    ) -> Result<bool> {
        self.slowly(self.inner.hand_over(id, lease, to, now)).await
    }

    async fn take_over(
        &self,
        from: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>> {
        self.slowly(self.inner.take_over(from, after, limit, now)).await
    }
}

#[async_trait]
impl Peers for DelayedStore {
    fn node(&self) -> Option<NodeId> {
        self.inner.node()
    }

    async fn heartbeat(&self, is_draining: bool) -> Result<Vec<Peer>> {
        self.slowly(self.inner.heartbeat(is_draining)).await
    }

    async fn forget(&self, node: NodeId) -> Result<()> {
        self.inner.forget(node).await
    }

    async fn enter(&self, id: SessionId, now: Timestamp, known: Option<Known>) -> Result<Entered> {
        self.slowly(self.inner.enter(id, now, known)).await
    }

    async fn leave(&self, sessions: Vec<SessionId>) -> Result<()> {
        self.slowly(self.inner.leave(sessions)).await
    }

    async fn send(&self, to: NodeId, messages: Vec<(SessionId, PeerMessage)>) -> Result<()> {
        self.slowly(self.inner.send(to, messages)).await
    }

    async fn receive(&self) -> Received {
        self.inner.receive().await
    }
}
