//! The turns of a node that dies, is stopped, or shuts down.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{
        Caller, Drained, Event, Message, PageRequest, Peers as _, Responder, Settings, Status,
        Subscription, Timestamp, Token,
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Faults, Hub, Node, Scripted, Step, named, new_message, nodes, status};

const SECOND: Duration = Duration::from_secs(1);

fn caller() -> Caller {
    Caller::default()
}

async fn started<R: Responder>(responders: impl IntoIterator<Item = R>) -> (Arc<Hub>, Vec<Node>) {
    let hub = Hub::new(0, Faults::NONE);
    let nodes = nodes(&hub, Settings::default(), responders, None).await;
    // Until each has seen the others.
    sleep(3 * SECOND).await;
    (hub, nodes)
}

fn long() -> Simulated {
    Simulated::new(&vec!["word"; 200].join(" "), Duration::from_millis(20))
}

async fn created(node: &Node) -> Token {
    node.gateway.create_token(&caller(), named("Ada")).await.unwrap().token
}

async fn attached(node: &Node, token: &Token) -> Subscription {
    node.gateway.attach(&caller(), token, None).await.unwrap().0
}

async fn log(node: &Node, token: &Token) -> Vec<Arc<Message>> {
    let page = PageRequest::default();
    node.gateway.refresh_token(&caller(), token, page).await.unwrap().messages
}

/// Reads until a reply begins, with this attempt.
async fn attempt(stream: &mut Subscription, attempt: u32) {
    let begins = async {
        loop {
            if let Event::ReplyStarted(started) = stream.next().await.unwrap()
                && started.attempt == attempt
            {
                return;
            }
        }
    };
    timeout(60 * SECOND, begins).await.expect("the reply begins");
}

async fn reply(stream: &mut Subscription) -> Arc<Message> {
    timeout(60 * SECOND, crate::support::next_reply(stream)).await.expect("the reply ends")
}

#[tokio::test(start_paused = true)]
async fn the_turns_of_a_killed_node_are_answered_by_another_within_five_seconds() {
    for seed in 0..20 {
        let (hub, nodes) = started([long(), long(), long()]).await;
        let token = created(&nodes[0]).await;
        let mut there = attached(&nodes[1], &token).await;
        for text in ["a", "b", "c"] {
            nodes[0].gateway.send(&caller(), &token, new_message(text)).await.unwrap();
        }
        attempt(&mut there, 1).await;
        sleep(Duration::from_millis(100 + 37 * seed)).await;
        hub.kill(&nodes[0]);
        let died = Instant::now();
        attempt(&mut there, 2).await;
        assert!(died.elapsed() <= 2 * SECOND, "{:?}", died.elapsed());
        for _ in 0..3 {
            let answer = reply(&mut there).await;
            assert_eq!(*status(&answer), Status::Complete);
        }
        assert_eq!(log(&nodes[2], &token).await.len(), 6);
        for node in &nodes[1..] {
            node.gateway.drain(Instant::now()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_ends_two_nodes_is_interrupted() {
    let (hub, nodes) = started([long(), long(), long()]).await;
    let token = created(&nodes[0]).await;
    let mut there = attached(&nodes[2], &token).await;
    nodes[0].gateway.send(&caller(), &token, new_message("a")).await.unwrap();
    attempt(&mut there, 1).await;
    // Longer than between two checkpoints.
    sleep(3 * SECOND).await;
    hub.kill(&nodes[0]);
    // The watching node may take the turn over itself: it is killed in any case.
    attempt(&mut there, 2).await;
    let id = there.session();
    let entered = nodes[2].store.enter(id, Timestamp::of_wall_clock(), None).await.unwrap();
    let second = if entered.owner == Some(nodes[1].id) { 1 } else { 2 };
    sleep(SECOND).await;
    hub.kill(&nodes[second]);
    let mut there = attached(&nodes[3 - second], &token).await;
    let ended = reply(&mut there).await;
    assert_eq!(*status(&ended), Status::Interrupted);
    assert!(!ended.text().is_empty(), "the content of the checkpoint is kept");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_that_continues_commits_nothing_and_follows_the_new_owner() {
    let (hanging, mut cancelled) = Scripted::new(&[Step::Say("old"), Step::Hang]);
    let (quick, _) = Scripted::new(&[Step::Say("new"), Step::End]);
    let (_hub, nodes) = started([hanging, quick]).await;
    let token = created(&nodes[0]).await;
    let (mut here, mut there) =
        (attached(&nodes[0], &token).await, attached(&nodes[1], &token).await);
    here.send(new_message("a")).end().await.unwrap();
    attempt(&mut there, 1).await;
    nodes[0].store.pause();
    let stopped = Instant::now();
    let answer = reply(&mut there).await;
    assert!(stopped.elapsed() <= 5 * SECOND, "{:?}", stopped.elapsed());
    assert_eq!(&**answer.text(), "new");
    sleep(10 * SECOND - stopped.elapsed()).await;
    nodes[0].store.unpause();
    let continued = Instant::now();
    timeout(5 * SECOND, cancelled.recv()).await.expect("the upstream is dropped");
    assert!(continued.elapsed() <= SECOND, "{:?}", continued.elapsed());
    assert_eq!(&**reply(&mut here).await.text(), "new");
    assert_eq!(log(&nodes[1], &token).await.len(), 2);
    // Both can answer again.
    there.send(new_message("b")).end().await.unwrap();
    assert_eq!(&**reply(&mut here).await.text(), "new");
}

#[tokio::test(start_paused = true)]
async fn no_node_is_judged_while_the_store_is_away() {
    let (_hub, nodes) = started([long(), long()]).await;
    let token = created(&nodes[0]).await;
    let mut there = attached(&nodes[1], &token).await;
    nodes[0].gateway.send(&caller(), &token, new_message("a")).await.unwrap();
    attempt(&mut there, 1).await;
    for node in &nodes {
        node.store.pause();
    }
    sleep(10 * SECOND).await;
    for node in &nodes {
        node.store.unpause();
    }
    loop {
        match there.next().await.unwrap() {
            Event::ReplyStarted(started) => panic!("{started:?}"),
            Event::Message(event) if event.message.in_reply_to().is_some() => break,
            _ => {}
        }
    }
    assert_eq!(log(&nodes[1], &token).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_hands_its_queue_over() {
    for loses_note in [false, true] {
        let (hub, nodes) = started([long(), long()]).await;
        let token = created(&nodes[0]).await;
        let mut there = attached(&nodes[1], &token).await;
        for text in ["a", "b", "c"] {
            nodes[0].gateway.send(&caller(), &token, new_message(text)).await.unwrap();
        }
        attempt(&mut there, 1).await;
        let deadline = Instant::now() + 30 * SECOND;
        let drain = nodes[0].gateway.drain(deadline);
        let mut cut = false;
        let watch = async {
            let first = reply(&mut there).await;
            assert_eq!(*status(&first), Status::Complete);
            if loses_note {
                cut = true;
                hub.cut(nodes[0].id);
            }
        };
        let (drained, ()) = tokio::join!(drain, watch);
        assert_eq!(drained, Drained::Finished);
        let handed_over = Instant::now();
        if !loses_note {
            attempt(&mut there, 1).await;
            assert!(handed_over.elapsed() <= SECOND, "{:?}", handed_over.elapsed());
        }
        for _ in 0..2 {
            let answer = reply(&mut there).await;
            assert_eq!(*status(&answer), Status::Complete);
        }
        assert_eq!(log(&nodes[1], &token).await.len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_keeps_its_queue_when_it_shuts_down() {
    let (_hub, nodes) = started([long()]).await;
    let token = created(&nodes[0]).await;
    for text in ["a", "b"] {
        nodes[0].gateway.send(&caller(), &token, new_message(text)).await.unwrap();
    }
    let drained = nodes[0].gateway.drain(Instant::now() + 30 * SECOND).await;
    assert_eq!(drained, Drained::Finished);
}
