//! Random histories of one session, checked against a model: the log, and one subscriber that
//! leaves and comes back. Three faults are planted to show that the checks find them.

use std::{collections::VecDeque, future::poll_fn, time::Duration};

use futures_util::FutureExt as _;
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::session::{
    live::{
        event::{DeltaPiece, EventFilter},
        reply_draft::{Extended, ReplyLimits},
        subscriber_queue::QueueCapacity,
    },
    model::{
        Content, Epoch, Metadata, Name, Position, ReplyFields, ReplyPosition, Session, SessionId,
        Status, TokenRecord, UserFields,
    },
    ports::Piece,
};

/// A step of the history.
#[derive(Clone, Debug)]
enum Step {
    /// A user message is committed. It is published later.
    Append,
    /// One of the committed messages is published, in any order.
    Publish(prop::sample::Index),
    /// The turn runner makes one step.
    Work,
    /// The responder produces a piece.
    Extend(String),
    /// The reply ends and is committed.
    Finish,
    /// A client stops a turn.
    Stop(Option<u32>),
    /// The subscriber attaches, from its position or from the head.
    Attach(bool),
    /// The subscriber receives an event.
    Read,
    /// The subscriber leaves.
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Append),
        3 => any::<prop::sample::Index>().prop_map(Step::Publish),
        4 => Just(Step::Work),
        4 => "[aé漢]{1,4}".prop_map(Step::Extend),
        3 => Just(Step::Finish),
        1 => prop::option::of(1_u32..8).prop_map(Step::Stop),
        2 => any::<bool>().prop_map(Step::Attach),
        6 => Just(Step::Read),
        1 => Just(Step::Leave),
    ];
    prop::collection::vec(step, 1..80)
}

/// A fault of the code around the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The third message is committed and never published.
    LostPublish,
    /// A reply is committed twice.
    SecondReply,
    /// The subscriber reads the head of the log before it is registered.
    ReadBeforeRegister,
}

/// The subscriber, as a good client behaves.
#[derive(Debug, Default)]
struct Client {
    /// Number of the last message. `None`: it has never attached.
    seq: Option<u32>,
    reply: Option<(MessageId, u32, String)>,
}

type Check = Result<(), String>;

impl Client {
    fn receive(&mut self, event: &Event) -> Check {
        match event {
            Event::Message(event) => {
                let message = &event.message;
                let expected = self.seq.map_or(message.seq, |seq| seq + 1);
                if message.seq != expected {
                    return Err(format!("message {} where {expected} is next", message.seq));
                }
                self.seq = Some(message.seq);
                if let Some((id, _, text)) = self.reply.take_if(|(id, ..)| *id == message.id)
                    && **message.text() != *text
                {
                    return Err(format!("the reply {id} has other deltas: {text}"));
                }
            }
            Event::ReplyStarted(started) => match &self.reply {
                Some((id, end, _)) if started.offset > 0 => {
                    if (*id, *end) != (started.reply, started.offset) {
                        return Err(format!("{started:?} does not continue {end}"));
                    }
                }
                Some(_) | None if started.offset == 0 => {
                    self.reply = Some((started.reply, 0, String::new()));
                }
                Some(_) | None => return Err(format!("{started:?} continues nothing")),
            },
            Event::Delta(delta) => {
                let Some((id, end, text)) = &mut self.reply else {
                    return Err("a delta of no reply".into());
                };
                if (*id, *end) != (delta.reply, delta.offset) {
                    return Err(format!("a gap: {} after {end}", delta.offset));
                }
                *end = delta.end;
                let DeltaPiece::Text(piece) = &delta.piece else { return Err("no text".into()) };
                text.push_str(piece);
            }
            Event::ReplyPart(_) | Event::GoAway(_) => return Err(format!("{event:?}")),
        }
        Ok(())
    }

    fn position(&self, epoch: &Epoch) -> Option<Position> {
        let reply = self
            .reply
            .as_ref()
            .map(|(reply, offset, _)| ReplyPosition { reply: *reply, offset: *offset });
        self.seq.map(|seq| Position { epoch: epoch.clone(), seq, reply })
    }
}

/// An attached subscriber: what it replays, then its queue.
struct Stream {
    replay: VecDeque<Arc<Message>>,
    reply: Option<ReplySoFar>,
    queue: Arc<SubscriberQueue>,
}

struct World {
    session: Session,
    state: State,
    log: Vec<Arc<Message>>,
    unpublished: Vec<Arc<Message>>,
    runner: bool,
    running: Option<(Turn, MessageId, Arc<CancelSignal>)>,
    client: Client,
    stream: Option<Stream>,
    fault: Fault,
    /// The head that a faulty subscriber has read before it registers.
    early_head: Option<u32>,
}

impl World {
    fn new(fault: Fault) -> Self {
        let expires_at = Timestamp::default().plus(Duration::from_secs(60));
        let session = Session {
            id: SessionId::generate(),
            name: Name::trusted("Ada"),
            epoch: Epoch::generate(),
            created_at: Timestamp::default(),
            expires_at,
            ends_at: expires_at,
            delete_at: None,
            title: None,
            metadata: Metadata::default(),
            subject: None,
        };
        Self {
            session,
            state: State::new(expires_at, 0, TurnQueue::new(Some(Lease::UNSHARED), Vec::new())),
            log: Vec::new(),
            unpublished: Vec::new(),
            runner: false,
            running: None,
            client: Client::default(),
            stream: None,
            fault,
            early_head: None,
        }
    }

    fn commit(&mut self, id: MessageId, content: Content, role: Role) -> Arc<Message> {
        let seq = self.log.len() as u32 + 1;
        let (created_at, metadata) = (Timestamp::default(), Metadata::default());
        let message = Arc::new(Message { seq, id, content, created_at, metadata, role });
        self.log.push(Arc::clone(&message));
        message
    }

    fn publish(&mut self, message: Arc<Message>) {
        if self.fault == Fault::LostPublish && message.seq == 3 {
            return;
        }
        self.runner |= self.state.publish(message) == Published::RunTurns;
    }

    fn run(&mut self, step: Step) -> Check {
        match step {
            Step::Append => {
                let role = Role::User(UserFields::default());
                let message = self.commit(MessageId::generate(), Content::of_text("?"), role);
                self.unpublished.push(message);
            }
            Step::Publish(index) => {
                if !self.unpublished.is_empty() {
                    let index = index.index(self.unpublished.len());
                    let message = self.unpublished.swap_remove(index);
                    self.publish(message);
                }
            }
            Step::Work => self.work(),
            Step::Extend(text) => {
                if self.running.as_ref().is_some_and(|(.., cancel)| cancel.reason().is_none()) {
                    let limits = ReplyLimits { max_size: 1000, max_text_size: 1000 };
                    let extended = self.state.extend_reply(Piece::Text(text), limits);
                    if extended != Extended::Whole {
                        return Err(format!("{extended:?}"));
                    }
                }
            }
            Step::Finish => self.finish(),
            Step::Stop(seq) => drop(self.state.stop(seq)),
            Step::Attach(from_position) => self.attach(from_position),
            Step::Read => drop(self.read()?),
            Step::Leave => self.leave(),
        }
        Ok(())
    }

    fn work(&mut self) {
        if !self.runner || self.running.is_some() {
            return;
        }
        match self.state.next_work() {
            Work::CatchUp => {
                for message in self.log.split_off(0) {
                    self.log.push(Arc::clone(&message));
                    if message.seq > self.state.head_seq {
                        self.publish(message);
                    }
                }
            }
            Work::Turn(turn, id, cancel) => {
                self.state.announce_reply(false);
                self.running = Some((turn, id, cancel));
            }
            Work::HandOver(_) => unreachable!("the session does not drain"),
            Work::Nothing => self.runner = false,
        }
    }

    fn finish(&mut self) {
        let Some((turn, id, _)) = self.running.take() else { return };
        let _reason = self.state.end_reply();
        let content = self.state.finish_content(true);
        let fields = ReplyFields::new(turn.message.id, turn.message.seq, Status::Complete);
        let reply = self.commit(id, content.clone(), Role::Assistant(fields.clone()));
        self.publish(reply);
        if self.fault == Fault::SecondReply {
            let again = self.commit(MessageId::generate(), content, Role::Assistant(fields));
            self.publish(again);
        }
    }

    fn attach(&mut self, from_position: bool) {
        if self.stream.is_some() {
            return;
        }
        if self.fault == Fault::ReadBeforeRegister && self.early_head.is_none() {
            self.early_head = Some(self.state.head_seq);
            return;
        }
        let requested = self.client.position(&self.session.epoch).filter(|_| from_position);
        let capacity = QueueCapacity { events: 1000, bytes: usize::MAX };
        let token = &TokenRecord::sample();
        let all = EventFilter::All;
        let subscribed =
            self.state.subscribe(&self.session, requested.as_ref(), all, token, capacity, 1);
        let Ok(NewSubscriber { queue, opened, reply }) = subscribed else { return };
        let head = self.early_head.take().unwrap_or(opened.head_seq);
        let after = if opened.recovered { opened.position.seq } else { head };
        if !opened.recovered {
            self.client = Client { seq: Some(after), reply: None };
        }
        if opened.position.reply.is_none() {
            self.client.reply = None;
        }
        let replay = self.log.iter().filter(|it| it.seq > after && it.seq <= head);
        self.stream = Some(Stream { replay: replay.cloned().collect(), reply, queue });
    }

    /// Receives the next event. Returns false if there is none.
    fn read(&mut self) -> Result<bool, String> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        if let Some(message) = stream.replay.pop_front() {
            let encoded = EncodedForms::default();
            let event = MessageEvent { message, shows_parent: false, encoded };
            self.client.receive(&Event::Message(event))?;
            return Ok(true);
        }
        if let Some(reply) = &mut stream.reply {
            let started = reply.started.take().map(|it| Event::ReplyStarted(Arc::new(it)));
            match started.or_else(|| reply.events.next()) {
                Some(event) => {
                    self.client.receive(&event)?;
                    return Ok(true);
                }
                None => stream.reply = None,
            }
        }
        match poll_fn(|cx| stream.queue.poll_next(cx)).now_or_never() {
            Some(Ok(event)) => self.client.receive(&event).map(|()| true),
            Some(Err(reason)) => Err(format!("the stream ended: {reason:?}")),
            None => Ok(false),
        }
    }

    fn leave(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.state.unsubscribe(&stream.queue);
        }
    }

    /// Lets everything happen that has to happen, and checks the result.
    fn settle(mut self) -> Check {
        for message in std::mem::take(&mut self.unpublished) {
            self.publish(message);
        }
        let mut steps = 0;
        while self.runner {
            self.work();
            self.finish();
            steps += 1;
            if steps > 10 * self.log.len() + 10 {
                return Err("the turn runner does not come to an end".into());
            }
        }
        while self.read()? {}
        // A client without a stream reads the rest.
        self.fault = Fault::None;
        self.attach(true);
        while self.read()? {}
        let users = self.log.iter().filter(|message| message.user().is_some());
        for user in users {
            let replies = self.log.iter().filter(|it| it.in_reply_to() == Some(user.id)).count();
            if replies != 1 {
                return Err(format!("message {} has {replies} replies", user.seq));
            }
        }
        let head = self.log.len() as u32;
        if self.client.seq != Some(head) || self.state.head_seq != head {
            return Err(format!("{:?} and {} of {head}", self.client.seq, self.state.head_seq));
        }
        Ok(())
    }
}

fn history(fault: Fault, steps: Vec<Step>) -> Check {
    let mut world = World::new(fault);
    for step in steps {
        world.run(step)?;
    }
    world.settle()
}

#[test]
fn every_history_keeps_the_log_and_its_subscriber_whole() {
    let config = ProptestConfig { cases: 2000, ..ProptestConfig::default() };
    let checked = TestRunner::new(config)
        .run(&steps(), |steps| history(Fault::None, steps).map_err(TestCaseError::fail));
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn each_planted_fault_is_found() {
    for fault in [Fault::LostPublish, Fault::SecondReply, Fault::ReadBeforeRegister] {
        let config =
            ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
        let found = TestRunner::new(config)
            .run(&steps(), |steps| history(fault, steps).map_err(TestCaseError::fail));
        assert!(found.is_err(), "{fault:?} is not found");
    }
}
