//! Servers that lose or refuse writes, and connections that they cut.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::{
    process::Process,
    support::{
        Address, Attached, Event, RedisServer, Rest, Transport, create, history, programs, soon,
        wait_until,
    },
};

/// A gateway, and the address of its metrics.
struct Gateway {
    process: Process,
    operations: Address,
}

impl Gateway {
    fn address(&self) -> Address {
        self.process.address()
    }
}

async fn gateway(server: &RedisServer, flags: &[&str]) -> Gateway {
    let store = format!("redis://127.0.0.1:{}", server.port());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ops = format!("127.0.0.1:{free}");
    let own = ["--store", &store, "--ops-addr", &ops];
    let process = Process::start(&[&own, flags].concat()).await;
    Gateway { process, operations: Address { addr: ([127, 0, 0, 1], free).into() } }
}

fn servers(flags: &[&str]) -> Vec<RedisServer> {
    programs().into_iter().map(|program| RedisServer::start(program, flags)).collect()
}

/// Waits for the next reply on a stream.
async fn reply(stream: &mut Attached) -> String {
    soon("the reply", stream.reply()).await.1.text
}

async fn say(stream: &mut Attached, text: &str) -> String {
    stream.say(text, None).await.unwrap();
    reply(stream).await
}

/// Waits for the end of a stream. Returns the code of its error.
async fn code_of_end(stream: Attached) -> String {
    soon("the end", stream.ended()).await.0.unwrap()
}

/// Reads a counter of a gateway.
async fn counter(gateway: &Gateway, name: &str) -> u64 {
    let metrics = Rest::call(&gateway.operations, "GET", "/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

async fn end(gateways: impl IntoIterator<Item = Gateway>) {
    for Gateway { process, .. } in gateways {
        process.signal("TERM").await;
        assert_eq!(process.ended().await.0, Some(0));
    }
}

#[tokio::test]
async fn a_server_that_was_emptied_ends_all_streams_and_the_loss_is_counted() {
    for server in servers(&[]) {
        let gateway = gateway(&server, &[]).await;
        let mut streams = Vec::new();
        for transport in [Transport::Grpc, Transport::Json, Transport::Proto] {
            let token = create(&gateway.address()).await;
            let mut stream = transport.open(&gateway.address(), &token, None).await;
            say(&mut stream, "Hello").await;
            streams.push(stream);
        }
        server.command(&["FLUSHALL"]);
        let flushed = Instant::now();
        for stream in streams {
            assert_eq!(code_of_end(stream).await, "session_revoked");
        }
        assert!(flushed.elapsed() <= Duration::from_millis(2500), "{:?}", flushed.elapsed());
        assert_eq!(counter(&gateway, "duologue_store_lost_sessions_total").await, 3);
        // A session that is created now works.
        let token = create(&gateway.address()).await;
        let mut stream = Transport::Grpc.open(&gateway.address(), &token, None).await;
        say(&mut stream, "Hello").await;
        end([gateway]).await;
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_empty_ends_all_streams_and_the_loss_is_counted() {
    for server in servers(&[]) {
        let gateway = gateway(&server, &[]).await;
        let token = create(&gateway.address()).await;
        let mut stream = Transport::Json.open(&gateway.address(), &token, None).await;
        say(&mut stream, "Hello").await;
        server.kill();
        server.restart();
        assert_eq!(code_of_end(stream).await, "session_revoked");
        let lost = counter(&gateway, "duologue_store_lost_sessions_total");
        assert_eq!(lost.await, 1);
        end([gateway]).await;
    }
}

#[tokio::test]
async fn a_restart_that_loses_nothing_keeps_streams_and_positions() {
    for server in servers(&["--appendonly", "yes", "--appendfsync", "always"]) {
        let (one, two) = (gateway(&server, &[]).await, gateway(&server, &[]).await);
        let token = create(&one.address()).await;
        let mut stream = Transport::Json.open(&one.address(), &token, None).await;
        say(&mut stream, "before").await;
        let position = stream.at(2);
        server.kill();
        server.restart();
        say(&mut stream, "after").await;
        let resumed = Transport::Grpc.open(&two.address(), &token, Some(&position)).await;
        assert!(resumed.opened.recovered);
        assert_eq!(resumed.at(0), stream.at(0));
        for gateway in [&one, &two] {
            assert_eq!(counter(gateway, "duologue_store_lost_messages_total").await, 0);
        }
        drop(resumed);
        end([one, two]).await;
    }
}

/// A master whose replica has stopped loses what it acknowledged since, when the replica takes over.
#[tokio::test]
async fn messages_that_a_failover_loses_are_counted_and_their_positions_are_not_honored() {
    for program in programs() {
        let master = RedisServer::start(program.clone(), &[]);
        let port = master.port().to_string();
        let replica = RedisServer::start(program, &["--replicaof", "127.0.0.1", &port]);
        let linked = || replica.command(&["INFO", "replication"]).contains("link_status:up");
        wait_until(linked);
        let gateway = gateway(&master, &[]).await;
        let token = create(&gateway.address()).await;
        let idle_token = create(&gateway.address()).await;
        let mut stream = Transport::Json.open(&gateway.address(), &token, None).await;
        say(&mut stream, "kept").await;
        let kept = stream.at(2);
        let mut idle = Transport::Grpc.open(&gateway.address(), &idle_token, None).await;
        say(&mut idle, "kept").await;
        let idle_position = idle.at(2);
        assert_eq!(master.command(&["WAIT", "1", "5000"]), "1");
        replica.command(&["REPLICAOF", "NO", "ONE"]);
        say(&mut stream, "lost").await;
        let lost = stream.at(4);
        // The data of the replica under the address of the master.
        master.command(&["CONFIG", "SET", "save", ""]);
        replica.command(&["SAVE"]);
        master.kill();
        master.take_snapshot(&replica);
        master.restart();
        assert_eq!(code_of_end(stream).await, "store_unavailable");
        assert_eq!(counter(&gateway, "duologue_store_lost_messages_total").await, 2);
        // A position that was lost is not honored, one before it is.
        let other = Transport::Grpc.open(&gateway.address(), &token, Some(&lost)).await;
        assert!(!other.opened.recovered);
        let mut resumed = Transport::Json.open(&gateway.address(), &token, Some(&kept)).await;
        assert!(resumed.opened.recovered);
        say(&mut resumed, "new").await;
        let log = history(&gateway.address(), Transport::Grpc, &token).await;
        assert_eq!(log.len(), 4, "{log:?}");
        // The other session has lost nothing: its stream goes on.
        say(&mut idle, "more").await;
        let at = Some(&idle_position);
        let again = Transport::Json.open(&gateway.address(), &idle_token, at).await;
        assert!(again.opened.recovered);
        drop((resumed, again, other, idle));
        end([gateway]).await;
    }
}

#[tokio::test]
async fn a_server_without_memory_refuses_messages_and_ends_accepted_turns() {
    for server in servers(&[]) {
        let flags = ["--simulated-delay", "100ms", "--simulated-reply", "one two three four five"];
        let gateway = gateway(&server, &flags).await;
        let token = create(&gateway.address()).await;
        let mut stream = Transport::Json.open(&gateway.address(), &token, None).await;
        stream.say("Hi", None).await.unwrap();
        while !matches!(soon("a delta", stream.next()).await, Event::Delta(_)) {}
        server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
        assert_eq!(reply(&mut stream).await, "one two three four five");
        let path = format!("/messages?token={token}&text=Hi");
        let refused = Rest::call(&gateway.address(), "POST", &path).await;
        assert_eq!(refused.status, 507, "{}", refused.body);
        // What exists can be read, on new streams too.
        let other = Transport::Grpc.open(&gateway.address(), &token, None).await;
        assert_eq!(other.opened.head_seq, 2);
        drop(other);
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
        say(&mut stream, "Hello").await;
        end([gateway]).await;
    }
}

#[tokio::test]
async fn scripts_and_connections_that_the_server_drops_are_restored() {
    for server in servers(&[]) {
        let (one, two) = (gateway(&server, &[]).await, gateway(&server, &[]).await);
        let token = create(&one.address()).await;
        let mut here = Transport::Json.open(&one.address(), &token, None).await;
        let mut there = Transport::Grpc.open(&two.address(), &token, None).await;
        for command in [
            &["SCRIPT", "FLUSH"][..],
            &["CLIENT", "KILL", "TYPE", "pubsub"],
            &["CLIENT", "KILL", "TYPE", "normal"],
        ] {
            for _ in 0..3 {
                server.command(command);
                say(&mut here, "Hello").await;
                reply(&mut there).await;
            }
        }
        let log = history(&two.address(), Transport::Grpc, &token).await;
        assert_eq!(log.len(), 18, "{log:?}");
        end([one, two]).await;
    }
}
