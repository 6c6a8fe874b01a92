//! The sessions as the commands of the operator see them.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    sync::Arc,
};

use redis::Value;
use tokio::runtime::{self, Runtime};

use super::{
    RedisStore, codec,
    link::Batch,
    session_record::{self, SessionRecord},
    sessions::take_session,
    turns::read_turns,
    value::{bytes, items, number},
};
use crate::session::{
    Error, ErrorKind, Message, Result, SessionId, Store as _, Timestamp, TokenHash, TokenRecord,
    Usage,
};
use crate::store::{
    OpenError, RedisSettings,
    stored::{Import, SessionFilter, StoredLog, StoredSession, StoredSessions, UnansweredTurn},
};

/// Messages of one page.
const PAGE: u32 = 16;

/// The sessions of a store in Redis or Valkey, for a command of the operator.
pub struct RedisSessions {
    address: String,
    runtime: Runtime,
    store: Arc<RedisStore>,
    /// The ids of all sessions when they were asked for, in order.
    ids: OnceCell<Vec<SessionId>>,
    /// The sessions that were shown last: what their logs were then.
    shown: RefCell<HashMap<SessionId, Shown>>,
}

/// The state of a log at one moment.
struct Shown {
    messages: u32,
    waiting: Vec<UnansweredTurn>,
}

impl RedisSessions {
    /// Connects to the servers.
    ///
    /// # Errors
    /// As [`RedisStore::open`].
    pub fn open(settings: &RedisSettings) -> Result<Self, OpenError> {
        let address = settings.url.to_string();
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| OpenError::of_server(&address, error))?;
        let store = runtime.block_on(RedisStore::open_silent(settings))?;
        let (ids, shown) = (OnceCell::new(), RefCell::default());
        Ok(Self { address, runtime, store, ids, shown })
    }

    /// Runs an operation to its end.
    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T, OpenError> {
        self.runtime.block_on(work).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            OpenError::of_server(&self.address, cause.unwrap_or_else(|| error.to_string()))
        })
    }

    fn ids(&self) -> Result<&[SessionId], OpenError> {
        if let Some(ids) = self.ids.get() {
            return Ok(ids);
        }
        let ids = self.run(self.store.all_sessions())?;
        Ok(self.ids.get_or_init(|| ids))
    }

    /// Reads a session, and keeps what its log is now.
    async fn show(&self, id: SessionId) -> Result<Option<StoredSession>> {
        let answer =
            items(self.store.on(&self.store.scripts.show, id, Timestamp::default(), []).await?)?;
        if answer.is_empty() {
            return Ok(None);
        }
        let mut answer = answer.into_iter();
        let SessionRecord { session, .. } = take_session(id, &mut answer)?;
        let messages = number(answer.next().unwrap_or(Value::Nil))?;
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let last = bytes(answer.next().unwrap_or(Value::Nil))?;
        let last_activity = match messages {
            0 => session.created_at,
            _ => codec::message(messages, &last)?.created_at,
        };
        let turns = read_turns(answer.next().unwrap_or(Value::Nil))?;
        let waiting = turns.into_iter().map(|(message, attempt, partial)| UnansweredTurn {
            seq: message.seq,
            attempt,
            partial,
        });
        let shown = Shown { messages, waiting: waiting.collect() };
        self.shown.borrow_mut().insert(id, shown);
        Ok(Some(StoredSession { session, messages, last_activity }))
    }

    async fn import_one(&self, log: &StoredLog, now: Timestamp) -> Result<Import> {
        let session = &log.stored.session;
        if let Some(there) = self.show(session.id).await? {
            let tokens = self.store.stored_tokens(session.id).await?;
            let mut pages = Vec::new();
            let mut after = 0;
            while (after as usize) < log.messages.len() {
                let page = self.page(session.id, after, there.messages).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                pages.extend(page);
            }
            let page = |after: u32| {
                Ok::<_, Error>(pages.get(after as usize..).unwrap_or_default().to_vec())
            };
            let is_there = log.is_there(&there, &tokens, page)?;
            return Ok(if is_there { Import::AlreadyThere } else { Import::Differs });
        }
        if session.expires_at <= now {
            return Ok(Import::Expired);
        }
        self.store.import(log, now).await
    }

    async fn page(&self, id: SessionId, after: u32, until: u32) -> Result<Vec<Arc<Message>>> {
        let to = after.saturating_add(PAGE).min(until);
        if to <= after {
            return Ok(Vec::new());
        }
        let (from, to) = (after.to_string(), (to - 1).to_string());
        let key = self.store.keys.log(id);
        let arguments = [from.as_bytes(), to.as_bytes()];
        let entries: Vec<Vec<u8>> = self.store.link.command("LRANGE", &key, &arguments).await?;
        let messages = (after + 1..).zip(&entries).map(|(seq, entry)| codec::message(seq, entry));
        messages.collect()
    }
}

impl StoredSessions for RedisSessions {
    fn sessions(
        &self,
        filter: &SessionFilter,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<StoredSession>, OpenError> {
        self.shown.borrow_mut().clear();
        let ids = self.ids()?;
        let first = after.map_or(0, |after| ids.partition_point(|id| *id <= after));
        let mut chosen = Vec::new();
        for id in &ids[first..] {
            if chosen.len() == limit as usize {
                break;
            }
            // One that has ended since is left out.
            let Some(stored) = self.run(self.show(*id))? else { continue };
            if is_chosen(filter, &stored) {
                chosen.push(stored);
            } else {
                self.shown.borrow_mut().remove(id);
            }
        }
        Ok(chosen)
    }

    fn totals(&self, filter: &SessionFilter) -> Result<(u64, u64), OpenError> {
        let (mut sessions, mut messages) = (0, 0);
        for id in self.ids()? {
            let stored = self.run(self.show(*id))?;
            if let Some(stored) = stored.filter(|stored| is_chosen(filter, stored)) {
                sessions += 1;
                messages += u64::from(stored.messages);
            }
            self.shown.borrow_mut().clear();
        }
        Ok((sessions, messages))
    }

    fn session(&self, id: SessionId) -> Result<Option<StoredSession>, OpenError> {
        self.run(self.show(id))
    }

    fn messages(&self, id: SessionId, after: u32) -> Result<Vec<Arc<Message>>, OpenError> {
        let until = self.shown.borrow().get(&id).map_or(0, |shown| shown.messages);
        self.run(self.page(id, after, until))
    }

    fn waiting(&self, id: SessionId) -> Result<Vec<UnansweredTurn>, OpenError> {
        Ok(self.shown.borrow().get(&id).map(|shown| shown.waiting.clone()).unwrap_or_default())
    }

    fn tokens(&self, id: SessionId) -> Result<Vec<TokenRecord>, OpenError> {
        self.run(self.store.stored_tokens(id))
    }

    fn at_one_moment(&self, look: &mut dyn FnMut()) -> Result<(), OpenError> {
        look();
        Ok(())
    }

    fn delete(&mut self, id: SessionId) -> Result<bool, OpenError> {
        self.ids = OnceCell::new();
        self.run(async {
            let revoke = &self.store.scripts.revoke;
            let answer = items(self.store.on(revoke, id, Timestamp::default(), [b"1"]).await?)?;
            if answer.is_empty() {
                return Ok(false);
            }
            let record = take_session(id, &mut answer.into_iter())?;
            self.store.was_deleted(&record).await?;
            self.store.counters.flush(&self.store.link, &self.store.keys).await?;
            Ok(true)
        })
    }

    fn import(&mut self, logs: &[StoredLog], now: Timestamp) -> Result<Vec<Import>, OpenError> {
        self.run(async {
            let mut done = Vec::with_capacity(logs.len());
            for log in logs {
                done.push(self.import_one(log, now).await?);
            }
            self.store.counters.flush(&self.store.link, &self.store.keys).await?;
            Ok(done)
        })
    }
}

fn is_chosen(filter: &SessionFilter, stored: &StoredSession) -> bool {
    let session = &stored.session;
    let contains = |part: &String| {
        let name = session.name.as_str().to_ascii_lowercase();
        name.contains(&part.to_ascii_lowercase())
    };
    (session.expires_at <= filter.now) == filter.expired
        && filter.name.as_ref().is_none_or(contains)
        && (filter.subject.is_none() || filter.subject.as_deref() == session.subject.as_deref())
}

impl RedisStore {
    /// Returns the ids of all sessions, in order.
    async fn all_sessions(&self) -> Result<Vec<SessionId>> {
        let mut batch = Batch::default();
        for partition in 0..=u8::MAX {
            batch.cmd("ZRANGE", &self.keys.due(partition)).arg(0).arg(-1);
        }
        let ids: Vec<Vec<Vec<u8>>> = self.link.batch(&batch).await?;
        let ids = ids.iter().flatten().filter_map(|id| id[..].try_into().ok());
        let mut ids: Vec<_> = ids.map(SessionId::from_bytes).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Returns the tokens of a session, expired or not, oldest first.
    async fn stored_tokens(&self, id: SessionId) -> Result<Vec<TokenRecord>> {
        let key = self.keys.session(id);
        let hashes: Option<Vec<u8>> = self.link.command("HGET", &key, &[b"k"]).await?;
        let mut tokens = Vec::new();
        for hash in hashes.unwrap_or_default().chunks_exact(32) {
            let Ok(hash) = hash.try_into() else { continue };
            let hash = TokenHash::from_bytes(hash);
            let key = self.keys.token_of(id, &hash);
            let value: Option<Vec<u8>> = self.link.command("GET", &key, &[]).await?;
            if let Some(value) = value {
                tokens.push(codec::read_token(hash, &value)?.1);
            }
        }
        Ok(tokens)
    }

    /// Returns the ids of some nodes, those with the newest heartbeat first.
    async fn newest_nodes(&self) -> Result<Vec<u8>> {
        let key = self.keys.global("nodes");
        let nodes: Vec<Vec<u8>> = self.link.command("ZREVRANGE", &key, &[b"0", b"15"]).await?;
        Ok(nodes.concat())
    }

    /// Stores a session with its log, unless it or one of its tokens exists.
    async fn import(&self, log: &StoredLog, now: Timestamp) -> Result<Import> {
        let session = &log.stored.session;
        for token in &log.tokens {
            match self.find(&token.hash, Timestamp::default()).await {
                Ok(_) => return Ok(Import::Differs),
                Err(error) if error.kind() == ErrorKind::SessionExpired => {}
                Err(error) => return Err(error),
            }
        }
        let (mut main, extra) = session_record::fields_of(session, None);
        let mut add = |name: &str, value: Vec<u8>| main.extend([name.as_bytes().to_vec(), value]);
        let digits = |number: u64| number.to_string().into_bytes();
        let newest = log.messages.iter().rev().find(|message| message.user().is_some());
        let size: usize = log.messages.iter().map(|message| message.size()).sum();
        let usage = log.messages.iter().map(|message| message.cost());
        let usage = usage.fold(Usage::default(), Usage::plus);
        if let Some(newest) = newest {
            add("nt", digits(newest.seq.into()));
        }
        if !log.messages.is_empty() {
            add("h", digits(log.messages.len() as u64));
            add("si", digits(size as u64));
        }
        let tokens = [
            ("ui", Some(usage.input_tokens)),
            ("uo", Some(usage.output_tokens)),
            ("ue", usage.estimated.then_some(1)),
            ("uc", usage.cached_input_tokens),
            ("uw", usage.cache_write_tokens),
            ("ur", usage.reasoning_tokens),
        ];
        for (name, count) in tokens {
            if let Some(count) = count {
                add(name, digits(count.into()));
            }
        }
        let mut values = [main, extra, Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        let [_, _, tokens, messages, client_ids, turns] = &mut values;
        for token in &log.tokens {
            tokens.extend([token.hash.as_bytes().to_vec(), codec::token(session.id, token)]);
        }
        for message in &log.messages {
            messages.push(codec::entry(message)?);
            if let Some(id) = message.client_message_id() {
                client_ids.extend([id.as_bytes().to_vec(), digits(message.seq.into())]);
            }
        }
        for turn in &log.waiting {
            let checkpoint = codec::checkpoint(turn.attempt, &turn.partial)?;
            turns.extend([digits(turn.seq.into()), checkpoint]);
        }
        let nodes = if log.waiting.is_empty() { Vec::new() } else { self.newest_nodes().await? };
        let counts = values.iter().map(|values| digits(values.len() as u64));
        let arguments = counts.chain([nodes]).chain(values.iter().flatten().cloned());
        let arguments: Vec<_> = arguments.collect();
        for token in &log.tokens {
            self.point_to(session.id, &token.hash).await?;
        }
        let answer =
            self.on_with(&self.scripts.import, session.id, now, |_| arguments.clone()).await?;
        if bytes(answer)? != b"OK" {
            return Ok(Import::Differs);
        }
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        self.count_session(session, None, 1, size);
        self.list_for_subject(session).await?;
        Ok(Import::Imported)
    }
}
