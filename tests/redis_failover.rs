//! Gateways on masters that fail, and on clusters.

use crate::{
    process::Process,
    support::{
        Attached, RedisCluster, Rest, Transport, WatchedMaster, create, history, programs, soon,
        wait_until,
    },
};

async fn pair(store: &str) -> (Process, Process) {
    let flags = ["--store", store];
    (Process::start(&flags).await, Process::start(&flags).await)
}

async fn end(gateways: [Process; 2]) {
    for gateway in gateways {
        gateway.signal("TERM").await;
        assert_eq!(gateway.ended().await.0, Some(0));
    }
}

/// Waits for the next reply on a stream.
async fn reply(stream: &mut Attached) -> String {
    soon("the reply", stream.reply()).await.1.text
}

/// Sends a message until a gateway accepts it.
async fn send(gateway: &Process, token: &str, text: &str) {
    let path = format!("/messages?token={token}&text={text}&client_message_id={text}");
    for _ in 0..20 {
        let answer = Rest::call(&gateway.address(), "POST", &path).await;
        if answer.status == 202 {
            return;
        }
        // The gateway itself has waited for the servers.
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
    panic!("the message is not accepted");
}

#[tokio::test]
async fn a_master_that_sentinel_watches_is_replaced_and_nothing_replicated_is_lost() {
    for program in programs() {
        let watched = WatchedMaster::start(&program, 1);
        let (one, two) = pair(&watched.store()).await;
        let token = create(&one.address()).await;
        let mut there = Transport::Grpc.open(&two.address(), &token, None).await;
        send(&one, &token, "before").await;
        reply(&mut there).await;
        assert_eq!(watched.master().command(&["WAIT", "1", "5000"]), "1");
        watched.master().kill();
        send(&one, &token, "after").await;
        reply(&mut there).await;
        let log = history(&two.address(), Transport::Grpc, &token).await;
        assert_eq!(log.len(), 4, "{log:?}");
        end([one, two]).await;
    }
}

#[tokio::test]
async fn sessions_of_a_cluster_survive_the_failure_of_a_master() {
    for program in programs() {
        let cluster = RedisCluster::start(&program);
        let (one, two) = pair(&cluster.store()).await;
        // Sessions on every master.
        let mut streams = Vec::new();
        for _ in 0..12 {
            let token = create(&one.address()).await;
            let stream = Transport::Json.open(&two.address(), &token, None).await;
            streams.push((token, stream));
        }
        for (token, stream) in &mut streams {
            send(&one, token, "before").await;
            reply(stream).await;
        }
        let masters: Vec<_> = cluster.masters().collect();
        for master in &masters {
            assert_eq!(master.command(&["WAIT", "1", "5000"]), "1");
        }
        let replica = cluster.replica_of(masters[0]);
        masters[0].kill();
        wait_until(|| replica.command(&["INFO", "replication"]).contains("role:master"));
        for (token, stream) in &mut streams {
            send(&one, token, "after").await;
            reply(stream).await;
            let log = history(&two.address(), Transport::Grpc, token).await;
            assert_eq!(log.len(), 4, "{log:?}");
        }
        end([one, two]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_to_another_server_under_load_without_an_error() {
    for program in programs() {
        let cluster = RedisCluster::start(&program);
        let (one, two) = pair(&cluster.store()).await;
        let masters: Vec<_> = cluster.masters().collect();
        let talk = async {
            let mut conversations = Vec::new();
            for _ in 0..8 {
                let token = create(&one.address()).await;
                let stream = Transport::Json.open(&two.address(), &token, None).await;
                conversations.push((token, stream, 0_usize));
            }
            for round in 0..10 {
                for (token, stream, length) in &mut conversations {
                    let path = format!("/messages?token={token}&text=m{round}");
                    let answer = Rest::call(&one.address(), "POST", &path).await;
                    assert_eq!(answer.status, 202, "{}", answer.body);
                    reply(stream).await;
                    *length += 2;
                }
            }
            for (token, _, length) in &conversations {
                let log = history(&one.address(), Transport::Grpc, token).await;
                assert_eq!(log.len(), *length);
            }
        };
        let (from, to) = (masters[0], masters[1]);
        std::thread::scope(|scope| {
            // A third of the slots of one master.
            let moving = scope.spawn(|| cluster.move_slots(from, to, 2000));
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(talk);
            });
            let output = moving.join().unwrap();
            assert!(output.matches("Moving slot").count() >= 2000, "{output}");
            assert!(!output.contains("ERR"), "{output}");
        });
        end([one, two]).await;
    }
}

#[tokio::test]
async fn messages_that_a_replica_has_acknowledged_survive_the_failure_of_the_master() {
    for program in programs() {
        let watched = WatchedMaster::start(&program, 2);
        let store = watched.store();
        let gateway = Process::start(&["--store", &store, "--redis-ack", "replica"]).await;
        let token = create(&gateway.address()).await;
        let post = async |text: &str| {
            let path = format!("/messages?token={token}&text={text}&client_message_id={text}");
            Rest::call(&gateway.address(), "POST", &path).await.status
        };
        assert_eq!(post("first").await, 202);
        // Without a replica nothing is acknowledged, and the repetition finds the message.
        let replicas = &watched.servers[1..];
        replicas.iter().for_each(|replica| replica.signal("STOP"));
        assert_eq!(post("second").await, 503);
        replicas.iter().for_each(|replica| replica.signal("CONT"));
        assert_eq!(post("second").await, 202);
        let mut acknowledged = 2;
        for round in 0..30 {
            let status = post(&format!("m{round}")).await;
            acknowledged += usize::from(status == 202);
            // Many of them wait for their replies.
            assert!(matches!(status, 202 | 429), "{status}");
        }
        watched.master().kill();
        send(&gateway, &token, "last").await;
        let log = history(&gateway.address(), Transport::Grpc, &token).await;
        let sent = log.iter().filter(|(_, _, role, _)| role == "user");
        assert_eq!(sent.count(), acknowledged + 1, "{log:?}");
        gateway.signal("TERM").await;
        assert_eq!(gateway.ended().await.0, Some(0));
    }
}
