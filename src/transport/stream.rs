//! What a stream does, whatever carries it: open, say, stop, listen, end.
//!
//! A [`ClientStream`] takes decoded asks and gives typed outputs; WebSocket, gRPC and
//! SSE differ only in how they read the one and write the other.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};

use super::{Settings, auth};
use crate::session::{
    Accepted, EagerTask, Error, ErrorKind, Event, Gateway, MessageId, NewMessage, Opened, Position,
    Result, SessionId, Subscription, Token,
};

/// What a client asks.
#[derive(Debug)]
pub(super) enum ClientRequest {
    Open { token: Option<String>, position: Option<Position> },
    Send { text: String, client_message_id: Option<String> },
    Stop,
    Ping,
}

/// What comes from a client's side of a stream.
#[derive(Debug)]
pub(super) enum Inbound {
    Request(ClientRequest),
    /// A frame that could not be read; the stream goes on.
    Refused(Error),
    /// The client has said all it wants to say, and listens.
    HalfClosed,
    /// The client is gone, or must go.
    Gone(Option<Error>),
}

/// Where asks come from. Cancel safe: what was not returned is not lost.
pub(super) trait Frames {
    fn poll_inbound(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Inbound>;
}

/// A stream on which the client only listens.
#[derive(Debug)]
pub(super) struct ListenOnly;

impl Frames for ListenOnly {
    fn poll_inbound(&mut self, _: &mut std::task::Context<'_>) -> Poll<Inbound> {
        Poll::Pending
    }
}

/// What a client is told.
#[derive(Debug)]
pub(super) enum Outbound {
    Opened(Box<Opened>),
    Accepted(Accepted),
    Event(Event),
    /// An ask was refused; the stream goes on.
    Refused {
        error: Error,
        client_message_id: Option<String>,
    },
    Pong,
    /// Nothing happened for a while: a sign of life is due.
    Heartbeat,
    /// The stream ends. Nothing follows.
    End(Result<()>),
}

/// The state of one stream.
pub(super) struct ClientStream {
    gateway: Gateway,
    settings: Arc<Settings>,
    /// The token that came with the handshake or the first `open`.
    credential: Option<Token>,
    subscription: Option<Subscription>,
    /// A call of the core in progress. It is kept here and not awaited in place, so
    /// that [`ClientStream::next`] can be dropped and called again.
    busy: Option<BoxFuture<'static, Done>>,
    /// That call commits a message.
    sending: bool,
    /// What came while a message of this stream is being committed, and waits for the
    /// answer: it may be that message. Boxed, since it is seldom there.
    held: Option<Box<Result<Event>>>,
    /// Came before the stream was attached.
    first: Option<ClientRequest>,
    awaited: Awaited,
    half_closed: bool,
    timer: Pin<Box<Sleep>>,
}

enum Done {
    Attached(Result<(Subscription, Opened)>),
    Sent { client_message_id: Option<String>, result: Result<Accepted> },
}

/// What must have been delivered before a half-closed stream may end.
#[derive(Debug, Default)]
struct Awaited {
    /// User messages sent here that have not been answered.
    turns: Vec<MessageId>,
    /// Number of the last message that was committed before the stream was opened, or
    /// of an answer that was committed before its question was sent again.
    seq: u32,
}

impl ClientStream {
    /// A stream that is to be opened by its first frame, or, if the handshake brought a
    /// token, after a while without one.
    pub(super) fn new(
        gateway: Gateway,
        settings: Arc<Settings>,
        credential: Option<Token>,
    ) -> Self {
        let wait = if credential.is_some() { settings.open_grace } else { settings.open_timeout };
        Self {
            gateway,
            credential,
            subscription: None,
            busy: None,
            sending: false,
            held: None,
            first: None,
            awaited: Awaited::default(),
            half_closed: false,
            timer: Box::pin(sleep(wait)),
            settings,
        }
    }

    /// A stream that is attached already.
    pub(super) fn attached(
        gateway: Gateway,
        settings: Arc<Settings>,
        subscription: Subscription,
    ) -> Self {
        let timer = Box::pin(sleep(settings.heartbeat));
        Self { subscription: Some(subscription), timer, ..Self::new(gateway, settings, None) }
    }

    /// A stream that ends before it begins: the failure is told in a frame.
    pub(super) fn refused(gateway: Gateway, settings: Arc<Settings>, error: Error) -> Self {
        let refuse = std::future::ready(Done::Attached(Err(error)));
        Self { busy: Some(refuse.boxed()), ..Self::new(gateway, settings, None) }
    }

    /// The session it is attached to.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.subscription.as_ref().map(Subscription::session)
    }

    /// The next thing to tell the client. Cancel safe.
    pub(super) async fn next(&mut self, frames: &mut impl Frames) -> Outbound {
        loop {
            if self.busy.is_some() {
                return self.while_busy().await;
            }
            if let Some(event) = self.held.take() {
                return self.event(*event);
            }
            if let Some(ask) = self.first.take_if(|_| self.subscription.is_some()) {
                if let Some(outbound) = self.ask(ask) {
                    return outbound;
                }
                continue;
            }
            if self.is_over() {
                return Outbound::End(Ok(()));
            }
            let outbound = tokio::select! {
                event = next_event(&mut self.subscription) => Some(self.event(event)),
                inbound = poll_fn(|cx| frames.poll_inbound(cx)), if !self.half_closed => self.inbound(inbound),
                () = self.timer.as_mut() => self.tick(),
                // Those that are attached are told by their session.
                () = self.gateway.draining(), if self.subscription.is_none() => {
                    Some(Outbound::End(Err(ErrorKind::Draining.into())))
                }
            };
            if let Some(outbound) = outbound {
                return outbound;
            }
        }
    }

    /// Whether [`Self::next`] may have something to tell at once.
    pub(super) fn has_more(&self) -> bool {
        self.held.is_some() || self.subscription.as_ref().is_some_and(Subscription::has_more)
    }

    /// The call in progress comes to its end. A commit may take as long as a disk does, so
    /// a reply goes on beside it; from the first message on, events wait: a client is told
    /// that its message is accepted before it is told the message.
    async fn while_busy(&mut self) -> Outbound {
        loop {
            let passes = self.sending && self.held.is_none();
            tokio::select! {
                biased;
                done = done(&mut self.busy) => {
                    self.busy = None;
                    return self.finish(done);
                }
                event = next_event(&mut self.subscription), if passes => match event {
                    Ok(event @ (Event::Delta { .. } | Event::ReplyStarted(_))) => {
                        return Outbound::Event(event);
                    }
                    event @ (Ok(Event::Message(_) | Event::GoAway(_)) | Err(_)) => {
                        self.held = Some(Box::new(event));
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let delivered = self.subscription.as_ref().map_or(u32::MAX, Subscription::delivered);
        self.half_closed && self.awaited.turns.is_empty() && self.awaited.seq <= delivered
    }

    fn event(&mut self, event: Result<Event>) -> Outbound {
        match event {
            Ok(event) => {
                if let Event::Message(message) = &event
                    && let Some(answered) = message.in_reply_to()
                {
                    self.awaited.turns.retain(|turn| *turn != answered);
                }
                Outbound::Event(event)
            }
            Err(error) => Outbound::End(Err(error)),
        }
    }

    fn inbound(&mut self, inbound: Inbound) -> Option<Outbound> {
        match inbound {
            Inbound::Request(ask) => self.ask(ask),
            Inbound::Refused(error) => Some(Outbound::Refused { error, client_message_id: None }),
            Inbound::HalfClosed => {
                self.half_closed = true;
                None
            }
            Inbound::Gone(None) => Some(Outbound::End(Ok(()))),
            Inbound::Gone(Some(error)) => Some(Outbound::End(Err(error))),
        }
    }

    fn tick(&mut self) -> Option<Outbound> {
        self.restart_timer();
        if self.subscription.is_some() {
            return Some(Outbound::Heartbeat);
        }
        match self.credential.clone() {
            Some(token) => {
                self.attach(token, None);
                None
            }
            None => Some(Outbound::End(Err(ErrorKind::OpenTimeout.into()))),
        }
    }

    fn ask(&mut self, ask: ClientRequest) -> Option<Outbound> {
        match (ask, &self.subscription) {
            (ClientRequest::Ping, _) => Some(Outbound::Pong),
            (ClientRequest::Open { token, position }, _) => self.open(token.as_deref(), position),
            (ClientRequest::Send { text, client_message_id }, Some(_)) => {
                self.send(text, client_message_id)
            }
            (ClientRequest::Stop, Some(subscription)) => {
                // Its effect is the reply's terminal message; without a reply it has none.
                let _had_effect = subscription.stop();
                None
            }
            (ask @ (ClientRequest::Send { .. } | ClientRequest::Stop), None) => {
                match self.credential.clone() {
                    Some(token) => {
                        self.first = Some(ask);
                        self.attach(token, None);
                        None
                    }
                    None => Some(Outbound::End(Err(ErrorKind::MissingToken.into()))),
                }
            }
        }
    }

    fn open(&mut self, token: Option<&str>, position: Option<Position>) -> Option<Outbound> {
        let credential = self.credential.as_ref().map(Token::expose);
        match auth::one_of([credential.as_deref(), token]) {
            Ok(Some(token)) => {
                self.credential = Some(token.clone());
                // One that is opened again goes on from where it is.
                let position = position.or_else(|| Some(self.subscription.as_ref()?.position()));
                self.attach(token, position);
                None
            }
            Ok(None) => Some(Outbound::End(Err(ErrorKind::MissingToken.into()))),
            Err(error) => Some(Outbound::End(Err(error))),
        }
    }

    fn attach(&mut self, token: Token, position: Option<Position>) {
        let gateway = self.gateway.clone();
        let attach = async move { gateway.attach(&token, position.as_ref()).await };
        self.busy = Some(attach.map(Done::Attached).boxed());
        self.sending = false;
    }

    fn send(&mut self, text: String, client_message_id: Option<String>) -> Option<Outbound> {
        let max_size = self.gateway.settings().max_message_size;
        match NewMessage::parse(text, client_message_id.as_deref(), max_size) {
            Ok(draft) => match self.subscription.as_ref()?.send(draft) {
                EagerTask::Done(result) => {
                    Some(self.finish(Done::Sent { client_message_id, result }))
                }
                running @ EagerTask::Running(_) => {
                    let sent = |result| Done::Sent { client_message_id, result };
                    self.busy = Some(running.end().map(sent).boxed());
                    self.sending = true;
                    None
                }
            },
            Err(error) => Some(Outbound::Refused { error, client_message_id }),
        }
    }

    fn finish(&mut self, done: Done) -> Outbound {
        match done {
            Done::Attached(Ok((subscription, opened))) => {
                self.restart_timer();
                // A half-closed stream ends when it has the replay that it asked for …
                self.awaited.seq = self.awaited.seq.max(opened.head_seq);
                // … and one that is opened again does not wait for answers that are in it,
                // or before it.
                self.awaited.turns.retain(|turn| opened.unanswered.contains(turn));
                self.subscription = Some(subscription);
                Outbound::Opened(Box::new(opened))
            }
            Done::Attached(Err(error)) => Outbound::End(Err(error)),
            Done::Sent { result: Ok(accepted), .. } => {
                self.awaited.await_reply_to(&accepted);
                Outbound::Accepted(accepted)
            }
            Done::Sent { client_message_id, result: Err(error) } => match error.kind() {
                // The stream's own end is on its way, with the events before it.
                ErrorKind::SessionExpired | ErrorKind::SessionRevoked => Outbound::End(Err(error)),
                ErrorKind::Internal => {
                    tracing::error!(cause = ?error, "a message could not be sent");
                    Outbound::Refused { error, client_message_id }
                }
                _ => Outbound::Refused { error, client_message_id },
            },
        }
    }

    fn restart_timer(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.settings.heartbeat);
    }
}

impl Awaited {
    fn await_reply_to(&mut self, accepted: &Accepted) {
        match accepted.reply_seq {
            Some(seq) => self.seq = self.seq.max(seq),
            None if self.turns.contains(&accepted.message.id) => {}
            None => self.turns.push(accepted.message.id),
        }
    }
}

async fn done(busy: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match busy {
        Some(busy) => busy.await,
        None => std::future::pending().await,
    }
}

async fn next_event(subscription: &mut Option<Subscription>) -> Result<Event> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
