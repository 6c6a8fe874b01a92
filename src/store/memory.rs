//! Sessions in the memory of the process: for tests, demonstrations, and conversations that need
//! not outlive the process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::session::{
    AppendLimits, Appended, Checkpoint, Error, ErrorKind, Head, Message, MessageId, NewEntry,
    NewSession, Page, Result, Session, SessionId, Snapshot, Store, Swept, Timestamp, TokenHash,
    Unfinished, Usage,
};

/// Estimated bytes of a message beside its text.
const MESSAGE_OVERHEAD: usize = 256;

/// A store in memory. A write counts as durable once it is in memory.
#[derive(Debug)]
pub struct MemoryStore {
    max_sessions: usize,
    max_size: usize,
    // A std mutex: every operation is short and awaits nothing.
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    sessions: BTreeMap<SessionId, SessionRow>,
    tokens: HashMap<TokenHash, SessionId>,
    /// The time at which each session is checked for expiry. A renewal does not move it: the check
    /// may be too early, and then sets the next one.
    reviews: BTreeSet<(Timestamp, SessionId)>,
    size: usize,
}

#[derive(Debug)]
struct SessionRow {
    session: Session,
    review_at: Timestamp,
    token: TokenHash,
    log: Vec<Arc<Message>>,
    /// Tokens of its replies.
    usage: Usage,
    /// Numbers of the user messages that have a `client_message_id`.
    keys: HashMap<Arc<str>, u32>,
    /// User messages without a reply, in order. Few, since the queue of turns is short.
    unanswered: VecDeque<UnansweredTurn>,
}

#[derive(Clone, Debug)]
struct UnansweredTurn {
    /// Number of the user message.
    seq: u32,
    /// The last attempt that began.
    attempt: u32,
    text: Arc<str>,
}

impl MemoryStore {
    /// Returns an empty store for `max_sessions` sessions and `max_size` bytes of messages.
    #[must_use]
    pub fn new(max_sessions: usize, max_size: usize) -> Self {
        Self { max_sessions, max_size, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        let mut tables = self.tables();
        if tables.sessions.len() >= self.max_sessions {
            return Err(Error::new(
                ErrorKind::Overloaded,
                "The gateway has no room for more sessions",
            ));
        }
        let id = new.session.id;
        tables.tokens.insert(new.token, id);
        tables.reviews.insert((new.session.expires_at, id));
        tables.sessions.insert(id, SessionRow::new(new));
        Ok(())
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<Session> {
        let mut tables = self.tables();
        let id = tables.tokens.get(token).copied().ok_or(ErrorKind::SessionExpired)?;
        Ok(tables.row(id, now)?.session.clone())
    }

    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        row.renew(expires_at);
        Ok(row.session.clone())
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        let mut tables = self.tables();
        let review = (tables.row(id, now)?.review_at, id);
        tables.reviews.remove(&review);
        tables.remove(id);
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        let mut tables = self.tables();
        let mut sessions = Vec::new();
        for _ in 0..limit {
            let due = tables.reviews.first().copied().filter(|(at, _)| *at <= now);
            let Some(review @ (_, id)) = due else {
                return Ok(Swept { sessions, more: false });
            };
            tables.reviews.remove(&review);
            match tables.sessions.get_mut(&id) {
                Some(row) if row.session.expires_at > now => {
                    row.review_at = row.session.expires_at;
                    let review = (row.review_at, id);
                    tables.reviews.insert(review);
                }
                _ => {
                    tables.remove(id);
                    sessions.push(id);
                }
            }
        }
        Ok(Swept { sessions, more: true })
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        Ok(false)
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let mut tables = self.tables();
        let head = |id: &SessionId| {
            let row = tables.row(*id, now).ok()?;
            Some(Head { session: *id, epoch: row.session.epoch.clone(), seq: row.head_seq() })
        };
        Ok(sessions.iter().filter_map(head).collect())
    }

    async fn append(
        &self,
        id: SessionId,
        entry: NewEntry,
        terms: AppendLimits,
    ) -> Result<Appended> {
        let mut tables = self.tables();
        let size = tables.size;
        let row = tables.row(id, terms.now)?;
        if let Some(appended) = row.appended_before(&entry)? {
            return Ok(appended);
        }
        let renews = matches!(entry, NewEntry::User { .. });
        if renews {
            row.check(&terms)?;
            if size + entry_size(&entry) > self.max_size {
                return Err(ErrorKind::StoreFull.into());
            }
        }
        let message = row.append(entry)?;
        if renews {
            row.renew(terms.expires_at);
        }
        let expires_at = row.session.expires_at;
        tables.size += message.text.len() + MESSAGE_OVERHEAD;
        Ok(Appended { message, duplicate: false, reply_seq: None, expires_at })
    }

    async fn checkpoint(&self, id: SessionId, now: Timestamp, at: Checkpoint) -> Result<()> {
        let mut tables = self.tables();
        let mut waiting = tables.row(id, now)?.unanswered.iter_mut();
        if let Some(turn) = waiting.find(|turn| turn.seq == at.seq) {
            *turn = UnansweredTurn { seq: at.seq, attempt: at.attempt, text: at.text };
        }
        Ok(())
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        let until = row.log.len().min(page.until as usize);
        let (messages, has_more) = match page.after {
            Some(after) => {
                let part = row.log.get(after as usize..until).unwrap_or_default();
                let fits = fitting(part.iter(), page);
                (part[..fits].to_vec(), fits < part.len())
            }
            None => {
                let fits = fitting(row.log[..until].iter().rev(), page);
                (row.log[until - fits..until].to_vec(), fits < until)
            }
        };
        let (head_seq, usage) = (row.head_seq(), row.usage);
        Ok(Snapshot { session: row.session.clone(), messages, head_seq, usage, has_more })
    }

    async fn unfinished(
        &self,
        now: Timestamp,
        after: Option<(SessionId, u32)>,
        limit: usize,
    ) -> Result<Vec<Unfinished>> {
        let tables = self.tables();
        let first = after.map_or(SessionId::from_bytes([0; 16]), |(id, _)| id);
        let rows = tables.sessions.range(first..).map(|(_, row)| row);
        let turns =
            rows.filter(|row| row.session.expires_at > now).flat_map(SessionRow::unfinished);
        let rest = turns
            .filter(|turn| after.is_none_or(|after| after < (turn.session.id, turn.message.seq)));
        Ok(rest.take(limit).collect())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Never returns: memory does not fail while the process lives.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }
}

impl Tables {
    fn row(&mut self, id: SessionId, now: Timestamp) -> Result<&mut SessionRow> {
        let row = self.sessions.get_mut(&id);
        row.filter(|row| row.session.expires_at > now)
            .ok_or_else(|| ErrorKind::SessionExpired.into())
    }

    /// Removes a session whose entry in `reviews` is removed already.
    fn remove(&mut self, id: SessionId) {
        let Some(row) = self.sessions.remove(&id) else { return };
        self.tokens.remove(&row.token);
        self.size -=
            row.log.iter().map(|message| message.text.len() + MESSAGE_OVERHEAD).sum::<usize>();
    }
}

impl SessionRow {
    fn new(new: NewSession) -> Self {
        Self {
            review_at: new.session.expires_at,
            session: new.session,
            token: new.token,
            log: Vec::new(),
            usage: Usage::default(),
            keys: HashMap::new(),
            unanswered: VecDeque::new(),
        }
    }

    fn renew(&mut self, expires_at: Timestamp) {
        let session = &mut self.session;
        session.expires_at = session.expires_at.max(expires_at).min(session.ends_at);
    }

    fn head_seq(&self) -> u32 {
        // The log is bounded by `max_session_messages`, a u32.
        self.log.len() as u32
    }

    fn message(&self, seq: u32) -> Option<&Arc<Message>> {
        self.log.get(seq.checked_sub(1)? as usize)
    }

    /// Returns the first result, if this entry was appended before.
    fn appended_before(&self, entry: &NewEntry) -> Result<Option<Appended>> {
        let message = match entry {
            NewEntry::User { client_message_id, .. } => {
                let seq = client_message_id.as_ref().and_then(|key| self.keys.get(key));
                seq.and_then(|seq| self.message(*seq))
            }
            NewEntry::Reply { in_reply_to, .. } if self.waiting(*in_reply_to).is_some() => None,
            NewEntry::Reply { in_reply_to, .. } => self.reply_to(*in_reply_to),
        };
        let Some(message) = message else { return Ok(None) };
        if let NewEntry::User { text, .. } = entry
            && *text != message.text
        {
            return Err(ErrorKind::MessageIdReused.into());
        }
        let reply = self.reply_to(message.id);
        Ok(Some(Appended {
            message: Arc::clone(message),
            duplicate: true,
            reply_seq: reply.map(|reply| reply.seq),
            expires_at: self.session.expires_at,
        }))
    }

    fn reply_to(&self, user: MessageId) -> Option<&Arc<Message>> {
        self.log.iter().rev().find(|message| message.in_reply_to() == Some(user))
    }

    /// Returns the place of a user message in `unanswered`.
    fn waiting(&self, user: MessageId) -> Option<usize> {
        let is_it =
            |turn: &UnansweredTurn| self.message(turn.seq).is_some_and(|turn| turn.id == user);
        self.unanswered.iter().position(is_it)
    }

    fn check(&self, terms: &AppendLimits) -> Result<()> {
        let waiting = self.unanswered.len();
        if waiting >= terms.max_queued_turns as usize {
            return Err(ErrorKind::QueueFull.into());
        }
        if self.log.len() + waiting + 2 > terms.max_session_messages as usize {
            return Err(ErrorKind::SessionFull.into());
        }
        Ok(())
    }

    fn append(&mut self, entry: NewEntry) -> Result<Arc<Message>> {
        let seq = self.head_seq() + 1;
        match &entry {
            NewEntry::User { client_message_id, .. } => {
                if let Some(key) = client_message_id {
                    self.keys.insert(Arc::clone(key), seq);
                }
                self.unanswered.push_back(UnansweredTurn { seq, attempt: 1, text: Arc::default() });
            }
            NewEntry::Reply { in_reply_to, .. } => {
                let turn = self.waiting(*in_reply_to);
                let turn =
                    turn.ok_or_else(|| Error::internal("a reply to no message of this log"))?;
                self.unanswered.remove(turn);
            }
        }
        let message = Arc::new(entry.into_message(seq, Timestamp::of_wall_clock()));
        self.usage = self.usage.plus(message.cost());
        self.log.push(Arc::clone(&message));
        Ok(message)
    }

    fn unfinished(&self) -> impl Iterator<Item = Unfinished> {
        self.unanswered.iter().filter_map(|turn| {
            Some(Unfinished {
                session: self.session.clone(),
                message: Arc::clone(self.message(turn.seq)?),
                attempt: turn.attempt,
                text: turn.text.as_ref().into(),
                head_seq: self.head_seq(),
            })
        })
    }
}

fn entry_size(entry: &NewEntry) -> usize {
    let (NewEntry::User { text, .. } | NewEntry::Reply { text, .. }) = entry;
    text.len() + MESSAGE_OVERHEAD
}

/// Returns the number of messages, from the first, that fit on a page.
fn fitting<'a>(messages: impl Iterator<Item = &'a Arc<Message>>, page: Page) -> usize {
    let mut size = 0;
    let fits = |(count, message): &(usize, &Arc<Message>)| {
        size += message.text.len();
        *count == 0 || size <= page.max_size
    };
    messages.take(page.limit as usize).enumerate().take_while(fits).count()
}
