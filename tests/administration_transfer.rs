//! The commands `sessions export` and `sessions import`.

use std::fs;

use crate::administration::{StoreFolder, an_export, json_lines, stop, talk};
use crate::support::{Address, Event, Transport, create, history};

/// Creates a session that waits for its reply, and one that has been answered; their tokens. The
/// gateway must be slow.
pub(crate) async fn waiting_and_answered(address: &Address) -> (String, String) {
    let waiting = create(address).await;
    let mut client = Transport::Json.open(address, &waiting, None).await;
    client.say("a question", Some("k")).await.unwrap();
    let answered = create(address).await;
    let mut stopped = Transport::Json.open(address, &answered, None).await;
    stopped.say("stop this", None).await.unwrap();
    stopped.stop().await;
    stopped.reply().await;
    (waiting, answered)
}

#[tokio::test]
async fn what_was_exported_is_imported_once_and_its_tokens_open_it() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let address = process.address();
    let (waiting, answered) = waiting_and_answered(&address).await;
    let log = history(&address, Transport::Sse, &answered).await;

    let file = place.path("export.jsonl");
    place.print(&["sessions", "export", "--output", &file]).await;
    let exported = fs::read_to_string(&file).unwrap();
    let header = &json_lines(&exported)[0]["export"];
    assert_eq!((&header["format"], &header["sessions"]), (&2.into(), &2.into()));
    for secret in [&waiting, &answered] {
        assert!(!exported.contains(secret.as_str()), "a token, where its hash is enough");
    }
    let again = place.run(&["sessions", "export", "--output", &file]).await;
    assert_eq!(again.code, Some(1), "a file that is there is not overwritten");
    assert_eq!(fs::read_to_string(&file).unwrap(), exported);
    process.kill().await;

    let other = StoreFolder::new();
    let first = other.print(&["sessions", "import", &file]).await;
    assert!(first.starts_with("2 sessions imported, with 3 messages; 0 already there"), "{first}");
    let second = other.run_with(&["sessions", "import"], &exported).await;
    assert_eq!(second.code, Some(0), "{}", second.told);
    assert!(
        second.out.starts_with("0 sessions imported, with 0 messages; 2 already"),
        "{}",
        second.out
    );

    let process = other.start().await;
    let address = process.address();
    assert_eq!(history(&address, Transport::Sse, &answered).await, log);
    let position = Transport::Json.open(&address, &waiting, None).await.at(0);
    let mut client = Transport::Json.open(&address, &waiting, Some(&position)).await;
    let (before, reply) = client.reply().await;
    let attempt = before.iter().find_map(|event| match event {
        Event::ReplyStarted(started) => Some(started.attempt),
        _ => None,
    });
    assert!(attempt.is_none_or(|attempt| attempt == 2), "{before:?}");
    assert_eq!(reply.text, "You said: a question");
    let retry = client.say("a question", Some("k")).await.unwrap();
    assert!(retry.duplicate && retry.seq == 1, "{retry:?}");
    talk(&address, &answered, "and on it goes").await;
    // It has gone further than the export: that is no difference.
    let third = other.run(&["sessions", "import", &file]).await;
    assert_eq!(third.code, Some(0), "{}", third.told);
    stop(process).await;
}

#[tokio::test]
async fn what_waits_in_an_imported_session_is_answered_by_the_gateway_that_runs() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    for text in ["one", "two", "three"] {
        client.say(text, Some(text)).await.unwrap();
    }
    let export = place.print(&["sessions", "export"]).await;
    process.kill().await;

    let other = StoreFolder::new();
    let process = other.start().await;
    let address = process.address();
    // The gateway's own turns are not taken for imported ones.
    let own = create(&address).await;
    let mut busy = Transport::Grpc.open(&address, &own, None).await;
    assert_eq!(other.run_with(&["sessions", "import"], &export).await.code, Some(0));
    let mut client = Transport::Json.open(&address, &token, None).await;
    for turn in 0..20 {
        busy.say(&format!("{turn}"), None).await.unwrap();
        busy.reply().await;
    }
    let position = client.at(0);
    client = Transport::Json.open(&address, &token, Some(&position)).await;
    let log = client.messages(6).await;
    let texts: Vec<_> = log.iter().map(|message| message.text.as_str()).collect();
    let replies = ["You said: one", "You said: two", "You said: three"];
    assert_eq!(texts, [&["one", "two", "three"][..], &replies].concat());
    assert_eq!(history(&address, Transport::Sse, &own).await.len(), 40, "one reply to each");
    stop(process).await;
}

#[tokio::test]
async fn one_session_is_exported_by_its_id_and_an_unknown_one_is_named() {
    let place = StoreFolder::new();
    let process = place.start().await;
    create(&process.address()).await;
    create(&process.address()).await;
    let id = place.list(&[]).await[1]["id"].as_str().unwrap().to_owned();
    let one = json_lines(&place.print(&["sessions", "export", &id, &id]).await);
    assert_eq!(one.len(), 2);
    assert_eq!((&one[0]["export"]["sessions"], &one[1]["session"]["id"]), (&1.into(), &id.into()));
    let unknown = "01a20459-2ae4-75e7-b50f-667a3bbc3f67";
    for arguments in [
        &["sessions", "export", unknown][..],
        &["sessions", "show", unknown],
        &["sessions", "delete", unknown],
    ] {
        let done = place.run(arguments).await;
        assert_eq!((done.code, done.out.as_str(), done.told.lines().count()), (Some(1), "", 1));
        assert!(done.told.contains(unknown), "{}", done.told);
    }
    process.kill().await;
}

#[tokio::test]
async fn a_wrong_import_names_the_line_and_stores_no_part_of_a_session() {
    let export = an_export().await;
    let lines: Vec<&str> = export.lines().collect();
    assert_eq!(lines.len(), 7, "a header, a session of four messages, an empty one");
    let with = |line: usize, from: &str, to: &str| {
        let mut lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        assert!(lines[line - 1].contains(from), "{from} is not in {}", lines[line - 1]);
        lines[line - 1] = lines[line - 1].replacen(from, to, 1);
        lines.join("\n")
    };
    let without = |line: usize| {
        let mut lines = lines.clone();
        lines.remove(line - 1);
        lines.join("\n")
    };
    let big = format!("\"text\":\"{}\"", "x".repeat(70_000));
    let empty = json_lines(&export)[6]["session"]["id"].to_string();
    let full = json_lines(&export)[1]["session"]["id"].to_string();
    let message = json_lines(&export)[2]["message"]["id"].to_string();
    let token = &lines[1][lines[1].find("[{").unwrap() + 1..lines[1].find("}]").unwrap() + 1];
    let tokens = format!("[{token}]");
    let reply = format!("\"text\":{}", json_lines(&export)[3]["message"]["text"]);
    for (what, input, line) in [
        ("nothing", String::new(), 1),
        ("no header", without(1), 1),
        ("a format of the future", with(1, "\"format\":2", "\"format\":3"), 1),
        ("a format of nobody", with(1, "\"format\":2", "\"format\":0"), 1),
        ("an unknown field", with(2, "{\"id\"", "{\"mood\":1,\"id\""), 2),
        ("a blank name", with(2, "\"Ada\"", "\" \""), 2),
        ("a name that hides", with(2, "\"Ada\"", "\"A\\u202eda\""), 2),
        ("no UUID", with(2, "\"id\":\"0", "\"id\":\"x"), 2),
        ("the nil UUID", with(2, &full, "\"00000000-0000-0000-0000-000000000000\""), 2),
        ("a UUID of version 4", with(2, &full, "\"5f0c1ae8-3bd1-4c0a-9d47-0b9ad9a2a9c7\""), 2),
        ("a message's, too", with(3, &message, "\"5f0c1ae8-3bd1-4c0a-9d47-0b9ad9a2a9c7\""), 3),
        (
            "no attempt",
            with(3, "\"role\"", "\"waiting\":{\"attempt\":0,\"text\":\"\"},\"role\""),
            3,
        ),
        (
            "an attempt beyond the last",
            with(3, "\"role\"", "\"waiting\":{\"attempt\":3,\"text\":\"\"},\"role\""),
            3,
        ),
        ("a hash that is none", with(2, "\"sha256\":\"", "\"sha256\":\"0"), 2),
        ("no token", with(2, &tokens, "[]"), 2),
        ("a token twice", with(2, &tokens, &format!("[{token},{token}]")), 2),
        ("a token of both formats", with(2, "\"tokens\"", "\"token_sha256\":\"0\",\"tokens\""), 2),
        ("an unknown scope", with(2, "\"write\"", "\"admin\""), 2),
        (
            "a token with one deadline of two",
            with(2, "\"scope\"", "\"ends_at\":\"2030-01-01T00:00:00Z\",\"scope\""),
            2,
        ),
        ("a title that hides", with(2, "\"name\"", "\"title\":\"A\\u202eda\",\"name\""), 2),
        ("a blank key", with(2, "\"name\"", "\"metadata\":{\"\":\"x\"},\"name\""), 2),
        ("no time", with(2, "Z\"", "\""), 2),
        ("too many messages", with(2, "\"messages\":4", "\"messages\":10001"), 2),
        ("a gap", without(3), 3),
        ("a number twice", with(4, "\"seq\":2", "\"seq\":1"), 4),
        ("an unknown role", with(3, "\"user\"", "\"system\""), 3),
        ("an empty text", with(3, "\"text\":\"one\"", "\"text\":\"\""), 3),
        ("a NUL", with(3, "\"text\":\"one\"", "\"text\":\"o\\u0000\""), 3),
        ("too large a text", with(3, "\"text\":\"one\"", &big), 3),
        (
            "an id with a space",
            with(3, "\"client_message_id\":\"one\"", "\"client_message_id\":\"o e\""),
            3,
        ),
        (
            "an id twice",
            with(5, "\"client_message_id\":\"two\"", "\"client_message_id\":\"one\""),
            5,
        ),
        ("an unknown status", with(4, "\"complete\"", "\"splendid\""), 4),
        ("a failure without one", with(4, "\"complete\"", "\"failed\""), 4),
        ("a status of a user's", with(3, "\"role\"", "\"status\":\"complete\",\"role\""), 3),
        ("a reply to itself", with(4, "\"in_reply_to\":\"0", "\"in_reply_to\":\"1"), 4),
        ("a message of another's", with(3, &full, &empty), 3),
        ("a parent that is a reply", with(5, "\"parent_seq\":1", "\"parent_seq\":2"), 5),
        ("a parent that comes later", with(5, "\"parent_seq\":1", "\"parent_seq\":3"), 5),
        ("a parent of a reply", with(4, "\"role\"", "\"parent_seq\":1,\"role\""), 4),
        (
            "the question of nothing",
            with(5, "\"parent_seq\"", "\"regenerates_seq\":2,\"parent_seq\""),
            5,
        ),
        ("text and parts", with(3, "\"text\"", "\"parts\":[{\"text\":\"a\"}],\"text\""), 3),
        ("a part of two", with(4, &reply, "\"parts\":[{\"text\":\"a\",\"reasoning\":\"b\"}]"), 4),
        ("a part of nothing", with(4, &reply, "\"parts\":[{}]"), 4),
        ("an unknown part", with(4, &reply, "\"parts\":[{\"poem\":\"a\"}]"), 4),
        (
            "a part that no user may send",
            with(3, "\"text\":\"one\"", "\"parts\":[{\"reasoning\":\"a\"}]"),
            3,
        ),
        ("an unknown option", with(3, "\"role\"", "\"options\":{\"mood\":1},\"role\""), 3),
        ("a wrong option", with(3, "\"role\"", "\"options\":{\"temperature\":9},\"role\""), 3),
        ("options of a reply", with(4, "\"role\"", "\"options\":{\"model\":\"m\"},\"role\""), 4),
        ("a model of a user's", with(3, "\"role\"", "\"model\":\"m\",\"role\""), 3),
        ("an end in a session", lines[..4].join("\n"), 5),
        ("a session twice", [&lines[..], &lines[6..]].concat().join("\n"), 8),
        ("no JSON", with(5, "{", "("), 5),
        ("half a line", export[..export.len() - 20].to_owned(), 7),
    ] {
        let place = StoreFolder::new();
        place.make().await;
        let done = place.run_with(&["sessions", "import"], &input).await;
        assert_eq!((done.code, done.told.lines().count()), (Some(1), 1), "{what}: {}", done.told);
        assert!(
            done.told.starts_with(&format!("duologue: line {line}: ")),
            "{what}: {}",
            done.told
        );
        let listed = place.list(&[]).await;
        let whole: u64 = if line > 6 { 1 } else { 0 };
        assert_eq!(listed.len() as u64, whole + u64::from(line == 8), "{what}: {listed:?}");
        assert!(
            listed.iter().all(|row| row["messages"] == 4 || row["messages"] == 0),
            "{listed:?}"
        );
    }
    // Invalid UTF-8, and a header that announces more sessions than there are.
    let place = StoreFolder::new();
    let file = place.path("bytes");
    fs::write(&file, export.replace("\"one\"", "\"\u{fffd}\"").replace('\u{fffd}', "\u{1}"))
        .unwrap();
    assert_eq!(place.run(&["sessions", "import", &file]).await.code, Some(1));
    let bytes: Vec<u8> = export.replace("\"two\"", "\"\u{1}\"").into_bytes();
    let bytes: Vec<u8> =
        bytes.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
    fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["sessions", "import", &file]).await.code, Some(1));
    let cut = place.run_with(&["sessions", "import"], &lines[..6].join("\n")).await;
    assert_eq!(cut.code, Some(1));
    assert!(cut.told.contains("it holds 1 of 2 sessions"), "{}", cut.told);
    assert!(cut.out.starts_with("1 session imported, with 4 messages"), "{}", cut.out);
}

#[tokio::test]
async fn an_import_reports_a_session_that_differs_and_does_not_change_it() {
    let export = an_export().await;
    let place = StoreFolder::new();
    assert_eq!(place.run_with(&["sessions", "import"], &export).await.code, Some(0));
    let file = rusqlite::Connection::open(&place.file).unwrap();
    let totals = "SELECT sum(input_tokens), (SELECT sum(input_tokens) FROM messages) FROM sessions";
    let (summed, of_messages): (u32, u32) =
        file.query_row(totals, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(summed == of_messages && summed > 0, "{summed} and {of_messages}");
    drop(file);
    let expired = StoreFolder::new();
    let past = json_lines(&export).into_iter().map(|mut line| {
        if let Some(session) = line.get_mut("session") {
            session["expires_at"] = "2000-01-01T00:00:00Z".into();
        }
        format!("{line}\n")
    });
    let past: String = past.collect();
    let done = expired.run_with(&["sessions", "import"], &past).await;
    assert!(done.out.contains("2 expired") && done.code == Some(0), "{}", done.out);
    let id = json_lines(&export)[1]["session"]["id"].as_str().unwrap().to_owned();
    for (from, to) in
        [("\"text\":\"one\"", "\"text\":\"1\""), ("\"name\":\"Ada\"", "\"name\":\"Eve\"")]
    {
        let done = place.run_with(&["sessions", "import"], &export.replacen(from, to, 1)).await;
        assert_eq!(done.code, Some(1));
        assert!(done.told.contains(&format!("session {id} differs")), "{}", done.told);
        assert!(done.out.contains("1 already there, 1 different"), "{}", done.out);
    }
    assert_eq!(
        place.print(&["sessions", "export"]).await.lines().skip(1).collect::<Vec<_>>(),
        export.lines().skip(1).collect::<Vec<_>>()
    );
    // Nor may another session take a token.
    let other = export.replace(&id, "01a20459-2ae4-75e7-b50f-667a3bbc3f67");
    let done = place.run_with(&["sessions", "import"], &other).await;
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains("1 different"), "{}", done.out);
}
