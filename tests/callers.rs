//! The identity of callers, over every protocol: who may create a session, who may use a token, and
//! the end of a credential.

use std::{sync::Arc, time::Duration};

use duologue::{
    proto,
    session::{Access, IdentityKind, Storage},
    store::MemoryStore,
};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{
    Address, Event, Log, Rest, Running, Setup, Socket, TestKeys, Transport, code_of, create,
    handshake, send_text, soon, stub,
};

const KEYS_ONLY: Access = Access { open: false, credentials: true, bind_subject: false };
const BOUND: Access = Access { open: false, credentials: true, bind_subject: true };

async fn gateway(access: Access, keys: &TestKeys) -> Running {
    Setup::default().with_access(access, keys.authenticator()).start().await
}

/// Returns a call with a credential.
pub(crate) fn as_caller<T>(credential: &str, request: T) -> Request<T> {
    let mut call = Request::new(request);
    call.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    call
}

/// Calls REST with a credential.
pub(crate) async fn rest_as(server: &Address, credential: &str, method: &str, path: &str) -> Rest {
    let request = Rest::request(server, method, path);
    Rest::send(request.header("authorization", format!("Bearer {credential}"))).await
}

fn named(name: &str) -> proto::CreateTokenRequest {
    proto::CreateTokenRequest { name: name.into(), ..Default::default() }
}

async fn token_of(server: &Address, credential: &str) -> String {
    let created = rest_as(server, credential, "POST", "/token?name=Ada").await;
    assert_eq!(created.status, 200, "{}", created.body);
    created.json()["token"].as_str().unwrap().into()
}

#[tokio::test]
async fn without_open_a_session_needs_a_credential_and_its_token_does_not() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(KEYS_ONLY, &keys).await;
    let refused = Rest::call(&server, "POST", "/token?name=Ada").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["detail"], "A valid credential is required");
    let status = stub(&server).await.create_token(named("Ada")).await.unwrap_err();
    assert_eq!((status.code(), &*code_of(&status)), (Code::Unauthenticated, "unauthenticated"));
    let by_grpc = stub(&server).await.create_token(as_caller(&ada, named("Ada"))).await;
    let tokens = [token_of(&server, &ada).await, by_grpc.unwrap().into_inner().token];
    for token in tokens {
        for transport in Transport::ALL {
            let mut client = transport.open(&server, &token, None).await;
            client.say("Hi", None).await.unwrap();
        }
        let refreshed = Rest::call(&server, "POST", &format!("/refresh_token?token={token}")).await;
        assert_eq!(refreshed.status, 200);
        stub(&server).await.send_message(send_text(&token, "Hi", None)).await.unwrap();
    }
}

#[tokio::test]
async fn tokens_of_open_mode_stay_valid_when_credentials_are_switched_on() {
    let keys = TestKeys::new();
    let storage = Storage::unshared(Arc::new(MemoryStore::new(10, 1 << 20)));
    let setup = || Setup { storage: storage.clone(), ..Setup::default() };
    let token = create(&*setup().start().await).await;
    let server = setup().with_access(BOUND, keys.authenticator()).start().await;
    for transport in Transport::ALL {
        let mut client = transport.open(&server, &token, None).await;
        client.say("Hi", None).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_credential_is_refused_everywhere_even_beside_a_valid_token() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(Access { open: true, ..KEYS_ONLY }, &keys).await;
    let token = token_of(&server, &ada).await;
    for wrong in ["dk_0123", "eyJh.eyJz.c2ln"] {
        for (method, path) in [
            ("POST", "/token?name=Ada".to_owned()),
            ("POST", format!("/refresh_token?token={token}")),
            ("POST", format!("/messages?token={token}&text=Hi")),
            ("GET", format!("/events?token={token}")),
            ("DELETE", format!("/token?token={token}")),
        ] {
            let refused = rest_as(&server, wrong, method, &path).await;
            assert_eq!(refused.status, 401, "{method} {path}: {}", refused.body);
        }
        let mut grpc = stub(&server).await;
        let status = grpc.create_token(as_caller(wrong, named("Ada"))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let send = as_caller(wrong, send_text(&token, "Hi", None));
        assert_eq!(grpc.send_message(send).await.unwrap_err().code(), Code::Unauthenticated);
        for transport in [Transport::Grpc, Transport::Sse] {
            let refused = transport.connect_as(&server, &token, Some(wrong)).await.unwrap_err();
            assert!(["unauthenticated", "401"].contains(&&*refused), "{refused}");
        }
        for transport in [Transport::Json, Transport::Proto] {
            let client = transport.connect_as(&server, &token, Some(wrong)).await.unwrap();
            let (code, close) = client.ended().await;
            assert_eq!((code.as_deref(), &*close), (Some("unauthenticated"), "1008"));
        }
        let authorization = format!("Bearer {wrong}");
        let query = format!("?token={token}");
        let plain = handshake(&server, &query, &[("authorization", &authorization)]).await;
        assert_eq!(plain.err().unwrap().status(), 401);
    }
    assert!(Socket::open(&server, &format!("?token={token}"), "").await.protocol.is_none());
}

#[tokio::test]
async fn a_gateway_without_credentials_says_so() {
    let server = Setup::default().start().await;
    for (credential, kind) in [("dk_0123", "API keys"), ("eyJh.eyJz.c2ln", "JWTs")] {
        let refused = rest_as(&server, credential, "POST", "/token?name=Ada").await;
        assert_eq!(refused.status, 401);
        assert!(refused.body.contains(kind), "{}", refused.body);
    }
    // Another scheme may be meant for a proxy.
    let request = Rest::request(&server, "POST", "/token?name=Ada");
    let created = Rest::send(request.header("authorization", "Basic YTpi")).await;
    assert_eq!(created.status, 200);
    // So may a secret of no known form, where no token is expected.
    let created = rest_as(&server, "opaque", "POST", "/token?name=Ada").await;
    assert_eq!(created.status, 200);
}

#[tokio::test]
async fn a_bound_session_needs_the_token_and_the_credential_of_its_owner() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let bob = keys.add("bob", IdentityKind::User);
    let server = gateway(BOUND, &keys).await;
    let token = token_of(&server, &ada).await;
    for (credential, grpc, http) in
        [(None, "unauthenticated", "401"), (Some(&*bob), "forbidden", "403")]
    {
        for transport in Transport::ALL {
            let ended = match transport.connect_as(&server, &token, credential).await {
                Ok(client) => client.ended().await.0.unwrap_or_default(),
                Err(refused) => refused,
            };
            let expected = if transport == Transport::Sse { http } else { grpc };
            assert_eq!(ended, expected, "{transport:?} {credential:?}");
        }
        let path = format!("/refresh_token?token={token}");
        let read = match credential {
            None => Rest::call(&server, "GET", &path).await,
            Some(bob) => rest_as(&server, bob, "GET", &path).await,
        };
        assert_eq!(read.status.to_string(), http);
    }
    for transport in Transport::ALL {
        let client = transport.connect_as(&server, &token, Some(&ada)).await.unwrap();
        drop(client);
    }
    let send = as_caller(&ada, send_text(&token, "Hi", None));
    stub(&server).await.send_message(send).await.unwrap();
    let plain = [("authorization", &*format!("Bearer {ada}"))];
    handshake(&server, &format!("?token={token}"), &plain).await.map(drop).unwrap();
    // A browser sends it as an entry of the subprotocols.
    let entries = format!("duologue.v1.json, bearer.{token}, credential.{ada}");
    let entries = [("sec-websocket-protocol", &*entries)];
    let mut socket = handshake(&server, "", &entries).await.unwrap_or_else(|it| panic!("{it:?}"));
    assert_eq!(socket.protocol.as_deref(), Some("duologue.v1.json"));
    socket.text(r#"{"send":{"text":"Hi"}}"#).await;
    assert!(socket.next_text().await.contains("opened"));
}

#[tokio::test]
async fn a_service_acts_for_its_users_and_a_user_for_nobody_else() {
    let keys = TestKeys::new();
    let web = keys.add("web", IdentityKind::Service);
    let bob = keys.add("bob", IdentityKind::User);
    let server = gateway(BOUND, &keys).await;
    let of_ada = proto::CreateTokenRequest { subject: Some("ada".into()), ..named("Ada") };
    let mut grpc = stub(&server).await;
    let created = grpc.create_token(as_caller(&web, of_ada.clone())).await.unwrap();
    let token = created.into_inner().token;
    let by_rest = rest_as(&server, &web, "POST", "/token?name=Ada&subject=ada").await;
    assert_eq!(by_rest.status, 200, "{}", by_rest.body);
    for transport in Transport::ALL {
        transport.connect_as(&server, &token, Some(&web)).await.unwrap();
    }
    let status = grpc.create_token(as_caller(&bob, of_ada.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let anonymous = Setup::default().start().await;
    let status = stub(&anonymous).await.create_token(of_ada).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let wrong = rest_as(&server, &web, "POST", "/token?name=Ada&subject=%20").await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn an_expired_credential_ends_bound_streams_within_a_second() {
    let keys = TestKeys::new();
    let life = Duration::from_secs(3);
    // The key is made between these times.
    let earliest = Instant::now() + life;
    let ada = keys.add_for("ada", life);
    let end = Instant::now() + life;
    let server = gateway(BOUND, &keys).await;
    let token = token_of(&server, &ada).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        let mut client = transport.connect_as(&server, &token, Some(&ada)).await.unwrap();
        assert!(matches!(client.next().await, Event::Opened(_)));
        streams.push(client);
    }
    let authorization = format!("Bearer {ada}");
    let plain = [("authorization", &*authorization)];
    let mut plain = handshake(&server, &format!("?token={token}"), &plain).await.ok().unwrap();
    for client in streams {
        let transport = client.transport;
        let (code, _) = soon("the end of the credential", client.ended()).await;
        assert_eq!(code.as_deref(), Some("credential_expired"), "{transport:?}");
    }
    assert_eq!(plain.closed().await, 4007);
    let after = end.elapsed();
    assert!(Instant::now() >= earliest && after < Duration::from_secs(1), "{after:?}");
    let refused = rest_as(&server, &ada, "POST", "/token?name=Ada").await;
    assert_eq!((refused.status, refused.body.contains("expired")), (401, true));
}

#[tokio::test]
async fn an_open_frame_with_a_wrong_credential_is_refused() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let bob = keys.add("bob", IdentityKind::User);
    let server = gateway(BOUND, &keys).await;
    let token = token_of(&server, &ada).await;
    for transport in [Transport::Grpc, Transport::Json, Transport::Proto] {
        for (credential, code) in
            [(&*bob, "forbidden"), ("dk_0", "unauthenticated"), ("junk", "unauthenticated")]
        {
            let mut client = transport.connect_as(&server, &token, Some(&ada)).await.unwrap();
            assert!(matches!(client.next().await, Event::Opened(_)));
            let open = proto::Open { credential: Some(credential.into()), ..Default::default() };
            client.ask(proto::chat_request::Request::Open(open)).await;
            let (end, _) = soon("the refusal", client.ended()).await;
            assert_eq!(end.as_deref(), Some(code), "{transport:?}");
        }
    }
}

#[tokio::test]
async fn without_binding_a_stream_outlives_the_credential() {
    let keys = TestKeys::new();
    let ada = keys.add_for("ada", Duration::from_secs(2));
    let server = gateway(KEYS_ONLY, &keys).await;
    let token = token_of(&server, &ada).await;
    let mut client = Transport::Json.connect_as(&server, &token, Some(&ada)).await.unwrap();
    soon("the end of the credential", async {
        while rest_as(&server, &ada, "GET", "/sessions").await.status != 401 {}
    })
    .await;
    client.say("still here", None).await.unwrap();
}

#[tokio::test]
async fn the_file_of_keys_is_read_again_when_it_changes() {
    let (keys, log) = (TestKeys::new(), Log::begin());
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(KEYS_ONLY, &keys).await;
    token_of(&server, &ada).await;
    let bob = keys.add("bob", IdentityKind::User);
    let status = async |key: &str| rest_as(&server, key, "POST", "/token?name=B").await.status;
    let until = async |key: &str, expected: u16| {
        soon("the new keys", async { while status(key).await != expected {} }).await;
    };
    until(&bob, 200).await;
    keys.file().remove("ada").unwrap();
    until(&ada, 401).await;
    // A wrong file changes nothing.
    std::fs::write(keys.path(), "[[key]]\nname = 1").unwrap();
    soon("the refusal of the file", async {
        while !log.text().contains("the new file of API keys is refused") {
            assert_eq!(status(&bob).await, 200);
        }
    })
    .await;
    assert_eq!(status(&bob).await, 200);
}
