//! One connection: its protocol, its deadlines, its end.
//!
//! By default hyper keeps a silent peer forever. Here every kind of silence has a deadline: no
//! byte, half a preface, a preface without a request, or half a head (`head_timeout`); nothing in
//! progress (`idle_timeout`); a dead HTTP/2 peer (`keep_alive`); a peer that does not read
//! (`write_timeout`; see `write_timeout` for the socket, `stalled` for HTTP/2 windows). The
//! transports set the deadlines of request bodies and streams.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use metrics::{counter, gauge};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken};
use tower::Service;

use super::{
    accepted::{Accepted, Serves, TOO_MANY_OF_ADDRESS},
    client_address::{ForwardedHeader, TrustedProxies},
    proxy_protocol::read_header,
    settings::Settings,
    socket::Socket,
    stalled::{StalledBodies, TrackedBody},
    tls::{MaybeTls, Tls},
    write_timeout::WriteTimeout,
};
use crate::{
    session::{Caller, Gateway, PeerAddress},
    telemetry::PEER,
    transport::{self, ConnectionContext, InUse, ResponseBudget, ResponsePermit, TransportContext},
};

/// HTTP/2 receive window of a connection. h2 counts small unread DATA frames against a budget that
/// grows with the window. With the default, a client with thousands of streams of one short message
/// is disconnected (ENHANCE_YOUR_CALM).
const CONNECTION_WINDOW: u32 = 4 << 20;
const STREAM_WINDOW: u32 = 128 << 10;

/// Bytes of one HTTP/2 stream that may wait to be sent, beside its backlog.
const SEND_BUFFER: usize = 64 << 10;
const MAX_HEADER_LIST: u32 = 16 << 10;

/// Largest request line with headers over HTTP/1.1, in bytes. Also the most that is read ahead.
const MAX_HEAD: usize = 64 << 10;

/// Serves connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    builder: Arc<Builder<TokioExecutor>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    tls: Option<Arc<Tls>>,
    draining: CancellationToken,
    responses: ResponseBudget,
    gateway: Gateway,
    proxies: Arc<Proxies>,
}

/// The proxies that name their clients.
struct Proxies {
    trusted: TrustedProxies,
    header: ForwardedHeader,
}

impl Connections {
    pub(super) fn new(
        settings: &Settings,
        tls: Option<Arc<Tls>>,
        context: &TransportContext,
    ) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // hyper measures it from the end of the previous request, so it is the idle time of a
            // kept connection. `serve` sets the deadline of the first head.
            .header_read_timeout(settings.idle_timeout)
            .max_buf_size(MAX_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(settings.keep_alive)
            .keep_alive_timeout(settings.keep_alive)
            .max_concurrent_streams(settings.max_connection_streams)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST)
            .enable_connect_protocol();
        Self {
            builder: Arc::new(builder),
            head_timeout: settings.head_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.write_timeout,
            tls,
            draining: context.draining.clone(),
            gateway: context.gateway.clone(),
            proxies: Arc::new(Proxies {
                trusted: settings.trusted_proxies.clone(),
                header: settings.forwarded_header,
            }),
            responses: ResponseBudget::new(
                settings.max_waiting_size,
                settings.max_connection_waiting_size,
            ),
        }
    }

    /// Reads the PROXY header of a trusted proxy. Returns the connection with the address of the
    /// client, or `None` if the header is wrong or does not come in time.
    async fn after_proxy_header(&self, mut accepted: Accepted) -> Option<(Accepted, Proxied)> {
        let peer = accepted.caller.address;
        if !peer.is_some_and(|peer| self.proxies.trusted.contain(peer)) {
            return Some((accepted, Proxied::No));
        }
        // Boxed, since it is not needed after it.
        let header = Box::pin(timeout(self.head_timeout, read_header(&mut accepted.socket)));
        match self.draining.run_until_cancelled(header).await? {
            Ok(Ok(Some(client))) => {
                accepted.caller = Caller::of_address(PeerAddress::Ip(client));
                Some((accepted, Proxied::ByConnection))
            }
            Ok(Ok(None)) => Some((accepted, Proxied::ByRequest)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection of a proxy was refused");
                None
            }
            Err(_) => None,
        }
    }

    /// Returns the connection after its TLS handshake, if there is one.
    async fn open(&self, socket: Socket) -> Option<MaybeTls> {
        let write_timeout = self.write_timeout;
        let Some(tls) = &self.tls else {
            return Some(Either::Left(WriteTimeout::new(socket, write_timeout)));
        };
        // Boxed, since it is not needed after the handshake.
        let handshake = Box::pin(timeout(self.head_timeout, tls.accept(socket, write_timeout)));
        let shaken = self.draining.run_until_cancelled(handshake).await?;
        match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Some(stream),
            Err(error) => {
                counter!("duologue_tls_failures_total").increment(1);
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
        }
    }

    /// Serves a connection until it ends or a deadline passes.
    pub(super) async fn serve<S>(
        self,
        accepted: Accepted,
        service: S,
        permit: OwnedSemaphorePermit,
        serves: Serves,
    ) where
        S: Service<
                Request<Incoming>,
                Response = Response<Body>,
                Error = Infallible,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static,
    {
        let Some((accepted, proxied)) = self.after_proxy_header(accepted).await else { return };
        // The connections of a proxy are those of its clients, whom its requests name.
        let address = accepted.caller.address.filter(|_| proxied != Proxied::ByRequest);
        let slot = match address.map(|address| self.gateway.connection(address)) {
            Some(Ok(slot)) => slot,
            None => None,
            Some(Err(_)) => {
                drop(permit);
                return accepted.reject(TOO_MANY_OF_ADDRESS);
            }
        };
        let _open = Open::count();
        let Accepted { socket, caller, .. } = accepted;
        let Some(stream) = self.open(socket).await else { return };
        let (in_use, budget) = (InUse::new(permit, slot), self.responses.connection());
        let activity = Activity::new(ConnectionContext { caller, in_use, budget });
        let proxies = (proxied == Proxied::ByRequest).then(|| Arc::clone(&self.proxies));
        let tracked = TowerToHyperService::new(activity.track(service, proxies, serves));
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), tracked);
        let mut connection = pin!(connection);
        let head_timeout = match serves {
            Serves::Everything => self.head_timeout,
            Serves::Probes => self.head_timeout.min(PROBE_TIMEOUT),
        };
        let mut timer = pin!(sleep(head_timeout));
        let mut closing = false;
        let mut seen = 0;
        let mut quiet_since = Instant::now();
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.draining.cancelled(), if !closing => {
                    connection.as_mut().graceful_shutdown();
                    closing = true;
                    if activity.requests() == 0 {
                        return;
                    }
                }
                () = timer.as_mut() => {
                    let requests = activity.requests();
                    let quiet = requests == seen && !activity.in_progress();
                    if quiet && (closing || requests == 0 || serves == Serves::Probes) {
                        return;
                    }
                    if activity.stalled.exceeds(self.write_timeout) {
                        tracing::info!(target: PEER, "connection closed: the peer does not read its responses");
                        return;
                    }
                    if !quiet {
                        quiet_since = Instant::now();
                    } else if quiet_since.elapsed() >= self.idle_timeout {
                        connection.as_mut().graceful_shutdown();
                        closing = true;
                    }
                    seen = requests;
                    timer.as_mut().reset(Instant::now() + self.idle_timeout.min(self.write_timeout));
                }
            }
        }
    }
}

/// Longest time for the first request of a connection that serves probes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection names its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxied {
    /// The peer is the client.
    No,
    /// A proxy has named the client of the connection.
    ByConnection,
    /// A proxy names the client of each request.
    ByRequest,
}

/// Counts a connection as open until it is dropped.
struct Open;

impl Open {
    fn count() -> Self {
        counter!("duologue_connections_total").increment(1);
        gauge!("duologue_connections").increment(1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!("duologue_connections").decrement(1);
    }
}

/// The activity of a connection.
struct Activity {
    context: ConnectionContext,
    requests: Arc<AtomicU64>,
    stalled: Arc<StalledBodies>,
}

impl Activity {
    fn new(context: ConnectionContext) -> Self {
        Self { context, requests: Arc::default(), stalled: Arc::default() }
    }

    /// Returns the number of requests so far.
    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns true while a request is served or an upgraded stream is open.
    fn in_progress(&self) -> bool {
        /// The use of the connection itself, and that of the service.
        const AT_REST: usize = 2;
        self.context.in_use.count() > AT_REST
    }

    fn track<S>(&self, service: S, proxies: Option<Arc<Proxies>>, serves: Serves) -> Tracked<S> {
        Tracked {
            service,
            context: self.context.clone(),
            proxies,
            serves,
            requests: Arc::clone(&self.requests),
            stalled: Arc::clone(&self.stalled),
        }
    }
}

/// Counts requests, and keeps the connection in use until the body of each response is dropped.
#[derive(Clone)]
struct Tracked<S> {
    service: S,
    context: ConnectionContext,
    /// `Some` if the peer is a proxy that names the client of each request.
    proxies: Option<Arc<Proxies>>,
    serves: Serves,
    requests: Arc<AtomicU64>,
    stalled: Arc<StalledBodies>,
}

impl<S> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        >,
{
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<TrackedBody>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let in_use = self.context.in_use.clone();
        let mut context = self.context.clone();
        if let (Some(proxies), Some(peer)) = (&self.proxies, context.caller.address) {
            let client = proxies.trusted.client(peer, proxies.header, request.headers());
            context.caller = Caller::of_address(client);
        }
        if self.serves == Serves::Probes && !transport::is_probe(&request) {
            let refusal = transport::no_connection(&request);
            let stalled = Arc::clone(&self.stalled);
            let refusal = refusal.map(|body| TrackedBody::new(body, stalled, in_use, None));
            return std::future::ready(Ok(refusal)).boxed();
        }
        request.extensions_mut().insert(context);
        let call = self.service.call(request);
        let stalled = Arc::clone(&self.stalled);
        let watch = |mut response: Response<Body>| {
            let permit = response.extensions_mut().remove::<ResponsePermit>();
            response.map(|body| TrackedBody::new(body, stalled, in_use, permit))
        };
        call.map(move |answer| answer.map(watch)).boxed()
    }
}
