//! The operations port: metrics and probes. Its address must not be reachable by users.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use tokio::{sync::Semaphore, time::interval};

use super::{
    listen_addr::ListenAddr, listener::Listener, socket::Socket, write_timeout::WriteTimeout,
};
use crate::{
    session::Gateway,
    telemetry::Metrics,
    transport::{Hosts, check_head, detail, ready, secure},
};

/// Most concurrent connections. A scraper needs one.
const MAX_CONNECTIONS: usize = 32;

/// Longest time for the head of a request, and longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a peer may read nothing: it holds one of few permits.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval at which histograms are summed up, scraped or not.
const SUM_UP_INTERVAL: Duration = Duration::from_secs(5);

/// The operations port.
#[derive(Debug)]
pub struct Operations {
    listener: Listener,
    metrics: Metrics,
    hosts: Hosts,
    ready_while_degraded: bool,
}

impl Operations {
    /// Binds the port; call it on a runtime. Requests for other names than `hosts` are refused,
    /// against DNS rebinding.
    ///
    /// # Errors
    /// The address is in use or not of this machine.
    pub fn bind(addr: SocketAddr, metrics: Metrics, hosts: Hosts) -> io::Result<Self> {
        let listener = Listener::bind(&ListenAddr::Tcp(addr))?;
        Ok(Self { listener, metrics, hosts, ready_while_degraded: true })
    }

    /// Sets the answer of `/readyz` while a part does not work: 200, or 503.
    #[must_use]
    pub fn ready_while_degraded(self, ready_while_degraded: bool) -> Self {
        Self { ready_while_degraded, ..self }
    }

    /// Where it listens: the real port, if 0 was asked for.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends, also while it drains.
    pub async fn serve(self, gateway: Gateway) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut sum_up = interval(SUM_UP_INTERVAL);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = sum_up.tick() => {
                    self.metrics.sum_up();
                    continue;
                }
            };
            let permit = Arc::clone(&permits).try_acquire_owned();
            let (Some((socket, _)), Ok(permit)) = (accepted, permit) else { continue };
            let (metrics, hosts) = (self.metrics.clone(), self.hosts.clone());
            let served = serve_connection(
                socket,
                gateway.clone(),
                metrics,
                hosts,
                self.ready_while_degraded,
            );
            tokio::spawn(async move {
                let _place = permit;
                served.await;
            });
        }
    }
}

async fn serve_connection(
    socket: Socket,
    gateway: Gateway,
    metrics: Metrics,
    hosts: Hosts,
    ready_while_degraded: bool,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let mut answer = check_head(&request)
            .unwrap_or_else(|| answer(&request, &gateway, &metrics, &hosts, ready_while_degraded));
        secure(&mut answer);
        async { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(WriteTimeout::new(socket, WRITE_TIMEOUT));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(io, answer).await {
        tracing::debug!(%error, "a connection of the operations port ended");
    }
}

fn answer(
    request: &Request<Incoming>,
    gateway: &Gateway,
    metrics: &Metrics,
    hosts: &Hosts,
    ready_while_degraded: bool,
) -> Response<Body> {
    if !hosts.allow(request.headers(), request.uri()) {
        return detail(StatusCode::FORBIDDEN, "Host not allowed: list it in --host");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match request.uri().path() {
        "/metrics" => {
            gauge!("duologue_sessions_active").set(gateway.active_sessions() as f64);
            gauge!("duologue_draining").set(f64::from(u8::from(gateway.is_draining())));
            let mut page = Response::new(Body::from(metrics.render()));
            // The version of the format: prometheus.io, "Exposition formats".
            let format = header::HeaderValue::from_static("text/plain; version=0.0.4");
            page.headers_mut().insert(header::CONTENT_TYPE, format);
            page
        }
        "/healthz" => detail(StatusCode::OK, "ok"),
        "/readyz" if gateway.is_draining() => {
            detail(StatusCode::SERVICE_UNAVAILABLE, "The gateway shuts down")
        }
        "/readyz" => {
            let degraded = gateway.degraded();
            let is_ready = degraded.is_empty() || ready_while_degraded;
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            ready(status, &degraded)
        }
        _ => detail(StatusCode::NOT_FOUND, "Not Found"),
    }
}
