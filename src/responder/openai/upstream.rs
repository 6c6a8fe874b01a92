//! One upstream: its connections, its places, its health.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Certificate, Client, Response, redirect, retry as client_retry};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answer::{Answer, Limits},
    context::Line,
    failure::{self, Failed},
    health::Health,
    settings::UpstreamSettings,
    wire::{self, ErrorBody, Parameters},
};
use crate::responder::{
    Reason,
    admission::{Admission, Place, Refused},
    authorities,
    discretion::Secrets,
    retry,
};

/// As much of an error's body as is read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Longer than servers keep an idle connection, mostly, is a request on a dead one.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Upstream {
    settings: UpstreamSettings,
    parameters: Parameters,
    client: Client,
    admission: Admission,
    health: Health,
    secrets: Secrets,
}

impl Upstream {
    pub(super) fn new(settings: UpstreamSettings) -> Result<Self, String> {
        let defaults = &settings.defaults;
        let mut client = Client::builder()
            .default_headers(headers(&settings)?)
            .user_agent(concat!("duologue/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(defaults.connect_timeout)
            // A redirect could carry the key and the conversation elsewhere.
            .redirect(redirect::Policy::none())
            .referer(false)
            // A variable of the environment must not send them elsewhere, either.
            .no_proxy()
            // Ours are the only retries.
            .retry(client_retry::never())
            .pool_max_idle_per_host(defaults.capacity.concurrency as usize)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30));
        if let Some(path) = &settings.ca_cert {
            client = client.tls_certs_only(authorities(path)?);
        } else if !settings.endpoint.is_tls() {
            // The system's are not needed, and there may be none.
            client = client.tls_certs_only([]);
        }
        let client = client
            .build()
            .map_err(|error| format!("no HTTP client can be made: {}", failure::in_full(&error)))?;
        if settings.endpoint.is_exposed() && settings.api_key.is_some() {
            tracing::warn!(upstream = settings.name, "the API key travels without TLS");
        }
        Ok(Self {
            parameters: Parameters {
                model: settings.model.clone(),
                temperature: defaults.temperature,
                max_tokens: defaults.max_tokens,
                extra: settings.body.clone(),
            },
            client,
            admission: Admission::new(defaults.capacity),
            health: Health::default(),
            secrets: secrets(&settings),
            settings,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) const fn retries(&self) -> u32 {
        self.settings.defaults.retries
    }

    /// How long it wants to be left alone.
    pub(super) fn cooldown(&self) -> Duration {
        self.admission.cooldown()
    }

    /// Another one should be asked, if there is one.
    pub(super) fn is_avoided(&self) -> bool {
        self.health.is_avoided()
    }

    /// A connection to it may be an old one, which it closes at any time.
    pub(super) fn has_answered(&self) -> bool {
        self.health.has_answered()
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        self.health.succeeded();
    }

    /// It failed.
    pub(super) fn failed(&self, failed: &Failed) {
        self.health.failed(failed.reason);
        if let Some(asked) = failed.retry_after {
            self.admission.cool_down(asked);
        }
    }

    /// Waits this long, and for a place.
    pub(super) async fn enter(&self, back_off: Duration) -> Result<Place, Refused> {
        self.admission.enter(back_off).await
    }

    /// Asks, and gives the answer once its head is there; the answer then has to be over by
    /// `total`. Dropping the future lets go of the
    /// upstream at once, wherever it is.
    pub(super) async fn ask(
        &self,
        lines: &[Line<'_>],
        total: Instant,
        place: Place,
    ) -> Result<Answer, Failed> {
        self.health.probe();
        let first_content = Instant::now() + self.settings.defaults.first_content_timeout;
        let response = self.post(lines, first_content).await?;
        let limits = Limits {
            chunk_timeout: self.settings.defaults.chunk_timeout,
            first_content,
            total,
            accept_missing_finish_reason: self.settings.defaults.accept_missing_finish_reason,
        };
        Ok(Answer::new(response, limits, place))
    }

    async fn post(&self, lines: &[Line<'_>], limit: Instant) -> Result<Response, Failed> {
        let body = wire::request(&self.parameters, lines)
            .map_err(|error| Failed::new(Reason::Rejected, error))?;
        let late = |_| Failed::new(Reason::FirstContentTimeout, "no status came");
        let sent = self.client.post(self.settings.endpoint.url().clone()).body(body).send();
        let response = timeout_at(limit, sent).await.map_err(late)?;
        let response = response.map_err(|error| Failed::of_client(error, Reason::Unavailable))?;
        let status = response.status();
        let is_json = is_of_type(&response, b"application/json");
        if status == 200 && !is_json {
            return if is_readable(&response) { Ok(response) } else { Err(no_stream()) };
        }
        let retry_after = retry::asked_for(response.headers(), SystemTime::now());
        let patience = limit.min(Instant::now() + self.settings.defaults.chunk_timeout);
        let body = timeout_at(patience, beginning(response)).await.unwrap_or_default();
        let body = ErrorBody::read(&body);
        if status == 200 && !body.says_something() {
            return Err(no_stream());
        }
        let status = (status != 200).then_some(status.as_u16());
        Err(Failed { retry_after, ..Failed::of_upstream(status, &body) })
    }

    /// What must not stand in a log.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Sends what no server takes, to see how it refuses.
    pub(super) async fn provoke(&self) -> Result<(u16, ErrorBody), Failed> {
        let nonsense = r#"{"model":"duologue-asks-for-no-model","messages":"none","stream":true}"#;
        let sent = self.client.post(self.settings.endpoint.url().clone()).body(nonsense).send();
        let patience = self.settings.defaults.first_content_timeout;
        let response = timeout(patience, sent).await;
        let response = response
            .map_err(|_| Failed::new(Reason::FirstContentTimeout, "no status came"))?
            .map_err(|error| Failed::of_client(error, Reason::Unavailable))?;
        let status = response.status().as_u16();
        let body = timeout(patience, beginning(response)).await.unwrap_or_default();
        Ok((status, ErrorBody::read(&body)))
    }
}

fn no_stream() -> Failed {
    Failed::new(Reason::Protocol, "the answer is no stream of events")
}

fn is_of_type(response: &Response, name: &[u8]) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes().trim_ascii_start();
        kind.get(..name.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(name))
    })
}

/// It may be a stream of events: servers give it all kinds of types, but no page of the web's,
/// and it is not compressed, which nobody asked for.
fn is_readable(response: &Response) -> bool {
    let plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    let encodings = response.headers().get_all(header::CONTENT_ENCODING);
    encodings.iter().all(plain) && !is_of_type(response, b"text/html")
}

/// The operator's own: the key and the values of the headers.
fn secrets(settings: &UpstreamSettings) -> Secrets {
    let key = settings.api_key.iter().map(|key| key.expose_secret());
    let values = settings.headers.values().filter_map(|value| value.to_str().ok());
    Secrets::of_headers(key.chain(values))
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
    let pem = authorities::read(path).map_err(|line| format!("ca_cert {line}"))?;
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
