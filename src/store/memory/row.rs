//! One session in memory: its tokens, its log, and the turns that wait.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::sharing::Sharing;
use crate::session::{
    AppendLimits, Checkpoint, Content, Error, ErrorKind, FoundSession, Head, Lease, ListedSession,
    LogView, Message, MessageId, NewReply, NewSession, NodeId, Origin, Page, PlacedTurn, Result,
    Session, SessionId, Snapshot, Spent, Timestamp, TokenHash, TokenId, TokenRecord, Unfinished,
    Usage, WaitingTurn,
};

/// Estimated bytes of a message beside its content.
const MESSAGE_OVERHEAD: usize = 256;

/// Returns the bytes that a message of this size counts.
pub(super) const fn counted(size: usize) -> usize {
    size + MESSAGE_OVERHEAD
}

/// Returns a session that has not expired.
pub(super) fn live(
    sessions: &mut BTreeMap<SessionId, SessionRow>,
    id: SessionId,
    now: Timestamp,
) -> Result<&mut SessionRow> {
    let row = sessions.get_mut(&id).filter(|row| row.session.expires_at > now);
    row.ok_or_else(|| ErrorKind::SessionExpired.into())
}

#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) session: Session,
    /// The time of its entry in `Tables::reviews`.
    pub(super) review_at: Timestamp,
    pub(super) tokens: Vec<TokenRecord>,
    pub(super) origin: Option<Origin>,
    /// Bytes of its messages.
    pub(super) message_size: usize,
    log: Vec<Arc<Message>>,
    /// Number of the newest user message. 0: none.
    newest_turn: u32,
    /// Tokens of its replies.
    usage: Usage,
    /// Numbers of the user messages that have a `client_message_id`.
    keys: HashMap<Arc<str>, u32>,
    /// User messages without a reply, in order. Few, since the queue of turns is short.
    unanswered: VecDeque<UnansweredTurn>,
    /// `None` until a node of a shared store uses it.
    pub(super) sharing: Option<Box<Sharing>>,
}

#[derive(Debug)]
struct UnansweredTurn {
    /// Number of the user message.
    seq: u32,
    /// The last attempt that began.
    attempt: u32,
    /// The content of the last checkpoint.
    partial: Content,
    /// A client stopped it through a node that does not answer it.
    stopped: bool,
}

impl SessionRow {
    pub(super) fn new(new: NewSession) -> Self {
        let deadline = new.token.deadlines.map(|(expires_at, _)| expires_at);
        let expires_at = new.session.expires_at;
        Self {
            review_at: deadline.map_or(expires_at, |deadline| deadline.min(expires_at)),
            session: new.session,
            origin: new.origin,
            message_size: 0,
            tokens: vec![new.token],
            log: Vec::new(),
            newest_turn: 0,
            usage: Usage::default(),
            keys: HashMap::new(),
            unanswered: VecDeque::new(),
            sharing: None,
        }
    }

    /// Returns the session as a token opens it.
    pub(super) fn found(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession> {
        let is_it = |record: &&TokenRecord| record.hash == *token && !record.has_expired(now);
        let token = self.tokens.iter().find(is_it).cloned().ok_or(ErrorKind::SessionExpired)?;
        Ok(FoundSession { session: self.session.clone().seen_with(&token), token })
    }

    /// Adds a token. Returns the expired ones, which it removes.
    pub(super) fn issue(
        &mut self,
        token: TokenRecord,
        now: Timestamp,
        max_tokens: u32,
    ) -> Result<Vec<TokenHash>> {
        let valid = self.tokens.iter().filter(|token| !token.has_expired(now)).count();
        if valid >= max_tokens as usize {
            return Err(Error::new(ErrorKind::Overloaded, "The session has too many tokens"));
        }
        let expired = self.remove_expired_tokens(now);
        self.tokens.push(token);
        Ok(expired)
    }

    /// Removes the tokens whose own deadline has passed. Returns their hashes.
    pub(super) fn remove_expired_tokens(&mut self, now: Timestamp) -> Vec<TokenHash> {
        let expired = self.tokens.extract_if(.., |token| token.has_expired(now));
        expired.map(|token| token.hash).collect()
    }

    /// Returns the first deadline of the session and its tokens.
    pub(super) fn next_deadline(&self) -> Timestamp {
        let own = self.tokens.iter().filter_map(|token| token.deadlines);
        own.map(|(expires_at, _)| expires_at).fold(self.session.expires_at, Timestamp::min)
    }

    /// Returns the time of the last message, or of the creation.
    pub(super) fn active_at(&self) -> Timestamp {
        self.log.last().map_or(self.session.created_at, |message| message.created_at)
    }

    /// Returns the session as its owner's list shows it.
    pub(super) fn listed(&self) -> ListedSession {
        let beginning = |message: &Arc<Message>| {
            message.text().chars().take(ListedSession::MAX_BEGINNING).collect()
        };
        let is_untitled = self.session.title.is_none();
        ListedSession {
            session: self.session.clone(),
            active_at: self.active_at(),
            head_seq: self.head_seq(),
            beginning: self.log.first().filter(|_| is_untitled).map(beginning),
        }
    }

    /// Removes a token. Returns its hash, and the number of tokens that are left.
    pub(super) fn revoke(&mut self, token: TokenId) -> Result<(TokenHash, u32)> {
        let place = self.tokens.iter().position(|record| record.id == token);
        let revoked = self.tokens.remove(place.ok_or(ErrorKind::SessionExpired)?);
        // Bounded by `max_session_tokens`, a u32.
        Ok((revoked.hash, self.tokens.len() as u32))
    }

    /// Moves the idle deadline of a token. Returns the session with the deadlines of the token.
    pub(super) fn renew(
        &mut self,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session> {
        let is_it = |record: &&mut TokenRecord| record.id == token && !record.has_expired(now);
        let token = self.tokens.iter_mut().find(is_it).ok_or(ErrorKind::SessionExpired)?;
        match token.deadlines {
            Some(_) => token.renew(expires_at),
            None => self.session.renew(expires_at),
        }
        Ok(self.session.clone().seen_with(token))
    }

    /// Moves the deadlines of the session and of the token of a message. Returns the token's own
    /// one.
    pub(super) fn renew_by_message(&mut self, limits: &AppendLimits) -> Option<Timestamp> {
        limits.renew(&mut self.session);
        let token = self.tokens.iter_mut().find(|token| token.id == limits.token)?;
        token.renew(limits.expires_at);
        token.deadlines.map(|(expires_at, _)| expires_at)
    }

    pub(super) fn head(&self) -> Head {
        let Session { id, epoch, .. } = &self.session;
        Head { session: *id, epoch: epoch.clone(), seq: self.head_seq() }
    }

    /// Returns the bytes that the log counts.
    pub(super) fn size(&self) -> usize {
        self.log.iter().map(|message| counted(message.size())).sum()
    }

    pub(super) fn head_seq(&self) -> u32 {
        // The log is bounded by `max_session_messages`, a u32.
        self.log.len() as u32
    }

    /// Returns the id of the last message.
    pub(super) fn head_id(&self) -> Option<MessageId> {
        self.log.last().map(|message| message.id)
    }

    fn at(&self, seq: u32) -> Option<&Arc<Message>> {
        self.log.get(seq.checked_sub(1)? as usize)
    }

    pub(super) fn reply_of(&self, user: MessageId) -> Option<&Arc<Message>> {
        self.log.iter().rev().find(|message| message.in_reply_to() == Some(user))
    }

    /// Returns the place of a user message in the queue of turns.
    pub(super) fn waiting(&self, user: MessageId) -> Option<usize> {
        let is_it = |turn: &UnansweredTurn| self.at(turn.seq).is_some_and(|turn| turn.id == user);
        self.unanswered.iter().position(is_it)
    }

    /// Returns the node that answers the waiting turns.
    pub(super) fn owner(&self) -> Option<NodeId> {
        self.sharing.as_ref()?.holder
    }

    pub(super) fn has_waiting_turn(&self) -> bool {
        !self.unanswered.is_empty()
    }

    pub(super) fn is_waiting(&self, seq: u32) -> bool {
        self.unanswered.iter().any(|turn| turn.seq == seq)
    }

    /// Returns the user messages that wait for a reply, in order.
    pub(super) fn waiting_turns(&self) -> Vec<WaitingTurn> {
        let turn = |seq: u32| Some(WaitingTurn { seq, id: self.at(seq)?.id });
        self.unanswered.iter().filter_map(|waiting| turn(waiting.seq)).collect()
    }

    /// Stops the turn of a number, or the first one. Returns its number.
    pub(super) fn stop(&mut self, seq: Option<u32>) -> Option<u32> {
        let mut turns = self.unanswered.iter_mut();
        let turn = turns.find(|turn| seq.is_none_or(|seq| seq == turn.seq))?;
        turn.stopped = true;
        Some(turn.seq)
    }

    /// Returns true if the turn at a place in the queue was stopped.
    pub(super) fn is_stopped(&self, turn: usize) -> bool {
        self.unanswered.get(turn).is_some_and(|turn| turn.stopped)
    }

    /// Refuses a user message by the limits of the session, and by the budgets.
    pub(super) fn check(
        &self,
        limits: &AppendLimits,
        subject_today: u64,
        today: u64,
    ) -> Result<()> {
        limits.check_room()?;
        let waiting = self.unanswered.len();
        if waiting >= limits.max_queued_turns as usize {
            return Err(ErrorKind::QueueFull.into());
        }
        if self.log.len() + waiting + 2 > limits.max_session_messages as usize {
            return Err(ErrorKind::SessionFull.into());
        }
        let spent = Spent { session: self.usage.spent(), subject_today, today };
        limits.budgets.check(spent, limits.now)
    }

    /// Appends a user message.
    #[inline]
    pub(super) fn ask(&mut self, placed: PlacedTurn) -> Arc<Message> {
        let seq = self.head_seq() + 1;
        let message = placed.into_message(seq, Timestamp::of_wall_clock());
        if let Some(key) = message.client_message_id() {
            self.keys.insert(Arc::clone(key), seq);
        }
        let partial = Content::default();
        self.unanswered.push_back(UnansweredTurn { seq, attempt: 1, partial, stopped: false });
        self.newest_turn = seq;
        self.push(message)
    }

    /// Appends the reply to the turn at a place in the queue.
    #[inline]
    pub(super) fn answer(&mut self, turn: usize, reply: NewReply) -> Arc<Message> {
        self.unanswered.remove(turn);
        let message = reply.into_message(self.head_seq() + 1, Timestamp::of_wall_clock());
        self.push(message)
    }

    // Inline, as its callers: each of them would copy the message otherwise.
    #[inline]
    fn push(&mut self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        self.usage = self.usage.plus(message.cost());
        self.message_size += message.size();
        self.log.push(Arc::clone(&message));
        message
    }

    pub(super) fn checkpoint(&mut self, at: Checkpoint) {
        if let Some(turn) = self.unanswered.iter_mut().find(|turn| turn.seq == at.seq) {
            (turn.attempt, turn.partial) = (at.attempt, at.content);
        }
    }

    pub(super) fn snapshot(&self, page: Page) -> Snapshot {
        let until = self.log.len().min(page.until as usize);
        let (messages, has_more) = match page.after {
            Some(after) => {
                let part = self.log.get(after as usize..until).unwrap_or_default();
                let fits = fitting(part.iter(), page);
                (part[..fits].to_vec(), fits < part.len())
            }
            None => {
                let fits = fitting(self.log[..until].iter().rev(), page);
                (self.log[until - fits..until].to_vec(), fits < until)
            }
        };
        let (session, head_seq, usage) = (self.session.clone(), self.head_seq(), self.usage);
        Snapshot { session, messages, head_seq, usage, has_more }
    }

    pub(super) fn unfinished(&self, lease: Lease) -> impl Iterator<Item = Unfinished> {
        self.unanswered.iter().filter_map(move |turn| {
            Some(Unfinished {
                lease,
                session: self.session.clone(),
                message: Arc::clone(self.at(turn.seq)?),
                attempt: turn.attempt,
                partial: turn.partial.clone(),
            })
        })
    }
}

impl LogView for SessionRow {
    type Failure = Error;

    fn message(&self, seq: u32) -> Result<Option<Arc<Message>>> {
        Ok(self.at(seq).cloned())
    }

    fn by_client_message_id(&self, id: &str) -> Result<Option<Arc<Message>>> {
        Ok(self.keys.get(id).and_then(|seq| self.at(*seq)).cloned())
    }

    fn reply_to(&self, question: &Message) -> Result<Option<Arc<Message>>> {
        if self.waiting(question.id).is_some() {
            return Ok(None);
        }
        Ok(self.reply_of(question.id).cloned())
    }

    fn newest_turn(&self) -> Result<u32> {
        Ok(self.newest_turn)
    }
}

/// Returns the number of messages, from the first, that fit on a page.
fn fitting<'a>(messages: impl Iterator<Item = &'a Arc<Message>>, page: Page) -> usize {
    let mut size = 0;
    let fits = |(count, message): &(usize, &Arc<Message>)| {
        size += message.size();
        *count == 0 || size <= page.max_size
    };
    messages.take(page.limit as usize).enumerate().take_while(fits).count()
}
