//! The turns of sessions: appends, answers, and which node may write them.

use std::{num::NonZeroU64, sync::Arc};

use async_trait::async_trait;
use redis::{Pipeline, Value};

use super::{
    Attempt as CallAttempt, Counter, RedisStore, codec, gone,
    link::{bytes, items, number, unexpected},
    log_view::{Fact, Failure, KnownLog},
    session_record::{SessionRecord, millis},
    sessions::take_session,
};
use crate::session::{
    Answered, AppendLimits, Appended, Checkpoint, Checkpointed, Error, ErrorKind, Lease, Message,
    NewReply, NewTurn, NodeId, Origin, Page, PartContent, Placed, PlacedTurn, Question, Result,
    SessionId, ShareOf, Spent, Status, Store as _, Timestamp, Turns, Unfinished, place,
};

/// Attempts of an append whose facts change meanwhile.
const MAX_MOVES: u32 = 100;

/// The answer of a script: its first item, and the others.
struct Answer {
    kind: Vec<u8>,
    rest: std::vec::IntoIter<Value>,
}

impl Answer {
    fn new(value: Value) -> Result<Self> {
        let mut rest = items(value)?.into_iter();
        let kind = bytes(rest.next().ok_or_else(gone)?)?;
        Ok(Self { kind, rest })
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        bytes(self.rest.next().unwrap_or(Value::Nil))
    }

    fn seq(&mut self) -> Result<u32> {
        let number = number(self.rest.next().unwrap_or(Value::Nil))?;
        u32::try_from(number).map_err(|_| Error::internal("a number of a message is too large"))
    }

    fn time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::from_millis(codec::digits(&self.bytes()?)?))
    }

    /// Reads an optional time.
    fn optional_time(&mut self) -> Result<Option<Timestamp>> {
        let digits = self.bytes()?;
        let time = (!digits.is_empty()).then(|| codec::digits(&digits));
        Ok(time.transpose()?.map(Timestamp::from_millis))
    }

    fn lease(&mut self) -> Result<Option<Lease>> {
        lease(&self.bytes()?)
    }
}

fn lease(digits: &[u8]) -> Result<Option<Lease>> {
    if digits.is_empty() {
        return Ok(None);
    }
    Ok(NonZeroU64::new(codec::digits(digits)?).map(Lease::new))
}

/// The result of one call of the script that appends.
enum Tried {
    Done(Appended),
    /// The `client_message_id` is known.
    Before(Appended),
    /// Another turn is the newest.
    Moved,
}

impl RedisStore {
    /// Reads a fact of a log.
    async fn learn(
        &self,
        id: SessionId,
        now: Timestamp,
        log: &mut KnownLog,
        fact: Fact,
    ) -> Result<()> {
        match fact {
            Fact::Message(seq) => {
                let page =
                    Page { after: Some(seq - 1), until: seq, limit: 1, max_size: usize::MAX };
                let message = self.read(id, now, page).await?.messages.pop();
                log.messages.insert(seq, message);
            }
            Fact::ReplyTo(seq) => {
                let reply = self.reply_to(id, now, seq).await?;
                log.replies.insert(seq, reply);
            }
            Fact::NewestTurn => {
                let mut pipeline = Pipeline::new();
                pipeline.cmd("HGET").arg(self.keys.session(id)).arg("nt");
                let (newest,): (Option<u32>,) = self.link.pipeline(&pipeline).await?;
                log.newest_turn = Some(newest.unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Finds the reply to a turn.
    async fn reply_to(
        &self,
        id: SessionId,
        now: Timestamp,
        turn: u32,
    ) -> Result<Option<Arc<Message>>> {
        const PAGE: u32 = 64;
        let mut after = turn;
        loop {
            let page = Page { after: Some(after), until: u32::MAX, limit: PAGE, max_size: 1 << 20 };
            let read = self.read(id, now, page).await?;
            let Some(last) = read.messages.last() else { return Ok(None) };
            after = last.seq;
            let is_it = |message: &&Arc<Message>| {
                message.in_reply_to().is_some() && message.turn_seq() == turn
            };
            if let Some(reply) = read.messages.iter().find(is_it) {
                return Ok(Some(Arc::clone(reply)));
            }
        }
    }

    /// Calls the script that appends.
    async fn try_append(
        &self,
        id: SessionId,
        placed: PlacedTurn,
        log: &KnownLog,
        parent_is_newest: bool,
        limits: &AppendLimits,
    ) -> Result<Tried> {
        let size = placed.size();
        let created_at = Timestamp::of_wall_clock();
        let message = placed.into_message(0, created_at);
        let parent = message.user().map_or(0, |user| user.parent_seq);
        let parent = if parent_is_newest { String::new() } else { parent.to_string() };
        let expected = log.newest_turn.filter(|_| log.needs_newest_turn);
        let expected = expected.map(|seq| seq.to_string()).unwrap_or_default();
        let spent = self.spent_today(id, limits).await?;
        let refuses = !limits.has_room || Self::check_daily(limits, spent).is_err();
        let body = codec::body(&message)?;
        let arguments = |attempt| {
            vec![
                message.id.as_bytes().to_vec(),
                message.client_message_id().map_or(&b""[..], |key| key.as_bytes()).to_vec(),
                body.clone(),
                parent.clone().into_bytes(),
                expected.clone().into_bytes(),
                millis(created_at),
                millis(limits.expires_at),
                millis(limits.delete_at),
                limits.max_queued_turns.to_string().into_bytes(),
                limits.max_session_messages.to_string().into_bytes(),
                limits.budgets.session.to_string().into_bytes(),
                vec![if refuses { b'1' } else { b'0' }],
                size.to_string().into_bytes(),
                limits.token.as_bytes().to_vec(),
                vec![if attempt == CallAttempt::Repeated { b'1' } else { b'0' }],
            ]
        };
        let answer = self.on_with(&self.scripts.append, id, limits.now, arguments).await?;
        let mut answer = Answer::new(answer)?;
        match &answer.kind[..] {
            b"OK" => {
                let (seq, parent_seq) = (answer.seq()?, answer.seq()?);
                let token_expires_at = answer.optional_time()?;
                let (expires_at, lease) = (answer.time()?, answer.lease()?);
                let mut message = Message { seq, ..message };
                if let crate::session::Role::User(user) = &mut message.role {
                    user.parent_seq = parent_seq;
                }
                let message = Arc::new(message);
                let (duplicate, reply_seq) = (false, None);
                Ok(Tried::Done(Appended {
                    message,
                    duplicate,
                    reply_seq,
                    expires_at,
                    token_expires_at,
                    lease,
                }))
            }
            b"DUP" | b"AGAIN" => {
                let is_again = answer.kind == b"AGAIN";
                let seq = answer.seq()?;
                let message = codec::message(seq, &answer.bytes()?)?;
                let reply = answer.bytes()?;
                let reply_seq = (!reply.is_empty()).then(|| codec::digits(&reply)).transpose()?;
                let reply_seq = reply_seq.and_then(|seq| u32::try_from(seq).ok());
                let (expires_at, lease) = (answer.time()?, answer.lease()?);
                let appended = Appended {
                    message: Arc::clone(&message),
                    duplicate: !is_again,
                    reply_seq,
                    expires_at,
                    token_expires_at: None,
                    lease,
                };
                if is_again {
                    return Ok(Tried::Done(appended));
                }
                Ok(Tried::Before(appended))
            }
            b"MOVED" => Ok(Tried::Moved),
            b"REFUSED" => {
                let (waiting, head) = (answer.seq()?, answer.seq()?);
                let session = codec::digits(&answer.bytes()?)?;
                Err(refusal(limits, waiting, head, Spent { session, ..spent }))
            }
            b"GONE" => Err(gone()),
            _ => Err(unexpected(&Value::Nil)),
        }
    }

    /// Returns the tokens of the day of all nodes, as far as a budget needs them.
    async fn spent_today(&self, id: SessionId, limits: &AppendLimits) -> Result<Spent> {
        if !limits.budgets.has_daily() {
            return Ok(Spent::default());
        }
        let day = limits.now.day();
        let owner = self.read(id, limits.now, Page::HEAD).await?.session.subject;
        let of_owner = owner.map(|owner| Counter::Tokens(day, Some((*owner).into())));
        let all = Counter::Tokens(day, None);
        let mut counters = vec![all];
        counters.extend(of_owner);
        let sums = self.counters.read(&self.link, &self.keys, &counters).await?;
        let of = |place: usize| sums.get(place).copied().unwrap_or(0);
        Ok(Spent { session: 0, subject_today: of(1), today: of(0) })
    }

    fn check_daily(limits: &AppendLimits, spent: Spent) -> Result<()> {
        limits.budgets.check(Spent { session: 0, ..spent }, limits.now)
    }

    /// Counts a message that was appended, and the model tokens of a reply. A failure does not undo
    /// the append: the counts are then too low.
    async fn count_written(&self, id: SessionId, size: usize, tokens: Option<u64>, now: Timestamp) {
        let mut pipeline = Pipeline::new();
        let extra = [self.keys.base(id.partition()).as_bytes(), b"x:", id.as_bytes()].concat();
        pipeline.cmd("HGET").arg(extra).arg("su");
        pipeline.cmd("HGET").arg(self.keys.session(id)).arg("og");
        let read = self.link.pipeline::<(Option<String>, Option<Vec<u8>>)>(&pipeline).await;
        let (subject, origin) = match read {
            Ok((subject, origin)) => (subject.map(Arc::<str>::from), origin),
            Err(error) => {
                tracing::warn!(session = %id, %error, "a message was not counted for its owner");
                return;
            }
        };
        if let Some(tokens) = tokens.filter(|tokens| *tokens > 0) {
            let (day, tokens) = (now.day(), i64::try_from(tokens).unwrap_or(i64::MAX));
            self.counters.add(Counter::Tokens(day, None), tokens);
            if let Some(subject) = &subject {
                self.counters.add(Counter::Tokens(day, Some((**subject).into())), tokens);
            }
        }
        let origin = origin.and_then(|origin| origin.try_into().ok()).map(Origin);
        let of = subject.map(ShareOf::Subject).or(origin.map(ShareOf::Origin));
        if let Some(of) = of {
            self.counters.add(Counter::size(&of), i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}

/// Returns the refusal of a new turn, by the same rules as every store.
fn refusal(limits: &AppendLimits, waiting: u32, head: u32, spent: Spent) -> Error {
    let checked = limits.check_room().and_then(|()| {
        if waiting >= limits.max_queued_turns {
            return Err(ErrorKind::QueueFull.into());
        }
        if head.saturating_add(waiting).saturating_add(2) > limits.max_session_messages {
            return Err(ErrorKind::SessionFull.into());
        }
        limits.budgets.check(spent, limits.now)
    });
    checked.err().unwrap_or_else(|| Error::internal("the store refused a turn without a reason"))
}

/// Returns true if a turn answers tool calls or requests: its parent decides whether it may.
fn has_references(turn: &NewTurn) -> bool {
    let Question::New { content, .. } = &turn.question else { return false };
    content.parts().iter().any(|part| {
        matches!(part.content, PartContent::ToolResult(_) | PartContent::ApprovalResponse(_))
    })
}

#[async_trait]
impl Turns for RedisStore {
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        let parent_is_newest = matches!(turn.question, Question::New { parent_seq: None, .. });
        let mut log = KnownLog {
            needs_newest_turn: has_references(&turn)
                || matches!(turn.question, Question::Again { seq: 0 }),
            ..KnownLog::default()
        };
        let mut moves = 0;
        // The answer to a repetition.
        let mut known: Option<Appended> = None;
        loop {
            match place(&log, turn.clone()) {
                Ok(Placed::New(placed)) => {
                    let tried =
                        self.try_append(id, *placed, &log, parent_is_newest, &limits).await?;
                    match tried {
                        Tried::Done(appended) => {
                            self.count_written(id, appended.message.size(), None, limits.now).await;
                            return Ok(appended);
                        }
                        Tried::Before(appended) => {
                            let message = Arc::clone(&appended.message);
                            // The rules do not need the reply itself.
                            log.replies.insert(message.seq, None);
                            log.before = Some(message);
                            known = Some(appended);
                        }
                        Tried::Moved => {
                            moves += 1;
                            if moves > MAX_MOVES {
                                return Err(ErrorKind::Overloaded.into());
                            }
                            log.newest_turn = None;
                        }
                    }
                }
                Ok(Placed::Before { .. }) => {
                    return known.ok_or_else(|| Error::internal("a known message was not read"));
                }
                Err(Failure::Unknown(fact)) => {
                    // A retry is answered whatever the rules say of a new turn.
                    self.learn(id, limits.now, &mut log, fact).await?;
                }
                Err(Failure::Refused(error)) => {
                    // The rules speak of a new turn: the message may be known.
                    if known.is_none()
                        && let Some(key) = &turn.client_message_id
                        && let Some(appended) =
                            self.by_client_message_id(id, limits.now, key).await?
                    {
                        let message = Arc::clone(&appended.message);
                        log.replies.insert(message.seq, None);
                        log.before = Some(message);
                        known = Some(appended);
                        continue;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn answer(
        &self,
        id: SessionId,
        lease: Lease,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Answered> {
        let created_at = Timestamp::of_wall_clock();
        let message = reply.into_message(0, created_at);
        let (body, size, cost) = (codec::body(&message)?, message.size(), message.cost());
        let is_complete = matches!(&message.role, crate::session::Role::Assistant(reply) if matches!(reply.status, Status::Complete));
        let optional = |number: Option<u32>| number.map(|it| it.to_string()).unwrap_or_default();
        let arguments = [
            lease.fence().to_string().into_bytes(),
            message.turn_seq().to_string().into_bytes(),
            message.id.as_bytes().to_vec(),
            body,
            size.to_string().into_bytes(),
            vec![if is_complete { b'1' } else { b'0' }],
            millis(created_at),
            cost.input_tokens.to_string().into_bytes(),
            cost.output_tokens.to_string().into_bytes(),
            if cost.estimated { b"1".to_vec() } else { Vec::new() },
            optional(cost.cached_input_tokens).into_bytes(),
            optional(cost.cache_write_tokens).into_bytes(),
            optional(cost.reasoning_tokens).into_bytes(),
        ];
        let answer = self.on_with(&self.scripts.answer, id, now, |_| arguments.to_vec()).await?;
        let mut answer = Answer::new(answer)?;
        match &answer.kind[..] {
            kind @ (b"OK" | b"DUP") => {
                let duplicate = kind == b"DUP";
                let seq = answer.seq()?;
                let entry = answer.bytes()?;
                let message = if duplicate {
                    codec::message(seq, &entry)?
                } else {
                    Arc::new(Message { seq, ..message })
                };
                let (expires_at, lease) = (answer.time()?, answer.lease()?);
                if !duplicate {
                    self.count_written(id, size, Some(cost.spent()), now).await;
                }
                let (reply_seq, token_expires_at) = (None, None);
                Ok(Answered::Kept(Appended {
                    message,
                    duplicate,
                    reply_seq,
                    expires_at,
                    token_expires_at,
                    lease,
                }))
            }
            b"LOST" => Ok(Answered::LeaseLost),
            b"STOP" => Ok(Answered::Stopped),
            b"NONE" => Err(Error::internal("a reply to no message of this log")),
            _ => Err(gone()),
        }
    }

    async fn checkpoint(
        &self,
        id: SessionId,
        lease: Lease,
        at: Checkpoint,
        now: Timestamp,
    ) -> Result<Checkpointed> {
        let mut value = codec::Writer::default();
        value.number(at.attempt.into());
        codec::content(&mut value, &at.content)?;
        let (fence, turn, value) =
            (lease.fence().to_string(), at.seq.to_string(), value.into_bytes());
        let arguments = [fence.as_bytes(), turn.as_bytes(), &value];
        match &bytes(self.on(&self.scripts.checkpoint, id, now, arguments).await?)?[..] {
            b"OK" => Ok(Checkpointed::Done),
            b"LOST" => Ok(Checkpointed::LeaseLost),
            _ => Err(gone()),
        }
    }

    async fn stop(&self, id: SessionId, seq: Option<u32>, now: Timestamp) -> Result<bool> {
        let seq = seq.map(|seq| seq.to_string()).unwrap_or_default();
        match self.on(&self.scripts.stop, id, now, [seq.as_bytes()]).await? {
            Value::Int(-1) => Err(gone()),
            Value::Int(turn) => Ok(turn > 0),
            other => Err(unexpected(&other)),
        }
    }

    async fn unanswered(&self, id: SessionId, now: Timestamp) -> Result<Vec<Unfinished>> {
        let answer = self.on(&self.scripts.unanswered, id, now, []).await?;
        unfinished(id, items(answer)?)
    }

    async fn hand_over(
        &self,
        id: SessionId,
        lease: Lease,
        to: NodeId,
        now: Timestamp,
    ) -> Result<bool> {
        let (fence, to) = (lease.fence().to_string(), to.to_bytes());
        let answer = self.on(&self.scripts.hand_over, id, now, [fence.as_bytes(), &to]).await?;
        Ok(number(answer)? == 1)
    }

    async fn take_over(
        &self,
        from: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>> {
        let owner = from.unwrap_or(self.node).to_bytes();
        let mut pipeline = Pipeline::new();
        for partition in 0..=u8::MAX {
            pipeline.cmd("SMEMBERS").arg(self.keys.owned(partition, &owner));
        }
        let owned: Vec<Vec<Vec<u8>>> = self.link.pipeline(&pipeline).await?;
        let ids = owned.into_iter().flatten().filter_map(|id| id[..].try_into().ok());
        let mut ids: Vec<_> = ids.map(SessionId::from_bytes).collect();
        ids.sort_unstable();
        let mut turns = Vec::new();
        for id in ids {
            // Those of a dead node leave its index when they are taken over.
            if from.is_none() && after.is_some_and(|(last, _)| id < last) {
                continue;
            }
            let answer = match from {
                Some(_) => self.on(&self.scripts.take_over, id, now, [&owner]).await?,
                None => self.on(&self.scripts.unanswered, id, now, []).await?,
            };
            match unfinished(id, items(answer)?) {
                Ok(mut of_session) => turns.append(&mut of_session),
                Err(error) if error.kind() == ErrorKind::SessionExpired => {}
                Err(error) => return Err(error),
            }
            turns.retain(|turn| {
                from.is_some()
                    || after.is_none_or(|after| after < (turn.session.id, turn.message.seq))
            });
            // A session is taken over as a whole.
            if turns.len() >= limit {
                break;
            }
        }
        if from.is_none() {
            turns.truncate(limit);
        }
        Ok(turns)
    }
}

impl RedisStore {
    /// Returns the message of a client's id, and the answer to its repetition.
    async fn by_client_message_id(
        &self,
        id: SessionId,
        now: Timestamp,
        key: &str,
    ) -> Result<Option<Appended>> {
        let mut pipeline = Pipeline::new();
        let keys = [self.keys.base(id.partition()).as_bytes(), b"i:", id.as_bytes()].concat();
        pipeline.cmd("HGET").arg(keys).arg(key.as_bytes());
        let (seq,): (Option<u32>,) = self.link.pipeline(&pipeline).await?;
        let Some(seq) = seq else { return Ok(None) };
        let page = Page { after: Some(seq - 1), until: seq, limit: 1, max_size: usize::MAX };
        let mut read = self.read(id, now, page).await?;
        let Some(message) = read.messages.pop() else { return Ok(None) };
        let reply_seq = self.reply_to(id, now, seq).await?.map(|reply| reply.seq);
        let appended = Appended {
            message,
            duplicate: true,
            reply_seq,
            expires_at: read.session.expires_at,
            token_expires_at: None,
            // `follow` finds it, if this node holds one.
            lease: None,
        };
        Ok(Some(appended))
    }
}

/// Reads a session and its waiting turns: the fields, the fence, and number, entry and checkpoint of
/// each.
fn unfinished(id: SessionId, answer: Vec<Value>) -> Result<Vec<Unfinished>> {
    let mut answer = answer.into_iter();
    if answer.len() == 0 {
        return Err(gone());
    }
    let SessionRecord { session, .. } = take_session(id, &mut answer)?;
    let lease = lease(&bytes(answer.next().unwrap_or(Value::Nil))?)?;
    let Some(lease) = lease else { return Ok(Vec::new()) };
    let mut items = items(answer.next().unwrap_or(Value::Nil))?.into_iter();
    let mut turns = Vec::new();
    while let (Some(seq), Some(entry), Some(checkpoint)) =
        (items.next(), items.next(), items.next())
    {
        let seq = u32::try_from(number(seq)?).unwrap_or(u32::MAX);
        let message = codec::message(seq, &bytes(entry)?)?;
        let checkpoint = bytes(checkpoint)?;
        let (mut attempt, mut partial) = (1, crate::session::Content::default());
        if !checkpoint.is_empty() {
            let mut reader = codec::Reader::new(&checkpoint);
            (attempt, partial) = (reader.number32()?, codec::read_content(&mut reader)?);
        }
        turns.push(Unfinished { lease, session: session.clone(), message, attempt, partial });
    }
    Ok(turns)
}
