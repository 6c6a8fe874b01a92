//! `GET /events`.

use std::time::Duration;

use crate::support::{Rest, Setup, Transport, create};

/// What comes until `enough`.
async fn read(mut response: reqwest::Response, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !enough(&text) {
        let chunk =
            crate::support::soon("an event", response.chunk()).await.unwrap().expect("no end");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

#[tokio::test]
async fn the_stream_has_the_headers_that_keep_proxies_from_holding_it_back() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for request in [
        Rest::request(&server, "GET", &format!("/events?token={token}")),
        Rest::request(&server, "GET", "/events").header("authorization", format!("Bearer {token}")),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
    }
}

#[tokio::test]
async fn every_event_of_the_log_and_of_a_reply_carries_its_position() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let response =
        Rest::request(&server, "GET", &format!("/events?token={token}")).send().await.unwrap();
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("hello", None).await.unwrap();
    let epoch = client.at(0).epoch;
    let text = read(response, |text| text.matches("\n\n").count() >= 5).await;
    let ids: Vec<_> = text
        .split("\n\n")
        .take(5)
        .map(|event| event.lines().find_map(|line| line.strip_prefix("id: ")))
        .collect();
    let events = text.split("\n\n").filter_map(|event| event.split_once("data: "));
    let started = events.filter_map(|(_, data)| {
        let event: serde_json::Value = serde_json::from_str(data).unwrap();
        Some(event["replyStarted"]["replyId"].as_str()?.to_owned())
    });
    let reply = started.last().unwrap();
    let expected = [
        format!("{epoch}:0"),
        format!("{epoch}:1"),
        format!("{epoch}:1:{reply}:0"),
        format!("{epoch}:1:{reply}:11"),
        format!("{epoch}:2"),
    ];
    assert_eq!(ids, expected.each_ref().map(|id| Some(id.as_str())), "{text}");
}

#[tokio::test]
async fn last_event_id_resumes_and_comes_before_the_query() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    for turn in 0..2 {
        client.say(&format!("{turn}"), None).await.unwrap();
        client.reply().await;
    }
    let epoch = client.at(0).epoch;
    for (query, header, replayed) in [
        (format!("&position={epoch}:2"), None, vec![3, 4]),
        (format!("&position={epoch}:2"), Some(format!("{epoch}:3")), vec![4]),
        (String::new(), Some(format!("{epoch}:0")), vec![1, 2, 3, 4]),
        (String::new(), Some(String::new()), vec![]),
    ] {
        let mut request = Rest::request(&server, "GET", &format!("/events?token={token}{query}"));
        if let Some(header) = &header {
            request = request.header("last-event-id", header);
        }
        let text = read(request.send().await.unwrap(), |text| {
            text.matches("\n\n").count() > replayed.len()
        })
        .await;
        let expected: Vec<_> = replayed.iter().map(|seq| format!("id: {epoch}:{seq}")).collect();
        let ids: Vec<_> = text.lines().filter(|line| line.starts_with("id: ")).skip(1).collect();
        assert_eq!(ids, expected, "{query} {header:?}");
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_by_comments() {
    let mut setup = Setup::default();
    setup.transport.heartbeat = Duration::from_millis(20);
    let server = setup.start().await;
    let token = create(&server).await;
    let response =
        Rest::request(&server, "GET", &format!("/events?token={token}")).send().await.unwrap();
    read(response, |text| text.matches(": keep-alive\n\n").count() >= 3).await;
}
