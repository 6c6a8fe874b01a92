//! The turns of sessions: appends, answers, and which node may write them.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore, codec, gone,
    keys::PARTITIONS,
    link::Batch,
    script_answer::{self, Answer},
    session_record::{SessionRecord, millis},
    sessions::take_session,
    value::{bytes, items, number, unexpected},
};
use crate::session::{
    Answered, AppendLimits, Appended, Checkpoint, Checkpointed, Content, Error, ErrorKind, Lease,
    Message, NewReply, NewTurn, NodeId, Result, SessionId, Status, Timestamp, Turns, Unfinished,
};

/// The owner of turns that no node answers.
const NO_NODE: [u8; 8] = [0; 8];

#[async_trait]
impl Turns for RedisStore {
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        self.append_turn(id, turn, &limits).await
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
        let status = message.reply().map(|reply| &reply.status);
        let is_complete = matches!(status, Some(Status::Complete));
        let optional = |number: Option<u32>| number.map(|it| it.to_string()).unwrap_or_default();
        let arguments = [
            lease.fence().to_string().into_bytes(),
            message.turn_seq().to_string().into_bytes(),
            message.id.as_bytes().to_vec(),
            body,
            size.to_string().into_bytes(),
            vec![if is_complete { b'1' } else { b'0' }],
            millis(created_at),
            self.entered_in(id),
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
                    self.count_written(answer.share()?, size, cost.spent(), now);
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
            b"UNSETTLED" => Err(Error::store_restarted()),
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
        let value = codec::checkpoint(at.attempt, &at.content)?;
        let (fence, turn) = (lease.fence().to_string(), at.seq.to_string());
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
        match self.on(&self.scripts.hand_over, id, now, [fence.as_bytes(), &to]).await? {
            Value::Int(-1) => Err(gone()),
            answer => Ok(number(answer)? == 1),
        }
    }

    async fn take_over(
        &self,
        from: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>> {
        let owner = from.unwrap_or(self.node).to_bytes();
        // Without `from`, those of an import as well, which no node owns.
        let owners = [owner, NO_NODE];
        let owners = &owners[..if from.is_some() { 1 } else { 2 }];
        let mut batch = Batch::default();
        for owner in owners {
            for partition in 0..=u8::MAX {
                batch.cmd("SMEMBERS", &self.keys.owned(partition, owner));
            }
        }
        let mut owned: Vec<Vec<Vec<u8>>> = self.link.batch(&batch).await?;
        let of = |lists: Vec<Vec<Vec<u8>>>| {
            let ids = lists.into_iter().flatten().filter_map(|id| id[..].try_into().ok());
            ids.map(SessionId::from_bytes).collect::<Vec<_>>()
        };
        for id in of(owned.split_off(PARTITIONS)) {
            self.on(&self.scripts.take_over, id, now, [&NO_NODE]).await?;
            owned.push(vec![id.as_bytes().to_vec()]);
        }
        let mut ids = of(owned);
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

/// Reads a session and its waiting turns: the fields, the fence, and number, entry and checkpoint of
/// each.
fn unfinished(id: SessionId, answer: Vec<Value>) -> Result<Vec<Unfinished>> {
    let mut answer = answer.into_iter();
    if answer.len() == 0 {
        return Err(gone());
    }
    let SessionRecord { session, .. } = take_session(id, &mut answer)?;
    let lease = script_answer::lease(&bytes(answer.next().unwrap_or(Value::Nil))?)?;
    let Some(lease) = lease else { return Ok(Vec::new()) };
    let turns = read_turns(answer.next().unwrap_or(Value::Nil))?.into_iter();
    let turns = turns.map(|(message, attempt, partial)| {
        let session = session.clone();
        Unfinished { lease, session, message, attempt, partial }
    });
    Ok(turns.collect())
}

/// Reads waiting turns: message, attempt and content of the last checkpoint.
pub(super) fn read_turns(value: Value) -> Result<Vec<(Arc<Message>, u32, Content)>> {
    let mut items = items(value)?.into_iter();
    let mut turns = Vec::new();
    while let (Some(seq), Some(entry), Some(checkpoint)) =
        (items.next(), items.next(), items.next())
    {
        let seq = u32::try_from(number(seq)?).unwrap_or(u32::MAX);
        let message = codec::message(seq, &bytes(entry)?)?;
        let checkpoint = bytes(checkpoint)?;
        let (mut attempt, mut partial) = (1, Content::default());
        if !checkpoint.is_empty() {
            let mut reader = codec::Reader::new(&checkpoint);
            (attempt, partial) = (reader.number32()?, codec::read_content(&mut reader)?);
        }
        turns.push((message, attempt, partial));
    }
    Ok(turns)
}
