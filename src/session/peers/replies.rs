//! Replies across processes.
//!
//! The owner of a session is the process that answers its turns. Other processes ask the owner for the
//! reply in progress. The owner treats each of them as a subscriber.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use crate::session::{
    core::Core,
    live::{
        NewSubscriber, PeerSubscriber, Shown,
        event::{Event, EventFilter},
        registry::{Noted, SessionHandle},
        subscriber_queue::QueueCapacity,
    },
    model::{ErrorKind, ReplyPosition, SessionId, TokenRecord},
    ports::{NodeId, PeerMessage},
    turn::{follow, runner::TurnRunner},
};

/// Longest wait for the answer to [`PeerMessage::Watch`]. After it, the owner is read from the store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes a message of another process.
pub(super) fn take(core: &Arc<Core>, from: NodeId, id: SessionId, message: PeerMessage) {
    match (core.registry.noted(id), message) {
        (Noted::Active(session), message) => take_active(core, from, &session, message),
        (Noted::Loading, PeerMessage::Watch { wants_content, from: at }) => {
            let core = Arc::clone(core);
            tokio::spawn(async move {
                if let Some(session) = core.registry.get_once_loaded(id).await {
                    serve(&core, session, Watcher::new(from, wants_content), at);
                }
            });
        }
        (
            Noted::Inactive,
            PeerMessage::ReplyStarted(_) | PeerMessage::Delta(_) | PeerMessage::Part(_),
        ) => core.outbox.post(from, id, PeerMessage::Unwatch),
        (Noted::Loading | Noted::Inactive, _) => {}
    }
}

fn take_active(core: &Arc<Core>, from: NodeId, session: &SessionHandle, message: PeerMessage) {
    let shown = match message {
        PeerMessage::Watch { wants_content, from: at } => {
            return serve(core, session.clone(), Watcher::new(from, wants_content), at);
        }
        PeerMessage::Watched => return session.watched(from),
        PeerMessage::Unwatch => return session.unsubscribe_peer(from),
        PeerMessage::ReplyStarted(reply) => session.show_reply(from, reply),
        PeerMessage::Delta(delta) => session.show_content(from, Event::Delta(delta)),
        PeerMessage::Part(part) => session.show_content(from, Event::ReplyPart(part)),
    };
    match shown {
        Shown::Done => {}
        Shown::Gap => core.ask_owner(session),
        Shown::Unwanted => core.outbox.post(from, session.session().id, PeerMessage::Unwatch),
        // The owner is asked again when the messages are published.
        Shown::Behind(seq) => {
            let published = session.announce(seq);
            TurnRunner::start(core, session, published);
            let (core, session) = (Arc::clone(core), session.clone());
            tokio::spawn(async move {
                follow::catch_up_if_behind(&core, &session, published).await;
            });
        }
    }
}

/// Another process that watches the replies of a session.
#[derive(Clone, Copy)]
struct Watcher {
    node: NodeId,
    filter: EventFilter,
}

impl Watcher {
    const fn new(node: NodeId, wants_content: bool) -> Self {
        let filter = if wants_content { EventFilter::Progress } else { EventFilter::Nothing };
        Self { node, filter }
    }

    fn subscribe(
        self,
        core: &Core,
        session: &SessionHandle,
        at: Option<ReplyPosition>,
    ) -> Option<PeerSubscriber> {
        let settings = &core.settings;
        let capacity =
            QueueCapacity { events: settings.max_backlog_events, bytes: settings.max_backlog_size };
        session.subscribe_peer(self.node, self.filter, at, capacity)
    }
}

/// Sends the replies of a session to another process, if this one answers its turns.
fn serve(core: &Arc<Core>, session: SessionHandle, watcher: Watcher, at: Option<ReplyPosition>) {
    let subscriber = watcher.subscribe(core, &session, at);
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let subscriber = match subscriber {
            Some(subscriber) => subscriber,
            // The message may arrive before the store has told this process about its lease.
            None => {
                if let Err(error) = follow::follow(&core, &session).await {
                    tracing::debug!(session = %session.session().id, %error, "failed to read a session for another process");
                }
                let Some(subscriber) = watcher.subscribe(&core, &session, at) else { return };
                subscriber
            }
        };
        let closing = core.closing.clone();
        closing.run_until_cancelled(send(&core, &session, watcher, subscriber)).await;
    });
}

async fn send(
    core: &Core,
    session: &SessionHandle,
    watcher: Watcher,
    mut subscriber: PeerSubscriber,
) {
    let (id, node) = (session.session().id, watcher.node);
    core.outbox.post(node, id, PeerMessage::Watched);
    loop {
        if let Some(mut reply) = subscriber.reply.take() {
            if let Some(started) = reply.started.take() {
                send_event(core, session, node, Event::ReplyStarted(Arc::new(started))).await;
            }
            for event in reply.events {
                send_event(core, session, node, event).await;
            }
        }
        match poll_fn(|cx| subscriber.queue.poll_next(cx)).await {
            Ok(event) => send_event(core, session, node, event).await,
            // The other process reads too slowly. It receives the reply from its start.
            Err(ErrorKind::SlowConsumer) => match watcher.subscribe(core, session, None) {
                Some(again) => subscriber = again,
                None => return,
            },
            Err(_) => return,
        }
    }
}

async fn send_event(core: &Core, session: &SessionHandle, node: NodeId, event: Event) {
    let message = match event {
        Event::ReplyStarted(started) => {
            let started = Arc::unwrap_or_clone(started);
            let Some(reply) = session.local_reply(started) else { return };
            PeerMessage::ReplyStarted(reply)
        }
        Event::Delta(delta) => PeerMessage::Delta(delta),
        Event::ReplyPart(part) => PeerMessage::Part(part),
        Event::Message(_) | Event::GoAway(_) => return,
    };
    core.outbox.send(node, session.session().id, message).await;
}

/// Waits until the reply in progress of another process has arrived up to a position, so that a
/// subscriber can continue there. After 500 ms it gives up, and the subscriber receives the reply from
/// its start.
pub(in crate::session) async fn wait_for(
    core: &Core,
    session: &SessionHandle,
    token: &TokenRecord,
    at: &ReplyPosition,
) {
    const LONGEST: Duration = Duration::from_millis(500);
    if !session.waits_for_reply(at) {
        return;
    }
    let capacity = QueueCapacity { events: usize::MAX, bytes: core.settings.max_backlog_size };
    let subscribed = session.subscribe(None, EventFilter::Progress, token, capacity, usize::MAX);
    let Ok(NewSubscriber { queue, .. }) = subscribed else { return };
    core.ask_owner(session);
    let arrived = async {
        while session.waits_for_reply(at) {
            if poll_fn(|cx| queue.poll_next(cx)).await.is_err() {
                return;
            }
        }
    };
    let _arrived_or_not = timeout(LONGEST, arrived).await;
    session.unsubscribe(&queue);
}

/// Asks again if an owner has not answered: a message was lost, or the session has another owner.
pub(super) async fn retry(core: Arc<Core>) {
    let mut asked: VecDeque<(Instant, SessionId)> = VecDeque::new();
    loop {
        let next = asked.front().map(|(at, _)| *at + ANSWER_TIMEOUT);
        tokio::select! {
            id = core.asked.next() => asked.push_back((Instant::now(), id)),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some((_, id)) = asked.pop_front()
                    && let Some(session) = core.registry.get(id)
                    && session.forget_unanswered_watch()
                {
                    tokio::spawn(ask_again(Arc::clone(&core), session));
                }
            }
        }
    }
}

async fn ask_again(core: Arc<Core>, session: SessionHandle) {
    if let Err(error) = follow::follow(&core, &session).await {
        tracing::warn!(session = %session.session().id, %error, "failed to find the owner of a session");
    }
    core.ask_owner(&session);
}
