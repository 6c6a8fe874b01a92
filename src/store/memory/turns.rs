//! The turns of the sessions in memory, and the leases of the nodes that share it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    MemoryStore, Tables,
    row::{self, SessionRow},
    sharing::Member,
};
use crate::session::{
    Answered, AppendLimits, Appended, Checkpoint, Checkpointed, Error, ErrorKind, Lease, Message,
    NewReply, NewTurn, NodeId, Note, Placed, Received, Result, SessionId, Status, Timestamp, Turns,
    Unfinished, place,
};

/// Largest message that a note carries, in bytes. A node reads a larger one from the log.
const MAX_NOTE_SIZE: usize = 8 << 10;

impl MemoryStore {
    /// Returns the lease under which this node answers the turns of a session.
    pub(super) fn lease(&self, row: &SessionRow) -> Option<Lease> {
        match &self.member {
            Some(member) => row.sharing.as_ref()?.lease_of(member.node),
            None => Some(Lease::UNSHARED),
        }
    }

    /// Returns true if this node has lost a lease that it believes to hold.
    fn is_stale(&self, row: &SessionRow, lease: Lease) -> bool {
        self.member.is_some() && self.lease(row) != Some(lease)
    }

    fn appended(&self, row: &SessionRow, message: Arc<Message>, duplicate: bool) -> Appended {
        let (expires_at, lease) = (row.session.expires_at, self.lease(row));
        let (reply_seq, token_expires_at) = (None, None);
        Appended { message, duplicate, reply_seq, expires_at, token_expires_at, lease }
    }

    /// Tells the other nodes that a message was appended.
    fn tell_appended(&self, row: &SessionRow, message: &Arc<Message>) {
        if self.member.is_some() {
            let is_small = message.size() <= MAX_NOTE_SIZE;
            let (seq, message) = (message.seq, is_small.then(|| Arc::clone(message)));
            self.tell_watchers(row, &Note::Appended { seq, message, owner: row.owner() });
        }
    }
}

#[async_trait]
impl Turns for MemoryStore {
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        let mut tables = self.tables();
        let Tables { sessions, size, spent, .. } = &mut *tables;
        let size = *size;
        let row = row::live(sessions, id, limits.now)?;
        let placed = match place(row, turn)? {
            Placed::New(placed) => placed,
            Placed::Before { message, reply_seq } => {
                return Ok(Appended { reply_seq, ..self.appended(row, message, true) });
            }
        };
        let (subject_today, today) = spent.today(row.session.subject.as_ref(), limits.now);
        row.check(&limits, subject_today, today)?;
        if size + row::counted(placed.size()) > self.max_size {
            return Err(ErrorKind::StoreFull.into());
        }
        if let Some(member) = &self.member
            && !row.has_waiting_turn()
        {
            row.sharing.get_or_insert_default().grant(member.node);
        }
        let message = row.ask(*placed);
        let token_expires_at = row.renew_by_message(&limits);
        self.tell_appended(row, &message);
        let counted = row::counted(message.size());
        let appended = Appended { token_expires_at, ..self.appended(row, message, false) };
        tables.size += counted;
        Ok(appended)
    }

    async fn answer(
        &self,
        id: SessionId,
        lease: Lease,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Answered> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        let user = reply.fields.in_reply_to;
        let Some(turn) = row.waiting(user) else {
            let missing = || Error::internal("a reply to no message of this log");
            let message = row.reply_of(user).cloned().ok_or_else(missing)?;
            return Ok(Answered::Kept(self.appended(row, message, true)));
        };
        if self.is_stale(row, lease) {
            return Ok(Answered::LeaseLost);
        }
        if row.is_stopped(turn) && matches!(reply.fields.status, Status::Complete) {
            return Ok(Answered::Stopped);
        }
        let message = row.answer(turn, reply);
        let owner = row.session.subject.clone();
        if !row.has_waiting_turn()
            && let Some(sharing) = &mut row.sharing
        {
            sharing.holder = None;
        }
        self.tell_appended(row, &message);
        let counted = row::counted(message.size());
        let tokens = message.cost().spent();
        let appended = self.appended(row, message, false);
        tables.size += counted;
        tables.spent.count(owner.as_ref(), tokens, now);
        Ok(Answered::Kept(appended))
    }

    async fn checkpoint(
        &self,
        id: SessionId,
        lease: Lease,
        at: Checkpoint,
        now: Timestamp,
    ) -> Result<Checkpointed> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        if row.is_waiting(at.seq) && self.is_stale(row, lease) {
            return Ok(Checkpointed::LeaseLost);
        }
        row.checkpoint(at);
        Ok(Checkpointed::Done)
    }

    async fn stop(&self, id: SessionId, seq: Option<u32>, now: Timestamp) -> Result<bool> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        let Some(seq) = row.stop(seq) else { return Ok(false) };
        if let Some(Member { node, network }) = &self.member
            && let Some(holder) = row.sharing.as_ref().and_then(|sharing| sharing.holder)
        {
            network.send(*node, holder, Received::Note(id, Note::Stop { seq }));
        }
        Ok(true)
    }

    async fn unanswered(&self, id: SessionId, now: Timestamp) -> Result<Vec<Unfinished>> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        Ok(self.lease(row).map(|lease| row.unfinished(lease).collect()).unwrap_or_default())
    }

    async fn hand_over(
        &self,
        id: SessionId,
        lease: Lease,
        to: NodeId,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        let Some(Member { node, network }) = &self.member else { return Ok(false) };
        if self.is_stale(row, lease) {
            return Ok(false);
        }
        row.sharing.get_or_insert_default().grant(to);
        self.tell_watchers(row, &Note::OwnerChanged(to));
        network.send(*node, to, Received::Note(id, Note::HandedOver));
        Ok(true)
    }

    async fn take_over(
        &self,
        from: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>> {
        let mut tables = self.tables();
        let first = after.map_or(SessionId::from_bytes([0; 16]), |(id, _)| id);
        let rows = tables.sessions.range_mut(first..).map(|(_, row)| row);
        let live = rows.filter(|row| row.session.expires_at > now && row.has_waiting_turn());
        let mut turns = Vec::new();
        for row in live {
            let lease = match &self.member {
                None => Lease::UNSHARED,
                Some(member) => {
                    let sharing = row.sharing.get_or_insert_default();
                    if sharing.holder == from {
                        sharing.grant(member.node);
                        self.tell_watchers(row, &Note::OwnerChanged(member.node));
                    } else if from.is_some() || sharing.holder != Some(member.node) {
                        continue;
                    }
                    let Some(lease) = self.lease(row) else { continue };
                    lease
                }
            };
            let of_session = row.unfinished(lease);
            turns.extend(of_session.filter(|turn| {
                after.is_none_or(|after| after < (turn.session.id, turn.message.seq))
            }));
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
