//! The commands for sessions on Redis and Valkey.

use crate::{
    administration::{StoreFolder, json_lines, stop, talk},
    administration_transfer::waiting_and_answered,
    support::{RedisServer, Transport, create, history, programs, soon},
};

/// Exports all sessions. Leaves out the header, which has the time.
async fn sessions(place: &StoreFolder) -> Vec<serde_json::Value> {
    json_lines(&place.print(&["sessions", "export"]).await).split_off(1)
}

#[tokio::test]
async fn sessions_move_from_a_file_to_a_server_and_back_unchanged() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let address = process.address();
    let (waiting, answered) = waiting_and_answered(&address).await;
    let log = history(&address, Transport::Sse, &answered).await;
    process.kill().await;
    let exported = place.print(&["sessions", "export"]).await;

    for program in programs() {
        let server = RedisServer::start(program, &[]);
        let there = StoreFolder::on(format!("redis://127.0.0.1:{}", server.port()));
        let done = there.run_with(&["sessions", "import"], &exported).await;
        assert_eq!(done.code, Some(0), "{}", done.told);
        assert!(done.out.starts_with("2 sessions imported, with 3 messages"), "{}", done.out);
        assert_eq!(sessions(&there).await, sessions(&place).await);
        let again = there.run_with(&["sessions", "import"], &exported).await;
        assert!(again.out.contains("2 already there, 0 different"), "{}", again.out);

        let back = StoreFolder::new();
        let of_server = there.print(&["sessions", "export"]).await;
        let done = back.run_with(&["sessions", "import"], &of_server).await;
        assert_eq!(done.code, Some(0), "{}", done.told);
        assert_eq!(sessions(&back).await, sessions(&place).await);

        let process = there.start().await;
        let address = process.address();
        assert_eq!(history(&address, Transport::Sse, &answered).await, log);
        let position = Transport::Json.open(&address, &waiting, None).await.at(0);
        let mut client = Transport::Json.open(&address, &waiting, Some(&position)).await;
        assert_eq!(client.reply().await.1.text, "You said: a question");
        let retry = client.say("a question", Some("k")).await.unwrap();
        assert!(retry.duplicate && retry.seq == 1, "{retry:?}");
        talk(&address, &answered, "and on it goes").await;
        // It has gone further than the export: that is no difference.
        let third = there.run_with(&["sessions", "import"], &exported).await;
        assert_eq!(third.code, Some(0), "{}", third.told);
        stop(process).await;
    }
}

#[tokio::test]
async fn a_running_gateway_answers_the_waiting_turn_of_an_imported_session() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    client.say("one", None).await.unwrap();
    process.kill().await;
    let exported = place.print(&["sessions", "export"]).await;
    for program in programs() {
        let server = RedisServer::start(program, &[]);
        let there = StoreFolder::on(format!("redis://127.0.0.1:{}", server.port()));
        let process = there.start().await;
        let done = there.run_with(&["sessions", "import"], &exported).await;
        assert_eq!(done.code, Some(0), "{}", done.told);
        let position = Transport::Json.open(&process.address(), &token, None).await.at(0);
        let mut client = Transport::Json.open(&process.address(), &token, Some(&position)).await;
        assert_eq!(client.reply().await.1.text, "You said: one");
        client.say("two", None).await.unwrap();
        assert_eq!(client.reply().await.1.text, "You said: two");
        stop(process).await;
    }
}

#[tokio::test]
async fn sessions_of_a_server_are_listed_shown_and_deleted() {
    for program in programs() {
        let server = RedisServer::start(program, &[]);
        let place = StoreFolder::on(format!("redis://127.0.0.1:{}", server.port()));
        let process = place.start().await;
        let address = process.address();
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let token = create(&address).await;
            talk(&address, &token, "hello").await;
            tokens.push(token);
        }
        let listed = place.list(&[]).await;
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[0]["messages"], 2);
        assert_eq!(place.list(&["--limit", "2"]).await, listed[..2]);
        assert!(place.list(&["--expired"]).await.is_empty());
        let id = listed[0]["id"].as_str().unwrap().to_owned();
        let shown = place.print(&["sessions", "show", &id]).await;
        assert!(shown.contains("You said: hello"), "{shown}");
        let stream = Transport::Grpc.open(&address, &tokens[0], None).await;
        assert_eq!(place.print(&["sessions", "delete", &id]).await, format!("deleted {id}\n"));
        assert_eq!(soon("the end", stream.ended()).await.0.as_deref(), Some("session_revoked"));
        assert_eq!(place.list(&[]).await.len(), 2);
        assert_eq!(json_lines(&place.print(&["sessions", "export"]).await).len(), 7);
        for arguments in [&["sessions", "delete", &id][..], &["backup", "copy.db"]] {
            let done = place.run(arguments).await;
            assert_eq!((done.code, done.told.lines().count()), (Some(1), 1), "{}", done.told);
        }
        stop(process).await;
    }
}
