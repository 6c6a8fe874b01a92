//! Random histories of two nodes give the same answers and the same notes on the shared memory store,
//! on Redis and on Valkey.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use duologue::{
    session::{
        Answered, AppendLimits, Appended, Checkpoint, Content, Error, Lease, Message, MessageId,
        Metadata, NewReply, NewTurn, NodeId, Note, Page, Peers, Question, Received, ReplyFields,
        SessionId, Status, Store, Timestamp, TokenId, TokenRecord, Turns, Unfinished,
    },
    store::{MemoryStore, Network},
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::{
    store_contract::{ALL, later, new_session, record, terms},
    support::RedisServer,
};

/// Sessions of a history.
const SESSIONS: usize = 2;

/// A step of one of two nodes, on one of the sessions.
#[derive(Clone, Debug)]
enum Step {
    Append {
        key: Option<u8>,
        text: u8,
        parent: Option<u32>,
    },
    Regenerate {
        seq: u32,
        key: Option<u8>,
    },
    Answer {
        turn: u32,
        status: u8,
    },
    Checkpoint {
        turn: u32,
    },
    Stop {
        seq: Option<u32>,
    },
    Unanswered,
    HandOver,
    /// As if the other node had died.
    TakeOver,
    Enter,
    Leave,
    Read {
        after: Option<u32>,
        limit: u32,
    },
    Renew {
        seconds: u64,
    },
    Issue {
        own: bool,
    },
    RevokeToken {
        number: usize,
    },
    Tokens,
    SetTitle {
        text: Option<u8>,
    },
    Heads,
    Revoke,
    Sweep,
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || proptest::option::of(0..3_u8);
    prop_oneof![
        6 => (key(), 0..3_u8, proptest::option::of(0..6_u32))
            .prop_map(|(key, text, parent)| Step::Append { key, text, parent }),
        1 => (0..6_u32, key()).prop_map(|(seq, key)| Step::Regenerate { seq, key }),
        6 => (0..8_u32, 0..3_u8).prop_map(|(turn, status)| Step::Answer { turn, status }),
        1 => (0..8_u32).prop_map(|turn| Step::Checkpoint { turn }),
        1 => proptest::option::of(0..8_u32).prop_map(|seq| Step::Stop { seq }),
        1 => Just(Step::Unanswered),
        1 => Just(Step::HandOver),
        1 => Just(Step::TakeOver),
        2 => Just(Step::Enter),
        1 => Just(Step::Leave),
        2 => (proptest::option::of(0..8_u32), 0..5_u32)
            .prop_map(|(after, limit)| Step::Read { after, limit }),
        1 => (0..300_u64).prop_map(|seconds| Step::Renew { seconds }),
        1 => any::<bool>().prop_map(|own| Step::Issue { own }),
        1 => (0..4_usize).prop_map(|number| Step::RevokeToken { number }),
        1 => Just(Step::Tokens),
        1 => proptest::option::of(0..3_u8).prop_map(|text| Step::SetTitle { text }),
        1 => Just(Step::Heads),
        1 => Just(Step::Revoke),
        1 => Just(Step::Sweep),
        1 => (0..20_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// A node of a store that is shared.
trait NodeStore: Store + Turns + Peers {}

impl<S: Store + Turns + Peers> NodeStore for S {}

/// Keeps the notes to each node.
#[derive(Default)]
struct Kept {
    inboxes: Mutex<HashMap<NodeId, VecDeque<Received>>>,
}

#[async_trait]
impl Network for Kept {
    fn send(&self, _: NodeId, to: NodeId, sent: Received) {
        self.inboxes.lock().unwrap().entry(to).or_default().push_back(sent);
    }

    fn is_reachable(&self, _: NodeId) -> bool {
        true
    }

    async fn receive(&self, node: NodeId) -> Received {
        let next = self.inboxes.lock().unwrap().get_mut(&node).and_then(VecDeque::pop_front);
        match next {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

/// What a history has made known of one store.
struct Run<'a> {
    nodes: [&'a dyn NodeStore; 2],
    sessions: Vec<SessionId>,
    tokens: Vec<Vec<TokenId>>,
    /// The turns by session: number and id.
    turns: Vec<Vec<(u32, MessageId)>>,
    /// The leases that each node believes to hold.
    leases: HashMap<(usize, usize), Lease>,
    now: u64,
}

/// The random choices that all stores share.
struct Choices {
    sessions: Vec<(duologue::session::NewSession, TokenId)>,
    messages: Vec<MessageId>,
    tokens: Vec<TokenRecord>,
}

fn text_of(message: &Message) -> String {
    let role = match message.in_reply_to() {
        Some(_) => {
            format!("reply to {}, {:?}", message.turn_seq(), message.reply().unwrap().status)
        }
        None => format!("turn after {}", message.user().unwrap().parent_seq),
    };
    let (seq, id) = (message.seq, message.id);
    format!("{seq} {id} {role}: {}, {:?}", message.text(), message.client_message_id())
}

fn told(result: Result<String, Error>) -> String {
    result.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

fn appended(appended: &Appended) -> String {
    let Appended { message, duplicate, reply_seq, expires_at, token_expires_at, lease } = appended;
    let message = text_of(message);
    format!("{message} {duplicate} {reply_seq:?} {expires_at:?} {token_expires_at:?} {lease:?}")
}

fn unfinished(turn: &Unfinished) -> String {
    let Unfinished { lease, session, message, attempt, partial } = turn;
    format!("{} {lease:?} {} {attempt} {partial:?}", session.id, text_of(message))
}

impl Run<'_> {
    async fn step(
        &mut self,
        place: usize,
        step: &Step,
        by: usize,
        of: usize,
        it: &Choices,
    ) -> String {
        let (node, id) = (self.nodes[by], self.sessions[of]);
        let now = later(self.now);
        let new_id = it.messages[place];
        let key = |key: Option<u8>| key.map(|key| format!("k{key}").into());
        let limits = AppendLimits {
            now,
            token: self.tokens[of][0],
            expires_at: later(self.now + 100),
            delete_at: later(self.now + 1000),
            max_session_messages: 20,
            ..terms()
        };
        let turn = |client_message_id, question| NewTurn {
            id: new_id,
            client_message_id,
            metadata: Metadata::default(),
            options: None,
            question,
        };
        match step {
            Step::Append { key: k, text, parent } => {
                let content = Content::of_text(format!("t{text}"));
                let question = Question::New { content, parent_seq: *parent };
                let done = node.append(id, turn(key(*k), question), limits).await;
                self.append(by, of, done)
            }
            Step::Regenerate { seq, key: k } => {
                let question = Question::Again { seq: *seq };
                let done = node.append(id, turn(key(*k), question), limits).await;
                self.append(by, of, done)
            }
            Step::Answer { turn, status } => {
                let Some((seq, to)) = self.turn(of, *turn) else { return String::new() };
                let Some(lease) = self.leases.get(&(by, of)).copied() else { return String::new() };
                let status = [Status::Complete, Status::Stopped, Status::Interrupted]
                    [usize::from(*status)]
                .clone();
                let reply = NewReply {
                    id: new_id,
                    content: Content::of_text("reply"),
                    metadata: Metadata::default(),
                    fields: ReplyFields::new(to, seq, status),
                };
                told(node.answer(id, lease, reply, now).await.map(|answered| match answered {
                    Answered::Kept(kept) => {
                        match kept.lease {
                            Some(lease) => self.leases.insert((by, of), lease),
                            None => self.leases.remove(&(by, of)),
                        };
                        appended(&kept)
                    }
                    other => format!("{other:?}"),
                }))
            }
            Step::Checkpoint { turn } => {
                let Some((seq, _)) = self.turn(of, *turn) else { return String::new() };
                let Some(lease) = self.leases.get(&(by, of)).copied() else { return String::new() };
                let content = Content::of_text(format!("part {place}"));
                let at = Checkpoint { seq, attempt: 1, content };
                told(node.checkpoint(id, lease, at, now).await.map(|done| format!("{done:?}")))
            }
            Step::Stop { seq } => told(node.stop(id, *seq, now).await.map(|it| it.to_string())),
            Step::Unanswered => told(
                node.unanswered(id, now)
                    .await
                    .map(|turns| turns.iter().map(unfinished).collect::<Vec<_>>().join("; ")),
            ),
            Step::HandOver => {
                let Some(lease) = self.leases.get(&(by, of)).copied() else { return String::new() };
                let to = self.nodes[1 - by].node().unwrap();
                let done = node.hand_over(id, lease, to, now).await;
                if matches!(done, Ok(true)) {
                    self.leases.remove(&(by, of));
                    self.learn_lease(1 - by, of, now).await;
                }
                told(done.map(|done| done.to_string()))
            }
            Step::TakeOver => {
                let from = self.nodes[1 - by].node();
                let taken = node.take_over(from, None, 100, now).await.unwrap();
                let mine = taken.iter().filter(|turn| self.sessions.contains(&turn.session.id));
                let mut all: Vec<_> = mine.map(unfinished).collect();
                all.sort_unstable();
                for of in 0..self.sessions.len() {
                    self.learn_lease(by, of, now).await;
                }
                all.join("; ")
            }
            Step::Enter => told(node.enter(id, now, None).await.map(|entered| {
                format!(
                    "{:?} {} {:?} {:?} {:?} {:?} {:?}",
                    entered.session,
                    entered.head_seq,
                    entered.head,
                    entered.waiting,
                    entered.owner,
                    entered.lease,
                    entered.newest_lease,
                )
            })),
            Step::Leave => told(node.leave(vec![id]).await.map(|()| "left".into())),
            Step::Read { after, limit } => {
                let page = Page { after: *after, limit: *limit, ..ALL };
                told(node.read(id, now, page).await.map(|read| {
                    let messages: Vec<_> =
                        read.messages.iter().map(|message| text_of(message)).collect();
                    let (session, head, usage) = (read.session, read.head_seq, read.usage);
                    format!("{session:?} {messages:?} {head} {usage:?} {}", read.has_more)
                }))
            }
            Step::Renew { seconds } => {
                let (token, to) = (self.tokens[of][0], later(self.now + seconds));
                told(node.renew(id, token, now, to).await.map(|it| format!("{it:?}")))
            }
            Step::Issue { own } => {
                let mut token = it.tokens[place].clone();
                if *own {
                    token.deadlines = Some((later(self.now + 10), later(self.now + 30)));
                }
                // In the partition of the session.
                let hash = token.hash;
                if hash.partition() != id.partition() {
                    return String::new();
                }
                self.tokens[of].push(token.id);
                told(node.issue(id, now, token, 3).await.map(|()| "issued".into()))
            }
            Step::RevokeToken { number } => {
                let Some(token) = self.tokens[of].get(*number).copied() else {
                    return String::new();
                };
                told(node.revoke_token(id, now, token).await.map(|left| left.to_string()))
            }
            Step::Tokens => told(node.tokens(id, now).await.map(|mut tokens| {
                tokens.sort_unstable_by_key(|token| *token.id.as_bytes());
                format!("{tokens:?}")
            })),
            Step::SetTitle { text } => {
                let title = text.map(|text| format!("title {text}").into());
                told(node.set_title(id, now, title).await.map(|it| format!("{it:?}")))
            }
            Step::Heads => told(node.heads(&self.sessions, now).await.map(|it| format!("{it:?}"))),
            Step::Revoke => told(node.revoke(id, now).await.map(|()| "revoked".into())),
            Step::Sweep => {
                let swept = node.sweep(now, 1000).await.unwrap().sessions;
                let mut mine: Vec<_> =
                    swept.into_iter().filter(|id| self.sessions.contains(id)).collect();
                mine.sort_unstable();
                format!("{mine:?}")
            }
            Step::Wait { seconds } => {
                self.now += seconds;
                String::new()
            }
        }
    }

    fn append(&mut self, by: usize, of: usize, done: Result<Appended, Error>) -> String {
        told(done.map(|done| {
            let turn = (done.message.seq, done.message.id);
            if !self.turns[of].contains(&turn) {
                self.turns[of].push(turn);
            }
            if let Some(lease) = done.lease {
                self.leases.insert((by, of), lease);
            }
            appended(&done)
        }))
    }

    fn turn(&self, of: usize, number: u32) -> Option<(u32, MessageId)> {
        let turns = &self.turns[of];
        (!turns.is_empty()).then(|| turns[number as usize % turns.len()])
    }

    async fn learn_lease(&mut self, by: usize, of: usize, now: Timestamp) {
        let held = self.nodes[by].unanswered(self.sessions[of], now).await;
        if let Some(turn) = held.ok().and_then(|turns| turns.first().map(|turn| turn.lease)) {
            self.leases.insert((by, of), turn);
        }
    }

    /// Returns the notes that have come to a node.
    async fn notes(&self, by: usize) -> Vec<String> {
        let mut notes = Vec::new();
        while let Ok(received) =
            tokio::time::timeout(Duration::from_millis(20), self.nodes[by].receive()).await
        {
            if let Received::Note(id, note) = received
                && self.sessions.contains(&id)
            {
                notes.push(match note {
                    Note::Appended { seq, message, owner } => {
                        format!("{id} {seq} {:?} {owner:?}", message.map(|it| text_of(&it)))
                    }
                    other => format!("{id} {other:?}"),
                });
            }
        }
        notes
    }
}

/// Runs a history on two nodes of a store. Returns all answers, and the notes to each node.
async fn run(
    nodes: [&dyn NodeStore; 2],
    steps: &[(Step, usize, usize)],
    it: &Choices,
) -> (Vec<String>, [Vec<String>; 2]) {
    for (new, _) in &it.sessions {
        nodes[0].create(new.clone()).await.unwrap();
    }
    let mut run = Run {
        nodes,
        sessions: it.sessions.iter().map(|(new, _)| new.session.id).collect(),
        tokens: it.sessions.iter().map(|(_, token)| vec![*token]).collect(),
        turns: vec![Vec::new(); SESSIONS],
        leases: HashMap::new(),
        now: 0,
    };
    let mut answers = Vec::new();
    for (place, (step, by, of)) in steps.iter().enumerate() {
        answers.push(run.step(place, step, *by, *of, it).await);
    }
    let notes = [run.notes(0).await, run.notes(1).await];
    (answers, notes)
}

#[test]
fn histories_of_two_nodes_are_the_same_on_every_shared_store() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for server in RedisServer::shared() {
        let (one, two) = runtime.block_on(server.two_stores());
        let kept = Arc::new(Kept::default());
        let memory = MemoryStore::new(100_000, 1 << 28);
        let join = |node: NodeId| memory.join(node, Arc::clone(&kept) as Arc<dyn Network>);
        let (first, second) = (join(one.node().unwrap()), join(two.node().unwrap()));
        let history = vec((step(), 0..2_usize, 0..SESSIONS), 1..60);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
        let checked = runner.run(&history, |steps| {
            let it = Choices {
                sessions: (0..SESSIONS)
                    .map(|_| {
                        let new = new_session().0;
                        let token = new.token.id;
                        (new, token)
                    })
                    .collect(),
                messages: steps.iter().map(|_| MessageId::generate()).collect(),
                tokens: Vec::new(),
            };
            let tokens = steps.iter().map(|(_, _, of)| {
                let partition = it.sessions[*of].0.session.id.partition();
                record(&duologue::session::Token::generate_in(partition))
            });
            let it = Choices { tokens: tokens.collect(), ..it };
            let expected = runtime.block_on(run([&first, &second], &steps, &it));
            let found = runtime.block_on(run([&*one, &*two], &steps, &it));
            for (place, (expected, found)) in expected.0.iter().zip(&found.0).enumerate() {
                prop_assert_eq!(expected, found, "step {}: {:?}", place, steps[place]);
            }
            prop_assert_eq!(expected.1, found.1);
            Ok(())
        });
        if let Err(failure) = checked {
            panic!("{failure}");
        }
    }
}
