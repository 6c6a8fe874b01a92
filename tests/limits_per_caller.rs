//! Limits per address, subject and key, over every protocol: an attacker reaches them, and a normal
//! client of another address keeps its service.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use duologue::{
    proto::{self, chat_service_client::ChatServiceClient},
    session::{
        Access, CallerLimits, IdentityKind, Limits, Origin, Settings, Share, ShareOf, Storage,
    },
    store::{Durability, SqliteStore},
};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    callers::{as_caller, rest_as},
    store_contract::{NOW, new_session, stores, terms, user},
    support::{
        Address, Rest, Running, Setup, Socket, TestKeys, Transport, code_of, create, send_text,
        soon, stub,
    },
};

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

async fn gateway(address: Limits) -> Running {
    with_limits(CallerLimits { address, ..CallerLimits::none() }).await
}

async fn with_limits(limits: CallerLimits) -> Running {
    let session = Settings { limits, ..Settings::default() };
    Setup { session, ..Setup::default() }.start().await
}

/// Calls REST from the attacker's address.
async fn attack(server: &Address, method: &str, path: &str) -> Rest {
    let client = reqwest::Client::builder().local_address(ATTACKER).build().unwrap();
    Rest::send(client.request(method.parse().unwrap(), server.url(path))).await
}

async fn attacking_channel(server: &Address) -> Channel {
    let endpoint = Channel::from_shared(server.url("")).unwrap();
    endpoint.local_address(Some(ATTACKER)).connect().await.unwrap()
}

async fn attacking_stub(server: &Address) -> ChatServiceClient<Channel> {
    ChatServiceClient::new(attacking_channel(server).await)
}

async fn attacking_connection(server: &Address) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ATTACKER, 0)).unwrap();
    socket.connect(server.addr).await.unwrap()
}

/// Checks the refusal of a call: its code, and an honest delay.
fn assert_limited(status: &Status, setting: &str) {
    assert_eq!((status.code(), &*code_of(status)), (Code::ResourceExhausted, "rate_limited"));
    assert!(status.message().contains(setting), "{}", status.message());
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
}

fn assert_limited_by_rest(answer: &Rest, setting: &str) {
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert!(answer.body.contains(setting), "{}", answer.body);
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1));
}

fn named() -> proto::CreateTokenRequest {
    proto::CreateTokenRequest { name: "Eve".into(), ..Default::default() }
}

#[tokio::test]
async fn one_address_creates_so_many_sessions_and_others_go_on() {
    let server = gateway(Limits { sessions_per_minute: 5, ..Limits::default() }).await;
    let mut grpc = attacking_stub(&server).await;
    for _ in 0..3 {
        assert_eq!(attack(&server, "POST", "/token?name=Eve").await.status, 200);
    }
    let token = grpc.create_token(named()).await.unwrap().into_inner().token;
    grpc.create_token(named()).await.unwrap();
    let setting = "--address-sessions-per-minute";
    assert_limited_by_rest(&attack(&server, "POST", "/token?name=Eve").await, setting);
    assert_limited(&grpc.create_token(named()).await.unwrap_err(), setting);
    // Another token of a session counts, too.
    let path = format!("/token?session_token={token}");
    assert_limited_by_rest(&attack(&server, "POST", &path).await, setting);
    for _ in 0..5 {
        create(&server).await;
    }
}

#[tokio::test]
async fn one_address_sends_so_many_messages_and_the_stream_goes_on() {
    for transport in Transport::ALL {
        let server = gateway(Limits { messages_per_second: 1, ..Limits::default() }).await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let began = Instant::now();
        let (mut accepted, mut refusal) = (0, None);
        while refusal.is_none() && accepted < 20 {
            match client.say("flood", None).await {
                Ok(_) => accepted += 1,
                Err(error) => refusal = Some(error),
            }
        }
        let refusal = refusal.unwrap_or_else(|| panic!("{transport:?}: no refusal"));
        assert!((10..=11 + began.elapsed().as_secs()).contains(&accepted), "{accepted}");
        assert!(["rate_limited", "429"].contains(&&*refusal.code), "{refusal:?}");
        assert!(refusal.message.contains("--address-messages-per-second"), "{refusal:?}");
        let wait = refusal.retry_after_ms.unwrap();
        assert!((1..=1000).contains(&wait), "{wait}");
        // Another address has limits of its own. The session is the same.
        let mut attacker = attacking_stub(&server).await;
        attacker.send_message(send_text(&token, "from elsewhere", None)).await.unwrap();
        sleep(Duration::from_millis(u64::from(wait))).await;
        client.say("the delay was honest", None).await.unwrap();
    }
}

#[tokio::test]
async fn plain_mode_says_in_words_that_there_are_too_many_messages() {
    let server = gateway(Limits { messages_per_day: 2, ..Limits::default() }).await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    for _ in 0..2 {
        socket.text("Hi").await;
        assert_eq!(socket.next_text().await, "Echo: Hi");
    }
    socket.text("Hi").await;
    let refusal = socket.next_text().await;
    assert!(refusal.starts_with("Error: Too many messages in a day"), "{refusal}");
}

#[tokio::test]
async fn long_messages_count_by_their_bytes() {
    let server = gateway(Limits { bytes_per_minute: 100, ..Limits::default() }).await;
    let token = create(&server).await;
    let mut grpc = stub(&server).await;
    grpc.send_message(send_text(&token, &"x".repeat(60), None)).await.unwrap();
    let refused = grpc.send_message(send_text(&token, &"x".repeat(60), None)).await.unwrap_err();
    assert_limited(&refused, "--address-bytes-per-minute");
    grpc.send_message(send_text(&token, &"x".repeat(30), None)).await.unwrap();
}

#[tokio::test]
async fn one_address_opens_so_many_streams_of_any_protocol() {
    let server = gateway(Limits { streams: 4, ..Limits::default() }).await;
    let token = create(&server).await;
    let mut streams = Vec::new();
    for transport in [Transport::Grpc, Transport::Json, Transport::Sse] {
        streams.push(transport.open(&server, &token, None).await);
    }
    let channel = Channel::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap();
    for transport in Transport::ALL {
        let end = match transport.connect_as(&server, &token, None).await {
            Ok(client) => client.ended().await.0.unwrap_or_default(),
            Err(refused) => refused,
        };
        assert!(["rate_limited", "429"].contains(&&*end), "{transport:?}: {end}");
    }
    let subscribe = proto::SubscribeRequest { token: token.clone(), position: None };
    let mut attacker = attacking_stub(&server).await;
    drop(attacker.subscribe(subscribe).await.unwrap());
    drop(watch);
    soon("the end of the watch", async {
        while Transport::Sse.connect_as(&server, &token, None).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn one_address_takes_so_many_connections_and_others_get_theirs() {
    let server = gateway(Limits { connections: 3, ..Limits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = attacking_connection(&server).await;
        connection.write_all(b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(connection);
    }
    let refused = attack(&server, "GET", "/test").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    assert_eq!(refused.body, r#"{"detail":"This address has too many connections"}"#);
    assert_eq!(Rest::call(&server, "GET", "/test").await.status, 200);
    drop(held);
    soon("room", async { while attack(&server, "GET", "/test").await.status != 200 {} }).await;
}

#[tokio::test]
async fn wrong_tokens_and_credentials_are_refused_unseen_after_a_while() {
    let server = gateway(Limits { failures_per_minute: 4, ..Limits::default() }).await;
    let token = create(&server).await;
    let wrong = "0190c0de-0000-4000-8000-000000000000";
    let path = |token: &str| format!("/refresh_token?token={token}");
    for _ in 0..2 {
        assert_eq!(attack(&server, "GET", &path(wrong)).await.status, 400);
    }
    let mut grpc = attacking_stub(&server).await;
    let status = grpc.send_message(send_text(wrong, "Hi", None)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = grpc.create_token(as_caller("dk_0", named())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let setting = "--address-failures-per-minute";
    assert_limited_by_rest(&attack(&server, "GET", &path(wrong)).await, setting);
    assert_limited(&grpc.send_message(send_text(wrong, "Hi", None)).await.unwrap_err(), setting);
    assert_limited(&grpc.create_token(as_caller("dk_0", named())).await.unwrap_err(), setting);
    assert_eq!(Rest::call(&server, "GET", &path(&token)).await.status, 200);
    assert_eq!(Rest::call(&server, "GET", &path(wrong)).await.status, 400);
}

#[tokio::test]
async fn an_owner_and_the_key_of_a_service_have_limits_of_their_own() {
    let keys = TestKeys::new();
    let web = keys.add("web", IdentityKind::Service);
    let app = keys.add("app", IdentityKind::Service);
    let limits = CallerLimits {
        // A service calls for many users from one address.
        address: Limits { sessions_per_minute: 1, ..Limits::default() },
        subject: Limits { sessions_per_minute: 2, messages_per_day: 1, ..Limits::default() },
        key: Limits { sessions_per_minute: 5, ..Limits::default() },
    };
    let session = Settings { limits, ..Settings::default() };
    let access = Access { open: false, credentials: true, bind_subject: false };
    let setup = Setup { session, ..Setup::default() };
    let server = setup.with_access(access, keys.authenticator()).start().await;
    let create = async |key: &str, user: &str| {
        rest_as(&server, key, "POST", &format!("/token?name=X&subject={user}")).await
    };
    let first = create(&web, "ada").await;
    assert_eq!(create(&web, "ada").await.status, 200);
    assert_limited_by_rest(&create(&web, "ada").await, "--subject-sessions-per-minute");
    for user in ["bob", "eve", "dan"] {
        assert_eq!(create(&web, user).await.status, 200);
    }
    assert_limited_by_rest(&create(&web, "tim").await, "--key-sessions-per-minute");
    assert_eq!(create(&app, "ada").await.status, 200);
    // A message counts for the owner of its session, whatever the caller's credential is.
    let token = first.json()["token"].as_str().unwrap().to_owned();
    let mut grpc = stub(&server).await;
    grpc.send_message(send_text(&token, "Hi", None)).await.unwrap();
    let refused = grpc.send_message(send_text(&token, "Hi", None)).await.unwrap_err();
    assert_limited(&refused, "--subject-messages-per-day");
}

#[tokio::test]
async fn probes_are_answered_where_no_connection_is_left() {
    let mut setup = Setup::default();
    setup.server.max_connections = 2;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut held = Vec::new();
    soon("the connections", async {
        while held.len() < 2 {
            if let Ok(socket) =
                crate::support::handshake(&server, &format!("?token={token}"), &[]).await
            {
                held.push(socket);
            }
        }
    })
    .await;
    for _ in 0..100 {
        assert_eq!(Rest::call(&server, "GET", "/healthz").await.status, 200);
        assert_eq!(Rest::call(&server, "GET", "/readyz").await.status, 200);
    }
    let endpoint = Channel::from_shared(server.url("")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let check = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    assert_eq!(check.unwrap().into_inner().status, 1);
    let status = ChatServiceClient::new(channel).create_token(named()).await.unwrap_err();
    assert_eq!((status.code(), &*code_of(&status)), (Code::Unavailable, "overloaded"));
    for path in ["/test", "/refresh_token?token=x", "/chat"] {
        let refused = Rest::call(&server, "GET", path).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, "5"), "{path}");
    }
    // Connections that say nothing give way to others within seconds.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    soon("a probe", async {
        while Rest::call(&server, "GET", "/healthz").await.status != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_health_ends_after_ten_minutes() {
    let server = Setup::default().start().await;
    let channel = Channel::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap();
    let began = Instant::now();
    let answers = watch.into_inner().count().await;
    assert_eq!(answers, 1);
    let after = began.elapsed().as_secs();
    assert!((599..=700).contains(&after), "{after}");
}

#[tokio::test]
async fn a_session_that_was_never_used_expires_early_and_a_use_prevents_that() {
    let unused_session_ttl = Duration::from_millis(1500);
    let session =
        Settings { unused_session_ttl, limits: CallerLimits::none(), ..Settings::default() };
    let server = Setup { session, ..Setup::default() }.start().await;
    let mut tokens = Vec::new();
    for _ in 0..7 {
        tokens.push(create(&server).await);
    }
    let [unused, read, plain, sent, others @ ..] = &tokens[..] else { unreachable!() };
    Rest::call(&server, "GET", &format!("/refresh_token?token={read}")).await;
    drop(Socket::open(&server, &format!("?token={plain}"), "").await);
    stub(&server).await.send_message(send_text(sent, "Hi", None)).await.unwrap();
    for (transport, token) in [Transport::Grpc, Transport::Json, Transport::Sse].iter().zip(others)
    {
        let opened = transport.open(&server, token, None).await.opened.session.unwrap();
        let left = opened.expires_at.unwrap().seconds - opened.created_at.unwrap().seconds;
        assert!((3599..=3602).contains(&left), "{transport:?}: {left}");
    }
    sleep(Duration::from_millis(2500)).await;
    let status = async |token: &str| {
        Rest::call(&server, "GET", &format!("/refresh_token?token={token}")).await.status
    };
    assert_eq!(status(unused).await, 400);
    for token in &tokens[1..] {
        assert_eq!(status(token).await, 200);
    }
}

#[tokio::test]
async fn one_address_keeps_so_many_sessions_in_the_store_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let start = async || {
        let store = Arc::new(SqliteStore::open(&path, Durability::Full).unwrap());
        let address = Limits { stored_sessions: 3, ..Limits::default() };
        let limits = CallerLimits { address, ..CallerLimits::none() };
        let session = Settings { limits, ..Settings::default() };
        let storage = Storage::unshared(store);
        Setup { session, storage, ..Setup::default() }.start().await
    };
    let mut server = start().await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let created = attack(&server, "POST", "/token?name=Eve").await;
        tokens.push(created.json()["token"].as_str().unwrap().to_owned());
    }
    let full = async |server: &Running| {
        let refused = attack(server, "POST", "/token?name=Eve").await;
        assert_eq!(refused.status, 507, "{}", refused.body);
        assert!(refused.body.contains("--address-stored-sessions"), "{}", refused.body);
        let refused = attacking_stub(server).await.create_token(named()).await.unwrap_err();
        assert_eq!(code_of(&refused), "store_full");
    };
    full(&server).await;
    create(&server).await;
    // Another token is no session.
    let path = format!("/token?session_token={}", tokens[1]);
    assert_eq!(attack(&server, "POST", &path).await.status, 200);
    server.begin_shutdown();
    server.ended().await;
    let server = start().await;
    full(&server).await;
    create(&server).await;
    let deleted = attack(&server, "DELETE", &format!("/token?token={}", tokens[0])).await;
    assert_eq!(deleted.status, 204);
    soon("room", async {
        while attack(&server, "POST", "/token?name=Eve").await.status != 200 {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    full(&server).await;
}

#[tokio::test]
async fn an_owner_keeps_so_many_bytes_in_the_store_and_a_deletion_makes_room() {
    let keys = TestKeys::new();
    let (ada, bob) = (keys.add("ada", IdentityKind::User), keys.add("bob", IdentityKind::User));
    for transport in Transport::ALL {
        let subject = Limits { stored_bytes: 1000, ..Limits::default() };
        let limits = CallerLimits { subject, ..CallerLimits::none() };
        let session = Settings { limits, ..Settings::default() };
        let access = Access { open: false, credentials: true, bind_subject: false };
        let setup = Setup { session, ..Setup::default() };
        let server = setup.with_access(access, keys.authenticator()).start().await;
        let token = async |key: &str| {
            let created = rest_as(&server, key, "POST", "/token?name=X").await.json();
            created["token"].as_str().unwrap().to_owned()
        };
        let (one, two, foreign) = (token(&ada).await, token(&ada).await, token(&bob).await);
        let mut first = transport.open(&server, &one, None).await;
        first.say(&"x".repeat(300), None).await.unwrap();
        first.reply().await;
        let mut second = transport.open(&server, &two, None).await;
        let refused = second.say(&"x".repeat(800), None).await.unwrap_err();
        assert!(["store_full", "507"].contains(&&*refused.code), "{refused:?}");
        assert!(refused.message.contains("--subject-stored-bytes"), "{refused:?}");
        let mut other = transport.open(&server, &foreign, None).await;
        other.say(&"x".repeat(800), None).await.unwrap();
        let path = format!("/token?token={one}");
        assert_eq!(rest_as(&server, &ada, "DELETE", &path).await.status, 204);
        soon("room", async {
            while second.say(&"x".repeat(800), None).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn every_store_knows_the_part_of_an_owner_and_of_an_address() {
    for store in stores().await {
        let (origin, subject) = (Origin([7; 16]), Arc::<str>::from("key:ada"));
        let share = async |of: &ShareOf| store.share(of, NOW).await.unwrap();
        let (mut of_origin, _) = new_session();
        of_origin.origin = Some(origin);
        let (mut of_subject, _) = new_session();
        of_subject.session.subject = Some(Arc::clone(&subject));
        let (other, _) = new_session();
        for new in [&of_origin, &of_subject, &other] {
            store.create(new.clone()).await.unwrap();
            store.append(new.session.id, user("hello", None), terms()).await.unwrap();
        }
        let (by_origin, by_subject) = (ShareOf::Origin(origin), ShareOf::Subject(subject));
        for (of, new) in [(&by_origin, &of_origin), (&by_subject, &of_subject)] {
            let before = share(of).await;
            assert_eq!(before.sessions, 1);
            assert!((5..200).contains(&before.size), "{before:?}");
            store.append(new.session.id, user(&"x".repeat(1000), None), terms()).await.unwrap();
            let after = share(of).await;
            assert!((1000..1200).contains(&(after.size - before.size)), "{after:?}");
            store.revoke(new.session.id, NOW).await.unwrap();
            assert_eq!(share(of).await, Share::default());
        }
        assert_eq!(share(&ShareOf::Origin(Origin([8; 16]))).await, Share::default());
        assert_eq!(store.secret().await.unwrap(), store.secret().await.unwrap());
    }
}
