//! gRPC: half-close, deadlines, statuses, health, and what is not gRPC.

use futures_util::stream;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{
    Call, DelayedStore, Event, Rest, Scripted, Setup, Step, Transport, create, proto, send_text,
    soon, stub, unshared,
};
use proto::{ChatRequest, chat_request::Request as Ask};

fn ask(request: Ask) -> ChatRequest {
    ChatRequest { request: Some(request) }
}

fn open(token: &str) -> ChatRequest {
    ask(Ask::Open(proto::Open { token: Some(token.into()), position: None, ..Default::default() }))
}

fn send(text: &str, id: Option<&str>) -> ChatRequest {
    ask(Ask::Send(proto::Send {
        text: text.into(),
        client_message_id: id.map(Into::into),
        ..Default::default()
    }))
}

/// All events of a call whose requests are all sent at once, then half-closed.
async fn chat(
    server: &crate::support::Running,
    requests: Vec<ChatRequest>,
) -> Result<Vec<Event>, tonic::Status> {
    let mut responses = stub(server).await.chat(stream::iter(requests)).await?.into_inner();
    let mut events = Vec::new();
    while let Some(response) = soon("a response", responses.message()).await? {
        events.push(response.event.unwrap());
    }
    Ok(events)
}

fn replies(events: &[Event]) -> Vec<&str> {
    let mut texts = Vec::new();
    for event in events {
        if let Event::Message(message) = event
            && message.in_reply_to.is_some()
        {
            texts.push(message.text.as_str());
        }
    }
    texts
}

#[tokio::test]
async fn after_a_half_close_the_turns_sent_finish_and_the_stream_ends_with_ok() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let events = chat(&server, vec![open(&token), send("a", None), send("b", None)]).await.unwrap();
    assert_eq!(replies(&events), ["Echo: a", "Echo: b"]);
    assert!(matches!(events.last(), Some(Event::Message(_))));
}

#[tokio::test]
async fn a_half_closed_retry_of_an_answered_or_a_running_turn_ends_too() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("done"), Step::End]);
    let gate = responder.gate.clone();
    let server = Setup::answering(responder).start().await;
    let token = create(&server).await;
    let mut first = Transport::Json.open(&server, &token, None).await;
    first.say("a", Some("m1")).await.unwrap();

    let requests = vec![open(&token), send("a", Some("m1")), send("a", Some("m1"))];
    let mut running = stub(&server).await.chat(stream::iter(requests)).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(response) = soon("a response", running.message()).await.unwrap() {
        let event = response.event.unwrap();
        if matches!(&event, Event::Accepted(accepted) if accepted.duplicate) {
            gate.add_permits(1);
        }
        events.push(event);
    }
    assert_eq!(replies(&events), ["done"]);

    let answered = chat(&server, vec![open(&token), send("a", Some("m1"))]).await.unwrap();
    assert!(
        matches!(&answered[..], [Event::Opened(_), Event::Accepted(accepted)] if accepted.duplicate),
        "{answered:?}"
    );
}

#[tokio::test]
async fn a_half_close_without_a_turn_ends_at_once() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    assert_eq!(chat(&server, vec![]).await.unwrap().len(), 0);
    assert!(matches!(&chat(&server, vec![open(&token)]).await.unwrap()[..], [Event::Opened(_)]));
    let stop =
        chat(&server, vec![open(&token), ask(Ask::Stop(proto::Stop::default()))]).await.unwrap();
    assert_eq!(stop.len(), 1);
}

#[tokio::test]
async fn a_half_close_ends_also_where_a_send_was_refused() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let events = chat(
        &server,
        vec![open(&token), send("", None), send("ok", None), ChatRequest { request: None }],
    )
    .await
    .unwrap();
    assert_eq!(replies(&events), ["Echo: ok"]);
    let errors: Vec<_> = events
        .iter()
        .filter(|event| matches!(event, Event::Error(error) if !error.r#final))
        .collect();
    assert_eq!(errors.len(), 2, "{events:?}");
}

#[tokio::test]
async fn a_token_in_the_metadata_makes_the_open_frame_unnecessary() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut call = Request::new(stream::iter([send("a", None)]));
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut responses = stub(&server).await.chat(call).await.unwrap().into_inner();
    let first = soon("a response", responses.message()).await.unwrap().unwrap().event;
    assert!(matches!(first, Some(Event::Opened(_))));
    let mut call = Request::new(proto::RefreshTokenRequest::default());
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    assert_eq!(
        stub(&server).await.refresh_token(call).await.unwrap().into_inner().session.unwrap().name,
        "Ada"
    );
}

#[tokio::test]
async fn failures_have_the_codes_of_the_table_and_details_for_programs() {
    let server = Setup::default().start().await;
    let mut grpc = stub(&server).await;
    let name = proto::CreateTokenRequest { name: "A\u{202e}da".into(), ..Default::default() };
    let status = grpc.create_token(name).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "Enter a valid name"));
    assert_eq!(status.get_details_error_info().unwrap().reason, "invalid_name");
    let status = grpc.refresh_token(proto::RefreshTokenRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "A token is required"));
    let token = create(&server).await;
    let large = send_text(&token, &"x".repeat((64 << 10) + 1), None);
    assert_eq!(grpc.send_message(large).await.unwrap_err().code(), Code::InvalidArgument);
    let huge = send_text(&token, &"x".repeat(4 << 20), None);
    assert_eq!(grpc.send_message(huge).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn the_clients_deadline_ends_calls_and_streams() {
    let (responder, mut let_go) = Scripted::new(&[Step::Say("never ends"), Step::Hang]);
    let server = Setup::answering(responder).start().await;
    let token = create(&server).await;
    let mut call = Request::new(proto::SubscribeRequest { token: token.clone(), position: None });
    call.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let mut responses = stub(&server).await.subscribe(call).await.unwrap().into_inner();
    let status = loop {
        match soon("the deadline", responses.message()).await {
            Ok(response) => assert!(response.is_some(), "ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let mut call =
        Request::new(proto::CreateTokenRequest { name: "Ada".into(), ..Default::default() });
    call.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(
        stub(&server).await.create_token(call).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    // The reply is the session's: a deadline of a stream does not end it.
    let mut client = Transport::Grpc.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    client.delta().await;
    assert!(let_go.try_recv().is_err());
}

#[tokio::test]
async fn health_is_reported_per_service_until_the_end() {
    let mut server = Setup::default().start().await;
    let channel =
        tonic::transport::Channel::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let about = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "duologue.v1.ChatService"] {
        let answer = health.check(about(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health.check(about("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = health.watch(about("nobody")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watch = health.watch(about("duologue.v1.ChatService")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.begin_shutdown();
    assert_eq!(
        soon("the news", watch.message()).await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(soon("the end", watch.message()).await.unwrap().is_none());
    server.ended().await;
}

#[tokio::test]
async fn what_is_not_grpc_runs_no_call() {
    let server = Setup::default().start().await;
    let path = "/duologue.v1.ChatService/CreateToken";
    let get = Rest::call(&server, "GET", path).await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    for kind in ["text/plain", "application/json", ""] {
        let request = Rest::request(&server, "POST", path).header("content-type", kind).body("x");
        let answer = Rest::send(request).await;
        assert_eq!(answer.status, 415, "{kind}");
        assert!(answer.body.starts_with(r#"{"detail":"#));
    }
    let request =
        Rest::request(&server, "POST", path).header("content-type", "application/grpc").body("x");
    assert_eq!(Rest::send(request).await.status, 505, "HTTP/1.1");
    let request = Rest::request(&server, "POST", "/test")
        .header("content-type", "application/grpc-web")
        .body("");
    let answer = Rest::send(request).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
}

/// h2 counts waiting small frames against a budget; with its default, a client like
/// this one was cut off as if it attacked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_may_carry_many_streams_of_many_small_messages() {
    let mut setup = Setup::default();
    setup.session.max_queued_turns = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let grpc = stub(&server).await;
    let streams = (0..60).map(|_| {
        let (mut grpc, token) = (grpc.clone(), token.clone());
        async move {
            let requests = std::iter::once(open(&token))
                .chain((0..64).map(|_| ask(Ask::Ping(proto::Ping {}))));
            let mut responses =
                grpc.chat(stream::iter(requests.collect::<Vec<_>>())).await.unwrap().into_inner();
            let mut pongs = 0;
            while let Some(response) = responses.message().await.unwrap() {
                pongs += usize::from(matches!(response.event, Some(Event::Pong(_))));
            }
            pongs
        }
    });
    let pongs = soon("the pongs", futures_util::future::join_all(streams)).await;
    assert!(pongs.iter().all(|pongs| *pongs == 64), "{pongs:?}");
}

#[tokio::test]
async fn a_half_closed_stream_that_asked_for_a_replay_gets_it() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("a", None).await.unwrap();
    client.reply().await;
    for round in 0..20 {
        let position = Some(client.at(0));
        let open = ask(Ask::Open(proto::Open {
            token: Some(token.clone()),
            position,
            ..Default::default()
        }));
        let events = chat(&server, vec![open]).await.unwrap();
        assert_eq!(replies(&events), ["Echo: a"], "round {round}");
    }
}

#[tokio::test]
async fn a_half_closed_stream_that_was_opened_twice_gets_its_answer_and_ends() {
    let store = DelayedStore::new();
    let server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    let token = create(&server).await;
    let (requests, outgoing) = tokio::sync::mpsc::unbounded_channel();
    let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
    let mut call = stub(&server).await.chat(outgoing).await.unwrap().into_inner();
    let mut other = Transport::Sse.open(&server, &token, None).await;
    requests.send(open(&token)).unwrap();
    soon("opened", call.message()).await.unwrap();
    store.hold(Call::Append);
    requests.send(send("a", None)).unwrap();
    requests.send(open(&token)).unwrap();
    store.holds(1).await;
    store.release();
    store.hold(Call::Find);
    store.holds(1).await;
    other.reply().await;
    store.release();
    drop(requests);
    let mut events = Vec::new();
    while let Some(response) = soon("the end", call.message()).await.unwrap() {
        events.push(response.event.unwrap());
    }
    assert_eq!(replies(&events), ["Echo: a"]);
}
