//! Random histories of one stream, checked against a model of the driver, the core and the client.
//! Three faults of the driver are planted to show that the checks find them.

use std::{collections::VecDeque, sync::Arc};

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::session::{
    Content, EncodedForms, Epoch, Message, MessageEvent, Metadata, Name, ReplyFields, ReplyStarted,
    Role, Session, SessionId, Status, Timestamp, UserFields,
};

/// A step of the history.
#[derive(Clone, Debug)]
enum Step {
    /// The client sends a frame.
    Frame(Frame),
    /// The driver feeds the next frame, if the state accepts one.
    ReadFrame,
    /// The driver feeds the next event, if the state accepts one.
    ReadEvent,
    /// The running call ends.
    EndCall(bool),
    /// Another client sends a message.
    SendElsewhere,
    /// The oldest turn is answered.
    Answer,
    /// The reply in progress is announced.
    Start,
    /// The timer fires; the flag: the credential has expired.
    Timer(bool),
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    Open,
    Send,
    Invalid,
    Ping,
    HalfClose,
}

fn steps() -> impl Strategy<Value = (bool, Vec<Step>)> {
    let frame = prop_oneof![
        3 => Just(Frame::Open),
        8 => Just(Frame::Send),
        1 => Just(Frame::Invalid),
        1 => Just(Frame::Ping),
        1 => Just(Frame::HalfClose),
    ];
    let step = prop_oneof![
        4 => frame.prop_map(Step::Frame),
        5 => Just(Step::ReadFrame),
        6 => Just(Step::ReadEvent),
        4 => prop::bool::weighted(0.9).prop_map(Step::EndCall),
        2 => Just(Step::SendElsewhere),
        3 => Just(Step::Answer),
        2 => Just(Step::Start),
        1 => prop::bool::weighted(0.05).prop_map(Step::Timer),
    ];
    (any::<bool>(), prop::collection::vec(step, 1..100))
}

/// A fault of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It feeds events that the state does not accept.
    Intrusive,
    /// It drops the fifth event.
    LosesEvent,
    /// It reports the end of a commit twice.
    RepeatsResult,
}

type Check = Result<(), String>;

enum Call {
    Attach,
    /// The number of the committed message. `None`: it was refused.
    Send(Option<u32>),
}

/// The world around the state.
struct World {
    state: StreamState,
    fault: Fault,
    frames: VecDeque<Frame>,
    /// The log of the session.
    log: Vec<Arc<Message>>,
    /// Places of the user messages without a reply.
    unanswered: VecDeque<usize>,
    /// The subscription: events that the state has not been fed with.
    events: Option<VecDeque<Event>>,
    events_read: usize,
    call: Option<Call>,
    /// Send frames that were fed and not answered.
    unacknowledged: usize,
    /// Own messages that were acknowledged.
    acknowledged: Vec<u32>,
    own: Vec<u32>,
    /// Number of the last message that the client received.
    received: Option<u32>,
    ended: bool,
}

fn message(seq: u32, role: Role) -> Arc<Message> {
    let (id, created_at) = (MessageId::generate(), Timestamp::default());
    let (content, metadata) = (Content::of_text("x"), Metadata::default());
    Arc::new(Message { seq, id, content, created_at, metadata, role })
}

fn event(message: &Arc<Message>) -> Event {
    let (message, encoded) = (Arc::clone(message), EncodedForms::default());
    Event::Message(MessageEvent { message, shows_parent: false, encoded })
}

impl World {
    fn new(has_credential: bool, fault: Fault) -> Self {
        Self {
            state: StreamState::new(has_credential.then(Token::generate)),
            fault,
            frames: VecDeque::new(),
            log: Vec::new(),
            unanswered: VecDeque::new(),
            events: None,
            events_read: 0,
            call: None,
            unacknowledged: 0,
            acknowledged: Vec::new(),
            own: Vec::new(),
            received: None,
            ended: false,
        }
    }

    fn append(&mut self, role: Role) -> u32 {
        let message = message(self.log.len() as u32 + 1, role);
        if let Some(events) = &mut self.events {
            events.push_back(event(&message));
        }
        self.log.push(message);
        self.log.len() as u32
    }

    fn ask(&mut self) -> u32 {
        let seq = self.append(Role::User(UserFields::default()));
        self.unanswered.push_back(seq as usize - 1);
        seq
    }

    fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Frame(frame) => self.frames.push_back(*frame),
            Step::ReadFrame => self.read_frame()?,
            Step::ReadEvent => self.read_event()?,
            Step::EndCall(is_ok) => self.end_call(*is_ok)?,
            Step::SendElsewhere => {
                self.ask();
            }
            Step::Answer => {
                if let Some(place) = self.unanswered.pop_front() {
                    let (id, seq) = (self.log[place].id, self.log[place].seq);
                    self.append(Role::Assistant(ReplyFields::new(id, seq, Status::Complete)));
                }
            }
            Step::Start => {
                let Some(&place) = self.unanswered.front() else { return Ok(()) };
                let started = ReplyStarted {
                    reply: MessageId::generate(),
                    in_reply_to: self.log[place].id,
                    attempt: 1,
                    offset: 0,
                    context_trimmed: false,
                };
                if let Some(events) = &mut self.events {
                    events.push_back(Event::ReplyStarted(Arc::new(started)));
                }
            }
            Step::Timer(has_expired) => {
                if self.state.accepts().timer {
                    let timer = if *has_expired { Input::CredentialExpired } else { Input::Timer };
                    self.feed(timer)?;
                }
            }
        }
        self.follow_up()
    }

    fn read_frame(&mut self) -> Check {
        if !self.state.accepts().client {
            return Ok(());
        }
        let Some(frame) = self.frames.pop_front() else { return Ok(()) };
        let message = NewMessage::new("x", None);
        let request = match frame {
            Frame::Open => {
                let (position, credential) = (None, None);
                ClientRequest::Open { token: Some(self.token()), position, credential }
            }
            Frame::Send => {
                self.unacknowledged += 1;
                ClientRequest::Send { message: Ok(message), client_message_id: None }
            }
            Frame::Invalid => {
                self.unacknowledged += 1;
                let message = Err(ErrorKind::InvalidArgument.into());
                ClientRequest::Send { message, client_message_id: None }
            }
            Frame::Ping => ClientRequest::Ping,
            Frame::HalfClose => return self.feed(Input::Client(Inbound::HalfClosed)),
        };
        self.feed(Input::Client(Inbound::Request(request)))
    }

    /// Every `open` of a stream has the token of the first one.
    fn token(&self) -> String {
        let token = self.state.token.clone().unwrap_or_else(Token::generate);
        token.expose().to_string()
    }

    fn read_event(&mut self) -> Check {
        let accepts = self.state.accepts().event || self.fault == Fault::Intrusive;
        let Some(event) = self.events.as_mut().filter(|_| accepts).and_then(VecDeque::pop_front)
        else {
            return Ok(());
        };
        self.events_read += 1;
        if self.fault == Fault::LosesEvent && self.events_read == 5 {
            return Ok(());
        }
        self.feed(Input::Event(Ok(event)))
    }

    fn end_call(&mut self, is_ok: bool) -> Check {
        match self.call.take() {
            None => Ok(()),
            Some(Call::Attach) if is_ok => {
                let opened = self.opened();
                self.feed(Input::Attached(Ok(Box::new(opened))))
            }
            Some(Call::Attach) => self.feed(Input::Attached(Err(ErrorKind::Internal.into()))),
            Some(Call::Send(seq)) => {
                let result = || match seq {
                    Some(seq) => Ok(Accepted {
                        message: Arc::clone(&self.log[seq as usize - 1]),
                        duplicate: false,
                        reply_seq: None,
                    }),
                    None => Err(ErrorKind::QueueFull.into()),
                };
                let (result, again) = (result(), result());
                self.acknowledged.extend(seq);
                self.feed(Input::Sent { client_message_id: None, result })?;
                if self.fault == Fault::RepeatsResult {
                    return self.feed(Input::Sent { client_message_id: None, result: again });
                }
                Ok(())
            }
        }
    }

    /// Subscribes from where the client is, or from the head.
    fn opened(&mut self) -> Opened {
        let head_seq = self.log.len() as u32;
        let seq = self.received.unwrap_or(head_seq);
        let replay = self.log[seq as usize..].iter().map(event).collect();
        self.events = Some(replay);
        self.received = Some(seq);
        let epoch = Epoch::generate();
        let session = Session {
            id: SessionId::generate(),
            name: Name::trusted("Ada"),
            epoch: epoch.clone(),
            created_at: Timestamp::default(),
            expires_at: Timestamp::default(),
            ends_at: Timestamp::default(),
            delete_at: None,
            title: None,
            metadata: Metadata::default(),
            subject: None,
        };
        let unanswered = self.unanswered.iter().map(|place| self.log[*place].id).collect();
        let position = Position::new(epoch, seq);
        Opened { session, position, recovered: true, head_seq, unanswered }
    }

    /// Takes the actions that follow from earlier inputs, as the driver does before it waits.
    fn follow_up(&mut self) -> Check {
        while let Some(action) = self.state.next() {
            self.perform(action)?;
        }
        Ok(())
    }

    fn feed(&mut self, input: Input) -> Check {
        match self.state.handle(input) {
            Some(action) => self.perform(action),
            None => Ok(()),
        }
    }

    fn perform(&mut self, action: Action) -> Check {
        if self.ended {
            return Err(format!("{action:?} after the end"));
        }
        if self.call.is_some() && !matches!(action, Action::Deliver(_)) {
            return Err(format!("{action:?} during a call"));
        }
        match action {
            Action::Deliver(outbound) => self.deliver(outbound),
            Action::Attach { .. } => {
                self.call = Some(Call::Attach);
                Ok(())
            }
            Action::Send { .. } | Action::Regenerate { .. } if self.events.is_none() => {
                Err("a message was sent before the stream was attached".into())
            }
            Action::Send { .. } | Action::Regenerate { .. } => {
                let is_refused = self.unanswered.len() > 4;
                let seq = (!is_refused).then(|| self.ask());
                self.own.extend(seq);
                self.call = Some(Call::Send(seq));
                Ok(())
            }
            Action::Stop { .. } => Ok(()),
        }
    }

    fn deliver(&mut self, outbound: Outbound) -> Check {
        match outbound {
            Outbound::Accepted(_) | Outbound::Refused { .. } => {
                let left = self.unacknowledged.checked_sub(1);
                self.unacknowledged = left.ok_or("an acknowledgement of no message")?;
                Ok(())
            }
            Outbound::Event(Event::Message(event)) => {
                let seq = event.message.seq;
                if self.received.is_none_or(|received| received + 1 != seq) {
                    return Err(format!("message {seq} after {:?}", self.received));
                }
                if self.own.contains(&seq) && !self.acknowledged.contains(&seq) {
                    return Err(format!("message {seq} before its acknowledgement"));
                }
                self.received = Some(seq);
                Ok(())
            }
            Outbound::End(Ok(())) => {
                self.ended = true;
                self.check_end()
            }
            Outbound::End(Err(_)) => {
                self.ended = true;
                Ok(())
            }
            Outbound::Event(_) | Outbound::Opened(_) | Outbound::Pong | Outbound::Heartbeat => {
                Ok(())
            }
        }
    }

    /// A half-closed stream has acknowledged everything, and has delivered every reply to it.
    fn check_end(&self) -> Check {
        let received = self.received.unwrap_or_default();
        let is_answered = |seq: &u32| {
            let id = self.log[*seq as usize - 1].id;
            let is_reply = |message: &&Arc<Message>| message.in_reply_to() == Some(id);
            self.log.iter().find(is_reply).is_some_and(|reply| reply.seq <= received)
        };
        if self.unacknowledged > 0 {
            return Err("the end before an acknowledgement".into());
        }
        match self.own.iter().find(|seq| !is_answered(seq)) {
            Some(seq) => Err(format!("the end before the reply to {seq}")),
            None => Ok(()),
        }
    }

    /// Lets everything end that has begun. A half-closed stream must end.
    fn settle(&mut self) -> Check {
        for _ in 0..1000 {
            self.step(&Step::EndCall(true))?;
            self.step(&Step::ReadFrame)?;
            self.step(&Step::Answer)?;
            self.step(&Step::ReadEvent)?;
        }
        if self.ended {
            return Ok(());
        }
        if self.state.half_closed {
            return Err("a half-closed stream does not end".into());
        }
        if self.unacknowledged > 0 || self.call.is_some() {
            return Err("a message is never acknowledged".into());
        }
        if self.events.is_some() && self.received != Some(self.log.len() as u32) {
            return Err(format!(
                "the log ends at {}, the client at {:?}",
                self.log.len(),
                self.received
            ));
        }
        Ok(())
    }
}

fn run(has_credential: bool, steps: &[Step], fault: Fault) -> Check {
    let mut world = World::new(has_credential, fault);
    for step in steps {
        if world.ended {
            return Ok(());
        }
        world.step(step)?;
    }
    if world.ended { Ok(()) } else { world.settle() }
}

fn check(fault: Fault) -> Result<(), String> {
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&steps(), |(has_credential, steps)| {
        run(has_credential, &steps, fault).map_err(TestCaseError::fail)
    });
    outcome.map_err(|error| error.to_string())
}

#[test]
fn every_history_keeps_the_rules_of_a_stream() {
    if let Err(violation) = check(Fault::None) {
        panic!("{violation}");
    }
}

#[test]
fn a_driver_that_feeds_events_at_any_time_is_found() {
    assert!(check(Fault::Intrusive).is_err());
}

#[test]
fn a_driver_that_loses_an_event_is_found() {
    assert!(check(Fault::LosesEvent).is_err());
}

#[test]
fn a_driver_that_reports_a_result_twice_is_found() {
    assert!(check(Fault::RepeatsResult).is_err());
}
