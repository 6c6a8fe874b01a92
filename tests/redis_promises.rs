//! The promises over pairs of protocols and pairs of gateways, as processes on real servers.

use std::time::{Duration, Instant};

use crate::{
    process::Process,
    support::{
        Address, Event, RedisServer, Rest, Transport, create, history, proto::MessageStatus,
        proto::Position, soon,
    },
};

const WORDS: &str = "one two three four five six seven eight nine ten eleven twelve";

/// Two gateways on a server, with a delay before each word of a reply.
async fn pair(server: &RedisServer, delay: &str) -> [Process; 2] {
    let store = format!("redis://127.0.0.1:{}", server.port());
    let prefix = format!("{}:", duologue::session::SessionId::generate());
    let flags = [
        "--store",
        &store,
        "--redis-key-prefix",
        &prefix,
        "--simulated-reply",
        WORDS,
        "--simulated-delay",
        delay,
        "--address-messages-per-second",
        "0",
        "--address-sessions-per-minute",
        "0",
    ];
    [Process::start(&flags).await, Process::start(&flags).await]
}

/// Runs a scenario for every pair of protocols, from one gateway to the other, all pairs at the same
/// time.
async fn on_pairs<F: Future<Output = ()>>(
    delay: &str,
    scenario: impl Fn(Transport, Address, Transport, Address) -> F,
) {
    for server in RedisServer::shared() {
        let [one, two] = pair(server, delay).await;
        let runs = Transport::pairs().enumerate().map(|(number, (here, there))| {
            let addresses = [one.address(), two.address()];
            let [from, to] = addresses;
            // Both directions.
            let (from, to) = if number % 2 == 0 { (from, to) } else { (to, from) };
            scenario(here, from, there, to)
        });
        futures_util::future::join_all(runs).await;
        for gateway in [one, two] {
            gateway.signal("TERM").await;
            assert_eq!(gateway.ended().await.0, Some(0));
        }
    }
}

#[tokio::test]
async fn a_conversation_continues_from_every_position_on_the_other_gateway() {
    on_pairs("50ms", async |here, from, there, to| {
        let token = create(&from).await;
        let mut client = here.open(&from, &token, None).await;
        for turn in 0..2 {
            client.say(&format!("{turn}"), None).await.unwrap();
            client.reply().await;
        }
        for seq in 0..=4 {
            let at = client.at(seq);
            let mut back = there.open(&to, &token, Some(&at)).await;
            assert!(back.opened.recovered, "{here:?} {there:?} {seq}");
            let replayed = back.messages(4 - seq as usize).await;
            let seqs: Vec<_> = replayed.iter().map(|message| message.seq).collect();
            assert_eq!(seqs, (seq + 1..=4).collect::<Vec<_>>(), "{here:?} {there:?} {seq}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_sent_again_to_the_other_gateway_is_one_turn() {
    on_pairs("50ms", async |here, from, there, to| {
        let token = create(&from).await;
        let mut client = here.open(&from, &token, None).await;
        let mut other = there.open(&to, &token, None).await;
        let first = client.say("Hi", Some("k")).await.unwrap();
        let again = other.say("Hi", Some("k")).await.unwrap();
        assert!(!first.duplicate && again.duplicate, "{here:?} {there:?}");
        assert_eq!((first.seq, first.message_id), (again.seq, again.message_id));
        client.reply().await;
        other.reply().await;
        let refused = other.say("Bye", Some("k")).await.unwrap_err();
        let code = if there == Transport::Sse { "409" } else { "message_id_reused" };
        assert_eq!(refused.code, code, "{here:?} {there:?}");
        assert_eq!(history(&to, Transport::Grpc, &token).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_reply_continues_at_its_offset_on_the_other_gateway() {
    on_pairs("50ms", async |here, from, there, to| {
        let token = create(&from).await;
        let mut client = here.open(&from, &token, None).await;
        client.say("Hi", None).await.unwrap();
        let started = client.reply_started().await;
        let mut text = String::new();
        while text.len() < 10 {
            text.push_str(crate::support::piece_of(&client.delta().await));
        }
        let reply = duologue::proto::ReplyPosition {
            reply_id: started.reply_id.clone(),
            offset: text.len() as u32,
        };
        let at = Position { reply: Some(reply), ..client.at(1) };
        drop(client);
        let mut back = there.open(&to, &token, Some(&at)).await;
        assert!(back.opened.recovered, "{here:?} {there:?}");
        let (events, message) = back.reply().await;
        for event in &events {
            match event {
                Event::Delta(delta) => text.push_str(crate::support::piece_of(delta)),
                Event::ReplyStarted(started) => assert_eq!(started.attempt, 1),
                _ => {}
            }
        }
        // The message may overtake the last deltas, which it then replaces.
        assert!(WORDS.starts_with(&text), "{here:?} {there:?}: {text}");
        assert_eq!(message.text, WORDS, "{here:?} {there:?}");
    })
    .await;
}

#[tokio::test]
async fn a_stop_and_a_revocation_on_the_other_gateway_take_effect_at_once() {
    on_pairs("500ms", async |here, from, there, to| {
        let token = create(&from).await;
        let mut client = here.open(&from, &token, None).await;
        let mut other = there.open(&to, &token, None).await;
        client.say("Hi", None).await.unwrap();
        client.delta().await;
        let asked = Instant::now();
        other.stop().await;
        for client in [&mut client, &mut other] {
            let message = client.reply().await.1;
            assert_eq!(message.status(), MessageStatus::Stopped, "{here:?} {there:?}");
        }
        // The reply would take longer.
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        let path = format!("/token?token={token}");
        assert_eq!(Rest::call(&to, "DELETE", &path).await.status, 204);
        for client in [client, other] {
            let code = soon("the end", client.ended()).await.0;
            assert_eq!(code.as_deref(), Some("session_revoked"), "{here:?} {there:?}");
        }
    })
    .await;
}
