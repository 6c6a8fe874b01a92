//! The servers of a deployment: one server, a master that Sentinel watches, or a cluster.

use std::{fs, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind as Kind,
    IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates, Value, aio::MultiplexedConnection,
};

use super::{
    keys::{Keys, PARTITIONS},
    value::bytes,
};
use crate::store::redis_settings::{Acknowledgement, RedisSettings};

/// Longest time for the answer of one Sentinel, or of one server of a cluster that is asked for the
/// others.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Default port of Sentinel.
const SENTINEL_PORT: u16 = 26379;

/// Host and port.
pub(super) type Address = (Arc<str>, u16);

/// The address of the server of each partition.
pub(super) type Places = Vec<Address>;

/// How the servers are found.
#[derive(Debug)]
enum Kinds {
    One(Address),
    Sentinel {
        sentinels: Vec<Address>,
        /// The name under which the sentinels watch the master.
        master: String,
    },
    /// Servers of the cluster to begin with.
    Cluster(Vec<Address>),
}

/// The servers of a deployment.
#[derive(Debug)]
pub(super) struct Deployment {
    kind: Kinds,
    user: RedisConnectionInfo,
    /// User and password of the sentinels, which have neither unless they are given.
    sentinel_user: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    acknowledgement: Acknowledgement,
}

impl Deployment {
    /// Reads an address.
    ///
    /// # Errors
    /// One phrase for the operator.
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, String> {
        let url = UrlParts::split(settings.url.expose())?;
        let mut infos = Vec::new();
        for host in url.hosts.split(',') {
            // The library reads user, password and host.
            let one = format!("redis://{}{host}/{}", url.user, url.database);
            let info = one.into_connection_info();
            let info = info.map_err(|_| "the address is malformed".to_owned())?;
            let ConnectionAddr::Tcp(name, port) = info.addr() else {
                return Err("the address is malformed".into());
            };
            let has_port = host.trim_end_matches(|it: char| it.is_ascii_digit()).ends_with(':');
            let port = if url.master.is_some() && !has_port { SENTINEL_PORT } else { *port };
            infos.push(((Arc::from(&**name), port), info));
        }
        let user = infos.first().map(|(_, info)| info.redis_settings().clone());
        let mut user = user.ok_or("the address is malformed")?.set_protocol(ProtocolVersion::RESP3);
        if let (None, Some(name)) = (user.username(), &settings.username) {
            user = user.set_username(name);
        }
        if let (None, Some(password)) = (user.password(), &settings.password) {
            user = user.set_password(password);
        }
        let mut sentinel_user = RedisConnectionInfo::default();
        if let Some(password) = &settings.sentinel_password {
            sentinel_user = sentinel_user.set_password(password);
        }
        let mut addresses: Vec<Address> = infos.into_iter().map(|(address, _)| address).collect();
        let kind = match (url.master, url.is_cluster) {
            (Some(master), _) => Kinds::Sentinel { sentinels: addresses, master },
            (None, true) => Kinds::Cluster(addresses),
            (None, false) if addresses.len() > 1 => {
                return Err("several servers need redis+cluster:// or redis+sentinel://".into());
            }
            (None, false) => Kinds::One(addresses.remove(0)),
        };
        let root_cert = settings.ca_cert.as_deref().map(read_ca).transpose()?;
        let tls = url.uses_tls.then_some(TlsCertificates { client_tls: None, root_cert });
        let (connect_timeout, answer_timeout) = (settings.connect_timeout, settings.timeout);
        let acknowledgement = settings.acknowledgement;
        Ok(Self {
            kind,
            user,
            sentinel_user,
            tls,
            connect_timeout,
            answer_timeout,
            acknowledgement,
        })
    }

    /// Returns true if the partitions may lie on several servers.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.kind, Kinds::Cluster(_))
    }

    /// Returns true if a write is acknowledged once a replica has it.
    pub(super) fn waits_for_replica(&self) -> bool {
        self.acknowledgement == Acknowledgement::Replica
    }

    /// Returns true if the server of a partition can change.
    pub(super) const fn can_move(&self) -> bool {
        !matches!(self.kind, Kinds::One(_))
    }

    /// Returns a client of one server.
    pub(super) fn client(&self, address: &Address) -> RedisResult<Client> {
        self.client_as(address, &self.user)
    }

    fn client_as(&self, (host, port): &Address, user: &RedisConnectionInfo) -> RedisResult<Client> {
        let (host, port) = (host.to_string(), *port);
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info: ConnectionInfo = address.into_connection_info()?;
        let info = info.set_redis_settings(user.clone());
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        }
    }

    /// Returns the settings of a connection.
    pub(super) fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.answer_timeout))
    }

    /// Finds the server of each partition. `known` are servers that may be asked as well.
    pub(super) async fn places(&self, keys: &Keys, known: &[Address]) -> RedisResult<Places> {
        match &self.kind {
            Kinds::One(address) => Ok(vec![address.clone(); PARTITIONS]),
            Kinds::Sentinel { sentinels, master } => {
                Ok(vec![self.watched_master(sentinels, master).await?; PARTITIONS])
            }
            Kinds::Cluster(seeds) => {
                let mut failure = None;
                for server in known.iter().chain(seeds) {
                    match self.places_of(server, keys).await {
                        Ok(places) => return Ok(places),
                        Err(error) => failure = Some(error),
                    }
                }
                Err(failure.unwrap_or_else(no_server))
            }
        }
    }

    /// Checks that a server to which a connection exists is still the master. A failed master that
    /// restarts accepts writes, without the newest data, until Sentinel makes it a replica.
    pub(super) async fn confirm(&self, address: &Address) -> RedisResult<()> {
        if let Kinds::Sentinel { sentinels, master } = &self.kind
            && self.watched_master(sentinels, master).await? != *address
        {
            return Err(RedisError::from((Kind::Io, "the server is not the master any more")));
        }
        Ok(())
    }

    /// Asks the sentinels in turn for the address of the master.
    async fn watched_master(&self, sentinels: &[Address], master: &str) -> RedisResult<Address> {
        let mut failure = None;
        for sentinel in sentinels {
            match self.master_of(sentinel, master).await {
                Ok(address) => return Ok(address),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_server))
    }

    /// Connects for one question.
    async fn ask(
        &self,
        address: &Address,
        user: &RedisConnectionInfo,
    ) -> RedisResult<MultiplexedConnection> {
        let config =
            self.config().set_connection_timeout(Some(ASK_TIMEOUT.min(self.connect_timeout)));
        let config = config.set_response_timeout(Some(ASK_TIMEOUT));
        let client = self.client_as(address, user)?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Asks one Sentinel for the address of the master.
    async fn master_of(&self, sentinel: &Address, master: &str) -> RedisResult<Address> {
        let mut connection = self.ask(sentinel, &self.sentinel_user).await?;
        let mut question = Cmd::new();
        question.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let address: Option<(String, u16)> = question.query_async(&mut connection).await?;
        let (host, port) = address.ok_or_else(|| {
            RedisError::from((Kind::InvalidClientConfig, "Sentinel does not know this master"))
        })?;
        Ok((host.into(), port))
    }

    /// Asks one server of a cluster for the server of each partition.
    async fn places_of(&self, server: &Address, keys: &Keys) -> RedisResult<Places> {
        let mut connection = self.ask(server, &self.user).await?;
        let ranges: Vec<Value> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let ranges: Option<Vec<_>> = ranges.into_iter().map(|it| range(it, server)).collect();
        let ranges = ranges
            .ok_or_else(|| RedisError::from((Kind::Parse, "CLUSTER SLOTS has another format")))?;
        let places = (0..=u8::MAX).map(|partition| {
            let slot = keys.slot(partition);
            let range = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
            range.map(|(_, _, address)| address.clone())
        });
        let places: Option<Places> = places.collect();
        // Some slots have no server: the cluster is being created, or is down in part.
        places.ok_or_else(|| RedisError::from((Kind::Io, "the cluster does not serve all slots")))
    }
}

/// Reads the first and the last slot of a range, and the address of its master.
fn range(value: Value, asked: &Address) -> Option<(u16, u16, Address)> {
    let Value::Array(items) = value else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &items[..] else {
        return None;
    };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    let host = bytes(host.clone()).ok().and_then(|host| String::from_utf8(host).ok());
    // Without a name it is the server that answers.
    let host = match host.as_deref() {
        None | Some("" | "?") => Arc::clone(&asked.0),
        Some(host) => host.into(),
    };
    Some(((*first).try_into().ok()?, (*last).try_into().ok()?, (host, (*port).try_into().ok()?)))
}

/// Reads the certificates of a file.
fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn no_server() -> RedisError {
    RedisError::from((Kind::InvalidClientConfig, "the address names no server"))
}

/// The parts of an address.
struct UrlParts<'a> {
    uses_tls: bool,
    is_cluster: bool,
    /// The name of the master that Sentinel watches.
    master: Option<String>,
    /// User and password, with the `@`.
    user: &'a str,
    hosts: &'a str,
    database: &'a str,
}

impl<'a> UrlParts<'a> {
    fn split(url: &'a str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("the address is malformed")?;
        let (kind, is_cluster, is_sentinel) = match scheme.split_once('+') {
            None => (scheme, false, false),
            Some((kind, "cluster")) => (kind, true, false),
            Some((kind, "sentinel")) => (kind, false, true),
            Some(_) => return Err("the address has another scheme".into()),
        };
        let uses_tls = match kind {
            "redis" => false,
            "rediss" => true,
            _ => return Err("the address has another scheme".into()),
        };
        let (user, rest) = match rest.rfind('@') {
            Some(at) => rest.split_at(at + 1),
            None => ("", rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (path, database) =
            if is_sentinel { path.split_once('/').unwrap_or((path, "")) } else { ("", path) };
        if is_sentinel && path.is_empty() {
            return Err("the address lacks the name of the master: \
                redis+sentinel://HOST:PORT,HOST:PORT/NAME"
                .into());
        }
        if is_cluster && !matches!(database, "" | "0") {
            return Err("a cluster has only database 0".into());
        }
        if !database.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err("the database of the address is not a number".into());
        }
        let master = is_sentinel.then(|| path.to_owned());
        Ok(Self { uses_tls, is_cluster, master, user, hosts, database })
    }
}
