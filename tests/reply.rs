//! Promise 5: a reply belongs to the session and always ends in one terminal message.

use std::time::Duration;

use duologue::{
    responder::Simulated,
    session::{
        Caller, Checkpoint, Content, Created, ErrorKind, History, Lease, NewMessage, Position,
        Prompt, Reply, Responder, Status, Turns as _,
    },
};
use tokio::time::Instant;

use crate::support::{
    DelayedStore, Event, Log, Scripted, Setup, Step, Transport, core, create, named, next_reply,
    piece_of,
    proto::{self, MessageStatus},
    soon, status, stub,
};

#[tokio::test]
async fn a_reply_finishes_with_nobody_attached_and_is_there_on_return() {
    for (left, back) in Transport::pairs() {
        let (responder, mut ended) =
            Scripted::new(&[Step::Say("one "), Step::Gate, Step::Say("two"), Step::End]);
        let gate = responder.gate.clone();
        let server = Setup::answering(responder).start().await;
        let token = create(&server).await;
        let mut client = left.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        client.delta().await;
        let at = client.at(1);
        drop(client);

        gate.add_permits(1);
        soon("the reply's end", ended.recv()).await;
        let mut client = back.open(&server, &token, Some(&at)).await;
        let reply = client.messages(1).await.remove(0);
        assert_eq!((reply.seq, reply.text.as_str()), (2, "one two"), "{left:?} {back:?}");
        assert_eq!(reply.status(), MessageStatus::Complete);
        assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
    }
}

#[tokio::test]
async fn however_the_responder_ends_the_log_has_one_terminal_message_and_the_session_goes_on() {
    let scripts = [
        (vec![Step::Say("half")], MessageStatus::Failed, "half", Some("responder_truncated")),
        (vec![], MessageStatus::Failed, "", Some("responder_truncated")),
        (vec![Step::Say("half"), Step::Panic], MessageStatus::Failed, "half", Some("internal")),
        (vec![Step::End], MessageStatus::Complete, "", None),
        (vec![Step::Say(""), Step::Say("x"), Step::End], MessageStatus::Complete, "x", None),
    ];
    for (script, status, text, failure) in scripts {
        let (responder, _) = Scripted::new(&script);
        let server = Setup::answering(responder).start().await;
        let token = create(&server).await;
        for transport in Transport::ALL {
            let mut client = transport.open(&server, &token, None).await;
            for _ in 0..2 {
                client.say("go", None).await.unwrap();
                let reply = client.reply().await.1;
                assert_eq!((reply.status(), reply.text.as_str()), (status, text), "{script:?}");
                assert_eq!(
                    reply.failure.as_ref().map(|failure| failure.code.as_str()),
                    failure,
                    "{script:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_reply_that_grows_beyond_its_limit_is_cut_and_kept() {
    let (responder, mut ended) = Scripted::new(&[Step::Flood(600), Step::Flood(600), Step::Hang]);
    let mut setup = Setup::answering(responder);
    setup.session.max_reply_size = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.len()), (MessageStatus::Interrupted, 1000));
    assert_eq!(reply.finish_reason.as_deref(), Some("max_reply_size"));
    soon("the responder to be dropped", ended.recv()).await;
}

#[tokio::test]
async fn without_a_delay_the_reply_is_one_delta_and_with_one_it_streams_word_by_word() {
    for (delay, deltas) in [
        (Duration::ZERO, vec!["Hi Ada: a b"]),
        (Duration::from_millis(1), vec!["Hi ", "Ada: ", "a ", "b"]),
    ] {
        let server = Setup::answering(Simulated::new("Hi {name}: {text}", delay)).start().await;
        for transport in Transport::ALL {
            let token = create(&server).await;
            let mut client = transport.open(&server, &token, None).await;
            client.say("a b", None).await.unwrap();
            let (events, reply) = client.reply().await;
            let texts: Vec<_> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Delta(delta) => Some(piece_of(delta)),
                    _ => None,
                })
                .collect();
            assert_eq!(texts, deltas, "{transport:?}");
            assert_eq!(reply.text, "Hi Ada: a b");
        }
    }
}

/// A subscriber that attaches before the first text gets `reply_started` once, and once more if the
/// context turns out to be too long.
#[tokio::test]
async fn a_trimmed_context_is_announced_before_the_first_delta_and_to_late_subscribers() {
    let script = [Step::Gate, Step::Trim, Step::Gate, Step::Say("x"), Step::Gate, Step::End];
    for (early, late) in Transport::pairs() {
        let (responder, _) = Scripted::new(&script);
        let gate = responder.gate.clone();
        let server = Setup::answering(responder).start().await;
        let token = create(&server).await;
        let mut client = early.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        let started = client.reply_started().await;
        assert!(!started.context_trimmed, "{early:?}");
        gate.add_permits(1);
        let again = client.reply_started().await;
        assert_eq!((again.context_trimmed, again.offset), (true, 0), "{early:?}");
        assert_eq!(again.reply_id, started.reply_id);
        let mut other = late.open(&server, &token, None).await;
        assert!(other.reply_started().await.context_trimmed, "{late:?}");
        gate.add_permits(2);
        for client in [&mut client, &mut other] {
            assert_eq!(piece_of(&client.delta().await), "x");
            assert_eq!(client.reply().await.1.text, "x");
        }
    }
}

#[tokio::test]
async fn a_stopped_reply_has_estimated_usage() {
    let (responder, _) = Scripted::new(&[Step::Say("12345678"), Step::Hang]);
    let server = Setup::answering(responder).start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        client.delta().await;
        client.stop().await;
        let usage = client.reply().await.1.usage.unwrap_or_else(|| panic!("none on {transport:?}"));
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (7, 2, true));
        let request = proto::RefreshTokenRequest { token, ..Default::default() };
        let session = stub(&server).await.refresh_token(request).await.unwrap().into_inner();
        assert_eq!(session.usage, Some(usage), "the only reply of its session");
    }
}

/// Two minutes of failures, as of a disk that another program holds, or that is full.
#[tokio::test(start_paused = true)]
async fn a_reply_is_committed_in_the_end_however_often_the_store_fails() {
    let store = DelayedStore::new();
    let gateway = core(&store, Simulated::new("{text}", Duration::from_secs(1))).await;
    let token = gateway.create_token(&Caller::default(), named("Ada")).await.unwrap().token;
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    gateway.send(&Caller::default(), &token, NewMessage::new("hello", None)).await.unwrap();
    let began = Instant::now();
    let (full, fault) = (ErrorKind::StoreFull, ErrorKind::Internal);
    store.refuse_appends.lock().unwrap().extend([vec![fault; 70], vec![full; 10]].concat());
    let reply = next_reply(&mut attachment).await;
    assert_eq!(status(&reply), &Status::Complete);
    assert!(began.elapsed() > Duration::from_secs(120), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_starts_on_a_full_disk_with_a_turn_to_give_up() {
    let (store, log) = (DelayedStore::new(), Log::begin());
    let before = core(&store, Scripted::new(&[Step::Hang]).0).await;
    let Created { token, session, .. } =
        before.create_token(&Caller::default(), named("Ada")).await.unwrap();
    before.send(&Caller::default(), &token, NewMessage::new("hello", None)).await.unwrap();
    let died = Checkpoint { seq: 1, attempt: 2, content: Content::of_text("seen") };
    store.checkpoint(session.id, Lease::UNSHARED, died, session.created_at).await.unwrap();
    store.refuse_appends.lock().unwrap().extend([ErrorKind::StoreFull; 3]);
    let gateway = core(&store, Simulated::new("{text}", Duration::ZERO)).await;
    let start = Position::new(session.epoch, 1);
    let (mut attachment, _) =
        gateway.attach(&Caller::default(), &token, Some(&start)).await.unwrap();
    assert!(
        !gateway.stop(&Caller::default(), &token, None).await.unwrap(),
        "it is interrupted, and will not be stopped"
    );
    let reply = next_reply(&mut attachment).await;
    assert_eq!((status(&reply), &**reply.text()), (&Status::Interrupted, "seen"));
    let told = log.text().matches("the store is full; a reply waits to be committed").count();
    assert_eq!(told, 1, "once, however long it waits");
}

struct MalformedResponder;

impl Responder for MalformedResponder {
    fn history(&self) -> History {
        History::NONE
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        let text = &**prompt.message.text();
        panic!("tripped over {text}")
    }
}

#[tokio::test]
async fn a_panic_of_the_responder_is_logged_and_quotes_no_text() {
    let log = Log::begin();
    let gateway = core(&DelayedStore::new(), MalformedResponder).await;
    let token = gateway.create_token(&Caller::default(), named("Ada")).await.unwrap().token;
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    gateway.send(&Caller::default(), &token, NewMessage::new("a canary", None)).await.unwrap();
    let reply = next_reply(&mut attachment).await;
    assert!(matches!(status(&reply), Status::Failed(_)));
    let log = log.text();
    assert!(log.contains("the responder panicked") && !log.contains("canary"), "{log}");
}
