//! Accepts a user message: commits it, publishes it, and starts its turn.

use std::sync::Arc;

use super::{follow, runner::TurnRunner};
use crate::session::{
    core::Core,
    eager_task::{EagerTask, spawn_eager},
    live::{event::Accepted, registry::SessionHandle},
    model::{Error, ErrorKind, MessageId, NewMessage, Regeneration, Result, TokenId},
    ports::{AppendLimits, NewTurn, Question},
    quota::Accounts,
};

/// Checks a user message and commits it. It is committed even if the returned task is dropped.
pub(in crate::session) fn send(
    core: &Arc<Core>,
    session: &SessionHandle,
    token: TokenId,
    accounts: &Accounts,
    message: NewMessage,
) -> EagerTask<Result<Accepted>> {
    if let Err(error) = message.check(&core.settings.messages) {
        return EagerTask::Done(Err(error));
    }
    let limits = core.append_limits(token);
    if let Err(error) = accounts.charge_message(message.content.size(), limits.now) {
        return refused(core, accounts, error);
    }
    let NewMessage { content, client_message_id, parent_seq, metadata, options } = message;
    let question = Question::New { content, parent_seq };
    // Options without any field are not stored.
    let options = options.filter(|options| !options.is_empty());
    let id = MessageId::generate();
    append(core, session, limits, NewTurn { id, client_message_id, metadata, options, question })
}

/// Checks the request for another reply and commits the question again.
pub(in crate::session) fn regenerate(
    core: &Arc<Core>,
    session: &SessionHandle,
    token: TokenId,
    accounts: &Accounts,
    again: Regeneration,
) -> EagerTask<Result<Accepted>> {
    if let Err(error) = again.check(&core.settings.messages) {
        return EagerTask::Done(Err(error));
    }
    let limits = core.append_limits(token);
    if let Err(error) = accounts.charge_message(0, limits.now) {
        return refused(core, accounts, error);
    }
    let Regeneration { seq, client_message_id, metadata, options } = again;
    let question = Question::Again { seq };
    let id = MessageId::generate();
    append(core, session, limits, NewTurn { id, client_message_id, metadata, options, question })
}

/// Refuses a message. An account that has used its share of the store may have room again: its part
/// is read for the next message.
fn refused(core: &Arc<Core>, accounts: &Accounts, error: Error) -> EagerTask<Result<Accepted>> {
    if error.kind() == ErrorKind::StoreFull {
        let (core, accounts) = (Arc::clone(core), accounts.clone());
        tokio::spawn(async move {
            if let Err(error) = accounts.read_shares(&*core.store, core.clock.now()).await {
                tracing::warn!(%error, "failed to read the share of a caller");
            }
        });
    }
    EagerTask::Done(Err(error))
}

fn append(
    core: &Arc<Core>,
    session: &SessionHandle,
    limits: AppendLimits,
    turn: NewTurn,
) -> EagerTask<Result<Accepted>> {
    // The task token is taken before the check: a shutdown waits for this call or refuses it.
    let token = core.tasks.token();
    if let Err(error) = session.check_open().and_then(|()| core.check_serving()) {
        return EagerTask::Done(Err(error));
    }
    let (core, session) = (Arc::clone(core), session.clone());
    spawn_eager(async move {
        let _token = token;
        commit(&core, &session, limits, turn).await
    })
}

async fn commit(
    core: &Arc<Core>,
    session: &SessionHandle,
    limits: AppendLimits,
    turn: NewTurn,
) -> Result<Accepted> {
    let id = session.session().id;
    let again = core.peers.is_shared().then(|| turn.clone());
    let mut appended = core.turns.append(id, turn, limits).await;
    if let (Err(error), Some(turn)) = (&appended, again)
        && error.is_store_restarted()
    {
        follow::follow(core, session).await?;
        session.check_open()?;
        appended = core.turns.append(id, turn, limits).await;
    }
    let appended = match appended {
        Ok(appended) => appended,
        Err(error) => {
            // The message may be in the log nevertheless.
            if error.kind() == ErrorKind::Internal {
                find_missing(core, session).await;
            }
            return Err(error);
        }
    };
    core.metrics.message(appended.duplicate);
    let published = session.publish_appended(&appended, limits.token);
    TurnRunner::start(core, session, published);
    follow::catch_up_if_behind(core, session, published).await;
    if appended.duplicate && appended.reply_seq.is_none() && core.peers.is_shared() {
        find_missing(core, session).await;
    }
    Ok(Accepted {
        message: appended.message,
        duplicate: appended.duplicate,
        reply_seq: appended.reply_seq,
    })
}

/// Finds a message whose append seemed to fail, and starts its turn.
async fn find_missing(core: &Arc<Core>, session: &SessionHandle) {
    if let Err(error) = follow::follow(core, session).await {
        tracing::error!(session = %session.session().id, %error, cause = ?error, "failed to catch up with the log");
    }
}
