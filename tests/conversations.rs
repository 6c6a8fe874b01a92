//! The conversations of an owner: lists, titles, tokens, deletion and lifetimes, over REST and gRPC.

use std::time::Duration;

use duologue::{
    proto,
    session::{Access, IdentityKind, Settings},
};
use serde_json::Value;
use tonic::Code;

use crate::{
    callers::{as_caller, rest_as},
    support::{Address, Clock, Rest, Running, Setup, TestKeys, Transport, send_text, soon, stub},
};

const KEYS_ONLY: Access = Access { open: false, credentials: true, bind_subject: false };

async fn gateway(keys: &TestKeys) -> Running {
    with_settings(keys, Settings::default()).await
}

async fn with_settings(keys: &TestKeys, session: Settings) -> Running {
    let setup = Setup { session, ..Setup::default() };
    setup.with_access(KEYS_ONLY, keys.authenticator()).start().await
}

/// Creates a session. Returns its id and its token.
async fn session(server: &Address, credential: &str, title: Option<&str>) -> (String, String) {
    let create = proto::CreateTokenRequest {
        name: "Ada".into(),
        title: title.map(Into::into),
        ..Default::default()
    };
    let created = stub(server).await.create_token(as_caller(credential, create)).await.unwrap();
    let created = created.into_inner();
    (created.session.unwrap().id, created.token)
}

/// Sends a message and waits for the reply.
async fn say(server: &Address, token: &str, text: &str) {
    let mut client = Transport::Json.open(server, token, None).await;
    client.say(text, None).await.unwrap();
    client.reply().await;
}

async fn list(server: &Address, credential: &str, query: &str) -> Value {
    let listed = rest_as(server, credential, "GET", &format!("/sessions{query}")).await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    listed.json()
}

async fn list_by_grpc(
    server: &Address,
    credential: &str,
    request: proto::ListSessionsRequest,
) -> proto::ListSessionsResponse {
    let listed = stub(server).await.list_sessions(as_caller(credential, request)).await;
    listed.unwrap().into_inner()
}

fn ids(list: &Value) -> Vec<String> {
    let sessions = list["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["id"].as_str().unwrap().into()).collect()
}

#[tokio::test]
async fn an_owner_lists_its_sessions_newest_activity_first_page_by_page() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let bob = keys.add("bob", IdentityKind::User);
    let server = gateway(&keys).await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(session(&server, &ada, None).await);
    }
    session(&server, &bob, None).await;
    say(&server, &sessions[1].1, "Hi").await;
    let expected: Vec<_> = [1, 4, 3, 2, 0].map(|at: usize| sessions[at].0.clone()).into();
    assert_eq!(ids(&list(&server, &ada, "").await), expected);
    let (mut by_rest, mut by_grpc) = (Vec::new(), Vec::new());
    let mut query = "?limit=2".to_owned();
    loop {
        let page = list(&server, &ada, &query).await;
        assert!(ids(&page).len() <= 2);
        by_rest.extend(ids(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={next}");
    }
    let mut request = proto::ListSessionsRequest { limit: Some(2), ..Default::default() };
    loop {
        let page = list_by_grpc(&server, &ada, request.clone()).await;
        by_grpc.extend(page.sessions.into_iter().map(|listed| listed.session.unwrap().id));
        match page.next_cursor {
            Some(next) => request.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!((&by_rest, &by_grpc), (&expected, &expected));
    let wrong = rest_as(&server, &ada, "GET", "/sessions?cursor=x").await;
    assert_eq!((wrong.status, wrong.body.contains("cursor")), (400, true));
    let wrong = rest_as(&server, &ada, "GET", "/sessions?limit=x").await;
    assert_eq!(wrong.status, 422);
}

#[tokio::test]
async fn a_list_fills_an_absent_title_with_the_first_words() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(&keys).await;
    let (id, token) = session(&server, &ada, None).await;
    let first = async || list(&server, &ada, "").await["sessions"][0].clone();
    assert_eq!(
        (&first().await["title"], &first().await["title_generated"]),
        (&Value::Null, &false.into())
    );
    say(&server, &token, "What is the capital of Norway, and how many people live in it today?")
        .await;
    say(&server, &token, "And of Sweden?").await;
    let listed = first().await;
    assert_eq!(listed["title"], "What is the capital of Norway, and how many people live in…");
    assert_eq!((&listed["title_generated"], &listed["message_count"]), (&true.into(), &4.into()));
    let by_grpc = &list_by_grpc(&server, &ada, Default::default()).await.sessions[0];
    assert!(by_grpc.title_generated && by_grpc.head_seq == 4 && by_grpc.active_at.is_some());
    assert!(by_grpc.session.as_ref().unwrap().expires_at.is_none());

    let path = format!("/sessions/{id}");
    let change = |title: &str| {
        Rest::request(&server, "PATCH", &path)
            .header("authorization", format!("Bearer {ada}"))
            .json(&serde_json::json!({"title": title}))
    };
    let changed = Rest::send(change(" Norway ")).await;
    assert_eq!((changed.status, &changed.json()["title"]), (200, &"Norway".into()));
    assert_eq!(
        (&first().await["title"], &first().await["title_generated"]),
        (&"Norway".into(), &false.into())
    );
    let opened = Transport::Grpc.open(&server, &token, None).await.opened;
    assert_eq!(opened.session.unwrap().title.as_deref(), Some("Norway"));
    for (title, status) in [("x".repeat(257), 400), ("a\u{202e}".into(), 400)] {
        assert_eq!(Rest::send(change(&title)).await.status, status);
    }
    let missing =
        Rest::request(&server, "PATCH", &path).header("authorization", format!("Bearer {ada}"));
    assert_eq!(Rest::send(missing).await.status, 422);
    let update = proto::UpdateSessionRequest { session_id: id.clone(), title: String::new() };
    let updated = stub(&server).await.update_session(as_caller(&ada, update)).await.unwrap();
    assert_eq!(updated.into_inner().session.unwrap().title, None);
    assert_eq!(first().await["title_generated"], true);
}

#[tokio::test]
async fn an_owner_issues_lists_and_revokes_tokens() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(&keys).await;
    let (id, first) = session(&server, &ada, None).await;
    let mut grpc = stub(&server).await;
    let issue = proto::IssueTokenRequest {
        session_id: id.clone(),
        scope: Some("read".into()),
        label: Some("phone".into()),
    };
    let issued = grpc.issue_token(as_caller(&ada, issue)).await.unwrap().into_inner();
    let path = format!("/sessions/{id}/tokens");
    let third = rest_as(&server, &ada, "POST", &path).await;
    assert_eq!(third.status, 200, "{}", third.body);
    let third = third.json()["token"].as_str().unwrap().to_owned();
    let listed = rest_as(&server, &ada, "GET", &path).await.json()["tokens"].clone();
    let field = |name: &str| -> Vec<Value> {
        listed.as_array().unwrap().iter().map(|token| token[name].clone()).collect()
    };
    assert_eq!(field("scope"), ["write", "read", "write"]);
    assert_eq!(field("label"), [Value::Null, "phone".into(), Value::Null]);
    assert!(!listed.to_string().contains(&first), "a list holds no secret");
    let request = proto::ListTokensRequest { session_id: id.clone() };
    let by_grpc = grpc.list_tokens(as_caller(&ada, request)).await.unwrap().into_inner().tokens;
    assert_eq!(by_grpc.len(), 3);
    assert!(by_grpc.iter().all(|token| token.expires_at.is_some() && token.created_at.is_some()));

    let watching = Transport::Json.open(&server, &issued.token, None).await;
    let mut writing = Transport::Json.open(&server, &third, None).await;
    let phone = field("id")[1].as_str().unwrap().to_owned();
    assert_eq!(rest_as(&server, &ada, "DELETE", &format!("{path}/{phone}")).await.status, 204);
    let (code, _) = soon("the end", watching.ended()).await;
    assert_eq!(code.as_deref(), Some("session_revoked"));
    writing.say("still here", None).await.unwrap();
    assert_eq!(rest_as(&server, &ada, "DELETE", &format!("{path}/{phone}")).await.status, 404);
    // By its id and the session's, or by a token of the session.
    let of_first = by_grpc[0].id.clone();
    let revoke = proto::RevokeTokenRequest {
        token_id: Some(of_first),
        session_id: Some(id.clone()),
        ..Default::default()
    };
    grpc.revoke_token(as_caller(&ada, revoke)).await.unwrap();
    let own = by_grpc[2].id.clone();
    let revoke =
        proto::RevokeTokenRequest { token_id: Some(own), token: third, ..Default::default() };
    // The metadata hold the credential, the field the token.
    grpc.revoke_token(as_caller(&ada, revoke)).await.unwrap();
    // A session with an owner outlives its last token.
    assert_eq!(ids(&list(&server, &ada, "").await), std::slice::from_ref(&id));
    let again = rest_as(&server, &ada, "POST", &path).await;
    assert_eq!(again.status, 200);
    for (body, status) in
        [(r#"{"scope":"all"}"#, 400), (r#"{"scope":1}"#, 422), (r#"{"scopes":"read"}"#, 422)]
    {
        let request = Rest::request(&server, "POST", &path)
            .header("authorization", format!("Bearer {ada}"))
            .header("content-type", "application/json")
            .body(body);
        assert_eq!(Rest::send(request).await.status, status, "{body}");
    }
}

#[tokio::test]
async fn an_owner_deletes_a_session_with_its_log() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let server = gateway(&keys).await;
    let (one, token) = session(&server, &ada, None).await;
    let (two, _) = session(&server, &ada, None).await;
    let watching = Transport::Grpc.open(&server, &token, None).await;
    assert_eq!(rest_as(&server, &ada, "DELETE", &format!("/sessions/{one}")).await.status, 204);
    let (code, _) = soon("the end", watching.ended()).await;
    assert_eq!(code.as_deref(), Some("session_revoked"));
    let delete = proto::DeleteSessionRequest { session_id: two.clone() };
    let mut grpc = stub(&server).await;
    grpc.delete_session(as_caller(&ada, delete.clone())).await.unwrap();
    let again = grpc.delete_session(as_caller(&ada, delete)).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert!(ids(&list(&server, &ada, "").await).is_empty());
}

#[tokio::test]
async fn a_foreign_session_is_not_there_and_without_a_credential_nothing_is() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let bob = keys.add("bob", IdentityKind::User);
    let server = gateway(&keys).await;
    let (id, token) = session(&server, &ada, None).await;
    let unknown = "0190c0de-0000-7000-8000-000000000000";
    let open = Setup::default().start().await;
    for (method, path) in [
        ("DELETE", "/sessions/{id}".to_owned()),
        ("GET", "/sessions/{id}/tokens".into()),
        ("POST", "/sessions/{id}/tokens".into()),
        ("DELETE", format!("/sessions/{{id}}/tokens/{unknown}")),
    ] {
        for id in [&*id, unknown, "x", "%00"] {
            let path = path.replace("{id}", id);
            assert_eq!(rest_as(&server, &bob, method, &path).await.status, 404, "{method} {path}");
        }
        let path = path.replace("{id}", &id);
        assert_eq!(Rest::call(&server, method, &path).await.status, 401);
        assert_eq!(Rest::call(&open, method, &path).await.status, 403);
    }
    assert_eq!(Rest::call(&server, "GET", "/sessions").await.status, 401);
    assert_eq!(Rest::call(&open, "GET", "/sessions").await.status, 403);
    assert_eq!(rest_as(&server, &bob, "GET", "/sessions?subject=ada").await.status, 403);
    // A token is no credential.
    assert_eq!(rest_as(&server, &token, "GET", "/sessions").await.status, 401);
    let mut grpc = stub(&server).await;
    let update = proto::UpdateSessionRequest { session_id: id.clone(), title: "x".into() };
    let foreign = grpc.update_session(as_caller(&bob, update.clone())).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    let anonymous = grpc.update_session(update).await.unwrap_err();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    let missing = grpc.delete_session(as_caller(&bob, Default::default())).await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert_eq!(ids(&list(&server, &ada, "").await), [id]);
}

#[tokio::test]
async fn a_service_lists_the_sessions_of_each_of_its_users() {
    let keys = TestKeys::new();
    let web = keys.add("web", IdentityKind::Service);
    let app = keys.add("app", IdentityKind::Service);
    let server = gateway(&keys).await;
    let of = async |key: &str, user: &str| {
        let path = format!("/token?name=X&subject={user}");
        rest_as(&server, key, "POST", &path).await;
    };
    of(&web, "ada").await;
    of(&web, "bob").await;
    of(&app, "ada").await;
    for user in ["ada", "bob"] {
        let listed = list(&server, &web, &format!("?subject={user}")).await;
        assert_eq!(ids(&listed).len(), 1);
        let path = format!("/sessions/{}", ids(&listed)[0]);
        assert_eq!(rest_as(&server, &app, "DELETE", &path).await.status, 404);
        assert_eq!(rest_as(&server, &web, "DELETE", &path).await.status, 204);
    }
    assert!(ids(&list(&server, &web, "").await).is_empty(), "none of its own");
    assert_eq!(ids(&list(&server, &app, "?subject=ada").await).len(), 1);
}

#[tokio::test]
async fn an_expired_token_ends_its_streams_and_the_conversation_stays() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let session_ttl = Duration::from_secs(2);
    let server = with_settings(&keys, Settings { session_ttl, ..Settings::default() }).await;
    let (id, token) = session(&server, &ada, None).await;
    let other = rest_as(&server, &ada, "POST", &format!("/sessions/{id}/tokens")).await;
    let other = other.json()["token"].as_str().unwrap().to_owned();
    let mut silent = Vec::new();
    for transport in Transport::ALL {
        silent.push(transport.open(&server, &token, None).await);
    }
    let mut active = Transport::Json.open(&server, &other, None).await;
    let clock = Clock::hold();
    let active_for = async {
        // A message renews the token that it was sent with, and no other.
        for text in ["one", "two", "three", "four"] {
            clock.pass(Duration::from_millis(800)).await;
            active.say(text, None).await.unwrap();
        }
    };
    active_for.await;
    drop(clock);
    for client in silent {
        let transport = client.transport;
        let (code, _) = soon("the end of the token", client.ended()).await;
        assert_eq!(code.as_deref(), Some("session_expired"), "{transport:?}");
    }
    let refused = Rest::call(&server, "GET", &format!("/refresh_token?token={token}")).await;
    assert_eq!(refused.status, 400);
    let refreshed = Rest::call(&server, "GET", &format!("/refresh_token?token={other}")).await;
    assert_eq!(refreshed.status, 200);
    let ended = soon("the end of the other token", active.ended()).await;
    assert_eq!(ended.0.as_deref(), Some("session_expired"));
    // The conversation is still there, and another token opens it.
    assert_eq!(ids(&list(&server, &ada, "").await), std::slice::from_ref(&id));
    let issued = rest_as(&server, &ada, "POST", &format!("/sessions/{id}/tokens")).await.json();
    let again = issued["token"].as_str().unwrap();
    let read = Rest::call(&server, "GET", &format!("/refresh_token?token={again}")).await;
    assert_eq!(read.json()["messages"].as_array().unwrap().len(), 8);
    let tokens = rest_as(&server, &ada, "GET", &format!("/sessions/{id}/tokens")).await;
    assert_eq!(tokens.json()["tokens"].as_array().unwrap().len(), 1, "expired ones are gone");
}

#[tokio::test]
async fn retention_deletes_a_conversation_after_its_last_message() {
    let keys = TestKeys::new();
    let ada = keys.add("ada", IdentityKind::User);
    let retention = Some(Duration::from_secs(2));
    let server = with_settings(&keys, Settings { retention, ..Settings::default() }).await;
    let (kept, token) = session(&server, &ada, None).await;
    let (idle, _) = session(&server, &ada, None).await;
    let clock = Clock::hold();
    clock.pass(Duration::from_millis(1200)).await;
    stub(&server).await.send_message(send_text(&token, "Hi", None)).await.unwrap();
    clock.pass(Duration::from_millis(1200)).await;
    drop(clock);
    assert_eq!(ids(&list(&server, &ada, "").await), [kept]);
    let listed = list(&server, &ada, "").await;
    assert!(listed["sessions"][0]["delete_at"].is_string());
    let gone = rest_as(&server, &ada, "DELETE", &format!("/sessions/{idle}")).await;
    assert_eq!(gone.status, 404);
    let watching = Transport::Json.open(&server, &token, None).await;
    let (code, _) = soon("the deletion", watching.ended()).await;
    assert_eq!(code.as_deref(), Some("session_expired"));
    assert!(ids(&list(&server, &ada, "").await).is_empty());
}
