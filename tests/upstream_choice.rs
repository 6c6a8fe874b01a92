//! The choice among several upstreams, and reused connections.

use std::time::Duration;

use duologue::responder::openai::UpstreamSettings;
use tokio::time::Instant;

use crate::upstream_failures::{BUSY, Pool, is_answered, whole};
use crate::{
    support::{
        Clock, Event, Setup, Transport, create,
        upstream::{CHUNKED, Upstream, answer, refusal, responder},
    },
    upstream::failure,
};

#[tokio::test]
async fn the_next_upstream_is_asked_at_once_and_the_failed_one_is_left_alone_for_a_while() {
    let mut pool = Pool::of(3, |_| {}).await;
    let clock = Clock::hold();
    let mut client = pool.talk().await;
    let began = Instant::now();
    pool.upstreams[0].asked().await.reset();
    pool.upstreams[1].asked().await.answer(&refusal(BUSY, "", "")).await;
    pool.upstreams[2].asked().await.answer(&whole("a")).await;
    is_answered(&mut client, "a").await;
    assert_eq!(began.elapsed(), Duration::ZERO, "no time had to pass");

    // Remembered: the next reply goes where the last one was answered.
    let mut client = pool.talk().await;
    pool.upstreams[2].asked().await.answer(&whole("b")).await;
    is_answered(&mut client, "b").await;

    // One reply tries the first again after a while; others go elsewhere meanwhile.
    clock.pass(Duration::from_secs(1)).await;
    let mut probing = pool.talk().await;
    let probe = pool.upstreams[0].asked().await;
    let mut other = pool.talk().await;
    pool.upstreams[1].asked().await.answer(&whole("c")).await;
    is_answered(&mut other, "c").await;
    probe.answer(&whole("d")).await;
    is_answered(&mut probing, "d").await;
    let mut client = pool.talk().await;
    pool.upstreams[0].asked().await.answer(&whole("e")).await;
    is_answered(&mut client, "e").await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_unavailable_and_the_next_one_answers() {
    let upstream = Upstream::start().await;
    let nobody = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        UpstreamSettings::new("nobody", duologue::responder::openai::Endpoint::parse(&url).unwrap())
    };
    let mut alone = nobody.clone();
    alone.defaults.retries = 0;
    for (upstreams, text, code) in [
        (vec![alone], "", "upstream_unavailable"),
        (vec![nobody, upstream.settings("there")], "a", ""),
    ] {
        let server = Setup::answering(responder(upstreams)).start().await;
        let mut client = Transport::Json.open(&server, &create(&server).await, None).await;
        client.say("Hi", None).await.unwrap();
        if code.is_empty() {
            upstream.always(whole("a"));
            is_answered(&mut client, text).await;
            break;
        }
        assert_eq!(failure(&client.reply().await.1), code);
    }
}

#[tokio::test]
async fn a_full_upstream_sends_those_beyond_to_the_next() {
    let narrow = |one: &mut UpstreamSettings| {
        one.defaults.capacity.concurrency = 1;
        one.defaults.capacity.queue_size = 0;
    };
    let mut pool = Pool::of(2, narrow).await;
    let mut clients = [pool.talk().await, pool.talk().await];
    let first = pool.upstreams[0].asked().await;
    pool.upstreams[1].asked().await.answer(&whole("b")).await;
    first.answer(&whole("a")).await;
    is_answered(&mut clients[0], "a").await;
    is_answered(&mut clients[1], "b").await;
}

#[tokio::test]
async fn a_reply_that_waits_for_its_place_does_not_wait_for_another_ones_cooldown() {
    let narrow = |one: &mut UpstreamSettings| one.defaults.capacity.concurrency = 1;
    let mut pool = Pool::of(2, narrow).await;
    let clock = Clock::hold();
    let mut first = pool.talk().await;
    let asked = pool.upstreams[0].asked().await;
    let mut waiting = pool.talk().await;
    waiting.has_begun().await;
    let began = Instant::now();
    asked.answer(&refusal("429 Too Many Requests", "retry-after: 30\r\n", "")).await;
    for _ in 0..2 {
        pool.upstreams[1].asked().await.answer(&whole("there")).await;
    }
    is_answered(&mut first, "there").await;
    is_answered(&mut waiting, "there").await;
    assert_eq!(began.elapsed(), Duration::ZERO, "no time had to pass");
    drop(clock);
}

#[tokio::test]
async fn the_upstream_that_can_be_asked_the_soonest_is_asked() {
    let mut pool = Pool::of(2, |_| {}).await;
    let clock = Clock::hold();
    // The second one wants to be left alone for a while, …
    let mut client = pool.talk().await;
    pool.upstreams[0].asked().await.answer(&refusal(BUSY, "", "")).await;
    let leave = refusal("429 Too Many Requests", "retry-after: 20\r\n", "");
    pool.upstreams[1].asked().await.answer(&leave).await;
    let began = Instant::now();
    let asked = clock.until(pool.upstreams[0].asked()).await;
    asked.answer(&whole("a")).await;
    is_answered(&mut client, "a").await;
    // … and the next reply does not wait for it either, though it has not tried it yet.
    let mut client = pool.talk().await;
    pool.upstreams[0].asked().await.answer(&refusal(BUSY, "", "")).await;
    let asked = clock.until(pool.upstreams[0].asked()).await;
    asked.answer(&whole("b")).await;
    is_answered(&mut client, "b").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// A server closes connections that were idle, and may do so just as one is used again.
#[tokio::test]
async fn a_kept_connection_that_is_lost_is_no_fault_of_the_upstream() {
    let mut pool = Pool::of(2, |_| {}).await;
    let clock = Clock::hold();
    let began = Instant::now();
    let mut client = pool.talk().await;
    let mut asked = pool.upstreams[0].asked().await;
    asked.write(CHUNKED).await;
    asked.chunk(&answer("a")).await;
    asked.write("0\r\n\r\n").await;
    is_answered(&mut client, "a").await;
    let mut client = pool.talk().await;
    asked.lose_the_next().await;
    pool.upstreams[0].asked().await.answer(&whole("b")).await;
    is_answered(&mut client, "b").await;
    // One that does so every time is not well.
    let mut client = pool.talk().await;
    for _ in 0..2 {
        pool.upstreams[0].asked().await.reset();
    }
    pool.upstreams[1].asked().await.answer(&whole("c")).await;
    is_answered(&mut client, "c").await;
    assert_eq!(began.elapsed(), Duration::ZERO, "no time had to pass");
    drop(clock);
}

/// After a restart behind a load balancer every kept connection is reset when it is used.
#[tokio::test]
async fn many_kept_connections_that_are_lost_cost_no_reply() {
    let mut pool = Pool::of(1, |_| {}).await;
    let clock = Clock::hold();
    let began = Instant::now();
    let (mut clients, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        clients.push(pool.talk().await);
        kept.push(pool.upstreams[0].asked().await);
    }
    for (client, asked) in clients.iter_mut().zip(&mut kept) {
        asked.write(CHUNKED).await;
        asked.chunk(&answer("a")).await;
        asked.write("0\r\n\r\n").await;
        is_answered(client, "a").await;
    }
    for asked in kept {
        tokio::spawn(asked.lose_the_next());
    }
    for _ in 0..4 {
        let mut client = pool.talk().await;
        pool.upstreams[0].asked().await.answer(&whole("b")).await;
        is_answered(&mut client, "b").await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "no time had to pass");
    drop(clock);
}

#[tokio::test]
async fn a_context_that_is_too_long_for_one_upstream_goes_whole_to_the_next() {
    let mut pool = Pool::of(2, |_| {}).await;
    let mut client = pool.talk().await;
    pool.upstreams[0].asked().await.answer(&whole("one")).await;
    client.reply().await;
    client.say("two", None).await.unwrap();
    let too_long = refusal("400 Bad Request", "", r#"{"code":"context_length_exceeded"}"#);
    for lines in [3, 1] {
        let asked = pool.upstreams[0].asked().await;
        assert_eq!(asked.conversation().len(), lines);
        asked.answer(&too_long).await;
    }
    let asked = pool.upstreams[1].asked().await;
    assert_eq!(asked.conversation().len(), 3);
    asked.answer(&whole("two")).await;
    let (events, reply) = client.reply().await;
    assert_eq!(reply.text, "two");
    let trimmed = |event: &Event| matches!(event, Event::ReplyStarted(it) if it.context_trimmed);
    assert!(!events.iter().any(trimmed), "{events:?}");
}
