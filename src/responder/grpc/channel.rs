//! One connection for all calls: made when the first call needs it, and made again when it
//! is lost. Calls that come meanwhile wait for the same attempt, and fail with it.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, header::USER_AGENT};
use tonic::body::Body;
use tower::Service;

use super::{
    connect::{Connector, Sender},
    failure::Failed,
    status,
};

const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("duologue/", env!("CARGO_PKG_VERSION")));

/// An attempt to connect, under way or over.
type Attempt = Shared<BoxFuture<'static, Result<Sender, Failed>>>;

/// See the module.
pub(super) struct Channel {
    connector: Arc<Connector>,
    latest: Mutex<Option<Attempt>>,
}

impl Channel {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector: Arc::new(connector), latest: Mutex::new(None) }
    }

    /// The connection, once there is one.
    pub(super) async fn connected(&self) -> Result<Connection, Failed> {
        let attempt = self.attempt();
        Ok(Connection { sender: attempt.await? })
    }

    fn attempt(&self) -> Attempt {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = latest.as_ref().filter(|attempt| is_of_use(attempt)) {
            return attempt.clone();
        }
        let connector = Arc::clone(&self.connector);
        let attempt = async move { connector.connect().await }.boxed().shared();
        // In a task: replies that are stopped must not hold it up for the others.
        tokio::spawn(attempt.clone());
        latest.insert(attempt).clone()
    }
}

fn is_of_use(attempt: &Attempt) -> bool {
    match attempt.peek() {
        None => true,
        Some(Ok(sender)) => !sender.is_closed(),
        Some(Err(_)) => false,
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// Carries the calls of the generated client.
pub(super) struct Connection {
    sender: Sender,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(USER_AGENT, OURSELVES);
        let answer = self.sender.send_request(request);
        async { Ok(status::checked(answer.await?)?) }.boxed()
    }
}
