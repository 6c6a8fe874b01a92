//! Several nodes in this process, on one memory store, with a network that the test controls.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::DelayedStore;
use async_trait::async_trait;
use duologue::{
    session::{Gateway, NodeId, Received, Responder, Settings, Storage},
    store::{MemoryStore, Network},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The faults of a network.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Longest delay of a note. Each has its own: notes overtake each other.
    pub delay: Duration,
    /// One note in so many is lost without a trace. 0: none.
    pub loses_one_in: u32,
    /// One note in so many arrives twice. 0: none.
    pub repeats_one_in: u32,
}

impl Faults {
    pub const NONE: Self = Self { delay: Duration::ZERO, loses_one_in: 0, repeats_one_in: 0 };
}

/// Delivers the notes of the nodes.
pub struct Hub {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    random: StdRng,
    faults: Faults,
    inboxes: HashMap<NodeId, VecDeque<(Instant, Received)>>,
    /// Nodes that send and receive nothing. Their notes are lost.
    cut: HashSet<NodeId>,
    /// Nodes that have ended.
    dead: HashSet<NodeId>,
    /// Nodes that receive nothing. Their notes wait.
    frozen: HashSet<NodeId>,
    lost: usize,
    lost_notes: usize,
    loses_next: bool,
}

impl Hub {
    pub fn new(seed: u64, faults: Faults) -> Arc<Self> {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            faults,
            inboxes: HashMap::new(),
            cut: HashSet::new(),
            dead: HashSet::new(),
            frozen: HashSet::new(),
            lost: 0,
            lost_notes: 0,
            loses_next: false,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Loses the notes from and to a node.
    pub fn cut(&self, node: NodeId) {
        self.state.lock().unwrap().cut.insert(node);
    }

    /// Ends a node, as its system does that closes its connections.
    pub fn kill(&self, node: &Node) {
        node.store.pause();
        let mut state = self.state.lock().unwrap();
        state.cut.insert(node.id);
        state.dead.insert(node.id);
    }

    /// Connects a node again. It is told that notes may have been lost, as a client of a broker is.
    pub fn mend(&self, node: NodeId) {
        let mut state = self.state.lock().unwrap();
        state.cut.remove(&node);
        for inbox in state.inboxes.values_mut() {
            inbox.push_back((Instant::now(), Received::Interrupted));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Connects a node again, and does not tell anybody.
    pub fn restore(&self, node: NodeId) {
        self.state.lock().unwrap().cut.remove(&node);
    }

    /// Loses the next note without a trace.
    pub fn lose_next(&self) {
        self.state.lock().unwrap().loses_next = true;
    }

    /// Keeps the notes to a node until [`Self::thaw`].
    pub fn freeze(&self, node: NodeId) {
        self.state.lock().unwrap().frozen.insert(node);
    }

    pub fn thaw(&self, node: NodeId) {
        self.state.lock().unwrap().frozen.remove(&node);
        self.changed.notify_waiters();
    }

    /// Ends all faults.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.faults = Faults::NONE;
        state.frozen.clear();
        let cut: Vec<NodeId> = state.cut.iter().copied().collect();
        drop(state);
        cut.into_iter().for_each(|node| self.mend(node));
        self.changed.notify_waiters();
    }

    /// Returns the number of notes that were lost.
    pub fn lost_notes(&self) -> usize {
        self.state.lock().unwrap().lost_notes
    }

    /// Returns the number of notes and messages that were lost.
    pub fn lost(&self) -> usize {
        self.state.lock().unwrap().lost
    }
}

impl State {
    fn is_one_in(&mut self, count: u32) -> bool {
        count > 0 && self.random.random_ratio(1, count)
    }

    fn arrival(&mut self) -> Instant {
        let longest = self.faults.delay.as_millis() as u64;
        Instant::now() + Duration::from_millis(self.random.random_range(0..=longest))
    }

    /// Takes a report that has arrived. Without one: the time of the next arrival.
    fn take(&mut self, node: NodeId) -> Result<Received, Option<Instant>> {
        if self.frozen.contains(&node) {
            return Err(None);
        }
        let inbox = self.inboxes.entry(node).or_default();
        let first = inbox.iter().enumerate().min_by_key(|(_, (at, _))| *at);
        let Some((place, &(at, _))) = first else { return Err(None) };
        if at > Instant::now() {
            return Err(Some(at));
        }
        inbox.remove(place).map(|(_, received)| received).ok_or(None)
    }
}

#[async_trait]
impl Network for Hub {
    fn send(&self, from: NodeId, to: NodeId, sent: Received) {
        let mut state = self.state.lock().unwrap();
        let (loses, repeats) = (state.faults.loses_one_in, state.faults.repeats_one_in);
        let is_cut = state.cut.contains(&from) || state.cut.contains(&to);
        if is_cut || state.is_one_in(loses) || std::mem::take(&mut state.loses_next) {
            state.lost += 1;
            state.lost_notes += usize::from(matches!(sent, Received::Note(..)));
            return;
        }
        let copies = 1 + usize::from(state.is_one_in(repeats));
        for _ in 0..copies {
            let at = state.arrival();
            state.inboxes.entry(to).or_default().push_back((at, sent.clone()));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        !self.state.lock().unwrap().dead.contains(&node)
    }

    async fn receive(&self, node: NodeId) -> Received {
        loop {
            let changed = self.changed.notified();
            let next = match self.state.lock().unwrap().take(node) {
                Ok(received) => return received,
                Err(next) => next,
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}

/// A gateway with others beside it.
pub struct Node {
    pub id: NodeId,
    pub gateway: Gateway,
    pub store: Arc<DelayedStore>,
}

/// Starts nodes on one store. Each has its own responder. With a seed, every call of the store takes
/// a random time.
pub async fn nodes<R: Responder>(
    hub: &Arc<Hub>,
    settings: Settings,
    responders: impl IntoIterator<Item = R>,
    jitter: Option<(u64, Duration)>,
) -> Vec<Node> {
    let shared = MemoryStore::new(1000, 1 << 28);
    let mut nodes = Vec::new();
    for responder in responders {
        let id = NodeId::generate();
        let node = shared.join(id, Arc::clone(hub) as Arc<dyn Network>);
        let store = DelayedStore::of_node(node, jitter);
        let storage = Storage::shared(Arc::clone(&store));
        let gateway = Gateway::start(settings.clone(), storage, Arc::new(responder)).await.unwrap();
        nodes.push(Node { id, gateway, store });
    }
    nodes
}
