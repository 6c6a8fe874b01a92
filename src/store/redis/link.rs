//! The connections to the servers. Operations find the server of their partition, reconnect, and are
//! repeated if they were not answered. Errors of a server become errors of the core.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex as BlockingMutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use metrics::{counter, histogram};
use redis::{
    Cmd, ErrorKind as Kind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
    Value,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    deployment::{Address, Deployment, Places},
    keys::{Key, Keys, PARTITIONS},
    scripts::Named,
    server::{self, Connection, Server},
};
use crate::session::{Error, ErrorKind, Result};

/// Wait before an operation is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Shortest time between two questions for the servers of the partitions.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);

/// Most operations that wait for a server that is away. Further ones fail at once.
const MAX_WAITING: usize = 10_000;

/// Error of a script that met a key of a slot that is being moved to another server.
const NON_LOCAL_KEY: &str = "non local key";

/// The servers, and the connections that all operations share.
#[derive(Debug)]
pub(super) struct Link {
    deployment: Arc<Deployment>,
    keys: Arc<Keys>,
    /// Longest time that an operation waits for a server that is away.
    patience: Duration,
    route: RwLock<Arc<Route>>,
    /// Counts the changes of `route`.
    changes: watch::Sender<u64>,
    /// The time of the last question for the servers.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    waiting: Semaphore,
    /// The last failure was logged.
    is_away: BlockingMutex<bool>,
    term: Named,
    /// The partitions that were used, as bits.
    used: [AtomicU64; 4],
    /// A partition that was used has no data any more.
    is_emptied: AtomicBool,
}

/// The server of each partition.
#[derive(Debug)]
pub(super) struct Route {
    places: Places,
    pub(super) servers: Vec<Arc<Server>>,
    /// The place of each partition's server in `servers`.
    of: Vec<usize>,
}

impl Route {
    /// Returns the server of a partition.
    fn server(&self, partition: u8) -> &Arc<Server> {
        &self.servers[self.of[usize::from(partition)]]
    }

    /// Returns the partitions of a server.
    pub(super) fn partitions<'a>(
        &'a self,
        server: &'a Arc<Server>,
    ) -> impl Iterator<Item = u8> + 'a {
        (0..=u8::MAX).filter(move |partition| Arc::ptr_eq(self.server(*partition), server))
    }
}

/// An attempt of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    /// The server may have performed an earlier one.
    Repeated,
}

/// Commands that may be repeated. The first argument of each is its key.
#[derive(Debug, Default)]
pub(super) struct Batch {
    commands: Vec<(u8, Cmd)>,
}

impl Batch {
    /// Adds a command, and returns it for further arguments.
    pub(super) fn cmd(&mut self, name: &str, key: &Key) -> &mut Cmd {
        let mut command = redis::cmd(name);
        command.arg(&key.name);
        self.commands.push((key.partition, command));
        let last = self.commands.len() - 1;
        &mut self.commands[last].1
    }
}

/// An operation that may be repeated.
#[derive(Clone, Copy)]
enum Operation<'a> {
    Script(&'a Named, &'a [Key], &'a (dyn Fn(Attempt) -> Vec<Vec<u8>> + Send + Sync)),
    Batch(&'a Batch),
}

impl Link {
    /// Finds the servers.
    ///
    /// # Errors
    /// None of the servers that may know it answers.
    pub(super) async fn new(
        deployment: Deployment,
        keys: Arc<Keys>,
        patience: Duration,
    ) -> RedisResult<Self> {
        let deployment = Arc::new(deployment);
        let places = deployment.places(&keys, &[]).await?;
        let route = Arc::new(route(&deployment, places, None)?);
        Ok(Self {
            deployment,
            keys,
            patience,
            route: RwLock::new(route),
            changes: watch::Sender::new(0),
            refreshed: tokio::sync::Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
            is_away: BlockingMutex::default(),
            term: Named::term(),
            used: Default::default(),
            is_emptied: AtomicBool::new(false),
        })
    }

    pub(super) fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Returns the server of each partition.
    pub(super) fn route(&self) -> Arc<Route> {
        Arc::clone(&self.route.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports changes of [`Self::route`].
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Finds the servers again, unless that was done since `stale` was read, or a moment ago.
    pub(super) async fn refresh(&self, stale: &Arc<Route>) {
        if !self.deployment.can_move() {
            return;
        }
        let mut refreshed = self.refreshed.lock().await;
        let current = self.route();
        if !Arc::ptr_eq(&current, stale)
            || refreshed.is_some_and(|last| last.elapsed() < REFRESH_INTERVAL)
        {
            return;
        }
        *refreshed = Some(Instant::now());
        let known: Vec<Address> =
            current.servers.iter().map(|server| server.address.clone()).collect();
        let found = match self.deployment.places(&self.keys, &known).await {
            Ok(places) if places == current.places => return,
            Ok(places) => route(&self.deployment, places, Some(&current)),
            Err(error) => Err(error),
        };
        match found {
            Ok(route) => {
                tracing::info!(servers = ?route.servers, "the servers of the store have changed");
                *self.route.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(route);
                self.changes.send_modify(|changes| *changes += 1);
            }
            Err(error) => tracing::debug!(%error, "failed to find the servers of the store"),
        }
    }

    /// Runs a script on the server of its keys, which lie in one partition.
    ///
    /// # Errors
    /// `StoreUnavailable`, `StoreFull`, `Internal`.
    pub(super) async fn call(
        &self,
        script: &Named,
        keys: &[Key],
        arguments: impl Fn(Attempt) -> Vec<Vec<u8>> + Send + Sync,
    ) -> Result<Value> {
        let started = Instant::now();
        let answer = self.patiently(Operation::Script(script, keys, &arguments)).await;
        histogram!("duologue_redis_script_seconds", "script" => script.name)
            .record(started.elapsed().as_secs_f64());
        answer
    }

    /// Runs commands on the servers of their partitions, and returns the answers in order.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn batch<T: FromRedisValue>(&self, batch: &Batch) -> Result<Vec<T>> {
        let answers = self.patiently(Operation::Batch(batch)).await?;
        FromRedisValue::from_redis_value(answers)
            .map_err(|error| Error::internal(format!("the store has answered otherwise: {error}")))
    }

    /// Runs one command.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn command<T: FromRedisValue>(
        &self,
        name: &str,
        key: &Key,
        arguments: &[&[u8]],
    ) -> Result<T> {
        let mut batch = Batch::default();
        let command = batch.cmd(name, key);
        for argument in arguments {
            command.arg(*argument);
        }
        let answer = self.batch(&batch).await?.pop();
        answer.ok_or_else(|| Error::internal("the store has not answered"))
    }

    /// Asks each server whether it has its data. Returns true if one was emptied since the last call.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn was_emptied(&self) -> Result<bool> {
        let route = self.route();
        let mut batch = Batch::default();
        for server in &route.servers {
            if let Some(partition) = route.partitions(server).next() {
                batch.cmd("EXISTS", &self.keys.term(partition));
            }
        }
        let exist: Vec<bool> = self.batch(&batch).await?;
        for (server, exists) in route.servers.iter().zip(exist) {
            let Some(partition) = route.partitions(server).next() else { continue };
            let Ok(connection) = server.connection().await else { continue };
            if !exists {
                connection.forget_terms();
            }
            let entered = self.enter_term(&connection, partition).await;
            entered.map_err(|error| failure(&error))?;
        }
        Ok(self.is_emptied.swap(false, Ordering::Relaxed))
    }

    /// Tries an operation until the server answers, for as long as the patience lasts.
    async fn patiently(&self, operation: Operation<'_>) -> Result<Value> {
        let deadline = Instant::now() + self.patience;
        let mut attempt = Attempt::First;
        let mut permit = None;
        let mut is_redirected = false;
        loop {
            let route = self.route();
            let mut is_sent = false;
            let tried = self.attempt(&route, operation, attempt, deadline, &mut is_sent).await;
            let error = match tried {
                Ok(answer) => {
                    self.is_back();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !is_transient(&error) {
                return Err(failure(&error));
            }
            let is_moved = error.kind() == Kind::Server(ServerErrorKind::Moved);
            if is_moved {
                counter!("duologue_redis_redirects_total").increment(1);
            } else {
                self.went_away(&error);
            }
            self.refresh(&route).await;
            if is_sent {
                attempt = Attempt::Repeated;
            }
            if is_moved && !std::mem::replace(&mut is_redirected, true) {
                continue;
            }
            if permit.is_none() {
                permit = self.waiting.try_acquire().ok();
            }
            if permit.is_none() || Instant::now() + RETRY_DELAY >= deadline {
                return Err(Error::from(ErrorKind::StoreUnavailable));
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Tries an operation once. `is_sent` becomes true if a server may have performed it.
    async fn attempt(
        &self,
        route: &Route,
        operation: Operation<'_>,
        attempt: Attempt,
        deadline: Instant,
        is_sent: &mut bool,
    ) -> RedisResult<Value> {
        match operation {
            Operation::Script(script, keys, arguments) => {
                let partition = keys.first().map_or(0, |key| key.partition);
                let server = route.server(partition);
                let connection = before(deadline, server.connection()).await?;
                *is_sent = true;
                let call = async {
                    self.enter_term(&connection, partition).await?;
                    let mut call = script.script.prepare_invoke();
                    for key in keys {
                        call.key(&key.name);
                    }
                    for argument in arguments(attempt) {
                        call.arg(argument);
                    }
                    let Some(replicated) =
                        connection.replicated.as_ref().filter(|_| script.is_durable)
                    else {
                        return call.invoke_async(&mut connection.commands.clone()).await;
                    };
                    replicated.begin(&self.keys.term(partition), connection.run_id()).await?;
                    let answer = call.invoke_async(&mut replicated.connection.clone()).await?;
                    replicated.wait().await?;
                    Ok(answer)
                };
                let answer = before(deadline, call).await;
                drop_if_broken(server, &connection, answer).await
            }
            Operation::Batch(Batch { commands }) => {
                *is_sent = true;
                let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                for (place, (partition, _)) in commands.iter().enumerate() {
                    groups.entry(route.of[usize::from(*partition)]).or_default().push(place);
                }
                let answered = groups.iter().map(|(server, places)| async move {
                    let server = &route.servers[*server];
                    let connection = before(deadline, server.connection()).await?;
                    let mut pipeline = Pipeline::with_capacity(places.len());
                    for place in places {
                        pipeline.add_command(commands[*place].1.clone());
                    }
                    let mut sender = connection.commands.clone();
                    let answers = pipeline.query_async::<Vec<Value>>(&mut sender);
                    let answers = before(deadline, answers);
                    drop_if_broken(server, &connection, answers.await).await
                });
                let mut all = vec![Value::Nil; commands.len()];
                for (places, answers) in groups.values().zip(try_join_all(answered).await?) {
                    for (place, answer) in places.iter().zip(answers) {
                        all[*place] = answer;
                    }
                }
                Ok(Value::Array(all))
            }
        }
    }

    /// Stores the process of the server in the partition, once for each connection. Another process
    /// begins another term: a session of an earlier term must be entered again before its log grows.
    async fn enter_term(&self, connection: &Connection, partition: u8) -> RedisResult<()> {
        if connection.knows_term(partition) {
            return Ok(());
        }
        let mut call = self.term.script.prepare_invoke();
        call.key(&self.keys.term(partition).name).arg(connection.run_id());
        let term: String = call.invoke_async(&mut connection.commands.clone()).await?;
        connection.learn_term(partition);
        let (word, bit) = server::place(partition);
        if self.used[word].fetch_or(bit, Ordering::Relaxed) & bit != 0 && term == "1" {
            self.is_emptied.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn went_away(&self, error: &RedisError) {
        if !std::mem::replace(&mut *self.away(), true) {
            tracing::error!(%error, "the store cannot be reached");
        }
    }

    fn is_back(&self) {
        let mut is_away = self.away();
        if *is_away {
            *is_away = false;
            tracing::info!("the store can be reached again");
        }
    }

    /// Returns true if the last operation has failed since its server cannot be reached.
    pub(super) fn is_away(&self) -> bool {
        *self.away()
    }

    fn away(&self) -> MutexGuard<'_, bool> {
        self.is_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds a route. Servers of the earlier one keep their connections.
fn route(
    deployment: &Arc<Deployment>,
    places: Places,
    earlier: Option<&Arc<Route>>,
) -> RedisResult<Route> {
    let mut servers: Vec<Arc<Server>> = Vec::new();
    let mut of = Vec::with_capacity(PARTITIONS);
    for address in &places {
        let known = servers.iter().position(|server| server.address == *address);
        of.push(match known {
            Some(place) => place,
            None => {
                let kept = earlier.and_then(|earlier| {
                    earlier.servers.iter().find(|server| server.address == *address)
                });
                servers.push(match kept {
                    Some(server) => Arc::clone(server),
                    None => Arc::new(Server::new(Arc::clone(deployment), address.clone())?),
                });
                servers.len() - 1
            }
        });
    }
    Ok(Route { places, servers, of })
}

async fn before<T>(
    deadline: Instant,
    call: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let answer = timeout_at(deadline, call).await;
    answer.unwrap_or_else(|_| Err(RedisError::from((Kind::Io, "no answer"))))
}

async fn drop_if_broken<T>(
    server: &Server,
    connection: &Connection,
    answer: RedisResult<T>,
) -> RedisResult<T> {
    if let Err(error) = &answer
        && is_broken(error)
    {
        server.drop_connection(connection).await;
    }
    answer
}

/// Returns true if a connection is of no further use.
fn is_broken(error: &RedisError) -> bool {
    // The server has become a replica.
    let is_replica = error.kind() == Kind::Server(ServerErrorKind::ReadOnly);
    is_replica || error.is_io_error() || error.is_connection_dropped()
}

/// Returns true if a server may answer the same call later.
fn is_transient(error: &RedisError) -> bool {
    let server = matches!(
        error.kind(),
        Kind::Server(
            ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
        )
    );
    let is_moving = || error.detail().is_some_and(|detail| detail.contains(NON_LOCAL_KEY));
    server
        || error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || is_moving()
}

/// Returns the error of the core.
fn failure(error: &RedisError) -> Error {
    if error.code() == Some("OOM") {
        return Error::from(ErrorKind::StoreFull);
    }
    Error::internal(format!("the store failed: {error}"))
}
