//! The command `sessions delete`.

use std::process::Stdio;

use serde_json::Value;

use crate::administration::{StoreFolder, full, nobody};
use crate::support::{Rest, Transport, create, soon};

#[tokio::test]
async fn all_sessions_are_deleted_even_if_the_output_is_closed() {
    const UNKNOWN: &str = "01a20459-2ae4-75e7-b50f-667a3bbc3f67";
    for (out, unknown, code) in
        [(nobody(), None, 0), (full(), None, 1), (nobody(), Some(UNKNOWN), 1)]
    {
        let place = StoreFolder::new();
        place.make().await;
        place.fill(3);
        let listed = place.list(&[]).await;
        let ids = listed.iter().map(|row| row["id"].as_str().unwrap());
        let arguments: Vec<_> =
            ["sessions", "delete"].into_iter().chain(ids).chain(unknown).collect();
        assert_eq!(place.run_into(&arguments, out, Stdio::null()).await, Some(code), "{unknown:?}");
        assert_eq!(place.list(&[]).await, [Value::Null; 0], "exit {code}");
    }
}

#[tokio::test]
async fn a_session_deleted_by_its_operator_ends_in_a_gateway_that_runs() {
    let place = StoreFolder::new();
    let process = place.start().await;
    let address = process.address();
    let token = create(&address).await;
    let bystander = create(&address).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push((transport, transport.open(&address, &token, None).await));
    }
    let mut other = Transport::Grpc.open(&address, &bystander, None).await;
    let id = place.list(&[]).await[0]["id"].as_str().unwrap().to_owned();
    let revoked = place.print(&["sessions", "delete", &id]).await;
    assert_eq!(revoked, format!("deleted {id}\n"));
    // New calls are refused at once.
    let refused = Rest::call(&address, "GET", &format!("/refresh_token?token={token}")).await;
    assert_eq!(refused.status, 400);
    for (transport, stream) in streams {
        let (code, _) = soon("the end of the streams", stream.ended()).await;
        assert_eq!(code.as_deref(), Some("session_revoked"), "{transport:?}");
    }
    other.say("still here", None).await.unwrap();
    other.reply().await;
    process.kill().await;
    let process = place.start().await;
    let refused =
        Rest::call(&process.address(), "GET", &format!("/refresh_token?token={token}")).await;
    assert_eq!(refused.status, 400);
    assert_eq!(place.list(&[]).await.len(), 1);
    process.kill().await;
}

#[tokio::test]
async fn a_deleted_session_stops_the_reply_in_progress() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let address = process.address();
    let token = create(&address).await;
    let mut client = Transport::Json.open(&address, &token, None).await;
    client.say("hello", None).await.unwrap();
    let id = place.list(&[]).await[0]["id"].as_str().unwrap().to_owned();
    place.print(&["sessions", "delete", &id]).await;
    assert_eq!(client.ended().await.0.as_deref(), Some("session_revoked"));
    // Nothing is under way any more, or the drain would wait for it.
    process.signal("TERM").await;
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("drained")), "{log:?}");
}
