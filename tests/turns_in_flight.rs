//! Turns whose process dies by `kill -9`: a turn runs again after the first death and is
//! interrupted after the second. No client sees two replies or waits forever.

use std::path::Path;

use crate::{
    process::Process,
    support::{
        Attached, Event, Rest, Transport, create, history, proto, proto::MessageStatus, soon,
    },
};

/// A reply is noted when it is this much further.
const NOTED: u32 = 4096;

/// A reply of twelve KiB that takes its time.
fn slow_reply() -> String {
    (0..60).map(|word| format!("{word:x<200} ")).collect()
}

async fn start(path: &Path, delay: &str) -> Process {
    let store = format!("sqlite:{}", path.display());
    let reply = slow_reply();
    let flags = ["--store", &store, "--simulated-delay", delay, "--simulated-reply", &reply];
    Process::start(&flags).await
}

/// Reads on until as much of the only turn has been noted as must be; what was seen of it.
async fn until_noted(client: &mut Attached, path: &Path) -> String {
    let mut text = String::new();
    while noted(path) < NOTED {
        match client.next().await {
            Event::ReplyStarted(started) if started.offset == 0 => text.clear(),
            Event::Delta(delta) => text += crate::support::piece_of(&delta),
            _ => {}
        }
    }
    text
}

/// Bytes of the reply to the only turn that the next process would find.
fn noted(path: &Path) -> u32 {
    let file = rusqlite::Connection::open(path).unwrap();
    file.query_row("SELECT length(text) FROM turns", [], |row| row.get(0)).unwrap()
}

async fn until_attempt(client: &mut Attached) -> u32 {
    loop {
        if let Event::ReplyStarted(started) = client.next().await {
            return started.attempt;
        }
    }
}

#[tokio::test]
async fn a_turn_is_run_again_after_a_death_and_interrupted_after_the_second() {
    for transport in Transport::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.db");
        let process = start(&path, "5ms").await;
        let token = create(&process.address()).await;
        let mut client = transport.open(&process.address(), &token, None).await;
        client.say("go", Some("m1")).await.unwrap();
        until_noted(&mut client, &path).await;
        let at = client.at(1);
        process.kill().await;

        let process = start(&path, "5ms").await;
        let mut client = transport.open(&process.address(), &token, Some(&at)).await;
        assert_eq!(until_attempt(&mut client).await, 2, "{transport:?}");
        until_noted(&mut client, &path).await;
        process.kill().await;

        let process = start(&path, "0ms").await;
        let address = process.address();
        let mut ids = Vec::new();
        for back in Transport::ALL {
            let mut client = back.open(&address, &token, Some(&at)).await;
            let (before, reply) = client.reply().await;
            assert!(before.is_empty(), "a third attempt: {before:?}");
            assert_eq!(reply.status(), MessageStatus::Interrupted, "{transport:?} {back:?}");
            assert!(reply.text.len() >= NOTED as usize && slow_reply().starts_with(&reply.text));
            ids.push(reply.id);
            let again = client.say("go", Some("m1")).await.unwrap();
            assert!(again.duplicate && again.seq == 1);
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one reply, not {ids:?}");
        let mut client = transport.open(&address, &token, None).await;
        client.say("more", None).await.unwrap();
        assert_eq!(client.reply().await.1.status(), MessageStatus::Complete);
        assert_eq!(history(&address, transport, &token).await.len(), 4);
    }
}

#[tokio::test]
async fn the_partial_text_survives_a_second_attempt_that_dies_earlier() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let process = start(&path, "5ms").await;
    let token = create(&process.address()).await;
    let mut client = Transport::Grpc.open(&process.address(), &token, None).await;
    client.say("go", None).await.unwrap();
    until_noted(&mut client, &path).await;
    let at = client.at(1);
    process.kill().await;
    let process = start(&path, "1h").await;
    let mut client = Transport::Grpc.open(&process.address(), &token, Some(&at)).await;
    assert_eq!(until_attempt(&mut client).await, 2);
    process.kill().await;
    let process = start(&path, "0ms").await;
    let mut client = Transport::Grpc.open(&process.address(), &token, Some(&at)).await;
    let reply = client.reply().await.1;
    assert_eq!(reply.status(), MessageStatus::Interrupted);
    assert!(reply.text.len() >= NOTED as usize, "{}", reply.text.len());
}

#[tokio::test]
async fn a_stop_of_the_second_attempt_keeps_what_was_seen_of_it() {
    for transport in Transport::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.db");
        let process = start(&path, "1h").await;
        let token = create(&process.address()).await;
        let mut client = transport.open(&process.address(), &token, None).await;
        client.say("go", None).await.unwrap();
        let at = client.at(1);
        process.kill().await;
        let process = start(&path, "5ms").await;
        let mut client = transport.open(&process.address(), &token, Some(&at)).await;
        let seen = until_noted(&mut client, &path).await;
        client.stop().await;
        let reply = client.reply().await.1;
        assert_eq!(reply.status(), MessageStatus::Stopped, "{transport:?}");
        assert!(reply.text.starts_with(&seen), "{transport:?}");
        process.kill().await;
        let process = start(&path, "0ms").await;
        let log = history(&process.address(), transport, &token).await;
        assert_eq!((log.len(), &log[1].3), (2, &reply.text), "{transport:?}");
    }
}

#[tokio::test]
async fn a_retry_after_a_death_gets_the_first_answer_before_the_reply_and_after_it() {
    for delay in ["1h", "0ms"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.db");
        let process = start(&path, delay).await;
        let mut sessions = Vec::new();
        for transport in Transport::ALL {
            let token = create(&process.address()).await;
            let mut client = transport.open(&process.address(), &token, None).await;
            let accepted = client.say("hello", Some("m1")).await.unwrap();
            if delay == "0ms" {
                client.reply().await;
            }
            sessions.push((token, accepted));
        }
        process.kill().await;
        let process = start(&path, delay).await;
        for (token, first) in &sessions {
            for transport in Transport::ALL {
                let mut client = transport.open(&process.address(), token, None).await;
                let again = client.say("hello", Some("m1")).await.unwrap();
                let same = (true, &first.message_id, first.seq);
                assert_eq!((again.duplicate, &again.message_id, again.seq), same, "{transport:?}");
                let refusal = client.say("something else", Some("m1")).await.unwrap_err();
                assert!(["message_id_reused", "409"].contains(&refusal.code.as_str()));
            }
            let turns = if delay == "0ms" { 2 } else { 1 };
            assert_eq!(history(&process.address(), Transport::Grpc, token).await.len(), turns);
        }
    }
}

#[tokio::test]
async fn a_revoked_session_stays_revoked_after_a_death_in_the_same_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    for _ in 0..5 {
        let process = start(&path, "0ms").await;
        let address = process.address();
        let (by_rest, by_grpc, kept) =
            (create(&address).await, create(&address).await, create(&address).await);
        let mut client = Transport::Json.open(&address, &by_rest, None).await;
        client.say("secret", None).await.unwrap();
        let revoke = proto::RevokeTokenRequest { token: by_grpc.clone(), ..Default::default() };
        crate::support::stub(&address).await.revoke_token(revoke).await.unwrap();
        let path_of = format!("/token?token={by_rest}");
        assert_eq!(Rest::call(&address, "DELETE", &path_of).await.status, 204);
        process.kill().await;

        let process = start(&path, "0ms").await;
        for token in [&by_rest, &by_grpc] {
            let answer =
                Rest::call(&process.address(), "GET", &format!("/refresh_token?token={token}"))
                    .await;
            assert_eq!(answer.status, 400, "{}", answer.body);
            let request = proto::RefreshTokenRequest { token: token.clone(), ..Default::default() };
            let mut stub = crate::support::stub(&process.address()).await;
            assert_eq!(
                stub.refresh_token(request).await.unwrap_err().code(),
                tonic::Code::Unauthenticated
            );
        }
        Transport::Json.open(&process.address(), &kept, None).await;
        process.kill().await;
    }
}

/// Its hash must be there, or this looks at the wrong files.
#[tokio::test]
async fn a_token_is_in_no_file_and_in_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let process = start(&path, "0ms").await;
    let mut tokens = Vec::new();
    for transport in Transport::ALL {
        let token = create(&process.address()).await;
        let mut client = transport.open(&process.address(), &token, None).await;
        client.say("hello", None).await.unwrap();
        client.reply().await;
        history(&process.address(), transport, &token).await;
        tokens.push(token);
    }
    let look = |expected: &str| {
        let mut files = Vec::new();
        let mut all = Vec::new();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap().path();
            all.extend(std::fs::read(&file).unwrap());
            files.push(file.extension().unwrap().to_str().unwrap().to_owned());
        }
        assert!(files.iter().any(|file| file.contains(expected)), "{expected}: {files:?}");
        let contains = |bytes: &[u8]| all.windows(bytes.len()).any(|window| window == bytes);
        for token in &tokens {
            let uuid: uuid::Uuid = token.parse().unwrap();
            let hash = duologue::session::Token::parse(token).unwrap().hash();
            assert!(contains(hash.as_bytes()));
            assert!(!contains(token.as_bytes()) && !contains(uuid.simple().to_string().as_bytes()));
            assert!(!contains(uuid.as_bytes()));
        }
    };
    look("wal");
    process.signal("TERM").await;
    let (_, log) = soon("the end", process.ended()).await;
    look("db");
    assert!(tokens.iter().all(|token| !log.iter().any(|line| line.contains(token.as_str()))));
}
