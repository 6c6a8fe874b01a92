//! Clusters and watched masters of real servers.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::redis::RedisServer;

/// Three masters, each with a replica.
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start(program: &Path) -> Self {
        let flags = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let start = |_| RedisServer::start(program.to_owned(), &flags);
        let cluster = Self { servers: (0..6).map(start).collect() };
        let addresses: Vec<_> =
            cluster.servers.iter().map(|server| address(server.port())).collect();
        let mut words = vec!["--cluster", "create"];
        words.extend(addresses.iter().map(String::as_str));
        words.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let made = cluster.servers[0].command(&words);
        assert!(made.contains("All 16384 slots covered"), "{made}");
        cluster.settle();
        cluster
    }

    /// Waits until all servers agree on the masters, and each one has its replica.
    pub fn settle(&self) {
        let ok = |server: &RedisServer| {
            let info = server.command(&["CLUSTER", "INFO"]);
            let nodes = server.command(&["CLUSTER", "NODES"]);
            info.contains("cluster_state:ok")
                && nodes.lines().count() == self.servers.len()
                && !nodes.contains("fail")
                && nodes.matches("slave").count() == 3
        };
        wait_until(|| self.servers.iter().all(ok));
        // The replicas have the data of their masters.
        let is_synced = |server: &RedisServer| {
            let info = server.command(&["INFO", "replication"]);
            info.contains("role:master") || info.contains("master_link_status:up")
        };
        wait_until(|| self.servers.iter().all(is_synced));
    }

    pub fn store(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|server| address(server.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns the masters.
    pub fn masters(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().filter(|server| is_master(server))
    }

    /// Returns the replica of a master.
    pub fn replica_of(&self, master: &RedisServer) -> &RedisServer {
        let port = format!("master_port:{}", master.port());
        let is_its = |server: &&RedisServer| {
            let info = server.command(&["INFO", "replication"]);
            info.lines().any(|line| line.trim() == port)
        };
        self.servers.iter().find(is_its).unwrap()
    }

    /// Moves a number of slots from one master to another.
    pub fn move_slots(&self, from: &RedisServer, to: &RedisServer, slots: u32) -> String {
        let id = |server: &RedisServer| server.command(&["CLUSTER", "MYID"]);
        let (from, to, slots) = (id(from), id(to), slots.to_string());
        let first = &self.servers[0];
        let address = address(first.port());
        first.command(&[
            "--cluster",
            "reshard",
            &address,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
            "--cluster-slots",
            &slots,
            "--cluster-yes",
        ])
    }
}

/// A master, its replicas, and three sentinels.
pub struct WatchedMaster {
    pub servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl WatchedMaster {
    pub fn start(program: &Path, replicas: usize) -> Self {
        let program: PathBuf = program.to_owned();
        let master = RedisServer::start(program.clone(), &[]);
        let port = master.port().to_string();
        let replica = |_| RedisServer::start(program.clone(), &["--replicaof", "127.0.0.1", &port]);
        let replicas: Vec<_> = (0..replicas).map(replica).collect();
        let known = format!("slaves={},sentinels=3", replicas.len());
        let sentinel = |_| RedisServer::start_sentinel(program.clone(), "chat", master.port());
        let sentinels = (0..3).map(sentinel).collect();
        let watched = Self { servers: [master].into_iter().chain(replicas).collect(), sentinels };
        wait_until(|| {
            watched.sentinels.iter().all(|sentinel| {
                let info = sentinel.command(&["INFO", "sentinel"]);
                info.contains(&known)
            })
        });
        watched
    }

    pub fn store(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|it| address(it.port())).collect();
        format!("redis+sentinel://{}/chat", hosts.join(","))
    }

    /// Returns the master.
    pub fn master(&self) -> &RedisServer {
        self.servers.iter().find(|server| is_master(server)).unwrap()
    }
}

fn is_master(server: &RedisServer) -> bool {
    server.command(&["INFO", "replication"]).contains("role:master")
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Waits for a state of servers.
pub fn wait_until(is_reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_reached() {
        assert!(Instant::now() < deadline, "the servers do not settle");
        std::thread::sleep(Duration::from_millis(50));
    }
}
