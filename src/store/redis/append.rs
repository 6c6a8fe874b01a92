//! Appends user messages.

use std::sync::Arc;

use redis::Value;

use super::{
    Attempt, RedisStore, codec, gone,
    log_view::{Fact, Failure, KnownLog},
    script_answer::Answer,
    session_record::millis,
    value::unexpected,
};
use crate::session::{
    AppendLimits, Appended, Error, ErrorKind, Message, NewTurn, Page, PartContent, Placed,
    PlacedTurn, Question, Result, Role, SessionId, Spent, Store as _, Timestamp, place,
};

/// Attempts of an append, if the newest turn changes each time.
const MAX_MOVES: u32 = 100;

/// The result of one call of the script that appends.
enum Tried {
    Done(Appended),
    /// The `client_message_id` is known.
    Before(Appended),
    /// Another turn is the newest.
    Moved,
}

impl RedisStore {
    /// Appends a user message: applies the rules to the messages that they need, and calls the script.
    /// Repeats both if the log has changed in between.
    pub(super) async fn append_turn(
        &self,
        id: SessionId,
        turn: NewTurn,
        limits: &AppendLimits,
    ) -> Result<Appended> {
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
                        self.try_append(id, *placed, &log, parent_is_newest, limits).await?;
                    match tried {
                        Tried::Done(appended) => return Ok(appended),
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
                    self.learn(id, limits.now, &mut log, fact).await?;
                }
                Err(Failure::Refused(error)) => {
                    // The rules refuse a new turn, but a repetition is always answered.
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
                let key = self.keys.session(id);
                let (expires_at, newest): (Option<u64>, Option<u32>) =
                    self.link.command("HMGET", &key, &[b"x", b"nt"]).await?;
                if expires_at.is_none_or(|at| at <= now.as_millis()) {
                    return Err(gone());
                }
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

    /// Returns the message of a client's id, and the answer to its repetition.
    async fn by_client_message_id(
        &self,
        id: SessionId,
        now: Timestamp,
        key: &str,
    ) -> Result<Option<Appended>> {
        let keys = self.keys.client_ids(id);
        let seq: Option<u32> = self.link.command("HGET", &keys, &[key.as_bytes()]).await?;
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
        let refuses = !limits.has_room || limits.budgets.check(spent, limits.now).is_err();
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
                vec![if attempt == Attempt::Repeated { b'1' } else { b'0' }],
                self.entered_in(id),
            ]
        };
        let answer = self.on_with(&self.scripts.append, id, limits.now, arguments).await?;
        let mut answer = Answer::new(answer)?;
        match &answer.kind[..] {
            b"OK" => {
                let (seq, parent_seq) = (answer.seq()?, answer.seq()?);
                let token_expires_at = answer.optional_time()?;
                let (expires_at, lease) = (answer.time()?, answer.lease()?);
                self.count_written(answer.share()?, size, 0, limits.now);
                let mut message = Message { seq, ..message };
                if let Role::User(user) = &mut message.role {
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
            b"UNSETTLED" => Err(Error::store_restarted()),
            b"GONE" => Err(gone()),
            _ => Err(unexpected(&Value::Nil)),
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
