//! Sessions, their tokens, and the pages of their logs.

use std::{
    cmp::Reverse,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Value;

use super::{
    Counter, RedisStore, codec, gone,
    link::Batch,
    session_record::{self, SessionRecord, millis},
    value::{bytes, items, number, unexpected},
};
use crate::session::{
    Epoch, Error, ErrorKind, FoundSession, Head, ListCursor, ListedSession, Message, NewSession,
    Page, Result, Session, SessionId, Share, ShareOf, Snapshot, Store, Swept, Timestamp, TokenHash,
    TokenId, TokenRecord,
};

/// Most sessions that are read at a time.
const BATCH: usize = 256;

/// Most calls at the same time.
const MAX_CONCURRENT: usize = 64;

/// Takes the fields of a session from the beginning of an answer.
pub(super) fn take_session(
    id: SessionId,
    answer: &mut impl Iterator<Item = Value>,
) -> Result<SessionRecord> {
    let fields = answer.next().ok_or_else(gone)?;
    session_record::read(id, fields, answer.next().unwrap_or(Value::Nil))
}

fn first_deadline(session: &Session, token: &TokenRecord) -> Timestamp {
    token.deadlines.map_or(session.expires_at, |(expires_at, _)| expires_at.min(session.expires_at))
}

#[async_trait]
impl Store for RedisStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        if self.sessions.fetch_add(1, Ordering::Relaxed) >= self.max_sessions {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            return Err(NewSession::no_room(None));
        }
        let id = new.session.id;
        let (fields, extra) = session_record::fields(&new);
        let first = millis(first_deadline(&new.session, &new.token));
        let arguments = |_| {
            let (hash, value) = (new.token.hash.as_bytes().to_vec(), codec::token(id, &new.token));
            let count = fields.len().to_string().into_bytes();
            let mut arguments = vec![hash, value, first.clone(), count];
            arguments.extend(fields.iter().chain(&extra).cloned());
            arguments
        };
        self.point_to(id, &new.token.hash).await?;
        self.on_with(&self.scripts.create, id, new.session.created_at, arguments).await?;
        self.count_session(&new.session, new.origin, 1, 0);
        self.list_for_subject(&new.session).await
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession> {
        let key = self.keys.token(token);
        let answer = self.link.call(&self.scripts.find, &[key], |_| vec![millis(now)]).await?;
        let mut answer = items(answer)?.into_iter();
        let mut value = bytes(answer.next().ok_or_else(gone)?)?;
        if let Ok(id) = value[..].try_into() {
            // The session lies in another partition.
            let key = self.keys.token_of(SessionId::from_bytes(id), token);
            let found = self.link.call(&self.scripts.find, &[key], |_| vec![millis(now)]).await?;
            answer = items(found)?.into_iter();
            value = bytes(answer.next().ok_or_else(gone)?)?;
        }
        let (id, token) = codec::read_token(*token, &value)?;
        let SessionRecord { session, .. } = take_session(id, &mut answer)?;
        if token.has_expired(now) {
            return Err(gone());
        }
        Ok(FoundSession { session: session.seen_with(&token), token })
    }

    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()> {
        let first = token.deadlines.map_or(Timestamp::NEVER, |(expires_at, _)| expires_at);
        let (hash, value, first) = (token.hash.as_bytes(), codec::token(id, &token), millis(first));
        let most = max_tokens.to_string();
        let arguments = [&hash[..], &value, &first, most.as_bytes()];
        self.point_to(id, &token.hash).await?;
        let answer = self.on(&self.scripts.issue, id, now, arguments).await?;
        match &bytes(answer)?[..] {
            b"OK" => Ok(()),
            b"FULL" => Err(Error::new(ErrorKind::Overloaded, "The session has too many tokens")),
            _ => Err(gone()),
        }
    }

    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32> {
        let answer = self.on(&self.scripts.revoke_token, id, now, [token.as_bytes()]).await?;
        match answer {
            Value::Int(left) => u32::try_from(left).map_err(|_| gone()),
            other => Err(unexpected(&other)),
        }
    }

    async fn renew(
        &self,
        id: SessionId,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session> {
        let arguments = [&token.as_bytes()[..], &millis(expires_at)];
        let answer = self.on(&self.scripts.renew, id, now, arguments).await?;
        let mut answer = items(answer)?.into_iter();
        let SessionRecord { session, .. } = take_session(id, &mut answer)?;
        let value = bytes(answer.next().unwrap_or(Value::Nil))?;
        Ok(session.seen_with_deadlines(codec::token_deadlines(&value)?))
    }

    async fn secret(&self) -> Result<[u8; 32]> {
        Ok(self.secret)
    }

    async fn share(&self, of: &ShareOf, _: Timestamp) -> Result<Share> {
        let counters = [Counter::sessions(of), Counter::size(of)];
        let sums = self.counters.read(&self.link, &self.keys, &counters).await?;
        let [sessions, size] = sums[..] else { return Ok(Share::default()) };
        Ok(Share { sessions, size })
    }

    async fn list(
        &self,
        subject: &str,
        now: Timestamp,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<ListedSession>> {
        let key = self.keys.about("b:", subject.as_bytes());
        let members: Vec<Vec<u8>> = self.link.command("SMEMBERS", &key, &[]).await?;
        let ids: Vec<_> = members.iter().filter_map(|id| id[..].try_into().ok()).collect();
        let mut listed = Vec::new();
        for id in ids {
            listed.extend(self.listed(SessionId::from_bytes(id), now).await?);
        }
        listed.retain(|session| after.is_none_or(|after| session.cursor() < after));
        listed.sort_unstable_by_key(|session| Reverse(session.cursor()));
        listed.truncate(limit as usize);
        Ok(listed)
    }

    async fn set_title(
        &self,
        id: SessionId,
        now: Timestamp,
        title: Option<Arc<str>>,
    ) -> Result<Session> {
        let title = title.as_deref().unwrap_or_default();
        let answer = self.on(&self.scripts.set_title, id, now, [title.as_bytes()]).await?;
        Ok(take_session(id, &mut items(answer)?.into_iter())?.session)
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        let answer = self.on(&self.scripts.revoke, id, now, [b""]).await?;
        let record = take_session(id, &mut items(answer)?.into_iter())?;
        self.was_deleted(&record).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        let mut batch = Batch::default();
        let first = self.swept.fetch_add(1, Ordering::Relaxed);
        let partitions = (0..=u8::MAX).map(|place| place.wrapping_add(first as u8));
        let most = limit.min(BATCH);
        for partition in partitions.filter(|partition| self.sweeps(*partition)) {
            let range = batch.cmd("ZRANGEBYSCORE", &self.keys.due(partition)).arg("-inf");
            range.arg(millis(now)).arg("LIMIT").arg(0).arg(most);
        }
        let due: Vec<Vec<Vec<u8>>> = self.link.batch(&batch).await?;
        let is_cut = due.iter().any(|ids| ids.len() == most);
        let ids = due.into_iter().flatten().filter_map(|id| id[..].try_into().ok());
        let due: Vec<_> = ids.map(SessionId::from_bytes).collect();
        let mut sessions = Vec::new();
        let mut visited = 0;
        // A session that was renewed is visited and stays.
        while sessions.len() < limit && visited < due.len().min(limit + BATCH) {
            let count = (limit - sessions.len()).min(MAX_CONCURRENT).min(due.len() - visited);
            let swept = due[visited..visited + count].iter().map(|id| self.sweep_one(*id, now));
            sessions.extend(try_join_all(swept).await?.into_iter().flatten());
            visited += count;
        }
        let more = is_cut || visited < due.len();
        Ok(Swept { sessions, more })
    }

    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>> {
        let answer = self.on(&self.scripts.tokens, id, now, []).await?;
        let mut answer = items(answer)?.into_iter();
        if number(answer.next().unwrap_or(Value::Nil))? == 0 {
            return Err(gone());
        }
        let mut tokens = Vec::new();
        while let (Some(hash), Some(value)) = (answer.next(), answer.next()) {
            let hash: [u8; 32] =
                bytes(hash)?.try_into().map_err(|_| Error::internal("a token is malformed"))?;
            tokens.push(codec::read_token(TokenHash::from_bytes(hash), &bytes(value)?)?.1);
        }
        tokens.retain(|token| !token.has_expired(now));
        Ok(tokens)
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        // The notes of the other nodes tell.
        Ok(false)
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let mut heads = Vec::new();
        for batch in sessions.chunks(BATCH) {
            let mut commands = Batch::default();
            for id in batch {
                commands.cmd("HMGET", &self.keys.session(*id)).arg(&["x", "e", "h"][..]);
            }
            let answers: Vec<Vec<Option<Vec<u8>>>> = self.link.batch(&commands).await?;
            for (id, answer) in batch.iter().zip(answers) {
                let [Some(expires_at), Some(epoch), head] = &answer[..] else { continue };
                if codec::digits(expires_at)? > now.as_millis() {
                    let seq = head.as_deref().map_or(Ok(0), codec::digits)?;
                    let seq = u32::try_from(seq).unwrap_or(u32::MAX);
                    let epoch = Epoch::parse(codec::text(epoch)?)?;
                    heads.push(Head { session: *id, epoch, seq });
                }
            }
        }
        Ok(heads)
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        let after = page.after.map(|after| after.to_string()).unwrap_or_default();
        let (until, limit, max) = (
            page.until.to_string(),
            page.limit.to_string(),
            page.max_size.min(1 << 40).to_string(),
        );
        let arguments = [after.as_bytes(), until.as_bytes(), limit.as_bytes(), max.as_bytes()];
        let answer = self.on(&self.scripts.read, id, now, arguments).await?;
        let mut answer = items(answer)?.into_iter();
        let SessionRecord { session, usage, .. } = take_session(id, &mut answer)?;
        let head_seq = number(answer.next().unwrap_or(Value::Nil))?;
        let head_seq = u32::try_from(head_seq).unwrap_or(u32::MAX);
        let entries = items(answer.next().unwrap_or(Value::Nil))?;
        let until = head_seq.min(page.until);
        let (first, all) = match page.after {
            Some(after) => (after, until.saturating_sub(after)),
            None => (until, until),
        };
        let mut messages: Vec<Arc<Message>> = Vec::new();
        let mut size = 0;
        for (seq, entry) in (1..).zip(entries) {
            let seq = if page.after.is_some() { first + seq } else { first + 1 - seq };
            let message = codec::message(seq, &bytes(entry)?)?;
            size += message.size();
            if !messages.is_empty() && size > page.max_size {
                break;
            }
            messages.push(message);
        }
        // Bounded by the limit of the page, a u32.
        let has_more = (messages.len() as u32) < all;
        if page.after.is_none() {
            messages.reverse();
        }
        Ok(Snapshot { session, messages, head_seq, usage, has_more })
    }

    async fn close(&self) -> Result<()> {
        self.inbox.close();
        self.counters.flush(&self.link, &self.keys).await
    }

    fn is_reachable(&self) -> bool {
        !self.link.is_away()
    }

    /// Never returns: a server that is away may come back.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }
}

impl RedisStore {
    /// Returns true if this node sweeps a partition: the living nodes share them.
    fn sweeps(&self, partition: u8) -> bool {
        let (rank, nodes) = *self.rank.lock().unwrap_or_else(PoisonError::into_inner);
        usize::from(partition) % nodes == rank
    }

    /// Deletes a session that has expired. Returns its id.
    async fn sweep_one(&self, id: SessionId, now: Timestamp) -> Result<Option<SessionId>> {
        let answer = items(self.on(&self.scripts.sweep, id, now, []).await?)?;
        if answer.is_empty() {
            return Ok(None);
        }
        let record = take_session(id, &mut answer.into_iter())?;
        self.was_deleted(&record).await?;
        Ok(Some(id))
    }

    /// Leaves the id of a session in the partition of its token, if that is another one.
    pub(super) async fn point_to(&self, id: SessionId, token: &TokenHash) -> Result<()> {
        if token.partition() == id.partition() {
            return Ok(());
        }
        self.link.command("SET", &self.keys.token(token), &[id.as_bytes()]).await
    }

    /// Adds a session to the list of its owner.
    pub(super) async fn list_for_subject(&self, session: &Session) -> Result<()> {
        let Some(subject) = &session.subject else { return Ok(()) };
        let key = self.keys.about("b:", subject.as_bytes());
        self.link.command("SADD", &key, &[session.id.as_bytes()]).await
    }

    /// Returns a session as the list of its owner shows it.
    async fn listed(&self, id: SessionId, now: Timestamp) -> Result<Option<ListedSession>> {
        let last = self.read(id, now, Page { after: None, until: u32::MAX, limit: 1, max_size: 0 });
        let last = match last.await {
            Ok(last) => last,
            Err(error) if error.kind() == ErrorKind::SessionExpired => return Ok(None),
            Err(error) => return Err(error),
        };
        let (session, head_seq) = (last.session, last.head_seq);
        let active_at = last.messages.last().map_or(session.created_at, |last| last.created_at);
        let mut beginning = None;
        if session.title.is_none() && head_seq > 0 {
            let page = Page { after: Some(0), until: 1, limit: 1, max_size: 0 };
            let first = self.read(id, now, page).await?;
            beginning = first
                .messages
                .first()
                .map(|message| message.text().chars().take(ListedSession::MAX_BEGINNING).collect());
        }
        Ok(Some(ListedSession { session, active_at, head_seq, beginning }))
    }
}
