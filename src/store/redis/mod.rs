//! Sessions in Redis or Valkey, for several gateways.
//!
//! Each operation on a session is one script, and so one atomic step. `keys` names the keys,
//! `scripts` has the scripts, `link` the connection. A log is a list: the number of a message is its
//! place, so a gap cannot exist. See docs/ARCHITECTURE.md.

mod administration;
mod append;
mod codec;
mod counters;
mod deployment;
mod inbox;
mod keys;
mod link;
mod log_view;
mod peer_codec;
mod peers;
mod replicated;
mod script_answer;
mod scripts;
mod server;
mod session_record;
mod sessions;
mod spent;
mod turns;
mod value;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::gauge;
use redis::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::{OpenError, RedisSettings};
use crate::session::{
    Error, ErrorKind, NodeId, Origin, Result, Session, SessionId, ShareOf, Timestamp, TokenHash,
};
use crate::telemetry::error_chain;
pub use administration::RedisSessions;
use counters::{Counter, Counters};
use deployment::Deployment;
use inbox::Inbox;
use keys::{Keys, PARTITIONS};
use link::{Attempt, Batch, Link};
use scripts::{Named, Scripts};
use server::{Server, field};
use session_record::SessionRecord;

/// Interval at which this node adds its counts and reads the number of sessions.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Largest difference of clocks without a warning.
const MAX_SKEW: Duration = Duration::from_secs(1);

/// The term of a partition that was used with one process of a server.
const FIRST_TERM: &[u8] = b"1";

/// A store in Redis 7.0 or newer, or Valkey 7.2 or newer.
pub struct RedisStore {
    link: Arc<Link>,
    keys: Arc<Keys>,
    scripts: Scripts,
    node: NodeId,
    inbox: Inbox,
    counters: Counters,
    max_sessions: u64,
    /// Sessions of all nodes at the last count, plus the sessions that this node has created since.
    sessions: AtomicU64,
    /// The first partition of the next sweep.
    swept: AtomicUsize,
    /// The place of this node among the living ones, and their number.
    rank: Mutex<(usize, usize)>,
    secret: [u8; 32],
    /// The terms in which sessions were entered, unless it is the first.
    terms: Mutex<HashMap<SessionId, Vec<u8>>>,
}

impl RedisStore {
    /// Connects to the servers.
    ///
    /// # Errors
    /// One sentence for the operator: the address is wrong, a server cannot be reached, is too old,
    /// or has settings that would lose sessions.
    pub async fn open(settings: &RedisSettings, max_sessions: u64) -> Result<Arc<Self>, OpenError> {
        let problem = |problem: String| OpenError::of_server(&settings.url.to_string(), problem);
        let store = Self::connect(settings, max_sessions, true).await.map_err(problem)?;
        store.count_sessions().await.map_err(|error| problem(error.to_string()))?;
        tracing::info!(node = %store.node, servers = ?store.link.route().servers, "connected to the store");
        tokio::spawn(count(Arc::downgrade(&store)));
        Ok(store)
    }

    /// As [`Self::open`], without the inbox of a gateway and its counts.
    async fn open_silent(settings: &RedisSettings) -> Result<Arc<Self>, OpenError> {
        let problem = |problem: String| OpenError::of_server(&settings.url.to_string(), problem);
        Self::connect(settings, u64::MAX, false).await.map_err(problem)
    }

    async fn connect(
        settings: &RedisSettings,
        max_sessions: u64,
        listens: bool,
    ) -> Result<Arc<Self>, String> {
        let deployment = Deployment::new(settings)?;
        let (keys, node) = (Arc::new(Keys::new(&settings.key_prefix)), NodeId::generate());
        let link = Link::new(deployment, Arc::clone(&keys), settings.timeout).await;
        let link = Arc::new(link.map_err(|error| refused(&error))?);
        for server in &link.route().servers {
            check(server, link.deployment().is_cluster()).await?;
        }
        let secret = secret(&link, &keys).await.map_err(|error| error.to_string())?;
        let inbox = if listens {
            let inbox = Inbox::start(Arc::clone(&link), Arc::clone(&keys), node).await;
            inbox.map_err(|error| refused(&error))?
        } else {
            Inbox::silent()
        };
        Ok(Arc::new(Self {
            link,
            keys,
            scripts: Scripts::new(),
            node,
            inbox,
            counters: Counters::default(),
            max_sessions,
            sessions: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            rank: Mutex::new((0, 1)),
            secret,
            terms: Mutex::default(),
        }))
    }

    /// Returns the term in which this node entered a session.
    fn entered_in(&self, id: SessionId) -> Vec<u8> {
        let terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        terms.get(&id).cloned().unwrap_or_else(|| FIRST_TERM.to_vec())
    }

    fn set_term(&self, id: SessionId, term: Vec<u8>) {
        let mut terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if term == FIRST_TERM {
            terms.remove(&id);
        } else {
            terms.insert(id, term);
        }
    }

    /// Runs a script of a session with the time and this node as the first arguments.
    async fn on<const N: usize>(
        &self,
        script: &Named,
        id: SessionId,
        now: Timestamp,
        arguments: [&[u8]; N],
    ) -> Result<Value> {
        self.on_with(script, id, now, |_| arguments.iter().map(|it| it.to_vec()).collect()).await
    }

    async fn on_with(
        &self,
        script: &Named,
        id: SessionId,
        now: Timestamp,
        arguments: impl Fn(Attempt) -> Vec<Vec<u8>> + Send + Sync,
    ) -> Result<Value> {
        let arguments = |attempt| {
            let mut all = vec![session_record::millis(now), self.node.to_bytes().to_vec()];
            all.append(&mut arguments(attempt));
            all
        };
        let keys = if self.link.deployment().is_cluster() {
            self.keys.all_of_session(id, &self.node.to_bytes())
        } else {
            vec![self.keys.session(id)]
        };
        self.link.call(script, &keys, arguments).await
    }

    /// Returns the part of the store that a session counts for.
    fn share_of(session: &Session, origin: Option<Origin>) -> Option<ShareOf> {
        match &session.subject {
            Some(subject) => Some(ShareOf::Subject(Arc::clone(subject))),
            None => origin.map(ShareOf::Origin),
        }
    }

    /// Counts a session that was created or deleted, and its bytes.
    fn count_session(&self, session: &Session, origin: Option<Origin>, sessions: i64, size: i64) {
        if let Some(of) = Self::share_of(session, origin) {
            self.counters.add(Counter::sessions(&of), sessions);
            if size != 0 {
                self.counters.add(Counter::size(&of), size);
            }
        }
    }

    /// Takes note of a session that was deleted.
    async fn was_deleted(&self, record: &SessionRecord) -> Result<()> {
        let size = i64::try_from(record.size).unwrap_or(i64::MAX);
        self.count_session(&record.session, record.origin, -1, -size);
        if let Some(subject) = &record.session.subject {
            let key = self.keys.about("b:", subject.as_bytes());
            let id = record.session.id;
            self.link.command::<()>("SREM", &key, &[id.as_bytes()]).await?;
        }
        for hash in record.tokens.chunks_exact(32) {
            let Ok(hash) = hash.try_into() else { continue };
            let hash = TokenHash::from_bytes(hash);
            if hash.partition() != record.session.id.partition() {
                self.link.command::<()>("UNLINK", &self.keys.token(&hash), &[]).await?;
            }
        }
        Ok(())
    }

    async fn count_sessions(&self) -> Result<()> {
        let mut batch = Batch::default();
        for partition in 0..=u8::MAX {
            batch.cmd("ZCARD", &self.keys.due(partition));
        }
        for partition in 0..=u8::MAX {
            batch.cmd("SCARD", &self.keys.owned(partition, &self.node.to_bytes()));
        }
        let counts: Vec<u64> = self.link.batch(&batch).await?;
        let (sessions, owned) = counts.split_at(PARTITIONS);
        self.sessions.store(sessions.iter().sum(), Ordering::Relaxed);
        gauge!("duologue_sessions_owned").set(owned.iter().sum::<u64>() as f64);
        Ok(())
    }
}

/// Adds and reads counts until the store is dropped.
async fn count(store: Weak<RedisStore>) {
    let mut ticks = interval(COUNT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(store) = store.upgrade() else { return };
        let counted = async {
            store.counters.flush(&store.link, &store.keys).await?;
            store.count_sessions().await
        };
        if let Err(error) = counted.await {
            tracing::debug!(%error, cause = ?error, "failed to add the counts of this node");
        }
    }
}

/// Returns the random number of the deployment. The first node makes it.
async fn secret(link: &Link, keys: &Keys) -> Result<[u8; 32]> {
    let key = keys.global("secret");
    let own: [u8; 32] = rand::random();
    link.command::<()>("SET", &key, &[&own, b"NX"]).await?;
    let secret: Vec<u8> = link.command("GET", &key, &[]).await?;
    secret.try_into().map_err(|_| Error::internal("the secret of the store is malformed"))
}

/// Checks the version and the settings of a server.
async fn check(server: &Server, in_cluster: bool) -> Result<(), String> {
    let connection = server.connection().await.map_err(|error| refused(&error))?;
    let info = redis::cmd("INFO").query_async::<String>(&mut connection.commands.clone()).await;
    let info = info.map_err(|error| refused(&error))?;
    let field = |name: &str| field(&info, name);
    let time = redis::cmd("TIME").query_async::<(u64, u64)>(&mut connection.commands.clone()).await;
    let (seconds, micros) = time.map_err(|error| refused(&error))?;
    let theirs = Timestamp::from_millis(seconds * 1000 + micros / 1000);
    let ours = Timestamp::of_wall_clock();
    let skew = ours.since(theirs).max(theirs.since(ours));
    if skew > MAX_SKEW {
        tracing::warn!(
            skew_ms = skew.as_millis(),
            "the clocks of this machine and of the server differ: sessions may expire early or late here"
        );
    }
    let (name, version, oldest) = match field("valkey_version") {
        "" => ("Redis", field("redis_version"), (7, 0)),
        version => ("Valkey", version, (7, 2)),
    };
    if version_of(version) < oldest {
        let (major, minor) = oldest;
        return Err(format!(
            "the server is {name} {version}; this version needs {name} {major}.{minor} or newer"
        ));
    }
    // Redis and Valkey name the field differently.
    let is_in_cluster = [field("redis_mode"), field("server_mode")].contains(&"cluster");
    if is_in_cluster != in_cluster {
        return Err(if in_cluster {
            "the server is not part of a cluster: begin its address with redis://".into()
        } else {
            "the server is part of a cluster: begin its address with redis+cluster://".into()
        });
    }
    let policy = field("maxmemory_policy");
    if policy.starts_with("allkeys-") {
        return Err(format!(
            "the server deletes any key when its memory is used up: set its maxmemory-policy to noeviction (it is {policy})"
        ));
    }
    if field("maxmemory") == "0" {
        tracing::warn!(
            "the server has no maxmemory: the system ends it when the memory of the machine is used up"
        );
    }
    if field("aof_enabled") == "0" {
        tracing::warn!(
            "the server has no append-only file (appendonly yes): a restart of it forgets what was acknowledged since its last snapshot"
        );
    }
    Ok(())
}

/// Returns the major and the minor version.
fn version_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Returns the problem in words. Errors of the library do not repeat the address or the password.
fn refused(error: &redis::RedisError) -> String {
    if error.code() == Some("NOAUTH") {
        return "the server needs a password: give it in the address".to_owned();
    }
    format!("the server cannot be used: {}", error_chain(error))
}

/// The error of a session that does not exist.
fn gone() -> Error {
    ErrorKind::SessionExpired.into()
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("node", &self.node).finish_non_exhaustive()
    }
}
