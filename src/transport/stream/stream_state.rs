//! The rules of one stream: pure, without I/O and without a clock.
//!
//! [`ClientStream`](super::ClientStream) feeds it with inputs and performs its actions.

use super::{
    inbound::{ClientRequest, Inbound},
    outbound::Outbound,
};
use crate::{
    session::{
        Accepted, Credential, Error, ErrorKind, Event, MessageId, NewMessage, Opened, Position,
        Regeneration, Result, Token,
    },
    transport::auth,
};

/// An input of the stream.
#[derive(Debug)]
pub(super) enum Input {
    /// An item from the client.
    Client(Inbound),
    /// The next event of the subscription, or the reason of its end.
    Event(Result<Event>),
    /// The result of [`Action::Attach`]. The stream then has a subscription.
    Attached(Result<Box<Opened>>),
    /// The result of [`Action::Send`] or [`Action::Regenerate`].
    Sent { client_message_id: Option<String>, result: Result<Accepted> },
    /// [`Action::Stop`] was refused.
    StopRefused(Error),
    /// The timer has fired: that of the first frame, later that of the heartbeat.
    Timer,
    /// The timer has fired, and the credential that the stream is bound to has expired.
    CredentialExpired,
    /// The gateway shuts down.
    Draining,
}

/// An action for the driver of the stream.
#[derive(Debug)]
pub(super) enum Action {
    /// Give an item to the client.
    Deliver(Outbound),
    /// Attach to the session of a token. Without a position: continue from the current one, or from
    /// the head of the log. A credential replaces the earlier one.
    Attach { token: Token, position: Option<Position>, credential: Option<Credential> },
    /// Send a message.
    Send { message: NewMessage, client_message_id: Option<String> },
    /// Ask a question again.
    Regenerate { again: Regeneration, client_message_id: Option<String> },
    /// Stop a turn. The effect is the terminal message of the reply. Without a reply there is none.
    Stop { seq: Option<u32> },
}

/// The inputs that the stream accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) client: bool,
    pub(super) event: bool,
    pub(super) timer: bool,
    pub(super) draining: bool,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct StreamState {
    phase: Phase,
    /// The token that came with the handshake or the first `open`.
    token: Option<Token>,
    /// Waits until the phase admits it. Boxed, since it is rare.
    pending: Option<Box<Pending>>,
    awaited: AwaitedReplies,
    /// Number of the last message that was delivered.
    delivered: u32,
    half_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the first frame.
    Opening,
    /// An attach runs.
    Attaching,
    /// Requests are handled and events are delivered.
    Attached,
    /// A commit runs. It may take long, so the deltas of a reply are delivered meanwhile.
    Sending,
    /// The end was delivered.
    Ended,
}

#[derive(Debug)]
enum Pending {
    /// The beginning of a stream that is attached already.
    Opened(Box<Opened>),
    /// The end of a stream that was refused.
    Refused(Error),
    /// A request that arrived before the stream was attached.
    Request(ClientRequest),
    /// An event that arrived during a commit. It waits for the acknowledgement, since it may be that
    /// message.
    Event(Result<Event>),
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

impl StreamState {
    /// Returns a stream that its first frame opens, or that attaches itself with the token of the
    /// handshake.
    pub(super) fn new(token: Option<Token>) -> Self {
        Self {
            phase: Phase::Opening,
            token,
            pending: None,
            awaited: AwaitedReplies::default(),
            delivered: 0,
            half_closed: false,
        }
    }

    /// Returns a stream that is attached already.
    pub(super) fn attached(opened: Opened) -> Self {
        let mut state = Self::new(None);
        state.begin(&opened);
        Self { pending: Some(Box::new(Pending::Opened(Box::new(opened)))), ..state }
    }

    /// Returns a stream that ends at once with an error.
    pub(super) fn refused(error: Error) -> Self {
        Self { pending: Some(Box::new(Pending::Refused(error))), ..Self::new(None) }
    }

    /// Returns true if an input waits for the phase to admit it.
    pub(super) const fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns the inputs that the stream accepts now. The result of a running call is always
    /// accepted.
    #[inline]
    pub(super) fn accepts(&self) -> Accepts {
        let is_idle = matches!(self.phase, Phase::Opening | Phase::Attached);
        Accepts {
            client: is_idle && !self.half_closed,
            event: match self.phase {
                Phase::Attached => true,
                Phase::Sending => self.pending.is_none(),
                Phase::Opening | Phase::Attaching | Phase::Ended => false,
            },
            timer: is_idle,
            // A session ends its attached streams itself.
            draining: self.phase == Phase::Opening,
        }
    }

    /// Returns an action that follows from earlier inputs.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Action> {
        if !matches!(self.phase, Phase::Opening | Phase::Attached) {
            return None;
        }
        match self.pending.take().map(|pending| *pending) {
            Some(Pending::Opened(opened)) => Some(Action::Deliver(Outbound::Opened(opened))),
            Some(Pending::Refused(error)) => Some(self.end(Err(error))),
            Some(Pending::Request(request)) => self.request(request),
            Some(Pending::Event(event)) => Some(self.event(event)),
            None => self.is_over().then(|| self.end(Ok(()))),
        }
    }

    /// Handles an input, and returns the action that it demands.
    #[inline]
    pub(super) fn handle(&mut self, input: Input) -> Option<Action> {
        match input {
            Input::Client(inbound) => self.client(inbound),
            Input::Event(event) => self.event_or_hold(event),
            Input::Attached(Ok(opened)) => {
                self.begin(&opened);
                Some(Action::Deliver(Outbound::Opened(opened)))
            }
            Input::Attached(Err(error)) => Some(self.end(Err(error))),
            Input::Sent { client_message_id, result } => {
                self.phase = Phase::Attached;
                Some(self.sent(client_message_id, result))
            }
            Input::StopRefused(error) => Some(refused(error, None)),
            Input::Timer => self.timer(),
            Input::CredentialExpired => Some(self.end(Err(ErrorKind::CredentialExpired.into()))),
            Input::Draining => Some(self.end(Err(ErrorKind::Draining.into()))),
        }
    }

    fn begin(&mut self, opened: &Opened) {
        self.phase = Phase::Attached;
        self.delivered = opened.position.seq;
        // A half-closed stream delivers its replay before it ends.
        self.awaited.seq = self.awaited.seq.max(opened.head_seq);
        // It does not wait for replies that the replay contains, or that precede it.
        self.awaited.turns.retain(|turn| opened.unanswered.contains(turn));
    }

    fn is_over(&self) -> bool {
        let is_delivered = self.phase == Phase::Opening || self.awaited.seq <= self.delivered;
        self.half_closed && self.awaited.turns.is_empty() && is_delivered
    }

    fn end(&mut self, result: Result<()>) -> Action {
        self.phase = Phase::Ended;
        Action::Deliver(Outbound::End(result))
    }

    /// A client gets the acknowledgement of its message before the message itself.
    #[inline]
    fn event_or_hold(&mut self, event: Result<Event>) -> Option<Action> {
        let is_of_reply =
            matches!(event, Ok(Event::Delta(_) | Event::ReplyPart(_) | Event::ReplyStarted(_)));
        if self.phase == Phase::Sending && !is_of_reply {
            self.pending = Some(Box::new(Pending::Event(event)));
            return None;
        }
        Some(self.event(event))
    }

    #[inline]
    fn event(&mut self, event: Result<Event>) -> Action {
        match event {
            Ok(event) => {
                if let Event::Message(event) = &event {
                    self.delivered = event.message.seq;
                    if let Some(answered) = event.message.in_reply_to() {
                        self.awaited.turns.retain(|turn| *turn != answered);
                    }
                }
                Action::Deliver(Outbound::Event(event))
            }
            Err(error) => self.end(Err(error)),
        }
    }

    #[inline]
    fn client(&mut self, inbound: Inbound) -> Option<Action> {
        match inbound {
            Inbound::Request(request) => self.request(request),
            Inbound::Refused(error) => Some(refused(error, None)),
            Inbound::HalfClosed => {
                self.half_closed = true;
                None
            }
            Inbound::Gone(None) => Some(self.end(Ok(()))),
            Inbound::Gone(Some(error)) => Some(self.end(Err(error))),
        }
    }

    fn timer(&mut self) -> Option<Action> {
        if self.phase == Phase::Attached {
            return Some(Action::Deliver(Outbound::Heartbeat));
        }
        match self.token.clone() {
            Some(token) => Some(self.attach(token, None, None)),
            None => Some(self.end(Err(ErrorKind::OpenTimeout.into()))),
        }
    }

    #[inline]
    fn request(&mut self, request: ClientRequest) -> Option<Action> {
        match request {
            ClientRequest::Ping => Some(Action::Deliver(Outbound::Pong)),
            ClientRequest::Open { token, position, credential } => {
                Some(self.open(token.as_deref(), position, credential.as_deref()))
            }
            request if self.phase == Phase::Opening => Some(self.attach_for(request)),
            ClientRequest::Send { message: Ok(message), client_message_id } => {
                self.phase = Phase::Sending;
                Some(Action::Send { message, client_message_id })
            }
            ClientRequest::Send { message: Err(error), client_message_id } => {
                Some(refused(error, client_message_id))
            }
            ClientRequest::Regenerate { again, client_message_id } => {
                self.phase = Phase::Sending;
                Some(Action::Regenerate { again, client_message_id })
            }
            ClientRequest::Stop { seq } => Some(Action::Stop { seq }),
        }
    }

    /// Attaches with the token of the handshake, and handles the request then.
    fn attach_for(&mut self, request: ClientRequest) -> Action {
        match self.token.clone() {
            Some(token) => {
                self.pending = Some(Box::new(Pending::Request(request)));
                self.attach(token, None, None)
            }
            None => self.end(Err(ErrorKind::MissingToken.into())),
        }
    }

    fn open(
        &mut self,
        token: Option<&str>,
        position: Option<Position>,
        credential: Option<&str>,
    ) -> Action {
        let credential = match credential.map(Credential::parse).transpose() {
            Ok(credential) => credential,
            Err(error) => return self.end(Err(error)),
        };
        let earlier = self.token.as_ref().map(Token::expose);
        match auth::one_of([earlier.as_deref(), token]) {
            Ok(Some(token)) => {
                self.token = Some(token.clone());
                self.attach(token, position, credential)
            }
            Ok(None) => self.end(Err(ErrorKind::MissingToken.into())),
            Err(error) => self.end(Err(error)),
        }
    }

    fn attach(
        &mut self,
        token: Token,
        position: Option<Position>,
        credential: Option<Credential>,
    ) -> Action {
        self.phase = Phase::Attaching;
        Action::Attach { token, position, credential }
    }

    #[inline]
    fn sent(&mut self, client_message_id: Option<String>, result: Result<Accepted>) -> Action {
        match result {
            Ok(accepted) => {
                self.awaited.await_reply_to(&accepted);
                Action::Deliver(Outbound::Accepted(accepted))
            }
            Err(error) => {
                let session_ended = [ErrorKind::SessionExpired, ErrorKind::SessionRevoked];
                if session_ended.contains(&error.kind()) {
                    return self.end(Err(error));
                }
                refused(error, client_message_id)
            }
        }
    }
}

fn refused(error: Error, client_message_id: Option<String>) -> Action {
    Action::Deliver(Outbound::Refused { error, client_message_id })
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

#[cfg(test)]
mod model_tests;
