//! Retries, other upstreams, places: what happens before the first text.

use std::time::Duration;

use duologue::responder::openai::{Settings, UpstreamSettings};
use tokio::time::Instant;

use crate::{
    support::{
        Attached, Clock, Rest, Running, Setup, Transport, create,
        proto::MessageStatus,
        upstream::{
            Asked, CHUNKED, DONE, HEAD, Upstream, answer, delta, finish, refusal, responder_with,
        },
    },
    upstream::failure,
};

pub(crate) const BUSY: &str = "503 Service Unavailable";

/// A gateway before some upstreams, in order of preference.
pub(crate) struct Pool {
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) server: Running,
}

impl Pool {
    pub(crate) async fn of(count: usize, change: impl Fn(&mut UpstreamSettings)) -> Self {
        Self::with(count, change, |_| {}).await
    }

    pub(crate) async fn with(
        count: usize,
        change: impl Fn(&mut UpstreamSettings),
        change_all: impl FnOnce(&mut Settings),
    ) -> Self {
        let (mut upstreams, mut settings) = (Vec::new(), Vec::new());
        for n in 0..count {
            let upstream = Upstream::start().await;
            let mut one = upstream.settings(&n.to_string());
            change(&mut one);
            settings.push(one);
            upstreams.push(upstream);
        }
        let server = Setup::answering(responder_with(settings, change_all)).start().await;
        Self { upstreams, server }
    }

    /// Connects a client and sends a message.
    pub(crate) async fn talk(&self) -> Attached {
        let token = create(&self.server).await;
        let mut client = Transport::Json.open(&self.server, &token, None).await;
        client.say("Hi", None).await.unwrap();
        client
    }
}

pub(crate) fn whole(text: &str) -> String {
    format!("{HEAD}{}", answer(text))
}

pub(crate) async fn is_answered(client: &mut Attached, text: &str) {
    let reply = client.reply().await.1;
    assert_eq!((reply.text.as_str(), failure(&reply)), (text, ""));
}

#[tokio::test]
async fn what_passes_is_tried_again_later_each_time_and_not_for_ever() {
    let mut pool = Pool::of(1, |one| one.defaults.retries = 3).await;
    let clock = Clock::hold();
    let mut client = pool.talk().await;
    let mut before: Option<(Instant, Duration)> = None;
    for _ in 0..4 {
        let asked = clock.until(pool.upstreams[0].asked()).await;
        let now = Instant::now();
        if let Some((then, wait)) = before {
            assert!(now - then > wait, "{:?} is not longer than {wait:?}", now - then);
            before = Some((now, now - then));
        } else {
            before = Some((now, Duration::ZERO));
        }
        asked.answer(&refusal(BUSY, "", "")).await;
    }
    assert_eq!(failure(&client.reply().await.1), "upstream_unavailable");
    assert!(pool.upstreams[0].is_idle());
}

#[tokio::test]
async fn every_transient_failure_before_the_first_text_is_retried() {
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    for failing in [
        refusal(BUSY, "", ""),
        refusal("429 Too Many Requests", "", ""),
        refusal("500 Internal Server Error", "", "{\"error\":\"x\"}"),
        "HTTP/1.1 200".into(),
        HEAD.into(),
        format!("{HEAD}{role}"),
        format!("{HEAD}data: nonsense\n\n"),
        format!("{HEAD}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n"),
        String::new(),
    ] {
        let mut pool = Pool::of(1, |one| one.defaults.retries = 1).await;
        let clock = Clock::hold();
        let mut client = pool.talk().await;
        pool.upstreams[0].asked().await.answer(&failing).await;
        clock.until(pool.upstreams[0].asked()).await.answer(&whole("a")).await;
        is_answered(&mut client, "a").await;
    }
}

#[tokio::test]
async fn what_does_not_pass_is_not_tried_again_there() {
    let quota = "{\"error\":{\"code\":\"insufficient_quota\"}}";
    for (failing, code) in [
        (refusal("429 Too Many Requests", "retry-after: 0\r\n", quota), "upstream_quota"),
        (refusal("401 Unauthorized", "", ""), "upstream_auth"),
        (refusal("403 Forbidden", "", ""), "upstream_auth"),
        (refusal("400 Bad Request", "", ""), "upstream_rejected"),
        (
            refusal("301 Moved Permanently", "location: http://127.0.0.1:1/\r\n", ""),
            "upstream_rejected",
        ),
    ] {
        let mut pool = Pool::of(1, |_| {}).await;
        let mut client = pool.talk().await;
        pool.upstreams[0].asked().await.answer(&failing).await;
        assert_eq!(failure(&client.reply().await.1), code);
        assert!(pool.upstreams[0].is_idle());

        // Another upstream may have another account, another model, other limits.
        let mut pool = Pool::of(2, |_| {}).await;
        let mut client = pool.talk().await;
        pool.upstreams[0].asked().await.answer(&failing).await;
        pool.upstreams[1].asked().await.answer(&whole("a")).await;
        is_answered(&mut client, "a").await;
    }
}

#[tokio::test]
async fn nothing_is_tried_again_after_the_first_content() {
    let reasoning = "data: {\"choices\":[{\"delta\":{\"reasoning\":\"Hm\"}}]}\n\n";
    for (content, text) in [(delta("a"), "a"), (reasoning.to_owned(), "")] {
        let mut pool = Pool::of(2, |_| {}).await;
        let mut client = pool.talk().await;
        pool.upstreams[0].asked().await.answer(&format!("{HEAD}{content}")).await;
        let reply = client.reply().await.1;
        assert_eq!((reply.text.as_str(), failure(&reply)), (text, "upstream_truncated"));
        assert!(pool.upstreams.iter_mut().all(Upstream::is_idle));
    }
}

#[tokio::test]
async fn retry_after_is_a_floor_in_each_form_and_for_every_reply() {
    let date = |wait| httpdate::fmt_http_date(std::time::SystemTime::now() + wait);
    let in_ten = date(Duration::from_secs(10));
    for (header, floor) in [
        ("retry-after: 7\r\n".to_owned(), 7.0),
        ("retry-after-ms: 6500\r\nretry-after: 1\r\n".into(), 6.5),
        // The date counts whole seconds, and the clock continues.
        (format!("retry-after: {in_ten}\r\n"), 5.0),
    ] {
        let mut pool = Pool::of(1, |_| {}).await;
        let clock = Clock::hold();
        let mut first = pool.talk().await;
        let asked = pool.upstreams[0].asked().await;
        asked.answer(&refusal("429 Too Many Requests", &header, "")).await;
        let told = Instant::now();
        clock.rest().await;
        // Another reply, which got no refusal itself.
        let mut second = pool.talk().await;
        for _ in 0..2 {
            clock.until(pool.upstreams[0].asked()).await.answer(&whole("a")).await;
            let waited = told.elapsed().as_secs_f64();
            assert!(waited >= floor, "asked again after {waited} s, told {header}");
        }
        is_answered(&mut first, "a").await;
        is_answered(&mut second, "a").await;
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_not_begun() {
    let mut pool = Pool::of(1, |_| {}).await;
    let mut client = pool.talk().await;
    let refused = refusal("429 Too Many Requests", "retry-after: 3600\r\n", "");
    pool.upstreams[0].asked().await.answer(&refused).await;
    assert_eq!(failure(&client.reply().await.1), "upstream_rate_limited");
    // The next reply fails at once.
    let mut client = pool.talk().await;
    assert_eq!(failure(&client.reply().await.1), "upstream_rate_limited");
    assert!(pool.upstreams[0].is_idle());
}

#[tokio::test]
async fn an_upstream_is_asked_for_so_many_replies_and_so_many_wait() {
    let narrow = |one: &mut UpstreamSettings| {
        one.defaults.capacity.concurrency = 2;
        one.defaults.capacity.queue_size = 1;
    };
    let mut pool = Pool::of(1, narrow).await;
    let mut served = [pool.talk().await, pool.talk().await];
    let asked = [pool.upstreams[0].asked().await, pool.upstreams[0].asked().await];
    let mut waiting = pool.talk().await;
    waiting.has_begun().await;
    for transport in Transport::ALL {
        let mut beyond = transport.open(&pool.server, &create(&pool.server).await, None).await;
        let refused = beyond.say("Hi", Some("m1")).await.unwrap_err();
        assert!(["overloaded", "503"].contains(&&*refused.code), "{refused:?}");
        assert_eq!(refused.retry_after_ms, Some(1000));
    }
    assert!(pool.upstreams[0].is_idle());
    // A place becomes free by an end, and the next by a stop.
    let [one, other] = asked;
    one.answer(&whole("a")).await;
    let third = pool.upstreams[0].asked().await;
    let mut stopped = pool.talk().await;
    stopped.has_begun().await;
    for client in &mut served {
        client.stop().await;
    }
    other.let_go().await;
    third.answer(&whole("b")).await;
    is_answered(&mut waiting, "b").await;
    pool.upstreams[0].asked().await.answer(&whole("c")).await;
    is_answered(&mut stopped, "c").await;
}

#[tokio::test]
async fn an_accepted_turn_waits_for_its_permit_and_the_wait_does_not_count() {
    let narrow = |one: &mut UpstreamSettings| {
        one.defaults.capacity.concurrency = 1;
        one.defaults.capacity.queue_timeout = Duration::from_millis(100);
    };
    let total = |settings: &mut Settings| settings.total_timeout = Duration::from_millis(1500);
    let mut pool = Pool::with(1, narrow, total).await;
    let mut served = pool.talk().await;
    let asked = pool.upstreams[0].asked().await;
    let mut waiting = pool.talk().await;
    waiting.has_begun().await;
    // Each of the two has its time from its own permit on.
    let part = Duration::from_secs(1);
    tokio::time::sleep(part).await;
    asked.answer(&whole("a")).await;
    served.reply().await;
    let asked = pool.upstreams[0].asked().await;
    tokio::time::sleep(part).await;
    asked.answer(&whole("b")).await;
    is_answered(&mut waiting, "b").await;
}

#[tokio::test]
async fn a_retry_is_answered_where_there_is_no_room_for_another_turn() {
    let narrow = |one: &mut UpstreamSettings| {
        one.defaults.capacity.concurrency = 1;
        one.defaults.capacity.queue_size = 0;
    };
    let mut pool = Pool::of(1, narrow).await;
    let token = create(&pool.server).await;
    let mut client = Transport::Json.open(&pool.server, &token, None).await;
    client.say("Hi", Some("m1")).await.unwrap();
    let asked = pool.upstreams[0].asked().await;
    for transport in Transport::ALL {
        let mut again = transport.open(&pool.server, &token, None).await;
        assert!(again.say("Hi", Some("m1")).await.unwrap().duplicate, "{transport:?}");
        assert!(again.say("Hi", Some("m2")).await.is_err(), "{transport:?}");
    }
    asked.answer(&whole("a")).await;
    client.reply().await;
    client.say("Hi", Some("m2")).await.unwrap();
    pool.upstreams[0].asked().await.answer(&whole("b")).await;
    is_answered(&mut client, "b").await;
}

/// Where a reply can be when it is stopped.
pub(crate) enum At {
    Connecting,
    Waiting,
    BackOff,
    Head,
    FirstText,
    Text,
}

#[tokio::test]
async fn a_stop_lets_go_of_the_upstream_wherever_the_reply_is() {
    for at in [At::Connecting, At::Waiting, At::BackOff, At::Head, At::FirstText, At::Text] {
        let mut pool = Pool::of(1, |one| one.defaults.capacity.concurrency = 1).await;
        // Time stands still: none of it can be what lets go.
        let clock = Clock::hold();
        let mut held: Option<Asked> = None;
        if matches!(at, At::Waiting) {
            let _served = pool.talk().await;
            held = Some(pool.upstreams[0].asked().await);
        }
        let mut client = pool.talk().await;
        match at {
            At::Connecting | At::Waiting => client.has_begun().await,
            At::BackOff => {
                pool.upstreams[0].asked().await.answer(&refusal(BUSY, "", "")).await;
                clock.rest().await;
            }
            At::Head => held = Some(pool.upstreams[0].asked().await),
            At::FirstText | At::Text => {
                let mut asked = pool.upstreams[0].asked().await;
                asked.write(CHUNKED).await;
                if matches!(at, At::Text) {
                    asked.chunk(&delta("a")).await;
                    client.delta().await;
                }
                held = Some(asked);
            }
        }
        client.stop().await;
        assert_eq!(client.reply().await.1.status(), MessageStatus::Stopped);
        match (at, held) {
            (At::Waiting, Some(served)) => {
                // Another reply is being served.
                served.answer(&whole("a")).await;
                clock.rest().await;
                assert!(pool.upstreams[0].is_idle());
            }
            (_, Some(asked)) => asked.let_go().await,
            (_, None) => {}
        }
        is_free(&mut pool).await;
    }
}

/// Its only place can be had.
pub(crate) async fn is_free(pool: &mut Pool) {
    let mut client = pool.talk().await;
    loop {
        let asked = pool.upstreams[0].asked().await;
        // What was asked before the stop is on its way still.
        if asked.is_open().await {
            asked.answer(&whole("free")).await;
            break;
        }
    }
    is_answered(&mut client, "free").await;
}

#[tokio::test]
async fn many_replies_at_once_each_get_their_own_answer() {
    let mut pool = Pool::of(1, |one| one.defaults.capacity.concurrency = 8).await;
    let mut clients = Vec::new();
    for n in 0..24 {
        let token = create(&pool.server).await;
        let mut client =
            Transport::ALL[n % Transport::ALL.len()].open(&pool.server, &token, None).await;
        client.say(&format!("number {n}"), None).await.unwrap();
        clients.push(client);
    }
    let mut upstream = pool.upstreams.remove(0);
    tokio::spawn(async move {
        loop {
            let asked = upstream.asked().await;
            let text = asked.conversation().remove(0);
            tokio::spawn(async move { asked.answer(&whole(&text)).await });
        }
    });
    for (n, client) in clients.iter_mut().enumerate() {
        is_answered(client, &format!("user: number {n}")).await;
    }
}

#[tokio::test]
async fn the_end_of_the_session_lets_go_of_the_upstream() {
    let mut pool = Pool::of(1, |_| {}).await;
    let token = create(&pool.server).await;
    let mut client = Transport::Json.open(&pool.server, &token, None).await;
    client.say("Hi", None).await.unwrap();
    let asked = pool.upstreams[0].asked().await;
    let revoked = Rest::call(&pool.server, "DELETE", &format!("/token?token={token}")).await;
    assert_eq!(revoked.status, 204);
    asked.let_go().await;
}

#[tokio::test]
async fn a_rate_limit_that_talks_of_tokens_is_waited_out() {
    let mut pool = Pool::of(1, |_| {}).await;
    let clock = Clock::hold();
    let mut client = pool.talk().await;
    pool.upstreams[0].asked().await.answer(&whole("one")).await;
    client.reply().await;
    client.say("two", None).await.unwrap();
    let body = r#"{"message":"Too many tokens, please wait before trying again."}"#;
    let limited = refusal("429 Too Many Requests", "retry-after: 2\r\n", body);
    let began = Instant::now();
    pool.upstreams[0].asked().await.answer(&limited).await;
    let asked = clock.until(pool.upstreams[0].asked()).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(asked.conversation().len(), 3);
    asked.answer(&whole("two")).await;
    assert_eq!(client.reply().await.1.text, "two");
}

#[tokio::test]
async fn a_finish_reason_that_means_failure_is_tried_again_before_any_text() {
    let mut pool = Pool::of(2, |one| one.defaults.retries = 0).await;
    let mut client = pool.talk().await;
    let aborted = format!("{HEAD}{}{DONE}", finish("abort"));
    pool.upstreams[0].asked().await.answer(&aborted).await;
    pool.upstreams[1].asked().await.answer(&whole("a")).await;
    is_answered(&mut client, "a").await;
}
