//! Imports sessions.

use rusqlite::{Transaction, TransactionBehavior, params};

use super::{
    append,
    file::{self, SqliteFile},
    reader,
    rows::{self, Id, StoredTime},
    sessions,
};
use crate::session::{Timestamp, Usage};
use crate::store::stored::{Import, StoredLog, StoredSession, UnansweredTurn};

impl SqliteFile {
    /// Stores the sessions that do not exist yet, in one transaction.
    pub(super) fn try_import(
        &mut self,
        logs: &[StoredLog],
        now: Timestamp,
    ) -> rusqlite::Result<Vec<Import>> {
        // Compared before the write lock is taken, which delays a gateway.
        let known =
            logs.iter().map(|log| self.compare(log, now)).collect::<rusqlite::Result<Vec<_>>>()?;
        if known.iter().all(Option::is_some) {
            return Ok(known.into_iter().flatten().collect());
        }
        let immediate = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(immediate)?;
        let mut done = Vec::with_capacity(logs.len());
        for (log, known) in logs.iter().zip(known) {
            done.push(match known {
                Some(known) => known,
                None => insert(&transaction, log)?,
            });
        }
        transaction.commit()?;
        Ok(done)
    }

    /// Returns the result if it is known without a write.
    fn compare(&self, log: &StoredLog, now: Timestamp) -> rusqlite::Result<Option<Import>> {
        let session = &log.stored.session;
        let moment = self.moment()?;
        if let Some(there) = file::find(&moment, session.id)? {
            // The stored session may have a later deadline and more messages.
            let known = reader::tokens(&moment, session.id)?;
            let page = |after| file::page(&moment, session.id, after);
            let same = log.is_there(&there, &known, page)?;
            return Ok(Some(if same { Import::AlreadyThere } else { Import::Differs }));
        }
        Ok((session.expires_at <= now).then_some(Import::Expired))
    }
}

fn insert(tx: &Transaction<'_>, log: &StoredLog) -> rusqlite::Result<Import> {
    let StoredSession { session, messages, last_activity } = &log.stored;
    for token in &log.tokens {
        // A token of another session stays, and with it that session.
        let sql = "SELECT 1 FROM tokens WHERE hash = ?1";
        if tx.prepare_cached(sql)?.exists([token.hash.as_bytes()])? {
            return Ok(Import::Differs);
        }
    }
    let newest_turn = log.messages.iter().rev().find(|message| message.user().is_some());
    let costs = log.messages.iter().map(|message| message.cost());
    let usage = costs.fold(Usage::default(), Usage::plus);
    // An existing session with this id stays.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO sessions
                 (id, name, epoch, created_at, expires_at, ends_at, delete_at, title, metadata,
                  subject, head_seq, newest_turn, input_tokens, output_tokens, usage_estimated,
                  cached_input_tokens, cache_write_tokens, reasoning_tokens, active_at, size)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18, ?19, ?20) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            Id(session.id),
            session.name.as_str(),
            session.epoch.as_str(),
            StoredTime(session.created_at),
            StoredTime(session.expires_at),
            StoredTime(session.ends_at),
            session.delete_at.map(StoredTime),
            session.title.as_deref(),
            session.metadata.to_json(),
            session.subject.as_deref(),
            messages,
            newest_turn.map_or(0, |message| message.seq),
            usage.input_tokens,
            usage.output_tokens,
            usage.estimated,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            StoredTime(*last_activity),
            log.messages.iter().map(|message| append::stored_size(message)).sum::<i64>(),
        ])?;
    if inserted == 0 {
        return Ok(Import::Differs);
    }
    for token in &log.tokens {
        sessions::insert_token(tx, session.id, token)?;
    }
    for message in &log.messages {
        append::insert(tx, session.id, message)?;
    }
    for UnansweredTurn { seq, attempt, partial } in &log.waiting {
        let Some(message) = log.messages.get(*seq as usize - 1) else { continue };
        tx.prepare_cached(
            "INSERT INTO turns (session, seq, message, attempt, text, parts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            Id(session.id),
            seq,
            Id(message.id),
            attempt,
            partial.text().as_ref(),
            rows::parts_column(partial)?,
        ])?;
    }
    Ok(Import::Imported)
}
