//! Every row of the REST table, byte for byte: the clients of the service that this
//! one grew out of must work unchanged.

use crate::support::{Rest, Setup, Transport, create};

async fn assert_answers(method: &str, path: &str, status: u16, body: &str) {
    let server = Setup::default().start().await;
    let answer = Rest::call(&server, method, path).await;
    assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {path}");
    assert_eq!(answer.header("content-type"), "application/json", "{method} {path}");
}

const MISSING_NAME: &str =
    r#"{"detail":[{"type":"missing","loc":["query","name"],"msg":"Field required","input":null}]}"#;
const MISSING_TOKEN: &str = r#"{"detail":[{"type":"missing","loc":["query","token"],"msg":"Field required","input":null}]}"#;
const INVALID_NAME: &str = r#"{"detail":{"loc":"name","msg":"Enter a valid name"}}"#;
const EXPIRED: &str = r#"{"detail":"Session expired or does not exist"}"#;

#[tokio::test]
async fn fixed_answers_are_the_same_to_the_byte() {
    let unknown = "token=e3b0c442-98fc-4c14-9afb-f4c8996fb924";
    for (method, path, status, body) in [
        ("GET", "/test", 200, r#"{"msg":"API is Online"}"#),
        ("POST", "/token", 422, MISSING_NAME),
        ("POST", "/token?name=", 400, INVALID_NAME),
        ("POST", "/token?name", 400, INVALID_NAME),
        ("POST", "/token?name=%20%09", 400, INVALID_NAME),
        ("POST", "/token?name=A%00da", 400, INVALID_NAME),
        ("POST", "/token?name=A%E2%80%AEda", 400, INVALID_NAME),
        ("POST", "/token?name=%FF", 400, INVALID_NAME),
        ("POST", "/refresh_token", 422, MISSING_TOKEN),
        ("GET", "/refresh_token", 422, MISSING_TOKEN),
        ("DELETE", "/token", 422, MISSING_TOKEN),
        ("GET", "/events", 422, MISSING_TOKEN),
        ("POST", "/messages", 422, MISSING_TOKEN),
        ("POST", "/stop", 422, MISSING_TOKEN),
        ("POST", &format!("/refresh_token?{unknown}"), 400, EXPIRED),
        ("GET", &format!("/refresh_token?{unknown}"), 400, EXPIRED),
        ("DELETE", &format!("/token?{unknown}"), 400, EXPIRED),
        ("POST", "/refresh_token?token=", 400, EXPIRED),
        ("POST", "/refresh_token?token=nonsense", 400, EXPIRED),
        ("GET", "/", 404, r#"{"detail":"Not Found"}"#),
        ("POST", "/nowhere?token=x", 404, r#"{"detail":"Not Found"}"#),
        ("GET", "/tokens", 404, r#"{"detail":"Not Found"}"#),
        ("GET", "/test/", 404, r#"{"detail":"Not Found"}"#),
        ("GET", "/chat", 426, r#"{"detail":"Upgrade Required"}"#),
    ] {
        assert_answers(method, path, status, body).await;
    }
    let long = "é".repeat(129);
    assert_answers("POST", &format!("/token?name={long}"), 400, INVALID_NAME).await;
}

#[tokio::test]
async fn wrong_methods_get_the_allowed_ones() {
    let server = Setup::default().start().await;
    for (method, path, allow) in [
        ("POST", "/test", "GET,HEAD"),
        ("GET", "/token", "POST,DELETE"),
        ("PUT", "/token", "POST,DELETE"),
        ("DELETE", "/refresh_token", "POST,GET,HEAD"),
        ("GET", "/messages", "POST"),
        ("GET", "/stop", "POST"),
        ("POST", "/events", "GET,HEAD"),
        ("POST", "/chat", "GET,HEAD"),
        ("PATCH", "/healthz", "GET,HEAD"),
    ] {
        let answer = Rest::call(&server, method, path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (405, r#"{"detail":"Method Not Allowed"}"#),
            "{method} {path}"
        );
        assert_eq!(answer.header("content-type"), "application/json");
        let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn head_is_answered_on_every_get_route() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for path in [
        "/test",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/asyncapi.yaml",
        &format!("/refresh_token?token={token}"),
    ] {
        let head = Rest::call(&server, "HEAD", path).await;
        let get = Rest::call(&server, "GET", path).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    let head = Rest::call(&server, "HEAD", "/chat").await;
    assert_eq!((head.status, head.body.as_str()), (426, ""));
}

#[tokio::test]
async fn a_created_session_has_the_fields_of_the_table_in_their_order() {
    let server = Setup::default().start().await;
    for (given, name) in [
        ("Ada", "Ada"),
        ("%20Ada%20Lovelace+", "Ada Lovelace"),
        ("%D0%94%D0%B0%D1%80%D1%8C%D1%8F%20%F0%9F%A6%80", "Дарья 🦀"),
        ("x&name=last", "last"),
    ] {
        let answer = Rest::call(&server, "POST", &format!("/token?name={given}")).await;
        let json = answer.json();
        let token = json["token"].as_str().unwrap();
        let (start, end) =
            (json["session_start"].as_str().unwrap(), json["expires_at"].as_str().unwrap());
        let expected = format!(
            r#"{{"name":"{name}","token":"{token}","session_start":"{start}","expires_at":"{end}","messages":[]}}"#
        );
        assert_eq!((answer.status, answer.body.as_str()), (200, expected.as_str()));
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!((token.len(), token.as_bytes()[14]), (36, b'4'), "a UUIDv4");
        let lasts = humantime::parse_rfc3339(end)
            .unwrap()
            .duration_since(humantime::parse_rfc3339(start).unwrap());
        assert!(lasts.unwrap().as_secs().abs_diff(600) <= 1, "it was not used yet");
    }
}

#[tokio::test]
async fn a_body_where_none_is_needed_is_no_error() {
    let server = Setup::default().start().await;
    let request = Rest::request(&server, "POST", "/token?name=Ada")
        .header("content-type", "application/json");
    assert_eq!(Rest::send(request.body("{}")).await.status, 200);
}

#[tokio::test]
async fn a_refreshed_session_shows_its_log_by_both_methods_and_both_places_of_the_token() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("hello", Some("m1")).await.unwrap();
    client.reply().await;
    let epoch = client.at(2).epoch;
    let by_query =
        |method| Rest::request(&server, method, &format!("/refresh_token?token={token}"));
    let by_header = |method| {
        Rest::request(&server, method, "/refresh_token")
            .header("authorization", format!("Bearer {token}"))
    };
    for request in [by_query("POST"), by_query("GET"), by_header("POST"), by_header("GET")] {
        let answer = Rest::send(request).await;
        let json = answer.json();
        let order = [
            "\"token\":",
            "\"name\":",
            "\"session_start\":",
            "\"expires_at\":",
            "\"messages\":",
            "\"position\":",
            "\"has_more\":",
        ];
        let places: Vec<_> = order.iter().map(|field| answer.body.find(field).unwrap()).collect();
        assert!(places.is_sorted(), "{}", answer.body);
        assert_eq!(json.as_object().unwrap().len(), order.len(), "{}", answer.body);
        assert_eq!(
            (json["token"].as_str(), json["name"].as_str()),
            (Some(token.as_str()), Some("Ada"))
        );
        assert_eq!(json["position"], serde_json::json!({"epoch": epoch, "seq": 2}));
        let messages = json["messages"].as_array().unwrap();
        let shown = |at: usize, field: &str| messages[at][field].as_str().unwrap().to_owned();
        assert_eq!((shown(0, "msg"), shown(0, "role")), ("hello".into(), "user".into()));
        assert_eq!((shown(1, "msg"), shown(1, "role")), ("Echo: hello".into(), "assistant".into()));
        assert_eq!(
            (shown(1, "status"), shown(1, "in_reply_to")),
            ("complete".into(), shown(0, "id"))
        );
        assert!(humantime::parse_rfc3339(&shown(0, "timestamp")).is_ok());
    }
}

#[tokio::test]
async fn a_revoked_token_answers_204_and_then_opens_nothing() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let path = format!("/token?token={token}");
    let answer = Rest::call(&server, "DELETE", &path).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let answer = Rest::call(&server, "DELETE", &path).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, EXPIRED));
}

#[tokio::test]
async fn messages_are_taken_from_a_body_or_the_query_and_refused_in_words() {
    let mut setup = Setup::default();
    setup.session.messages.content.max_text_size = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let path = format!("/messages?token={token}");
    let post = |body: &str, kind: &str| {
        Rest::send(
            Rest::request(&server, "POST", &path)
                .header("content-type", kind)
                .body(body.to_owned()),
        )
    };
    let json = "application/json";
    let accepted =
        post(r#"{"text":"hi","client_message_id":"a"}"#, "application/json; charset=utf-8").await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    assert_eq!(accepted.json()["seq"], 1);
    let by_query =
        Rest::call(&server, "POST", &format!("{path}&text=hi&client_message_id=a")).await;
    assert_eq!((by_query.status, by_query.json()["duplicate"].as_bool()), (202, Some(true)));

    for (body, kind, status, part) in [
        ("{}", json, 422, r#""loc":["body","text"]"#),
        (r#"{"text":null}"#, json, 422, r#""type":"missing""#),
        (r#"{"text":1}"#, json, 422, r#""type":"json_invalid""#),
        (r#"{"text":"a","txt":"b"}"#, json, 422, r#""type":"json_invalid""#),
        ("{", json, 422, r#""type":"json_invalid""#),
        ("hello", "text/plain", 415, "application/json"),
        (r#"{"text":""}"#, json, 400, "The text is empty"),
        (r#"{"text":"a\u0000b"}"#, json, 400, "NUL"),
        (r#"{"text":"a","client_message_id":"a b"}"#, json, 400, "client_message_id"),
    ] {
        let answer = post(body, kind).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(
            answer.body.starts_with(r#"{"detail":"#) && answer.body.contains(part),
            "{body}: {}",
            answer.body
        );
    }
    let fits = format!(r#"{{"text":"{}"}}"#, "x".repeat(1000));
    assert_eq!(post(&fits, json).await.status, 202);
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(1001));
    assert_eq!(post(&large, json).await.status, 413);
    let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(post(&huge, json).await.status, 413);
    assert_eq!(Rest::call(&server, "POST", &path).await.status, 422);
    assert_eq!(Rest::call(&server, "POST", &format!("{path}&text=%FF")).await.status, 400);
    let number = Rest::call(&server, "GET", &format!("/refresh_token?token={token}&after=x")).await;
    assert_eq!(
        (number.status, number.body.as_str()),
        (
            422,
            r#"{"detail":[{"type":"int_parsing","loc":["query","after"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"x"}]}"#
        )
    );
}

#[tokio::test]
async fn the_documentation_is_served_from_the_binary_and_covers_every_route() {
    let server = Setup::default().start().await;
    let description = Rest::call(&server, "GET", "/openapi.json").await.json();
    let paths: Vec<_> = description["paths"].as_object().unwrap().keys().cloned().collect();
    for path in [
        "/test",
        "/token",
        "/refresh_token",
        "/messages",
        "/stop",
        "/events",
        "/healthz",
        "/readyz",
    ] {
        assert!(paths.iter().any(|listed| listed == path), "{path} is not in {paths:?}");
    }
    let page = Rest::call(&server, "GET", "/docs/").await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("https://") && !page.body.contains("//cdn"), "{}", page.body);
    let asyncapi = Rest::call(&server, "GET", "/asyncapi.yaml").await;
    assert_eq!((asyncapi.status, asyncapi.header("content-type")), (200, "application/yaml"));
    for word in ["asyncapi: 3.", "/chat", "duologue.v1.json", "replyStarted"] {
        assert!(asyncapi.body.contains(word), "{word}");
    }

    let mut setup = Setup::default();
    setup.transport.docs = false;
    let server = setup.start().await;
    for path in ["/docs", "/docs/", "/openapi.json", "/asyncapi.yaml"] {
        assert_eq!(Rest::call(&server, "GET", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_first_and_read_the_answer() {
    let server = Setup::default().start().await;
    let request = Rest::request(&server, "OPTIONS", "/token?name=Ada")
        .header("origin", "http://localhost:5173")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-grpc-web");
    let answer = Rest::send(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:5173");
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    assert!(answer.header("access-control-allow-headers").contains("x-grpc-web"));
    assert!(answer.header("vary").contains("origin"));
}

#[tokio::test]
async fn options_that_is_no_preflight_is_a_wrong_method_like_any_other() {
    let server = Setup::default().start().await;
    let answer = Rest::call(&server, "OPTIONS", "/token?name=Ada").await;
    assert_eq!((answer.status, answer.body.as_str()), (405, r#"{"detail":"Method Not Allowed"}"#));
    assert_eq!(Rest::call(&server, "OPTIONS", "/nowhere").await.status, 404);
}

#[tokio::test]
async fn a_path_with_a_dot_that_is_no_call_is_not_found() {
    let server = Setup::default().start().await;
    for (method, path) in [("GET", "/v1.0/test"), ("POST", "/v1.0/test")] {
        let answer = Rest::call(&server, method, path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, r#"{"detail":"Not Found"}"#),
            "{method} {path}"
        );
    }
}
