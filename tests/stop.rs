//! Promise 6: a stop reaches the responder at once, from any transport, also before the first
//! delta.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    Call, Clock, DelayedStore, Rest, Scripted, Setup, Step, Transport, create,
    proto::MessageStatus, soon, unshared,
};

#[tokio::test]
async fn a_stop_from_any_transport_lets_go_of_the_responder_and_keeps_the_text() {
    for (script, text) in
        [(vec![Step::Hang], ""), (vec![Step::Say("so far"), Step::Hang], "so far")]
    {
        for (talker, stopper) in Transport::pairs() {
            let (responder, mut ended) = Scripted::new(&script);
            let server = Setup::answering(responder).start().await;
            let token = create(&server).await;
            let mut client = talker.open(&server, &token, None).await;
            let mut other = stopper.open(&server, &token, None).await;
            client.say("go", None).await.unwrap();
            if !text.is_empty() {
                client.delta().await;
            }
            // 250 ms are promised; nothing on the way waits for a timer.
            let clock = Clock::hold();
            let asked = Instant::now();
            other.stop().await;
            soon("the responder to be dropped", ended.recv()).await;
            assert_eq!(asked.elapsed(), Duration::ZERO, "{talker:?} {stopper:?}");
            drop(clock);
            for client in [&mut client, &mut other] {
                let reply = client.reply().await.1;
                assert_eq!(
                    (reply.status(), reply.text.as_str()),
                    (MessageStatus::Stopped, text),
                    "{talker:?} {stopper:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_stop_ends_one_reply_and_the_next_turn_runs() {
    let (responder, _) = Scripted::new(&[Step::Say("a"), Step::Gate, Step::Say("b"), Step::End]);
    let gate = responder.gate.clone();
    let server = Setup::answering(responder).start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("one", None).await.unwrap();
        client.say("two", None).await.unwrap();
        client.delta().await;
        client.stop().await;
        assert_eq!(client.reply().await.1.status(), MessageStatus::Stopped);
        gate.add_permits(1);
        let reply = client.reply().await.1;
        assert_eq!(
            (reply.status(), reply.text.as_str()),
            (MessageStatus::Complete, "ab"),
            "{transport:?}"
        );
    }
}

#[tokio::test]
async fn a_stop_without_a_reply_returns_false() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let answer = Rest::call(&server, "POST", &format!("/stop?token={token}")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"stopped":false}"#));
    let request =
        crate::support::proto::StopReplyRequest { token: token.clone(), ..Default::default() };
    assert!(
        !crate::support::stub(&server)
            .await
            .stop_reply(request)
            .await
            .unwrap()
            .into_inner()
            .stopped
    );
    for transport in Transport::ALL {
        let mut client = transport.open(&server, &token, None).await;
        client.stop().await;
        client.say("hello", None).await.unwrap();
        assert_eq!(client.reply().await.1.status(), MessageStatus::Complete, "{transport:?}");
    }
}

/// Its text is whole, and it is on its way into the log.
#[tokio::test]
async fn a_late_stop_returns_false_and_does_not_stop_the_next_turn() {
    let store = DelayedStore::new();
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("whole"), Step::End]);
    let gate = responder.gate.clone();
    let server = Setup { storage: unshared(&store), ..Setup::answering(responder) }.start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("one", None).await.unwrap();
    client.say("two", None).await.unwrap();
    store.hold(Call::Append);
    gate.add_permits(1);
    store.holds(1).await;
    let answer = Rest::call(&server, "POST", &format!("/stop?token={token}")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"stopped":false}"#));
    store.release();
    gate.add_permits(1);
    for _ in 0..2 {
        let reply = client.reply().await.1;
        assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "whole"));
    }
}
