//! The driver of one stream: performs the actions of its state.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    inbound::{Inbound, InboundSource},
    outbound::Outbound,
    record::StreamRecord,
    stream_state::{Action, Input, StreamState},
};
use crate::{
    session::{
        Accepted, Caller, EagerTask, Error, ErrorKind, Event, Gateway, Opened, Position, Result,
        Subscription, Token,
    },
    transport::{Settings, TransportContext},
};

/// One stream.
pub(in crate::transport) struct ClientStream {
    gateway: Gateway,
    settings: Arc<Settings>,
    caller: Caller,
    pub(in crate::transport) record: StreamRecord,
    state: StreamState,
    subscription: Option<Subscription>,
    /// A call of the core in progress. It is kept here, so that [`ClientStream::next`] can be
    /// dropped and called again.
    call: Option<BoxFuture<'static, CallResult>>,
    timer: Pin<Box<Sleep>>,
    /// Counts the inputs, for their order.
    inputs: u8,
}

enum CallResult {
    Attached(Result<Box<Attachment>>),
    Sent { client_message_id: Option<String>, result: Result<Accepted> },
}

/// The result of an attach.
struct Attachment {
    /// With the credential of the `open` frame, if it had one.
    caller: Caller,
    subscription: Subscription,
    opened: Opened,
}

impl ClientStream {
    /// Returns a stream that its first frame opens, or, if the handshake brought a token, that
    /// opens itself after a while without a frame.
    pub(in crate::transport) fn new(
        context: &TransportContext,
        caller: Caller,
        record: StreamRecord,
        token: Option<Token>,
    ) -> Self {
        let settings = &context.settings;
        let wait = if token.is_some() { settings.open_grace } else { settings.open_timeout };
        let timer = Box::pin(sleep(wait));
        Self { timer, ..Self::of(context, caller, record, StreamState::new(token)) }
    }

    /// Returns a stream that is attached already.
    pub(in crate::transport) fn attached(
        context: &TransportContext,
        caller: Caller,
        mut record: StreamRecord,
        subscription: Subscription,
        opened: Opened,
    ) -> Self {
        record.attached(opened.session.id, context.gateway.logged_address(&caller));
        let mut stream = Self::of(context, caller, record, StreamState::attached(opened));
        stream.subscription = Some(subscription);
        if stream.credential_deadline().is_some() {
            stream.restart_timer();
        }
        stream
    }

    /// Returns a stream that ends at once with an error in a frame.
    pub(in crate::transport) fn refused(
        context: &TransportContext,
        record: StreamRecord,
        error: Error,
    ) -> Self {
        Self::of(context, Caller::default(), record, StreamState::refused(error))
    }

    fn of(
        context: &TransportContext,
        caller: Caller,
        record: StreamRecord,
        state: StreamState,
    ) -> Self {
        let settings = Arc::clone(&context.settings);
        let timer = Box::pin(sleep(settings.heartbeat));
        let gateway = context.gateway.clone();
        let (subscription, call, inputs) = (None, None, 0);
        Self { gateway, settings, caller, record, state, subscription, call, timer, inputs }
    }

    /// Returns the next item for the client, and counts it. Cancel safe.
    pub(in crate::transport) async fn next(&mut self, frames: &mut impl InboundSource) -> Outbound {
        loop {
            let action = match self.state.next() {
                None => {
                    let mut input = self.input(frames).await;
                    if matches!(input, Input::Timer) {
                        input = self.timer_fired();
                    }
                    self.state.handle(input)
                }
                action => action,
            };
            if let Some(outbound) = action.and_then(|action| self.perform(action)) {
                self.record.count(&outbound);
                return outbound;
            }
        }
    }

    /// Returns true if [`Self::next`] may be ready at once.
    pub(in crate::transport) fn has_more(&self) -> bool {
        self.state.has_pending() || self.subscription.as_ref().is_some_and(Subscription::has_more)
    }

    /// Returns the position behind the last event. `None` before the stream is attached.
    pub(in crate::transport) fn position(&self) -> Option<Position> {
        self.subscription.as_ref().map(Subscription::position)
    }

    /// Waits for an input that the state accepts.
    async fn input(&mut self, frames: &mut impl InboundSource) -> Input {
        let accepts = self.state.accepts();
        if self.call.is_some() {
            return tokio::select! {
                biased;
                done = call_result(&mut self.call) => self.called(done),
                event = next_event(&mut self.subscription), if accepts.event => Input::Event(event),
            };
        }
        // Events come first, since asking a socket for a frame costs more. Every few inputs the
        // order is another: a subscription that always has an event starves neither a `stop` nor
        // the timer.
        self.inputs = self.inputs.wrapping_add(1);
        if self.inputs.is_multiple_of(8) {
            return tokio::select! {
                biased;
                () = self.timer.as_mut(), if accepts.timer => Input::Timer,
                inbound = next_inbound(frames), if accepts.client => Input::Client(inbound),
                event = next_event(&mut self.subscription), if accepts.event => Input::Event(event),
                () = self.gateway.draining(), if accepts.draining => Input::Draining,
            };
        }
        tokio::select! {
            biased;
            event = next_event(&mut self.subscription), if accepts.event => Input::Event(event),
            inbound = next_inbound(frames), if accepts.client => Input::Client(inbound),
            () = self.timer.as_mut(), if accepts.timer => Input::Timer,
            () = self.gateway.draining(), if accepts.draining => Input::Draining,
        }
    }

    fn called(&mut self, done: CallResult) -> Input {
        self.call = None;
        match done {
            CallResult::Attached(attached) => Input::Attached(attached.map(|attached| {
                let Attachment { caller, subscription, opened } = *attached;
                (self.caller, self.subscription) = (caller, Some(subscription));
                self.restart_timer();
                let address = self.gateway.logged_address(&self.caller);
                self.record.attached(opened.session.id, address);
                Box::new(opened)
            })),
            CallResult::Sent { client_message_id, result } => {
                log_failure(&result);
                Input::Sent { client_message_id, result }
            }
        }
    }

    /// Performs an action. Returns the item that it delivers.
    // Inline, as the functions of the state: most of a turn's actions are moves of large enums.
    #[inline]
    fn perform(&mut self, action: Action) -> Option<Outbound> {
        match action {
            Action::Deliver(outbound) => Some(outbound),
            Action::Attach { token, position, credential } => {
                let position = position.or_else(|| self.position());
                let (gateway, caller) = (self.gateway.clone(), self.caller.clone());
                let attach = async move {
                    let caller = gateway.identify(caller, credential.as_ref()).await?;
                    let (subscription, opened) =
                        gateway.attach(&caller, &token, position.as_ref()).await?;
                    Ok(Box::new(Attachment { caller, subscription, opened }))
                };
                self.call = Some(attach.map(CallResult::Attached).boxed());
                None
            }
            Action::Send { message, client_message_id } => {
                let sent = self.subscription.as_ref()?.send(message);
                self.sent(sent, client_message_id)
            }
            Action::Regenerate { again, client_message_id } => {
                let sent = self.subscription.as_ref()?.regenerate(again);
                self.sent(sent, client_message_id)
            }
            Action::Stop { seq } => match self.subscription.as_ref()?.stop(seq) {
                EagerTask::Done(Err(error)) => self.follow(Input::StopRefused(error)),
                // Another process may still have to be told, which does not hold the stream up.
                EagerTask::Done(Ok(_)) | EagerTask::Running(_) => None,
            },
        }
    }

    /// Handles the result of a commit, or keeps the commit in progress.
    fn sent(
        &mut self,
        sent: EagerTask<Result<Accepted>>,
        client_message_id: Option<String>,
    ) -> Option<Outbound> {
        match sent {
            EagerTask::Done(result) => {
                log_failure(&result);
                self.follow(Input::Sent { client_message_id, result })
            }
            running @ EagerTask::Running(_) => {
                let sent = |result| CallResult::Sent { client_message_id, result };
                self.call = Some(running.end().map(sent).boxed());
                None
            }
        }
    }

    /// Handles an input that an action has at once.
    fn follow(&mut self, input: Input) -> Option<Outbound> {
        let action = self.state.handle(input)?;
        self.perform(action)
    }

    /// Returns the time at which the credential expires that the stream is bound to.
    fn credential_deadline(&self) -> Option<Instant> {
        self.subscription.as_ref()?.credential_deadline()
    }

    fn timer_fired(&mut self) -> Input {
        let has_expired = |deadline| deadline <= Instant::now();
        if self.credential_deadline().is_some_and(has_expired) {
            return Input::CredentialExpired;
        }
        self.restart_timer();
        Input::Timer
    }

    /// Sets the timer to the next heartbeat, or to the end of the credential before it.
    fn restart_timer(&mut self) {
        let heartbeat = Instant::now() + self.settings.heartbeat;
        let next = self.credential_deadline().map_or(heartbeat, |end| end.min(heartbeat));
        self.timer.as_mut().reset(next);
    }
}

fn log_failure(result: &Result<Accepted>) {
    if let Err(error) = result
        && error.kind() == ErrorKind::Internal
    {
        tracing::error!(cause = ?error, "failed to send a message");
    }
}

async fn call_result(call: &mut Option<BoxFuture<'static, CallResult>>) -> CallResult {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

async fn next_inbound(frames: &mut impl InboundSource) -> Inbound {
    poll_fn(|cx| frames.poll_inbound(cx)).await
}

async fn next_event(subscription: &mut Option<Subscription>) -> Result<Event> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        responder::Simulated,
        session::{self, Epoch, NewMessage, NewToken, Storage},
        store::MemoryStore,
        transport::{
            codec::Codec,
            stream::{ClientRequest, Protocol},
        },
    };

    /// A client that always has another frame.
    struct Talkative;

    impl InboundSource for Talkative {
        fn poll_inbound(&mut self, _: &mut Context<'_>) -> std::task::Poll<Inbound> {
            std::task::Poll::Ready(Inbound::Request(ClientRequest::Ping))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_the_client_nor_the_subscription_nor_the_timer_starves_the_others() -> Result<()>
    {
        let storage = Storage::unshared(Arc::new(MemoryStore::new(1, 1 << 20)));
        let responder = Arc::new(Simulated::new("{text}", std::time::Duration::ZERO));
        let gateway = Gateway::start(session::Settings::default(), storage, responder).await?;
        let (draining, settings) = (CancellationToken::new(), Arc::default());
        let context = TransportContext { gateway: gateway.clone(), settings, draining };
        let caller = Caller::default();
        let new = NewToken { name: "Ada", ..NewToken::default() };
        let created = gateway.create_token(&caller, new).await?;
        for _ in 0..100 {
            gateway.send(&caller, &created.token, NewMessage::new("Hi", None)).await?;
        }
        let epoch: Epoch = created.session.epoch;
        let start = Position::new(epoch, 0);
        let attached = gateway.attach(&caller, &created.token, Some(&start)).await?;
        let record = StreamRecord::new(Protocol::WebSocket, Codec::Json.name());
        let mut stream = ClientStream::attached(&context, caller, record, attached.0, attached.1);
        tokio::time::advance(context.settings.heartbeat).await;
        let (mut pongs, mut messages, mut heartbeats) = (0, 0, 0);
        for _ in 0..100 {
            match stream.next(&mut Talkative).await {
                Outbound::Pong => pongs += 1,
                Outbound::Event(_) => messages += 1,
                Outbound::Heartbeat => heartbeats += 1,
                _ => {}
            }
        }
        assert!(pongs >= 10 && messages >= 10, "{pongs} pongs, {messages} messages");
        assert_eq!(heartbeats, 1);
        Ok(())
    }
}
