//! Time limits, concurrency and sizes of a bot.

use std::time::Duration;

use duologue::{
    proto::ReplyOutcome,
    responder::{Capacity, grpc},
};
use tonic::Status;

use crate::bot::{attached, complete, ending, failed, gateway, turn};
use crate::support::{
    Act, Clock, Setup, TestBot, Transport, calls, piece_of, proto::MessageStatus,
};

#[tokio::test]
async fn a_bot_is_called_for_so_many_replies_and_so_many_wait() {
    let script = [Act::Gate, Act::Say("here"), Act::done()];
    let mut bot = TestBot::start(&[&script]).await;
    let capacity = Capacity { concurrency: 1, queue_size: 1, ..Capacity::default() };
    let server = gateway(grpc::Settings { capacity, ..calls(bot.addr) }).await;
    let mut served = attached(&server, Transport::Grpc).await;
    served.say("one", None).await.unwrap();
    bot.called().await;
    let mut waiting = attached(&server, Transport::Json).await;
    waiting.say("two", None).await.unwrap();
    waiting.has_begun().await;
    let mut beyond = attached(&server, Transport::Sse).await;
    let refused = beyond.say("three", None).await.unwrap_err();
    assert_eq!((&*refused.code, refused.retry_after_ms), ("503", Some(1000)));
    assert!(bot.is_idle());
    // A place becomes free by a stop, too.
    served.stop().await;
    assert_eq!(served.reply().await.1.status(), MessageStatus::Stopped);
    bot.called().await;
    bot.gate.add_permits(2);
    assert_eq!(waiting.reply().await.1.text, "here");
    assert_eq!(turn(&mut served, "four").await, complete("here"));
}

#[tokio::test]
async fn a_place_is_free_once_the_outcome_has_come_though_the_bot_does_not_end_the_call() {
    let bot = TestBot::start(&[&[Act::done(), Act::Hang]]).await;
    let capacity = Capacity { concurrency: 1, queue_size: 0, ..Capacity::default() };
    let server = gateway(grpc::Settings { capacity, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    for _ in 0..3 {
        assert_eq!(turn(&mut client, "go").await, complete(""));
    }
}

#[tokio::test]
async fn the_time_of_a_bot_begins_when_it_takes_the_call_and_until_then_one_waits_for_a_place() {
    let mut bot = TestBot::start_narrow(1, &[&[Act::Say("a"), Act::Gate, Act::done()]]).await;
    let first_content_timeout = Duration::from_millis(200);
    let settings = grpc::Settings { first_content_timeout, ..calls(bot.addr) };
    let brief = Duration::from_millis(400);
    let short = Capacity { queue_timeout: brief, ..Capacity::default() };
    let server = gateway(grpc::Settings { capacity: short, ..settings }).await;
    let mut served = attached(&server, Transport::Grpc).await;
    served.say("one", None).await.unwrap();
    served.delta().await;
    let mut waiting = attached(&server, Transport::Json).await;
    assert_eq!(turn(&mut waiting, "two").await, failed("", "overloaded"));

    bot.called().await;
    waiting.say("three", None).await.unwrap();
    let late = tokio::time::timeout(first_content_timeout * 3 / 2, waiting.delta()).await;
    assert!(late.is_err() && bot.is_idle(), "{late:?}");
    bot.gate.add_permits(2);
    assert_eq!(served.reply().await.1.text, "a");
    assert_eq!(waiting.reply().await.1.text, "a");
}

#[tokio::test]
async fn a_stop_between_two_calls_takes_effect() {
    let away = [Act::Fail(Status::unavailable("not yet"))];
    let mut bot = TestBot::start(&[&away]).await;
    let server = gateway(grpc::Settings { retries: 10, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    bot.called().await;
    client.stop().await;
    assert_eq!(client.reply().await.1.status(), MessageStatus::Stopped);
}

#[tokio::test]
async fn each_wait_has_its_own_limit_and_its_own_word() {
    let short = Duration::from_millis(200);
    let cases: [(&[Act], &str, &str); 5] = [
        (&[Act::Hang], "", "upstream_first_content_timeout"),
        (&[Act::Say(""), Act::Babble, Act::Hang], "", "upstream_first_content_timeout"),
        (&[Act::Say("so far"), Act::Hang], "so far", "upstream_chunk_timeout"),
        (&[Act::Hang], "", "upstream_total_timeout"),
        (&[Act::Say("so far"), Act::Hang], "so far", "upstream_total_timeout"),
    ];
    for (script, text, code) in cases {
        let mut bot = TestBot::start(&[script]).await;
        let all = calls(bot.addr);
        let settings = match code {
            "upstream_first_content_timeout" => {
                grpc::Settings { first_content_timeout: short, ..all }
            }
            "upstream_chunk_timeout" => grpc::Settings { chunk_timeout: short, ..all },
            _ => grpc::Settings { total_timeout: short, ..all },
        };
        let server = gateway(settings).await;
        let mut client = attached(&server, Transport::Grpc).await;
        assert_eq!(turn(&mut client, "go").await, failed(text, code));
        assert!(bot.let_go().await, "{code}");
    }
}

/// Each sign comes long before the silence would be too long, and together they last
/// longer than it.
#[tokio::test]
async fn signs_of_life_keep_a_bot_that_thinks_in_the_middle_of_a_reply() {
    let pause = [Act::Say(""), Act::Gate, Act::Babble, Act::Gate];
    let thinking = pause.iter().cycle().take(24).cloned();
    let script: Vec<_> =
        [Act::Say("a")].into_iter().chain(thinking).chain([Act::Say("b"), Act::done()]).collect();
    let bot = TestBot::start(&[&script]).await;
    let gate = bot.gate.clone();
    let chunk_timeout = Duration::from_secs(2);
    let server = gateway(grpc::Settings { chunk_timeout, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    assert_eq!(piece_of(&client.delta().await), "a");
    let clock = Clock::hold();
    for _ in 0..12 {
        clock.pass(chunk_timeout / 8).await;
        gate.add_permits(1);
    }
    assert_eq!(ending(clock.until(client.reply()).await.1), complete("ab"));
}

#[tokio::test]
async fn the_first_outcome_counts_and_nothing_after_it() {
    let outcome = |reason: &str| {
        Act::Outcome(ReplyOutcome { finish_reason: Some(reason.into()), ..Default::default() })
    };
    let scripts: [&[Act]; 4] = [
        &[Act::Say("a"), outcome("first"), Act::Say("b"), Act::Hang],
        &[Act::Say("a"), outcome("first"), outcome("second")],
        &[Act::Say("a"), outcome("first"), Act::Fail(Status::internal("too late"))],
        &[Act::Say("a"), outcome("first"), Act::Hang],
    ];
    let bot = TestBot::start(&scripts).await;
    let server = gateway(calls(bot.addr)).await;
    let mut client = attached(&server, Transport::Proto).await;
    for script in scripts {
        client.say("go", None).await.unwrap();
        let reply = client.reply().await.1;
        let said = (reply.status(), reply.text.as_str(), reply.finish_reason.as_deref());
        assert_eq!(said, (MessageStatus::Complete, "a", Some("first")), "{script:?}");
    }
}

#[tokio::test]
async fn a_bot_that_goes_on_after_its_outcome_is_let_go_of() {
    let mut bot = TestBot::start(&[&[Act::done(), Act::Say("and"), Act::Hang]]).await;
    let server = gateway(calls(bot.addr)).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "go").await, complete(""));
    assert!(bot.let_go().await);
}

#[tokio::test]
async fn a_reply_that_is_too_long_is_cut_and_the_bot_let_go_of() {
    let scripts: [&[Act]; 2] =
        [&[Act::Chatter("0123456789", 1_000_000), Act::done()], &[Act::Flood(3 << 20), Act::Hang]];
    for script in scripts {
        let mut bot = TestBot::start(&[script]).await;
        let mut setup = Setup::answering(grpc::Bot::new(calls(bot.addr)).unwrap());
        setup.session.max_reply_size = 1000;
        let server = setup.start().await;
        let mut client = attached(&server, Transport::Grpc).await;
        client.say("go", None).await.unwrap();
        let reply = client.reply().await.1;
        assert_eq!((reply.status(), reply.text.len()), (MessageStatus::Interrupted, 1000));
        assert_eq!(reply.finish_reason.as_deref(), Some("max_reply_size"));
        assert!(bot.let_go().await);
    }
}

#[tokio::test]
async fn a_frame_that_is_too_large_fails_the_reply_and_no_other() {
    let bot = TestBot::start(&[
        &[Act::Say("so far"), Act::Flood(5 << 20), Act::done()],
        &[Act::Say("well"), Act::done()],
    ])
    .await;
    let server = gateway(calls(bot.addr)).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "go").await, failed("so far", "upstream_failed"));
    assert_eq!(turn(&mut client, "go").await, complete("well"));
}

/// Many small frames that wait unread are what HTTP/2 libraries close a connection for.
#[tokio::test]
async fn a_flood_of_small_words_in_many_replies_costs_no_connection() {
    let bot = TestBot::start(&[&[Act::Chatter("x", 5000), Act::done()]]).await;
    let server = gateway(calls(bot.addr)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(attached(&server, Transport::Grpc).await);
    }
    for client in &mut clients {
        client.say("go", None).await.unwrap();
    }
    for client in &mut clients {
        let reply = client.reply().await.1;
        assert_eq!((reply.status(), reply.text.len()), (MessageStatus::Complete, 5000));
    }
}
