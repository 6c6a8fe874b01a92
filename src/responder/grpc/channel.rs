//! One connection for all calls. It is opened with the first call, and opened again after it is
//! lost. Calls that arrive meanwhile wait for the same attempt, and fail with it.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, header::USER_AGENT};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot::{self, Receiver};
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    connect::{Connector, Sender},
    failure::UpstreamError,
    status,
};

const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("duologue/", env!("CARGO_PKG_VERSION")));

/// An attempt to connect, running or finished.
type Attempt = Shared<BoxFuture<'static, Result<Sender, UpstreamError>>>;

/// The connection to the bot.
pub(super) struct Channel {
    connector: Arc<Connector>,
    latest: Mutex<Option<Attempt>>,
}

impl Channel {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector: Arc::new(connector), latest: Mutex::new(None) }
    }

    /// Returns the connection for one call, and a receiver that is notified when the bot accepts
    /// the call.
    pub(super) async fn connected(&self) -> Result<(Connection, Receiver<()>), UpstreamError> {
        let attempt = self.attempt();
        let (taken, receiver) = oneshot::channel();
        Ok((Connection { sender: attempt.await?, taken: Some(taken) }, receiver))
    }

    fn attempt(&self) -> Attempt {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = latest.as_ref().filter(|attempt| is_of_use(attempt)) {
            return attempt.clone();
        }
        let connector = Arc::clone(&self.connector);
        let attempt = async move { connector.connect().await }.boxed().shared();
        // In a task of its own: a stopped reply must not end the attempt for the others.
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

/// Carries one call of the generated client.
pub(super) struct Connection {
    sender: Sender,
    taken: Option<oneshot::Sender<()>>,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    /// Always ready: for a lost connection the client would report a different error.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(USER_AGENT, OURSELVES);
        let taken = self.taken.take();
        let request = request.map(|body| Body::new(ObservedBody { body, taken }));
        let answer = self.sender.send_request(request);
        async { Ok(status::checked(answer.await?)?) }.boxed()
    }
}

/// A request body that notifies when it is read. HTTP/2 reads it once the bot accepts one more
/// stream (RFC 9113, section 5.1.2) and has room for its first byte.
struct ObservedBody {
    body: Body,
    taken: Option<oneshot::Sender<()>>,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(taken) = self.taken.take() {
            let _nobody_waits = taken.send(());
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
