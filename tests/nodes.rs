//! Several gateways on one store: once, order, resume of the log, stop, revoke and expiry hold over
//! every node, with every fault of the network between them.
//!
//! The clock is paused: it jumps to the next timer when all tasks wait. Every history is repeatable
//! by its seed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use duologue::{
    responder::Simulated,
    session::{
        Answered, AppendLimits, Caller, Content, ErrorKind, Event, Gateway, Message, MessageId,
        Metadata, NewMessage, NewReply, NewToken, NodeId, Page, PageRequest, Position, Received,
        ReplyFields, Revocation, Role, Settings, Status, Storage, Store as _, Subscription,
        Timestamp, Token, TokenId, Turns as _,
    },
    store::{MemoryStore, Network},
};
use futures_util::{FutureExt as _, future::join_all};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::support::{
    Call, Faults, Hub, Node, Scripted, Step, named, new_message, next_reply, nodes, status,
};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a lost note goes unnoticed.
const COMPARED: Duration = Duration::from_secs(31);

fn caller() -> Caller {
    Caller::default()
}

fn echo(delay: Duration) -> Simulated {
    Simulated::new("Echo: {text}", delay)
}

/// Two nodes with a perfect network.
async fn two<R: duologue::session::Responder>(responders: [R; 2]) -> (Arc<Hub>, [Node; 2]) {
    let hub = Hub::new(0, Faults::NONE);
    let started = nodes(&hub, Settings::default(), responders, None).await;
    let [one, two] = <[Node; 2]>::try_from(started).unwrap_or_else(|_| unreachable!());
    (hub, [one, two])
}

async fn created(node: &Node) -> Token {
    node.gateway.create_token(&caller(), named("Ada")).await.unwrap().token
}

async fn attached(node: &Node, token: &Token) -> Subscription {
    node.gateway.attach(&caller(), token, None).await.unwrap().0
}

/// Reads the messages up to a number.
async fn messages(stream: &mut Subscription, until: u32) -> Vec<Arc<Message>> {
    let mut messages = Vec::new();
    let read = async {
        while stream.delivered() < until {
            if let Event::Message(event) = stream.next().await.unwrap() {
                messages.push(event.message);
            }
        }
    };
    timeout(Duration::from_secs(60), read).await.expect("every node learns of every message");
    messages
}

fn numbers(messages: &[Arc<Message>]) -> Vec<u32> {
    messages.iter().map(|message| message.seq).collect()
}

/// The error that ends a stream, and how long after now.
async fn end(stream: &mut Subscription) -> (ErrorKind, Duration) {
    let from = Instant::now();
    loop {
        if let Err(error) = stream.next().await {
            return (error.kind(), from.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_on_one_node_reaches_the_streams_of_the_other() {
    let (_hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    let mut there = attached(&two, &token).await;
    let mut here = attached(&one, &token).await;
    for (turn, sender) in [&here, &there, &there, &here].into_iter().enumerate() {
        let accepted = sender.send(new_message("Hi")).end().await.unwrap();
        assert!(!accepted.duplicate && accepted.message.seq > turn as u32);
    }
    let (seen_here, seen_there) = (messages(&mut here, 8).await, messages(&mut there, 8).await);
    assert_eq!(numbers(&seen_here), (1..=8).collect::<Vec<_>>());
    assert_eq!(seen_here, seen_there);
}

#[tokio::test(start_paused = true)]
async fn one_client_message_id_is_one_turn_on_whichever_nodes_it_is_sent() {
    let (_hub, [one, two]) = two([echo(SECOND), echo(SECOND)]).await;
    let token = created(&one).await;
    let mut stream = attached(&two, &token).await;
    let nodes = [&one, &two];
    for turn in 0..10 {
        let key = format!("m{turn}");
        let sends = (0..6).map(|attempt: usize| {
            let message = NewMessage::new("Hi", Some(key.as_str()));
            let gateway = nodes[attempt % 2].gateway.clone();
            let token = token.clone();
            tokio::spawn(async move { gateway.send(&caller(), &token, message).await.unwrap() })
        });
        let accepted: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        let first: Vec<_> = accepted.iter().filter(|accepted| !accepted.duplicate).collect();
        assert_eq!(first.len(), 1);
        assert!(accepted.iter().all(|accepted| accepted.message == first[0].message));
        let answer = next_reply(&mut stream).await;
        assert_eq!(answer.in_reply_to(), Some(first[0].message.id));
        // A retry after the reply is answered with its number, on the node that did not run it too.
        for node in nodes {
            let again = NewMessage::new("Hi", Some(key.as_str()));
            let again = node.gateway.send(&caller(), &token, again).await.unwrap();
            assert!(again.duplicate);
            assert_eq!(again.reply_seq, Some(answer.seq));
        }
        let other = NewMessage::new("Bye", Some(key.as_str()));
        let refused = two.gateway.send(&caller(), &token, other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MessageIdReused);
    }
    let log = one.gateway.refresh_token(&caller(), &token, PageRequest::default()).await.unwrap();
    assert_eq!(log.head_seq, 20);
}

#[tokio::test(start_paused = true)]
async fn the_node_that_runs_a_turn_runs_those_that_other_nodes_queue_behind_it() {
    let (quick, _) = Scripted::new(&[Step::Say("two"), Step::End]);
    let (slow, _) = Scripted::new(&[Step::Gate, Step::Say("one"), Step::End]);
    let gate = Arc::clone(&slow.gate);
    let (hub, [one, two]) = two([slow, quick]).await;
    let token = created(&one).await;
    let (here, mut there) = (attached(&one, &token).await, attached(&two, &token).await);
    here.send(new_message("a")).end().await.unwrap();
    // The note of this message to the owner is lost.
    hub.cut(one.id);
    there.send(new_message("b")).end().await.unwrap();
    assert!(hub.lost() > 0);
    hub.mend(one.id);
    gate.add_permits(2);
    for expected in ["one", "one"] {
        assert_eq!(&**next_reply(&mut there).await.text(), expected);
    }
    // No turn waits: the next sender's node runs the next one.
    there.send(new_message("c")).end().await.unwrap();
    assert_eq!(&**next_reply(&mut there).await.text(), "two");
}

#[tokio::test(start_paused = true)]
async fn a_client_resumes_on_another_node_and_misses_nothing() {
    let delay = Duration::from_millis(20);
    for is_watched in [false, true] {
        let (hub, nodes) = two([echo(delay), echo(delay)]).await;
        let token = created(&nodes[0]).await;
        let mut stream = attached(&nodes[0], &token).await;
        let mut keepers = Vec::new();
        if is_watched {
            // The session stays active on both nodes.
            keepers = vec![attached(&nodes[0], &token).await, attached(&nodes[1], &token).await];
        }
        let mut seen = Vec::new();
        for turn in 1..=10 {
            let next = &nodes[turn as usize % 2];
            // The next node receives no note about the turn.
            hub.freeze(next.id);
            stream.send(new_message("Hi")).end().await.unwrap();
            seen.extend(messages(&mut stream, turn * 2 - 1).await);
            let position = stream.position();
            drop(stream);
            let (resumed, opened) =
                next.gateway.attach(&caller(), &token, Some(&position)).await.unwrap();
            assert!(opened.recovered, "turn {turn}");
            assert_eq!(opened.unanswered.len(), 1, "turn {turn}");
            stream = resumed;
            hub.thaw(next.id);
            seen.extend(messages(&mut stream, turn * 2).await);
        }
        assert_eq!(numbers(&seen), (1..=20).collect::<Vec<_>>());
        for keeper in &mut keepers {
            assert_eq!(messages(keeper, 20).await, seen);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_beyond_the_head_that_a_node_knows_is_honored() {
    let (hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    let mut here = attached(&one, &token).await;
    let _keeps_the_session_active = attached(&two, &token).await;
    hub.cut(two.id);
    here.send(new_message("Hi")).end().await.unwrap();
    messages(&mut here, 2).await;
    let (mut resumed, opened) =
        two.gateway.attach(&caller(), &token, Some(&here.position())).await.unwrap();
    assert!(opened.recovered);
    assert_eq!((opened.head_seq, opened.unanswered.len()), (2, 0));
    resumed.send(new_message("on")).end().await.unwrap();
    assert_eq!(numbers(&messages(&mut resumed, 4).await), [3, 4]);
    let elsewhere = Position::new(duologue::session::Epoch::generate(), 2);
    let (_, opened) = two.gateway.attach(&caller(), &token, Some(&elsewhere)).await.unwrap();
    assert!(!opened.recovered, "another log");
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_another_node_is_listed_as_unanswered() {
    let (slow, _) = Scripted::new(&[Step::Gate, Step::End]);
    let gate = Arc::clone(&slow.gate);
    let (_hub, [one, two]) = two([slow.clone(), slow]).await;
    let token = created(&one).await;
    let asked = one.gateway.send(&caller(), &token, new_message("a")).await.unwrap().message.id;
    let (mut there, opened) = two.gateway.attach(&caller(), &token, None).await.unwrap();
    assert_eq!(opened.unanswered, [asked]);
    gate.add_permits(1);
    assert_eq!(next_reply(&mut there).await.in_reply_to(), Some(asked));
    let (_, opened) = two.gateway.attach(&caller(), &token, None).await.unwrap();
    assert!(opened.unanswered.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_reaches_the_upstream_of_another_node() {
    for queued in [false, true] {
        let (hanging, mut cancelled) = Scripted::new(&[Step::Say("x"), Step::Hang]);
        let (_hub, [one, two]) = two([hanging.clone(), hanging]).await;
        let token = created(&one).await;
        let mut there = attached(&two, &token).await;
        let mut seq =
            one.gateway.send(&caller(), &token, new_message("a")).await.unwrap().message.seq;
        if queued {
            seq = two.gateway.send(&caller(), &token, new_message("b")).await.unwrap().message.seq;
        }
        let from = Instant::now();
        assert!(two.gateway.stop(&caller(), &token, Some(seq)).await.unwrap());
        if queued {
            assert!(two.gateway.stop(&caller(), &token, None).await.unwrap());
        }
        cancelled.recv().await.unwrap();
        assert!(from.elapsed() <= Duration::from_millis(250), "{:?}", from.elapsed());
        for _ in 0..=usize::from(queued) {
            let reply = next_reply(&mut there).await;
            assert_eq!(*status(&reply), Status::Stopped);
        }
        assert!(!two.gateway.stop(&caller(), &token, None).await.unwrap(), "nothing runs");
        assert!(!there.stop(Some(seq)).end().await.unwrap(), "it is answered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_was_accepted_and_lost_on_its_way_still_holds() {
    let (gated, _) = Scripted::new(&[Step::Say("all of it"), Step::Gate, Step::End]);
    let gate = Arc::clone(&gated.gate);
    let (hub, [one, two]) = two([gated.clone(), gated]).await;
    let token = created(&one).await;
    let mut here = attached(&one, &token).await;
    here.send(new_message("a")).end().await.unwrap();
    hub.cut(two.id);
    assert!(two.gateway.stop(&caller(), &token, None).await.unwrap());
    gate.add_permits(1);
    let reply = next_reply(&mut here).await;
    assert_eq!(*status(&reply), Status::Stopped);
    assert_eq!(&**reply.text(), "all of it");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_session_ends_on_every_node() {
    for extent in [Revocation::Session, Revocation::Token] {
        let (_hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
        let token = created(&one).await;
        let mut there = attached(&two, &token).await;
        one.gateway.revoke_token(&caller(), &token, extent).await.unwrap();
        let (kind, after) = end(&mut there).await;
        assert_eq!(kind, ErrorKind::SessionRevoked, "{extent:?}");
        assert!(after <= SECOND, "{extent:?} {after:?}");
        let refused = two.gateway.attach(&caller(), &token, None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SessionExpired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_ends_its_own_streams_on_every_node() {
    let (hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    let other = NewToken::default();
    let other = one.gateway.issue_token(&caller(), &token, other).await.unwrap().token;
    // With its note, without it, and with the report that notes were lost.
    for fault in 0..3 {
        let revoked =
            one.gateway.issue_token(&caller(), &token, NewToken::default()).await.unwrap();
        let mut kept = attached(&two, &other).await;
        let mut ends = attached(&two, &revoked.token).await;
        if fault > 0 {
            hub.cut(two.id);
        }
        one.gateway.revoke_token(&caller(), &revoked.token, Revocation::Token).await.unwrap();
        if fault == 2 {
            hub.mend(two.id);
        }
        let (kind, after) = end(&mut ends).await;
        assert_eq!(kind, ErrorKind::SessionRevoked);
        assert!(after <= if fault == 1 { COMPARED } else { SECOND }, "{fault}: {after:?}");
        if fault == 1 {
            hub.mend(two.id);
        }
        let head = kept.delivered();
        one.gateway.send(&caller(), &token, new_message("Hi")).await.unwrap();
        messages(&mut kept, head + 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_expires_on_every_node_and_a_renewal_on_one_counts_on_all() {
    let hour = Duration::from_secs(3600);
    let (hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    hub.cut(one.id);
    let token = created(&one).await;
    let (mut here, mut there) = (attached(&one, &token).await, attached(&two, &token).await);
    sleep(hour / 2).await;
    let page = PageRequest::default();
    one.gateway.refresh_token(&caller(), &token, page).await.unwrap();
    let (kind, after) = end(&mut there).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after >= hour && after <= hour + SECOND, "{after:?}");
    assert_eq!(end(&mut here).await.0, ErrorKind::SessionExpired);
    for node in [&one, &two] {
        let refused = node.gateway.attach(&caller(), &token, None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SessionExpired);
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_node_that_has_lost_its_lease_is_refused() {
    let (gated, mut cancelled) = Scripted::new(&[Step::Say("late"), Step::Gate, Step::End]);
    let gate = Arc::clone(&gated.gate);
    let (_hub, [one, two]) = two([gated.clone(), gated]).await;
    let token = created(&one).await;
    let mut here = attached(&one, &token).await;
    let asked = here.send(new_message("a")).end().await.unwrap().message;
    // The first node is paused for so long that the second takes its turn over.
    let now = Timestamp::of_wall_clock();
    let taken = two.store.take_over(Some(one.id), None, 10, now).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].message, asked);
    gate.add_permits(1);
    cancelled.recv().await.unwrap();
    let reply = NewReply {
        id: MessageId::generate(),
        content: Content::of_text("in time"),
        metadata: Metadata::default(),
        fields: ReplyFields::new(asked.id, asked.seq, Status::Complete),
    };
    sleep(SECOND).await;
    let id = here.session();
    assert!(two.store.unanswered(id, now).await.unwrap().len() == 1, "the late answer is not kept");
    let answered = two.store.answer(id, taken[0].lease, reply, now).await.unwrap();
    assert!(matches!(answered, Answered::Kept(_)));
    assert_eq!(&**next_reply(&mut here).await.text(), "in time");
    // The first node can get the lease again.
    gate.add_permits(1);
    here.send(new_message("b")).end().await.unwrap();
    assert_eq!(&**next_reply(&mut here).await.text(), "late");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_streams_receives_no_notes_until_a_stream_opens_again() {
    let (hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    for turn in 0..20 {
        let mut there = attached(&two, &token).await;
        one.gateway.send(&caller(), &token, new_message("Hi")).await.unwrap();
        messages(&mut there, turn * 4 + 2).await;
        drop(there);
        if turn % 2 == 0 {
            // Otherwise the next stream attaches while the node leaves.
            sleep(Duration::from_millis(1)).await;
        }
        hub.cut(two.id);
        let lost = hub.lost_notes();
        one.gateway.send(&caller(), &token, new_message("Hi")).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        if turn % 2 == 0 {
            assert_eq!(hub.lost_notes(), lost, "no note was sent");
        }
        hub.mend(two.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_in_a_long_reply_publishes_a_message_whose_note_was_lost() {
    let (hanging, _) = Scripted::new(&[Step::Hang]);
    let (hub, [one, two]) = two([hanging.clone(), hanging]).await;
    let token = created(&one).await;
    let mut here = attached(&one, &token).await;
    here.send(new_message("a")).end().await.unwrap();
    hub.lose_next();
    for text in ["b", "c"] {
        two.gateway.send(&caller(), &token, new_message(text)).await.unwrap();
    }
    let seen = timeout(SECOND, messages(&mut here, 3)).await.expect("the note of c shows the gap");
    assert_eq!((hub.lost_notes(), numbers(&seen)), (1, vec![1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_published_before_its_own_append_is_answered_begins() {
    let (_hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    let mut here = attached(&one, &token).await;
    one.store.hold(Call::Append);
    let first = here.send(new_message("a"));
    let second = two.gateway.send(&caller(), &token, new_message("b")).await.unwrap();
    assert_eq!(numbers(&messages(&mut here, 2).await), [1, 2]);
    assert_eq!(second.message.seq, 2);
    one.store.release();
    first.end().await.unwrap();
    let seen = timeout(SECOND, messages(&mut here, 4)).await.expect("both are answered");
    assert_eq!(seen.iter().filter(|message| message.in_reply_to().is_some()).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_opens_while_its_node_leaves_or_enters_receives_every_message() {
    let ms = Duration::from_millis;
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let hub = Hub::new(seed, Faults::NONE);
        let responders = [echo(ms(0)), echo(ms(0))];
        let started = nodes(&hub, Settings::default(), responders, Some((seed, ms(5)))).await;
        let token = created(&started[0]).await;
        let (gateway, other) = (&started[1].gateway, &started[0].gateway);
        drop(gateway.attach(&caller(), &token, None).await.unwrap());
        let mut wait = || ms(random.random_range(0..15));
        let (before_attach, before_send) = (wait(), wait());
        let attach = async {
            sleep(before_attach).await;
            gateway.attach(&caller(), &token, None).await.unwrap()
        };
        let send = async {
            sleep(before_send).await;
            other.send(&caller(), &token, new_message("Hi")).await.unwrap();
        };
        let ((mut stream, _), ()) = tokio::join!(attach, send);
        let heard = timeout(SECOND, messages(&mut stream, 2)).await;
        assert!(heard.is_ok(), "seed {seed}");
        for node in &started {
            node.gateway.drain(Instant::now()).await;
        }
    }
}

/// A history of two nodes: clients on both send at once, while the network misbehaves.
struct History {
    seed: u64,
    /// Notes are lost without a trace.
    loses_notes: bool,
    messages: usize,
}

impl History {
    /// Runs the history. Returns the violated promise.
    async fn run(&self, hub: &Arc<Hub>, gateways: &[(NodeId, Gateway)]) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let (_, first) = &gateways[0];
        let created = first.create_token(&caller(), named("Ada")).await.unwrap();
        let (token, start) = (created.token, Position::new(created.session.epoch, 0));
        let mut streams = Vec::new();
        for (_, gateway) in gateways {
            streams.push(gateway.attach(&caller(), &token, None).await.unwrap().0);
        }
        let wanderer = tokio::spawn(wander(
            StdRng::seed_from_u64(self.seed),
            gateways.iter().map(|(_, gateway)| gateway.clone()).collect(),
            token.clone(),
            start,
            2 * self.messages,
        ));
        let mut sends = Vec::new();
        for number in 0..self.messages {
            // Each message is sent on one node, and often again on another.
            for _ in 0..random.random_range(1..3) {
                let gateway = gateways[random.random_range(0..gateways.len())].1.clone();
                let wait = Duration::from_millis(random.random_range(0..400));
                let token = token.clone();
                sends.push(tokio::spawn(async move {
                    sleep(wait).await;
                    let key = format!("m{number}");
                    let message = NewMessage::new(key.clone(), Some(key.as_str()));
                    let sent = gateway.send(&caller(), &token, message).await;
                    (key, sent.map(|accepted| accepted.message))
                }));
            }
        }
        for _ in 0..random.random_range(0..6) {
            let node = gateways[random.random_range(0..gateways.len())].0;
            match random.random_range(0..4) {
                0 => hub.cut(node),
                1 => hub.mend(node),
                2 => hub.freeze(node),
                _ => hub.thaw(node),
            }
            sleep(Duration::from_millis(random.random_range(0..150))).await;
        }
        let mut accepted: HashMap<String, Arc<Message>> = HashMap::new();
        for send in sends {
            let (key, sent) = send.await.unwrap();
            let sent = sent.map_err(|error| format!("{key} was refused: {error}"))?;
            let first = accepted.entry(key.clone()).or_insert_with(|| Arc::clone(&sent));
            if *first != sent {
                return Err(format!("{key} was accepted twice: {first:?} and {sent:?}"));
            }
        }
        hub.heal();
        // A note that is lost without a trace is made up for by the comparison with the store.
        sleep(if self.loses_notes { COMPARED } else { 3 * SECOND }).await;

        let log = first.refresh_token(&caller(), &token, PageRequest::default()).await.unwrap();
        if log.head_seq as usize != 2 * self.messages {
            return Err(format!("the log has {} messages", log.head_seq));
        }
        check_log(&log.messages, &accepted)?;
        if wanderer.await.unwrap()? != log.messages {
            return Err("the wandering client has seen another log".into());
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut seen = Vec::new();
            while let Some(event) = stream.next().now_or_never() {
                if let Event::Message(event) = event.map_err(|error| error.to_string())? {
                    seen.push(event.message);
                }
            }
            if seen != log.messages {
                let numbers = numbers(&seen);
                return Err(format!("the stream of node {number} has seen {numbers:?}"));
            }
        }
        Ok(())
    }
}

/// A client that leaves after a few events and resumes on some node, until it has seen as many
/// messages.
async fn wander(
    mut random: StdRng,
    gateways: Vec<Gateway>,
    token: Token,
    mut position: Position,
    until: usize,
) -> Result<Vec<Arc<Message>>, String> {
    let mut seen: Vec<Arc<Message>> = Vec::new();
    while seen.len() < until {
        let gateway = &gateways[random.random_range(0..gateways.len())];
        let attached = gateway.attach(&caller(), &token, Some(&position)).await;
        let (mut stream, opened) = attached.map_err(|error| error.to_string())?;
        if !opened.recovered {
            return Err(format!("a position after {} messages was not honored", seen.len()));
        }
        let stay = Duration::from_millis(random.random_range(0..60));
        let left = Instant::now() + stay;
        while let Ok(event) = timeout_at(left, stream.next()).await {
            if let Event::Message(event) = event.map_err(|error| error.to_string())? {
                seen.push(event.message);
            }
        }
        position = stream.position();
        drop(stream);
        if random.random_bool(0.5) {
            sleep(Duration::from_millis(random.random_range(0..60))).await;
        }
    }
    Ok(seen)
}

/// Every accepted message is in the log once, under its number, with one reply.
fn check_log(log: &[Arc<Message>], accepted: &HashMap<String, Arc<Message>>) -> Result<(), String> {
    let mut replies: BTreeMap<u32, u32> = BTreeMap::new();
    for (place, message) in log.iter().enumerate() {
        if message.seq as usize != place + 1 {
            return Err(format!("a gap before {}", message.seq));
        }
        match &message.role {
            Role::User(user) => {
                let key = user.client_message_id.as_deref().unwrap_or_default();
                if accepted.get(key) != Some(message) {
                    return Err(format!("{key} is not the accepted message"));
                }
            }
            Role::Assistant(reply) => {
                if !matches!(reply.status, Status::Complete) {
                    return Err(format!("the reply {} is {:?}", message.seq, reply.status));
                }
                *replies.entry(reply.turn_seq).or_default() += 1;
            }
        }
    }
    let is_one_each = replies.len() == accepted.len() && replies.values().all(|count| *count == 1);
    if is_one_each { Ok(()) } else { Err(format!("replies by turn: {replies:?}")) }
}

fn wide() -> Settings {
    Settings { max_queued_turns: 1000, ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn any_history_of_two_or_three_nodes_is_one_log_on_every_node() {
    for seed in 0..500 {
        let faults = Faults {
            delay: Duration::from_millis(seed % 7 * 30),
            loses_one_in: [0, 2, 5][seed as usize % 3],
            repeats_one_in: [0, 3][seed as usize % 2],
        };
        let hub = Hub::new(seed, faults);
        let count = 2 + seed as usize % 2;
        let responders = std::iter::repeat_with(|| echo(Duration::from_millis(seed % 5 * 20)));
        let jitter = (seed % 4 != 0).then(|| (seed, Duration::from_millis(seed % 4 * 3)));
        let started = nodes(&hub, wide(), responders.take(count), jitter).await;
        let gateways: Vec<_> = started.iter().map(|it| (it.id, it.gateway.clone())).collect();
        let history = History { seed, loses_notes: faults.loses_one_in > 0, messages: 12 };
        if let Err(violation) = history.run(&hub, &gateways).await {
            panic!("seed {seed}, {faults:?}: {violation}");
        }
        // Its tasks would run in every later history.
        for (_, gateway) in gateways {
            gateway.drain(Instant::now()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_opens_while_its_token_is_revoked_on_another_node_ends() {
    let ms = Duration::from_millis;
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let hub = Hub::new(seed, Faults { delay: ms(seed % 3 * 4), ..Faults::NONE });
        let responders = [echo(ms(0)), echo(ms(0))];
        let started = nodes(&hub, Settings::default(), responders, Some((seed, ms(5)))).await;
        let token = created(&started[0]).await;
        // The session outlives the token.
        let lasting = token;
        let token = started[0].gateway.issue_token(&caller(), &lasting, NewToken::default()).await;
        let token = token.unwrap().token;
        let mut wait = || ms(random.random_range(0..20));
        let (before_revoke, before_attach) = (wait(), wait());
        let revoke = async {
            sleep(before_revoke).await;
            let gateway = &started[0].gateway;
            gateway.revoke_token(&caller(), &token, Revocation::Token).await.unwrap();
        };
        let attach = async {
            sleep(before_attach).await;
            started[1].gateway.attach(&caller(), &token, None).await
        };
        if let ((), Ok((mut stream, _))) = tokio::join!(revoke, attach) {
            let ended = timeout(SECOND, end(&mut stream)).await;
            let (kind, _) = ended.unwrap_or_else(|_| panic!("seed {seed}: the stream lives on"));
            assert_eq!(kind, ErrorKind::SessionRevoked);
        }
        for node in started {
            node.gateway.drain(Instant::now()).await;
        }
    }
}

/// A network that loses every note and does not report it.
struct Deaf;

#[async_trait::async_trait]
impl Network for Deaf {
    fn send(&self, _: NodeId, _: NodeId, _: Received) {}

    fn is_reachable(&self, _: NodeId) -> bool {
        true
    }

    async fn receive(&self, _: NodeId) -> Received {
        std::future::pending().await
    }
}

/// Starts two nodes on one store whose notes are all lost.
async fn deaf_nodes(storage: fn(Arc<MemoryStore>) -> Storage) -> Vec<(NodeId, Gateway)> {
    let shared = MemoryStore::new(1000, 1 << 28);
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let id = NodeId::generate();
        let storage = storage(Arc::new(shared.join(id, Arc::new(Deaf))));
        let responder = Arc::new(echo(Duration::from_millis(20)));
        gateways.push((id, Gateway::start(wide(), storage, responder).await.unwrap()));
    }
    gateways
}

#[tokio::test(start_paused = true)]
async fn the_check_of_histories_finds_nodes_that_do_not_know_of_each_other() {
    let (hub, gateways) = (Hub::new(0, Faults::NONE), deaf_nodes(Storage::unshared).await);
    let mut found = Ok(());
    for seed in 0..50 {
        let history = History { seed, loses_notes: true, messages: 12 };
        found = found.and(history.run(&hub, &gateways).await);
    }
    assert!(found.is_err());
}

/// Without any note, the comparison with the store alone keeps the nodes together.
#[tokio::test(start_paused = true)]
async fn nodes_without_notes_follow_the_store() {
    let (hub, gateways) = (Hub::new(0, Faults::NONE), deaf_nodes(Storage::shared).await);
    for seed in 0..20 {
        let history = History { seed, loses_notes: true, messages: 12 };
        history.run(&hub, &gateways).await.unwrap();
    }
}

/// An append whose message is in the log although its answer was lost.
#[tokio::test(start_paused = true)]
async fn a_turn_whose_append_was_not_answered_begins_when_the_session_is_used() {
    let (_hub, [one, two]) = two([echo(Duration::ZERO), echo(Duration::ZERO)]).await;
    let token = created(&one).await;
    let now = Timestamp::of_wall_clock();
    let id = one.store.find(&token.hash(), now).await.unwrap().session.id;
    let turn = crate::store_contract::user("Hi", Some("m1"));
    let limits = AppendLimits {
        now,
        token: TokenId::generate(),
        expires_at: now,
        delete_at: now,
        has_room: true,
        budgets: duologue::session::Budgets::default(),
        max_queued_turns: 10,
        max_session_messages: 100,
    };
    one.store.append(id, turn, limits).await.unwrap();
    let mut there = attached(&two, &token).await;
    let again = NewMessage::new("Hi", Some("m1"));
    assert!(one.gateway.send(&caller(), &token, again).await.unwrap().duplicate);
    assert_eq!(next_reply(&mut there).await.seq, 2);
    let page = Page { after: Some(0), until: 9, limit: 9, max_size: 1 << 20 };
    assert_eq!(one.store.read(id, now, page).await.unwrap().messages.len(), 2);

    // A message through another node reaches the owner, which does not know that it is one.
    drop(there);
    sleep(SECOND).await;
    let limits = AppendLimits { now, token: TokenId::generate(), ..limits };
    one.store.append(id, crate::store_contract::user("Hi", None), limits).await.unwrap();
    let mut there = attached(&two, &token).await;
    there.send(new_message("Hi")).end().await.unwrap();
    let answered = timeout(SECOND, async {
        for _ in 0..2 {
            next_reply(&mut there).await;
        }
    });
    answered.await.expect("both turns are answered");
}
