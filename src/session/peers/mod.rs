//! Follows the changes that other processes make to active sessions, and their replies.
//!
//! A note is a hint. A session whose notes may have been lost is compared with the store.

mod liveness;
pub(super) mod replies;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use super::{
    core::Core,
    live::registry::{Noted, SessionHandle},
    model::{ErrorKind, Result, SessionId},
    ports::{Note, Received},
    turn::{follow, recovery, runner::TurnRunner},
};

/// Interval at which all active sessions are compared with the store. It limits the time for which
/// a lost note goes unnoticed.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);

/// Wait before the sessions are compared again after notes were lost. Sessions that had to end are
/// loaded anew then, when their streams have ended.
const COMPARE_AGAIN: Duration = Duration::from_secs(2);

/// Most sessions that are compared at the same time.
const MAX_CONCURRENT: usize = 64;

/// Starts the tasks that follow other processes, if there can be any. They end when the store is
/// closed.
pub(super) fn start(core: &Arc<Core>) {
    if !core.peers.is_shared() {
        return;
    }
    let (ask, asked) = unbounded_channel();
    tokio::spawn(until_closed(Arc::clone(core), receive(Arc::clone(core), ask)));
    tokio::spawn(until_closed(Arc::clone(core), compare(Arc::clone(core), asked)));
    tokio::spawn(until_closed(Arc::clone(core), leave(Arc::clone(core))));
    tokio::spawn(until_closed(Arc::clone(core), replies::retry(Arc::clone(core))));
    tokio::spawn(until_closed(Arc::clone(core), liveness::run(Arc::clone(core))));
}

async fn until_closed(core: Arc<Core>, work: impl Future<Output = ()>) {
    core.closing.run_until_cancelled(work).await;
}

/// Sessions that are compared with the store once they are loaded.
type Loading = Arc<Mutex<HashSet<SessionId>>>;

/// The reason for a comparison of all active sessions with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Time has passed.
    Interval,
    /// Notes may have been lost.
    Interrupted,
    /// The store was emptied.
    Emptied,
}

async fn receive(core: Arc<Core>, ask: UnboundedSender<Reason>) {
    let loading = Loading::default();
    loop {
        match core.peers.receive().await {
            Received::Note(id, note) => match core.registry.noted(id) {
                Noted::Active(session) => take(&core, &session, note),
                Noted::Loading => take_once_loaded(&core, &loading, id, &note),
                Noted::Inactive => take_inactive(&core, id, &note),
            },
            Received::Message(from, id, message) => replies::take(&core, from, id, message),
            Received::Interrupted => {
                let _asked = ask.send(Reason::Interrupted);
            }
            Received::Emptied => {
                let _asked = ask.send(Reason::Emptied);
            }
        }
    }
}

fn take_inactive(core: &Arc<Core>, id: SessionId, note: &Note) {
    remember(core, note);
    let is_ours = match note {
        Note::HandedOver => true,
        // An append whose answer was lost has made this process the owner.
        Note::Appended { message, owner: None, .. } => {
            message.as_ref().is_none_or(|message| message.user().is_some())
        }
        _ => false,
    };
    if is_ours {
        begin_handed_over(core, id);
    }
}

fn begin_handed_over(core: &Arc<Core>, id: SessionId) {
    let core = Arc::clone(core);
    // A shutdown waits for it, or it finds that the shutdown has begun.
    let token = core.tasks.token();
    tokio::spawn(async move {
        let _token = token;
        if let Err(error) = follow::begin_handed_over(&core, id).await {
            tracing::warn!(session = %id, %error, "failed to begin turns that were handed over");
        }
    });
}

/// Streams that are opening with a revoked token ask for it once they are registered.
fn remember(core: &Core, note: &Note) {
    if let Note::TokenRevoked(token) = note {
        core.revoked_tokens.add(*token);
    }
}

fn take(core: &Arc<Core>, session: &SessionHandle, note: Note) {
    remember(core, &note);
    let published = match note {
        Note::Appended { seq, message, owner } => {
            if let Some(owner) = owner {
                session.set_owner(owner);
            }
            match message {
                Some(message) => session.publish(message),
                None => session.announce(seq),
            }
        }
        Note::HandedOver => return begin_handed_over(core, session.session().id),
        Note::OwnerChanged(owner) => {
            session.set_owner(owner);
            return core.ask_owner(session);
        }
        Note::TokenRevoked(token) => {
            return session.end_token(token, ErrorKind::SessionRevoked);
        }
        Note::Ended => return core.end_gone(session),
        Note::Stop { seq } => {
            // The turn may have been answered meanwhile.
            let _had_effect = session.stop(Some(seq));
            return;
        }
    };
    TurnRunner::start(core, session, published);
    if session.has_gap() {
        let (core, session) = (Arc::clone(core), session.clone());
        tokio::spawn(async move {
            follow::catch_up_if_behind(&core, &session, published).await;
        });
    } else {
        core.ask_owner(session);
    }
}

/// The load may have read the store before or after the change.
fn take_once_loaded(core: &Arc<Core>, loading: &Loading, id: SessionId, note: &Note) {
    remember(core, note);
    let is_first = loading.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    if is_first {
        let (core, loading) = (Arc::clone(core), Arc::clone(loading));
        tokio::spawn(async move {
            let session = core.registry.get_once_loaded(id).await;
            loading.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(session) = session {
                compare_and_report(&core, &session).await;
            }
        });
    }
}

async fn compare(core: Arc<Core>, mut asked: UnboundedReceiver<Reason>) {
    let mut wait = COMPARE_INTERVAL;
    loop {
        let mut reason = match timeout(wait, asked.recv()).await {
            Ok(Some(reason)) => reason,
            Ok(None) => return,
            Err(_) => Reason::Interval,
        };
        while let Ok(further) = asked.try_recv() {
            reason = reason.max(further);
        }
        compare_all(&core, reason).await;
        // Turns that were handed over to this process, without its knowledge, and those of sessions
        // that have ended under an epoch.
        if let Err(error) = recovery::resume_all(&core, None).await {
            tracing::error!(%error, cause = ?error, "failed to look for turns that no process runs");
        }
        let is_interval = reason == Reason::Interval;
        wait = if is_interval { COMPARE_INTERVAL } else { COMPARE_AGAIN };
    }
}

async fn compare_all(core: &Arc<Core>, reason: Reason) {
    if reason == Reason::Interrupted {
        tracing::warn!(
            "notes of other processes were lost; comparing all active sessions with the store"
        );
    }
    let lost = AtomicUsize::new(0);
    let compared =
        stream::iter(core.registry.all()).for_each_concurrent(MAX_CONCURRENT, |session| {
            let lost = &lost;
            async move {
                compare_and_report(core, &session).await;
                if session.check_readable().is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    compared.await;
    if reason == Reason::Emptied {
        let lost = lost.into_inner();
        core.metrics.lost_sessions(lost);
        tracing::error!(lost, "the store was emptied: its sessions are lost");
    }
}

async fn compare_and_report(core: &Arc<Core>, session: &SessionHandle) {
    if let Err(error) = compare_with_store(core, session).await {
        tracing::error!(session = %session.session().id, %error, cause = ?error, "failed to compare a session with the store");
    }
}

async fn compare_with_store(core: &Arc<Core>, session: &SessionHandle) -> Result<()> {
    follow::follow(core, session).await?;
    if session.check_readable().is_err() {
        return Ok(());
    }
    let tokens = core.store.tokens(session.session().id, core.clock.now()).await?;
    session.retain_tokens(&tokens.iter().map(|token| token.id).collect::<Vec<_>>());
    Ok(())
}

async fn leave(core: Arc<Core>) {
    loop {
        let sessions = core.registry.take_left().await;
        if let Err(error) = core.peers.leave(sessions).await {
            // The notes of these sessions are ignored.
            tracing::warn!(%error, "failed to leave sessions");
        }
        core.registry.registrations_ended();
    }
}
