//! One upstream: its connections, its limits, its health.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Certificate, Client, Response, redirect, retry as client_retry};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    error_body::ErrorBody,
    failure::UpstreamError,
    health::UpstreamHealth,
    request::{ChatRequest, LimitField, Parameters, body},
    response::{ResponseLimits, ResponseStream},
    settings::UpstreamSettings,
};
use crate::{
    responder::upstream::{
        Reason, backoff,
        limiter::{Limiter, LimiterError, Patience, Permit},
        redact::Vocabulary,
        tls_roots,
    },
    telemetry::error_chain,
};

/// Most bytes of an error body that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Longest time that an idle connection is kept. Most servers close it not much later, and a
/// request on a closed connection fails.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An upstream, shared by all replies.
#[derive(Debug)]
pub(super) struct Upstream {
    name: Arc<str>,
    settings: UpstreamSettings,
    parameters: Parameters,
    /// The model requires `max_completion_tokens`.
    needs_completion_tokens: AtomicBool,
    client: Client,
    /// A client without reused connections.
    fresh: Client,
    limiter: Limiter,
    health: UpstreamHealth,
    vocabulary: Vocabulary,
}

impl Upstream {
    pub(super) fn new(settings: UpstreamSettings) -> Result<Self, String> {
        let defaults = &settings.defaults;
        let idle = defaults.capacity.concurrency as usize;
        let (client, fresh) = (client(&settings, idle)?, client(&settings, 0)?);
        if settings.endpoint.is_exposed() && settings.has_secrets() {
            tracing::warn!(upstream = settings.name, "the API key or headers are sent without TLS");
        }
        let host = settings.endpoint.url().host_str();
        let names =
            [settings.name.as_str()].into_iter().chain(settings.model.as_deref()).chain(host);
        Ok(Self {
            name: settings.name.as_str().into(),
            parameters: Parameters {
                model: settings.model.clone(),
                temperature: defaults.temperature,
                max_tokens: defaults.max_tokens,
                extra: settings.body.clone(),
            },
            needs_completion_tokens: AtomicBool::new(
                settings.model.as_deref().is_some_and(is_reasoning_model),
            ),
            client,
            fresh,
            limiter: Limiter::new(defaults.capacity),
            health: UpstreamHealth::default(),
            vocabulary: Vocabulary::of(names),
            settings,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn retries(&self) -> u32 {
        self.settings.defaults.retries
    }

    /// Returns the rest of the pause that the upstream asked for.
    pub(super) fn cooldown(&self) -> Duration {
        self.limiter.cooldown()
    }

    /// Returns true if another upstream should be preferred.
    pub(super) fn is_avoided(&self) -> bool {
        self.health.is_avoided()
    }

    /// Returns true if there may be a connection to reuse.
    pub(super) fn has_answered(&self) -> bool {
        self.health.has_answered()
    }

    pub(super) fn succeeded(&self) {
        self.health.succeeded();
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.health.failed(reason);
    }

    /// Returns true if another reply can run or wait.
    pub(super) fn has_room(&self) -> bool {
        self.limiter.has_room()
    }

    /// Records the pause that the upstream asked for.
    pub(super) fn cool_down(&self, asked: Duration) {
        self.limiter.cool_down(asked);
    }

    /// Waits for `backoff`, then for a permit.
    pub(super) async fn acquire(
        &self,
        backoff: Duration,
        patience: Patience,
    ) -> Result<Permit, LimiterError> {
        self.limiter.acquire(backoff, patience).await
    }

    /// Sends a request, on a new or a reused connection, and returns the response once its head has
    /// arrived. `total` is the deadline of the reply. Dropping the future drops the request.
    pub(super) async fn ask(
        &self,
        request: &ChatRequest<'_>,
        total: Instant,
        permit: Permit,
        reconnects: bool,
    ) -> Result<ResponseStream, UpstreamError> {
        self.health.probe();
        let first_content = Instant::now() + self.settings.defaults.first_content_timeout;
        let client = if reconnects { &self.fresh } else { &self.client };
        let response = self.post(client, request, first_content).await?;
        let limits = ResponseLimits {
            chunk_timeout: self.settings.defaults.chunk_timeout,
            first_content,
            total,
            accept_missing_finish_reason: self.settings.defaults.accept_missing_finish_reason,
        };
        Ok(ResponseStream::new(response, &self.name, limits, permit))
    }

    async fn post(
        &self,
        client: &Client,
        request: &ChatRequest<'_>,
        limit: Instant,
    ) -> Result<Response, UpstreamError> {
        let own = request.options;
        let is_reasoning = own.and_then(|own| own.model.as_deref()).is_some_and(is_reasoning_model);
        let is_limited = self.parameters.max_tokens.is_some()
            || own.is_some_and(|own| own.max_output_tokens.is_some());
        let needed = is_reasoning || self.needs_completion_tokens.load(Ordering::Relaxed);
        let field = if needed { LimitField::MaxCompletionTokens } else { LimitField::MaxTokens };
        match self.post_with(client, request, limit, field).await? {
            Ok(response) => return Ok(response),
            Err((_, body))
                if field == LimitField::MaxTokens
                    && is_limited
                    && body.message.contains("max_completion_tokens") =>
            {
                self.needs_completion_tokens.store(true, Ordering::Relaxed);
            }
            Err((failed, _)) => return Err(failed),
        }
        let field = LimitField::MaxCompletionTokens;
        self.post_with(client, request, limit, field).await?.map_err(|(failed, _)| failed)
    }

    /// Posts once. The inner error is a response of the upstream.
    async fn post_with(
        &self,
        client: &Client,
        request: &ChatRequest<'_>,
        limit: Instant,
        field: LimitField,
    ) -> Result<Result<Response, (UpstreamError, ErrorBody)>, UpstreamError> {
        let body = body(&self.parameters, field, request)
            .map_err(|error| UpstreamError::new(Reason::Rejected, error))?;
        let late = |_| UpstreamError::new(Reason::FirstContentTimeout, "no response arrived");
        let sent = client.post(self.settings.endpoint.url().clone()).body(body).send();
        let response = timeout_at(limit, sent).await.map_err(late)?;
        let response =
            response.map_err(|error| UpstreamError::of_client(error, Reason::Unavailable))?;
        let status = response.status();
        if status.is_success() {
            return if is_readable(&response) { Ok(Ok(response)) } else { Err(no_stream()) };
        }
        let retry_after = backoff::asked_for(response.headers(), SystemTime::now());
        let wait = limit.min(Instant::now() + self.settings.defaults.chunk_timeout);
        let body = timeout_at(wait, beginning(response)).await.unwrap_or_default();
        let body = ErrorBody::read(&body);
        let failed = UpstreamError::of_upstream(Some(status.as_u16()), &body);
        Ok(Err((UpstreamError { retry_after, ..failed }, body)))
    }

    /// Returns the words of the operator, which may be logged.
    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Sends an invalid request, to see how the server refuses it.
    pub(super) async fn provoke(&self) -> Result<(u16, ErrorBody), UpstreamError> {
        let nonsense = r#"{"model":"duologue-asks-for-no-model","messages":"none","stream":true}"#;
        let sent = self.client.post(self.settings.endpoint.url().clone()).body(nonsense).send();
        let patience = self.settings.defaults.first_content_timeout;
        let response = timeout(patience, sent).await;
        let response = response
            .map_err(|_| UpstreamError::new(Reason::FirstContentTimeout, "no response arrived"))?
            .map_err(|error| UpstreamError::of_client(error, Reason::Unavailable))?;
        let status = response.status().as_u16();
        let body = timeout(patience, beginning(response)).await.unwrap_or_default();
        Ok((status, ErrorBody::read(&body)))
    }
}

/// Returns true for OpenAI's models that refuse `max_tokens`.
fn is_reasoning_model(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    ["gpt-5", "o1", "o3", "o4"].iter().any(|family| {
        let rest = name.strip_prefix(family);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    })
}

/// Builds a client that keeps up to `idle` idle connections.
fn client(settings: &UpstreamSettings, idle: usize) -> Result<Client, String> {
    let mut client = Client::builder()
        .default_headers(headers(settings)?)
        .user_agent(concat!("duologue/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.defaults.connect_timeout)
        // A redirect could send the key and the conversation elsewhere.
        .redirect(redirect::Policy::none())
        .referer(false)
        // Proxy variables of the environment could do so, too.
        .no_proxy()
        // `attempts` retries.
        .retry(client_retry::never())
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(30));
    if let Some(path) = &settings.ca_cert {
        client = client.tls_certs_only(authorities(path)?);
    } else if !settings.endpoint.is_tls() {
        // The system's certificates are not needed, and may be missing.
        client = client.tls_certs_only([]);
    }
    client
        .build()
        .map_err(|error| format!("the HTTP client cannot be built: {}", error_chain(&error)))
}

fn no_stream() -> UpstreamError {
    UpstreamError::new(Reason::Protocol, "the response is neither events nor JSON")
}

fn is_of_type(response: &Response, name: &[u8]) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes().trim_ascii_start();
        kind.get(..name.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(name))
    })
}

/// Returns true if the response may hold events or a document: servers send various content types,
/// but HTML and compressed bodies are errors.
fn is_readable(response: &Response) -> bool {
    let plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    let encodings = response.headers().get_all(header::CONTENT_ENCODING);
    encodings.iter().all(plain) && !is_of_type(response, b"text/html")
}

fn headers(settings: &UpstreamSettings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(value) = settings.authorization()? {
        headers.insert(header::AUTHORIZATION, value);
    }
    headers.extend(settings.headers.clone());
    Ok(headers)
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = tls_roots::read(path).map_err(|line| format!("ca_cert {line}"))?;
    Certificate::from_pem_bundle(&pem).map_err(|error| format!("ca_cert: {error}"))
}

/// The first bytes of a body; what there is of it, if it breaks.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        let room = MAX_ERROR_BODY - body.len();
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if body.len() == MAX_ERROR_BODY {
            break;
        }
    }
    body
}
