//! The binary with a model: its settings, its log, and `check-upstream`.

use std::fmt::Write as _;

use crate::{
    process::{Process, command},
    support::{
        Transport, create, soon,
        upstream::{CHUNKED, DONE, HEAD, Upstream, answer, delta, finish, refusal, usage},
    },
    upstream::failure,
};

const KEY: &str = "sk-canary-in-a-key-4711";
const TEXT: &str = "a canary in what somebody says";
const HEADER: &str = "canary-in-a-header";

async fn check(flags: &[&str]) -> (Option<i32>, String, String) {
    let mut check = command(&[&["check-upstream"], flags].concat());
    let output = soon("the end", check.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn check_upstream_reports_the_behavior_of_an_upstream() {
    for (answers, code, found) in [
        (
            format!("{HEAD}{}", answer("one two")),
            0,
            vec![
                "finish_reason  stop",
                "usage          3 tokens in, 2 out",
                "stop           the connection was dropped",
                "errors         a wrong request was answered with status 200",
                "verdict        usable, but it does not refuse a wrong request",
            ],
        ),
        (
            format!("{HEAD}{}", delta("one")),
            1,
            vec![
                "failed         upstream_truncated",
                "verdict        not usable: its answers do not say why",
            ],
        ),
        (
            refusal(
                "401 Unauthorized",
                "",
                &format!("{{\"error\":{{\"message\":\"not {KEY}\"}}}}"),
            ),
            1,
            vec![
                "failed         upstream_auth (status 401",
                "verdict        not usable: it refuses the API key",
            ],
        ),
        (
            format!("{HEAD}{}{}{DONE}", finish("stop"), usage(9, 9)),
            1,
            vec!["finish_reason  stop", "verdict        not usable: it answered without any text"],
        ),
        (
            HEAD.replace("event-stream", "html") + "<html>",
            1,
            vec!["upstream_protocol", "not usable: it does not stream chat completions"],
        ),
        (
            format!("{HEAD}{}", delta(&"y".repeat(1 << 16)).repeat(17)),
            1,
            vec!["upstream_protocol", "endless"],
        ),
        (
            format!("{HEAD}{}{}", delta("a"), finish("stop\n  verdict        usable\u{1b}[8m")),
            0,
            vec!["finish_reason  stop  verdict        usable[8m\n"],
        ),
        (refusal("404 Not Found", "", "no such model"), 1, vec!["no such model", "are the model"]),
        (refusal("302 Found", "location: /\r\n", ""), 1, vec!["upstream_rejected (status 302"]),
    ] {
        let upstream = Upstream::start().await;
        let url = format!("http://{}", upstream.addr);
        upstream.always(answers.clone());
        let flags = ["--openai-base-url", &url, "--openai-api-key", KEY];
        let (status, told, errors) = check(&flags).await;
        assert_eq!((status, errors.as_str()), (Some(code), ""), "{answers}: {told}");
        for line in found {
            assert!(told.contains(line), "{line} is not in\n{told}");
        }
        assert!(!told.contains("canary"), "{told}");
    }
}

#[tokio::test]
async fn check_upstream_calls_one_that_answers_only_once_not_usable() {
    let mut upstream = Upstream::start().await;
    let url = format!("http://{}", upstream.addr);
    let answers = async {
        upstream.asked().await.answer(&format!("{HEAD}{}", answer("one"))).await;
        let mut long = upstream.asked().await;
        long.write(format!("{HEAD}{}", delta("Once"))).await;
        long.let_go().await;
        for _ in 0..2 {
            upstream.asked().await.answer(&refusal("503 Service Unavailable", "", "")).await;
        }
    };
    let flags = ["--openai-base-url", &url];
    let ((status, told, _), ()) = tokio::join!(check(&flags), answers);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("stop           then it failed: upstream_unavailable"), "{told}");
    assert!(told.contains("verdict        not usable: it cannot be reached"), "{told}");
}

#[tokio::test]
async fn check_upstream_takes_the_flags_of_a_start_before_and_behind_it() {
    for flags in [
        ["check-upstream", "--responder", "openai", "--app-env", "production"],
        ["--responder", "openai", "check-upstream", "--app-env", "production"],
    ] {
        let output = soon("the end", command(&flags).output()).await.unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.contains("--openai-base-url is missing"), "{line}");
        assert_eq!(output.status.code(), Some(78));
    }
}

#[tokio::test]
async fn check_upstream_refuses_wrong_settings_in_one_line() {
    for flags in [&[][..], &["--openai-base-url", "nowhere"], &["--config", "/no/such/file"]] {
        let (status, told, line) = check(flags).await;
        assert_eq!((status, told.as_str(), line.lines().count()), (Some(78), "", 1), "{line}");
    }
}

#[tokio::test]
async fn upstreams_come_from_a_file_and_a_wrong_one_stops_the_start() {
    let (first, mut second) = (Upstream::start().await, Upstream::start().await);
    let mut file = String::new();
    for (name, addr) in [("first", first.addr), ("second", second.addr)] {
        write!(file, "[[upstream]]\nname = \"{name}\"\nbase_url = \"http://{addr}\"\n").unwrap();
    }
    write!(file, "api_key = \"{KEY}\"\nheaders = {{ x-secret = \"{HEADER}\" }}\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upstreams.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, &file).unwrap();
    first.always(refusal("503 Service Unavailable", "", ""));

    let flags = ["--responder", "openai", "--config", path];
    let process = Process::start(&flags).await;
    let server = process.address();
    let mut client = Transport::Grpc.open(&server, &create(&server).await, None).await;
    client.say("Hi", None).await.unwrap();
    let asked = second.asked().await;
    assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(asked.headers["x-secret"], HEADER);
    asked.answer(&format!("{HEAD}{}", answer("a"))).await;
    assert_eq!(client.reply().await.1.text, "a");

    std::fs::write(path, format!("{file}colour = \"blue\"\n")).unwrap();
    let output = soon("the end", command(&flags).output()).await.unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(78), 1), "{line}");
    assert!(line.contains(&format!("{path}:9: unknown field `colour`")), "{line}");
}

#[tokio::test]
async fn neither_keys_nor_texts_are_logged_however_the_upstream_quotes_them() {
    let mut upstream = Upstream::start().await;
    let url = format!("http://{}", upstream.addr);
    let headers = format!("{{\"x-secret\":\"{HEADER}\"}}");
    let flags = [
        "--responder",
        "openai",
        "--openai-base-url",
        &url,
        "--openai-api-key",
        KEY,
        "--openai-headers",
        &headers,
        "--openai-retries",
        "0",
        "--log",
        "trace",
    ];
    let process = Process::start(&flags).await;
    let server = process.address();
    let quoting = format!("{{\"error\":{{\"message\":\"{KEY} {HEADER} said: {TEXT}\"}}}}");
    for (answers, code) in [
        (refusal("400 Bad Request", "", &quoting), "upstream_rejected"),
        (refusal("500 Internal Server Error", "", &quoting), "upstream_unavailable"),
        (format!("{HEAD}{}data: {quoting}\n\n", delta(TEXT)), "upstream_failed"),
        (format!("{HEAD}data: {TEXT}\n\n"), "upstream_protocol"),
        (format!("{HEAD}data: {{\"choices\":\"{TEXT}\"}}\n\n"), "upstream_protocol"),
        (format!("{CHUNKED}{TEXT}"), "upstream_truncated"),
        (format!("HTTP/1.1 200 OK\r\n{TEXT}\r\n\r\n"), "upstream_unavailable"),
        (format!("{HEAD}{}", answer(TEXT)), ""),
    ] {
        let mut client = Transport::Json.open(&server, &create(&server).await, None).await;
        client.say(TEXT, None).await.unwrap();
        upstream.asked().await.answer(&answers).await;
        assert_eq!(failure(&client.reply().await.1), code, "{answers}");
    }
    process.signal("TERM").await;
    let (code, log) = process.ended().await;
    let log = log.join("\n");
    assert_eq!(code, Some(0), "{log}");
    for secret in [KEY, HEADER, TEXT, "canary"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    let of = |message: &str| log.lines().filter(|line| line.contains(message)).count();
    assert_eq!((of("upstream released"), of("an upstream failed")), (8, 7), "{log}");
    assert!(log.contains("message …: a … in what …"), "{log}");
}
