//! The connection to the server. It reconnects, repeats calls that were not answered, and converts
//! errors of the server into errors of the core.

use std::{sync::Mutex as BlockingMutex, sync::PoisonError, time::Duration};

use metrics::{counter, histogram};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind as Kind, FromRedisValue, Pipeline, RedisError,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use super::scripts::Named;
use crate::session::{Error, ErrorKind, Result};

/// Longest time that an operation waits for a server that is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Wait before an operation is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Most operations that wait for a server that is away. Further ones fail at once.
const MAX_WAITING: usize = 10_000;

/// Longest time for a new connection, and for each answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One server, and the connection that all operations share.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    /// The connection and its number. The number ensures that a broken connection is dropped once,
    /// although many operations see it fail.
    current: tokio::sync::Mutex<(u64, Option<MultiplexedConnection>)>,
    waiting: Semaphore,
    /// The last failure was logged.
    is_away: BlockingMutex<bool>,
}

/// An attempt of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    /// The server may have performed an earlier one.
    Repeated,
}

/// An operation that may be repeated.
#[derive(Clone, Copy)]
enum Operation<'a> {
    Script(&'a Named, &'a [&'a [u8]], &'a (dyn Fn(Attempt) -> Vec<Vec<u8>> + Send + Sync)),
    Pipeline(&'a Pipeline),
}

impl Link {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            current: tokio::sync::Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
            is_away: BlockingMutex::default(),
        }
    }

    /// Returns the settings of a connection.
    pub(super) fn config() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
    }

    async fn connection(&self) -> redis::RedisResult<(u64, MultiplexedConnection)> {
        let mut current = self.current.lock().await;
        if let (number, Some(connection)) = &*current {
            return Ok((*number, connection.clone()));
        }
        let config = Self::config();
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        counter!("duologue_redis_connections_total").increment(1);
        let number = current.0 + 1;
        *current = (number, Some(connection.clone()));
        Ok((number, connection))
    }

    /// Runs a script.
    ///
    /// # Errors
    /// `StoreUnavailable`, `StoreFull`, `Internal`.
    pub(super) async fn call(
        &self,
        script: &Named,
        keys: &[&[u8]],
        arguments: impl Fn(Attempt) -> Vec<Vec<u8>> + Send + Sync,
    ) -> Result<Value> {
        let started = Instant::now();
        let answer = self.patiently(Operation::Script(script, keys, &arguments)).await;
        histogram!("duologue_redis_script_seconds", "script" => script.name)
            .record(started.elapsed().as_secs_f64());
        answer
    }

    /// Runs a pipeline of commands that may be repeated.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let answer = self.patiently(Operation::Pipeline(pipeline)).await?;
        T::from_redis_value(answer)
            .map_err(|error| Error::internal(format!("the store has answered otherwise: {error}")))
    }

    /// Tries an operation until the server answers, for [`PATIENCE`] at most.
    async fn patiently(&self, operation: Operation<'_>) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut attempt = Attempt::First;
        let mut permit = None;
        loop {
            let mut used = None;
            let tried = self.attempt(operation, attempt, &mut used);
            let tried = match timeout_at(deadline, tried).await {
                Ok(tried) => tried,
                Err(_) => Err(RedisError::from((Kind::Io, "no answer"))),
            };
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
            self.went_away(used, &error).await;
            if used.is_some() {
                attempt = Attempt::Repeated;
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

    /// Tries an operation once. `used` is the number of the connection.
    async fn attempt(
        &self,
        operation: Operation<'_>,
        attempt: Attempt,
        used: &mut Option<u64>,
    ) -> redis::RedisResult<Value> {
        let (number, mut connection) = self.connection().await?;
        *used = Some(number);
        match operation {
            Operation::Script(script, keys, arguments) => {
                let mut call = script.script.prepare_invoke();
                for key in keys {
                    call.key(*key);
                }
                for argument in arguments(attempt) {
                    call.arg(argument);
                }
                call.invoke_async(&mut connection).await
            }
            Operation::Pipeline(pipeline) => pipeline.query_async(&mut connection).await,
        }
    }

    async fn went_away(&self, used: Option<u64>, error: &RedisError) {
        if error.is_io_error() || error.is_connection_dropped() {
            let mut current = self.current.lock().await;
            if Some(current.0) == used {
                current.1 = None;
            }
        }
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

    fn away(&self) -> std::sync::MutexGuard<'_, bool> {
        self.is_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if the server may answer the same call later.
fn is_transient(error: &RedisError) -> bool {
    let server = matches!(
        error.kind(),
        Kind::Server(
            ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
        )
    );
    server || error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

/// Returns the error of the core.
fn failure(error: &RedisError) -> Error {
    if error.code() == Some("OOM") {
        return Error::from(ErrorKind::StoreFull);
    }
    Error::internal(format!("the store failed: {error}"))
}

/// Returns the items of an array.
pub(super) fn items(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(&other)),
    }
}

/// Returns the bytes of a string or a number.
pub(super) fn bytes(value: Value) -> Result<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        other => Err(unexpected(&other)),
    }
}

/// Returns a number.
pub(super) fn number(value: Value) -> Result<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| unexpected(&Value::Int(number))),
        other => super::codec::digits(&bytes(other)?),
    }
}

/// Returns the error for an answer of an unexpected type. It does not show the value, which may be part
/// of a conversation.
pub(super) fn unexpected(value: &Value) -> Error {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) => "an array",
        _ => "something else",
    };
    Error::internal(format!("the store has answered {kind} where another value is expected"))
}
