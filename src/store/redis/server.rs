//! One server, and the connection that all operations share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::counter;
use redis::{Client, ErrorKind as Kind, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::{
    deployment::{Address, Deployment},
    replicated::Replicated,
};

/// A master.
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) client: Client,
    deployment: Arc<Deployment>,
    current: Mutex<Option<Connection>>,
}

/// A connection to one process of a server.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) commands: MultiplexedConnection,
    process: Arc<Process>,
    /// The connection for writes that wait for a replica.
    pub(super) replicated: Option<Arc<Replicated>>,
}

/// A process of a server. After its restart, and after a failover, it is another one.
struct Process {
    /// The id that the server drew when it started.
    run_id: String,
    /// The partitions that know of this process, as bits.
    terms: [AtomicU64; 4],
}

impl Server {
    pub(super) fn new(deployment: Arc<Deployment>, address: Address) -> RedisResult<Self> {
        let client = deployment.client(&address)?;
        Ok(Self { address, client, deployment, current: Mutex::default() })
    }

    async fn connect(&self) -> RedisResult<(MultiplexedConnection, String)> {
        let config = self.deployment.config();
        let commands = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut commands = commands.await?;
        let info = redis::cmd("INFO").query_async(&mut commands).await?;
        counter!("duologue_redis_connections_total").increment(1);
        Ok((commands, info))
    }

    /// Returns the connection. Connects if there is none.
    pub(super) async fn connection(&self) -> RedisResult<Connection> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let (commands, info) = self.connect().await?;
        // A replica refuses writes: the master must be found again.
        if field(&info, "role") != "master" {
            return Err(RedisError::from((Kind::Io, "the server is a replica")));
        }
        let run_id = field(&info, "run_id").to_owned();
        self.deployment.confirm(&self.address).await?;
        let replicated = match self.deployment.waits_for_replica() {
            false => None,
            true => {
                let (writes, info) = self.connect().await?;
                if field(&info, "run_id") != run_id {
                    return Err(RedisError::from((Kind::Io, "the server was restarted")));
                }
                Some(Arc::new(Replicated::new(writes)))
            }
        };
        let process = Arc::new(Process { run_id, terms: Default::default() });
        let connection = Connection { commands, process, replicated };
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Drops a connection that has failed, unless another one has replaced it.
    pub(super) async fn drop_connection(&self, failed: &Connection) {
        let mut current = self.current.lock().await;
        current.take_if(|current| Arc::ptr_eq(&current.process, &failed.process));
    }
}

impl Connection {
    pub(super) fn run_id(&self) -> &str {
        &self.process.run_id
    }

    /// Returns true if the partition knows of the process.
    pub(super) fn knows_term(&self, partition: u8) -> bool {
        let (word, bit) = place(partition);
        self.process.terms[word].load(Ordering::Relaxed) & bit != 0
    }

    pub(super) fn learn_term(&self, partition: u8) {
        let (word, bit) = place(partition);
        self.process.terms[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Forgets what the partitions know: the server was emptied.
    pub(super) fn forget_terms(&self) {
        for word in &self.process.terms {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Returns the word and the bit of a partition.
pub(super) const fn place(partition: u8) -> (usize, u64) {
    (partition as usize / 64, 1 << (partition % 64))
}

/// Returns a field of the answer to `INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim()
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = &self.address;
        write!(f, "Server({host}:{port})")
    }
}
