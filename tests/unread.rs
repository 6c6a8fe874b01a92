//! Promise 7: unread responses take a bounded amount of memory, for a limited time.

use std::time::Duration;

use bytes::Bytes;
use duologue::proto::{self, chat_service_client::ChatServiceClient};
use h2::client::{ResponseFuture, SendRequest};
use tokio::net::TcpStream;

use crate::support::{Clock, Rest, Running, Setup, Transport, create, history, soon};

/// A session whose log, as JSON, is six times as long as its text: 24 messages and their replies.
async fn expensive(server: &Running) -> String {
    let token = create(server).await;
    let mut client = Transport::Proto.open(server, &token, None).await;
    let text = "\u{1}".repeat(60_000);
    for _ in 0..12 {
        client.say(&text, None).await.unwrap();
        client.reply().await;
    }
    token
}

/// A client that reads nothing: each stream has room for `window` bytes.
async fn reads_nothing(server: &Running, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    // Nagle's algorithm would delay frames in real time, while a test holds the clock.
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(window).handshake::<_, Bytes>(stream);
    let (client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(client: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let mut ready = client.clone().ready().await.unwrap();
    let uri = format!("http://gateway{path}");
    let request = http::Request::get(uri).body(()).unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    *client = ready;
    response
}

#[tokio::test]
async fn a_page_is_limited_by_its_encoded_size() {
    let server = Setup::default().start().await;
    let token = expensive(&server).await;
    let limit = server.gateway.settings().max_page_size;
    let page = Rest::call(&server, "GET", &format!("/refresh_token?token={token}")).await;
    assert!(page.body.len() < limit + 100_000, "{} bytes", page.body.len());
    let messages = page.json()["messages"].as_array().unwrap().len();
    assert!((1..24).contains(&messages), "{messages}");
    // The whole of it, page by page, over every protocol.
    for transport in Transport::ALL {
        assert_eq!(history(&server, transport, &token).await.len(), 24, "{transport:?}");
    }
}

#[tokio::test]
async fn responses_that_wait_to_be_read_are_bounded_per_connection() {
    let server = Setup::default().start().await;
    let token = expensive(&server).await;
    let path = format!("/refresh_token?token={token}");
    let mut client = reads_nothing(&server, 1).await;
    let (mut served, mut refused, mut unread) = (0, 0, Vec::new());
    for _ in 0..100 {
        let response = soon("a response", ask(&mut client, &path).await).await.unwrap();
        match response.status().as_u16() {
            200 => served += 1,
            503 => {
                assert!(response.headers().contains_key("retry-after"));
                refused += 1;
            }
            other => panic!("{other}"),
        }
        unread.push(response);
    }
    // 16 MiB, at almost 3 MiB a page.
    assert!((4..10).contains(&served), "{served} served, {refused} refused");
    // Other connections are served, and so is this one after it has dropped some streams.
    assert_eq!(Rest::call(&server, "GET", &path).await.status, 200);
    drop(unread);
    soon("room", async {
        while soon("a response", ask(&mut client, &path).await).await.unwrap().status() != 200 {}
    })
    .await;
}

#[tokio::test]
async fn the_process_has_a_limit_for_responses_that_wait_over_grpc_too() {
    let mut setup = Setup::default();
    setup.server.max_waiting_size = 4 << 20;
    let server = setup.start().await;
    let token = expensive(&server).await;
    let path = format!("/refresh_token?token={token}");
    let mut client = reads_nothing(&server, 1).await;
    let unread = soon("a response", ask(&mut client, &path).await).await.unwrap();
    assert_eq!(unread.status(), 200);
    let channel = tonic::transport::Channel::from_shared(server.url("")).unwrap();
    let mut grpc = ChatServiceClient::new(channel.connect().await.unwrap());
    let request = || proto::RefreshTokenRequest { token: token.clone(), ..Default::default() };
    let refused = grpc.refresh_token(request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"), "{refused:?}");
    drop((unread, client));
    soon("room", async { while grpc.refresh_token(request()).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_stream_without_progress_is_cut_while_its_connection_stays_busy() {
    let mut setup = Setup::default();
    setup.server.write_timeout = Duration::from_millis(200);
    setup.server.idle_timeout = Duration::from_millis(200);
    let server = setup.start().await;
    let token = expensive(&server).await;
    let path = format!("/refresh_token?token={token}&limit=1");
    let mut client = reads_nothing(&server, 1).await;
    let unread = soon("a response", ask(&mut client, &path).await).await.unwrap();
    assert_eq!(unread.status(), 200);
    // The connection is in use all the time.
    soon("the end of the connection", async {
        loop {
            let Ok(mut ready) = client.clone().ready().await else { return };
            let request = http::Request::head("http://gateway/test").body(()).unwrap();
            let Ok((response, _)) = ready.send_request(request, true) else { return };
            if response.await.is_err() {
                return;
            }
        }
    })
    .await;
    drop(unread);
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_gets_all_of_it() {
    let mut setup = Setup::default();
    setup.server.write_timeout = Duration::from_millis(500);
    setup.server.idle_timeout = Duration::from_millis(500);
    let server = setup.start().await;
    let token = expensive(&server).await;
    let mut client = reads_nothing(&server, 20_000).await;
    let path = format!("/refresh_token?token={token}&limit=1");
    let mut response = soon("a response", ask(&mut client, &path).await).await.unwrap();
    let (body, mut read) = (response.body_mut(), 0);
    let (clock, began) = (Clock::hold(), tokio::time::Instant::now());
    while let Some(chunk) = clock.until(body.data()).await {
        let chunk = chunk.unwrap().len();
        read += chunk;
        // A slow reader: the whole takes longer than the timeout.
        clock.pass(Duration::from_millis(40)).await;
        body.flow_control().release_capacity(chunk).unwrap();
    }
    assert!(read > 300_000, "{read} bytes");
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
}
