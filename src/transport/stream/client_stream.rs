//! The state of one stream.

use std::{future::poll_fn, pin::Pin, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    inbound::{ClientRequest, Inbound, InboundSource},
    outbound::Outbound,
    record::StreamRecord,
};
use crate::{
    session::{
        Accepted, Caller, EagerTask, Error, ErrorKind, Event, Gateway, MessageId, Opened, Position,
        Result, Subscription, Token,
    },
    transport::{Settings, TransportContext, auth},
};

/// The state of one stream.
pub(in crate::transport) struct ClientStream {
    gateway: Gateway,
    settings: Arc<Settings>,
    caller: Caller,
    pub(in crate::transport) record: StreamRecord,
    start: Option<Box<Opened>>,
    /// The token that came with the handshake or the first `open`.
    credential: Option<Token>,
    subscription: Option<Subscription>,
    /// A call of the core in progress. It is kept here, so that [`ClientStream::next`] can be
    /// dropped and called again.
    call: Option<BoxFuture<'static, CallResult>>,
    /// The call commits a message.
    sending: bool,
    /// An event that arrived while a message of this stream is being committed. It waits for the
    /// acknowledgement, since it may be that message. Boxed, since it is rare.
    held_event: Option<Box<Result<Event>>>,
    /// A request that arrived before the stream was attached.
    first: Option<ClientRequest>,
    awaited: AwaitedReplies,
    half_closed: bool,
    timer: Pin<Box<Sleep>>,
}

enum CallResult {
    Attached(Result<(Subscription, Opened)>),
    Sent { client_message_id: Option<String>, result: Result<Accepted> },
}

/// The deliveries that a half-closed stream waits for before it ends.
#[derive(Debug, Default)]
struct AwaitedReplies {
    /// User messages of this stream without a reply.
    turns: Vec<MessageId>,
    /// Number of the last message at the time of the subscription, or of the reply to a message
    /// that was sent again.
    seq: u32,
}

impl ClientStream {
    /// Returns a stream that its first frame opens, or, if the handshake brought a token, that
    /// opens itself after a while without a frame.
    pub(in crate::transport) fn new(
        context: &TransportContext,
        caller: Caller,
        record: StreamRecord,
        credential: Option<Token>,
    ) -> Self {
        let settings = Arc::clone(&context.settings);
        let wait = if credential.is_some() { settings.open_grace } else { settings.open_timeout };
        Self {
            gateway: context.gateway.clone(),
            caller,
            record,
            start: None,
            credential,
            subscription: None,
            call: None,
            sending: false,
            held_event: None,
            first: None,
            awaited: AwaitedReplies::default(),
            half_closed: false,
            timer: Box::pin(sleep(wait)),
            settings,
        }
    }

    /// Returns a stream that is attached already.
    pub(in crate::transport) fn attached(
        context: &TransportContext,
        caller: Caller,
        mut record: StreamRecord,
        subscription: Subscription,
        opened: Opened,
    ) -> Self {
        record.attached(opened.session.id);
        Self {
            subscription: Some(subscription),
            start: Some(Box::new(opened)),
            timer: Box::pin(sleep(context.settings.heartbeat)),
            ..Self::new(context, caller, record, None)
        }
    }

    /// Returns a stream that ends at once with an error in a frame.
    pub(in crate::transport) fn refused(
        context: &TransportContext,
        caller: Caller,
        record: StreamRecord,
        error: Error,
    ) -> Self {
        let refuse = std::future::ready(CallResult::Attached(Err(error)));
        Self { call: Some(refuse.boxed()), ..Self::new(context, caller, record, None) }
    }

    /// Returns the next item for the client, and counts it. Cancel safe.
    pub(in crate::transport) async fn next(&mut self, frames: &mut impl InboundSource) -> Outbound {
        let outbound = match self.start.take() {
            Some(opened) => Outbound::Opened(opened),
            None => self.run(frames).await,
        };
        self.record.count(&outbound);
        outbound
    }

    async fn run(&mut self, frames: &mut impl InboundSource) -> Outbound {
        loop {
            if self.call.is_some() {
                return self.while_busy().await;
            }
            if let Some(event) = self.held_event.take() {
                return self.event(*event);
            }
            if let Some(request) = self.first.take_if(|_| self.subscription.is_some()) {
                if let Some(outbound) = self.request(request) {
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
                // A session ends its attached streams itself.
                () = self.gateway.draining(), if self.subscription.is_none() => {
                    Some(Outbound::End(Err(ErrorKind::Draining.into())))
                }
            };
            if let Some(outbound) = outbound {
                return outbound;
            }
        }
    }

    /// Returns true if [`Self::next`] may be ready at once.
    pub(in crate::transport) fn has_more(&self) -> bool {
        self.held_event.is_some() || self.subscription.as_ref().is_some_and(Subscription::has_more)
    }

    /// Returns the position behind the last event. `None` before the stream is attached.
    pub(in crate::transport) fn position(&self) -> Option<Position> {
        self.subscription.as_ref().map(Subscription::position)
    }

    /// Waits for the call in progress. A commit may take long, so the deltas of a reply are
    /// delivered meanwhile. From the first message on, events wait: a client gets the
    /// acknowledgement of its message before the message itself.
    async fn while_busy(&mut self) -> Outbound {
        loop {
            let passes = self.sending && self.held_event.is_none();
            tokio::select! {
                biased;
                done = call_result(&mut self.call) => {
                    self.call = None;
                    return self.finish(done);
                }
                event = next_event(&mut self.subscription), if passes => match event {
                    Ok(event @ (Event::Delta(_) | Event::ReplyPart(_) | Event::ReplyStarted(_))) => {
                        return Outbound::Event(event);
                    }
                    event @ (Ok(Event::Message(_) | Event::GoAway(_)) | Err(_)) => {
                        self.held_event = Some(Box::new(event));
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
                if let Event::Message(event) = &event
                    && let Some(answered) = event.message.in_reply_to()
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
            Inbound::Request(request) => self.request(request),
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

    fn request(&mut self, request: ClientRequest) -> Option<Outbound> {
        let subscription = match &self.subscription {
            Some(subscription) => subscription,
            None => return self.request_before_open(request),
        };
        match request {
            ClientRequest::Ping => Some(Outbound::Pong),
            ClientRequest::Open { token, position } => self.open(token.as_deref(), position),
            ClientRequest::Send { message, client_message_id } => {
                let sent = match message {
                    Ok(message) => subscription.send(message),
                    Err(error) => EagerTask::Done(Err(error)),
                };
                self.sent(sent, client_message_id)
            }
            ClientRequest::Regenerate { again, client_message_id } => {
                let sent = subscription.regenerate(again);
                self.sent(sent, client_message_id)
            }
            // The effect is the terminal message of the reply. Without a reply there is none.
            ClientRequest::Stop { seq } => match subscription.stop(seq) {
                EagerTask::Done(Err(error)) => {
                    Some(Outbound::Refused { error, client_message_id: None })
                }
                // Another process may still have to be told, which does not hold the stream up.
                EagerTask::Done(Ok(_)) | EagerTask::Running(_) => None,
            },
        }
    }

    /// Returns the answer to a message, or keeps the commit in progress.
    fn sent(
        &mut self,
        sent: EagerTask<Result<Accepted>>,
        client_message_id: Option<String>,
    ) -> Option<Outbound> {
        match sent {
            EagerTask::Done(result) => {
                Some(self.finish(CallResult::Sent { client_message_id, result }))
            }
            running @ EagerTask::Running(_) => {
                let sent = |result| CallResult::Sent { client_message_id, result };
                self.call = Some(running.end().map(sent).boxed());
                self.sending = true;
                None
            }
        }
    }

    /// Attaches with the token of the handshake before it handles a request.
    fn request_before_open(&mut self, request: ClientRequest) -> Option<Outbound> {
        match request {
            ClientRequest::Ping => Some(Outbound::Pong),
            ClientRequest::Open { token, position } => self.open(token.as_deref(), position),
            ClientRequest::Send { .. }
            | ClientRequest::Regenerate { .. }
            | ClientRequest::Stop { .. } => match self.credential.clone() {
                Some(token) => {
                    self.first = Some(request);
                    self.attach(token, None);
                    None
                }
                None => Some(Outbound::End(Err(ErrorKind::MissingToken.into()))),
            },
        }
    }

    fn open(&mut self, token: Option<&str>, position: Option<Position>) -> Option<Outbound> {
        let credential = self.credential.as_ref().map(Token::expose);
        match auth::one_of([credential.as_deref(), token]) {
            Ok(Some(token)) => {
                self.credential = Some(token.clone());
                // A second `open` without a position continues from the current one.
                let position = position.or_else(|| Some(self.subscription.as_ref()?.position()));
                self.attach(token, position);
                None
            }
            Ok(None) => Some(Outbound::End(Err(ErrorKind::MissingToken.into()))),
            Err(error) => Some(Outbound::End(Err(error))),
        }
    }

    fn attach(&mut self, token: Token, position: Option<Position>) {
        let (gateway, caller) = (self.gateway.clone(), self.caller.clone());
        let attach = async move { gateway.attach(&caller, &token, position.as_ref()).await };
        self.call = Some(attach.map(CallResult::Attached).boxed());
        self.sending = false;
    }

    fn finish(&mut self, done: CallResult) -> Outbound {
        match done {
            CallResult::Attached(Ok((subscription, opened))) => {
                self.restart_timer();
                self.record.attached(opened.session.id);
                // A half-closed stream delivers its replay before it ends.
                self.awaited.seq = self.awaited.seq.max(opened.head_seq);
                // It does not wait for replies that the replay contains, or that precede it.
                self.awaited.turns.retain(|turn| opened.unanswered.contains(turn));
                self.subscription = Some(subscription);
                Outbound::Opened(Box::new(opened))
            }
            CallResult::Attached(Err(error)) => Outbound::End(Err(error)),
            CallResult::Sent { result: Ok(accepted), .. } => {
                self.awaited.await_reply_to(&accepted);
                Outbound::Accepted(accepted)
            }
            CallResult::Sent { client_message_id, result: Err(error) } => {
                let session_ended = [ErrorKind::SessionExpired, ErrorKind::SessionRevoked];
                if session_ended.contains(&error.kind()) {
                    return Outbound::End(Err(error));
                }
                if error.kind() == ErrorKind::Internal {
                    tracing::error!(cause = ?error, "failed to send a message");
                }
                Outbound::Refused { error, client_message_id }
            }
        }
    }

    fn restart_timer(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.settings.heartbeat);
    }
}

impl AwaitedReplies {
    fn await_reply_to(&mut self, accepted: &Accepted) {
        match accepted.reply_seq {
            Some(seq) => self.seq = self.seq.max(seq),
            None if self.turns.contains(&accepted.message.id) => {}
            None => self.turns.push(accepted.message.id),
        }
    }
}

async fn call_result(call: &mut Option<BoxFuture<'static, CallResult>>) -> CallResult {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

async fn next_event(subscription: &mut Option<Subscription>) -> Result<Event> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
