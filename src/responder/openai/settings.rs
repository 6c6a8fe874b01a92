//! Settings of the upstreams.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::request::RESERVED;
use crate::{
    responder::upstream::{Capacity, timeouts, tls_roots},
    session::Name,
};

/// Settings of the `openai` responder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In order of preference. At least one.
    pub upstreams: Vec<UpstreamSettings>,
    /// System prompt. `{name}` stands for the user's name.
    pub system_prompt: Option<String>,
    /// Estimated tokens of prompt and reply together.
    pub context_tokens: u32,
    /// Longest time for one reply, waits and retries included.
    pub total_timeout: Duration,
}

/// One upstream.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Name in the log and the metrics.
    pub name: String,
    /// Address of its `chat/completions`.
    pub endpoint: Endpoint,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<SecretString>,
    /// PEM file of the trusted CA certificates. `None`: those of the system.
    pub ca_cert: Option<PathBuf>,
    /// Model name. A server with a single model may need none.
    pub model: Option<String>,
    /// Additional headers of every request, marked as sensitive, so that `Debug` hides them.
    pub headers: HeaderMap,
    /// Additional fields of every request. `null` removes a field that the gateway would send.
    pub body: BTreeMap<String, Value>,
    /// Limits and parameters that a table of the file may override.
    pub defaults: Defaults,
}

/// Limits and parameters of an upstream.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Sampling temperature: 0 to 2 with most models. `None`: the model's default.
    pub temperature: Option<f32>,
    /// Most tokens of a reply. `None`: the model's limit.
    pub max_tokens: Option<u32>,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest time from the request to the first text.
    pub first_content_timeout: Duration,
    /// Longest silence within a reply.
    pub chunk_timeout: Duration,
    /// Retries before the first text.
    pub retries: u32,
    /// Limits of concurrent and waiting requests.
    pub capacity: Capacity,
    /// A response that ends with `[DONE]` and no `finish_reason` is complete.
    pub accept_missing_finish_reason: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            temperature: None,
            max_tokens: None,
            connect_timeout: Duration::from_secs(10),
            first_content_timeout: Duration::from_secs(120),
            chunk_timeout: Duration::from_secs(60),
            retries: 2,
            capacity: Capacity::default(),
            accept_missing_finish_reason: false,
        }
    }
}

impl Settings {
    /// Default context window in tokens.
    pub const CONTEXT_TOKENS: u32 = 8192;

    /// Default total timeout.
    pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);

    /// Settings of one upstream, with default limits.
    #[must_use]
    pub fn one(upstream: UpstreamSettings) -> Self {
        Self {
            upstreams: vec![upstream],
            system_prompt: None,
            context_tokens: Self::CONTEXT_TOKENS,
            total_timeout: Self::TOTAL_TIMEOUT,
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        if self.upstreams.is_empty() {
            return Err("--openai-base-url is missing, and --config names no upstream".into());
        }
        if self.context_tokens == 0 {
            return Err("--context-tokens must be more than zero".into());
        }
        let hidden = |upstream: &UpstreamSettings| {
            upstream.name.is_empty() || upstream.name.contains(Name::hides)
        };
        if self.upstreams.iter().any(hidden) {
            return Err("the name of an upstream is empty or contains invisible characters".into());
        }
        let mut names: Vec<_> = self.upstreams.iter().map(|upstream| &upstream.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two upstreams have the name `{}`", twice[0]));
        }
        self.upstreams.iter().try_for_each(|upstream| {
            upstream
                .validate(self)
                .map_err(|problem| format!("upstream `{}`: {problem}", upstream.name))
        })
    }
}

impl UpstreamSettings {
    /// An upstream without a key, with default limits.
    #[must_use]
    pub fn new(name: &str, endpoint: Endpoint) -> Self {
        Self {
            name: name.into(),
            endpoint,
            api_key: None,
            ca_cert: None,
            model: None,
            headers: HeaderMap::new(),
            body: BTreeMap::new(),
            defaults: Defaults::default(),
        }
    }

    /// Returns true if requests carry a key or additional headers.
    pub(super) fn has_secrets(&self) -> bool {
        self.api_key.is_some() || !self.headers.is_empty()
    }

    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(key) = &self.api_key else { return Ok(None) };
        let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
        let mut value = value.map_err(|_| "the API key is not valid".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn validate(&self, settings: &Settings) -> Result<(), String> {
        let Defaults { temperature, max_tokens, retries, capacity, .. } = self.defaults;
        timeouts::check(&[
            ("connect_timeout", self.defaults.connect_timeout),
            ("first_content_timeout", self.defaults.first_content_timeout),
            ("chunk_timeout", self.defaults.chunk_timeout),
            ("queue_timeout", capacity.queue_timeout),
            ("total_timeout", settings.total_timeout),
        ])?;
        if temperature.is_some_and(|temperature| !(0.0..=100.0).contains(&temperature)) {
            return Err("temperature must be a number from 0".into());
        }
        if max_tokens.is_some_and(|tokens| tokens == 0 || tokens >= settings.context_tokens) {
            return Err(
                "max_tokens must be more than zero and less than the context's tokens".into()
            );
        }
        capacity.validate().map_err(|(name, problem)| format!("{name} {problem}"))?;
        self.authorization()?;
        if self.ca_cert.is_some() && !self.endpoint.is_tls() {
            return Err("ca_cert needs a base URL with https://".into());
        }
        if let Some(path) = &self.ca_cert {
            tls_roots::read(path).map_err(|line| format!("ca_cert {line}"))?;
        }
        if retries > 10 {
            return Err("retries must not be more than 10".into());
        }
        if let Some(name) = RESERVED.iter().find(|name| self.body.contains_key(**name)) {
            return Err(format!("body must not contain `{name}`, which the gateway sets"));
        }
        Ok(())
    }
}

/// The address of an upstream's `chat/completions`.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Reads a base URL: a bare host (`/v1` is added), or the part before `/chat/completions`. A
    /// slash at the end is ignored. A query is kept, as Azure's `?api-version=…` requires it. It
    /// may contain a key, and `Display` does not show it.
    ///
    /// # Errors
    /// Says what is wrong, without the URL itself: it may contain a password.
    pub fn parse(base_url: &str) -> Result<Self, String> {
        let mut url: Url = base_url.parse().map_err(|_| "the base URL is not a URL".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("the base URL must begin with http:// or https:// and a host".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "the base URL must not contain a user or a password: use the setting for the key"
                    .into(),
            );
        }
        if url.fragment().is_some() {
            return Err("the base URL must have no fragment (`#…`)".into());
        }
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/chat/completions").unwrap_or(path);
        let path = if path.is_empty() { "/v1" } else { path };
        let path = format!("{path}/chat/completions");
        url.set_path(&path);
        Ok(Self(url))
    }

    /// Returns the URL of the requests.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }

    /// Returns true if requests use TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns true if requests leave the host without TLS.
    pub(super) fn is_exposed(&self) -> bool {
        let here = self.0.host_str().is_some_and(|host| {
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        });
        !(self.is_tls() || here)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        shown.set_query(self.0.query().map(|_| "\u{2026}"));
        f.write_str(&shown.as_str().replace("%E2%80%A6", "\u{2026}"))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Parses headers.
///
/// # Errors
/// Says which header is wrong, without its value.
pub fn headers(named: &BTreeMap<String, String>) -> Result<HeaderMap, String> {
    // Headers that frame the message, or that the gateway sets itself.
    const RESERVED: [&str; 8] = [
        "connection",
        "content-length",
        "content-type",
        "accept",
        "accept-encoding",
        "host",
        "te",
        "transfer-encoding",
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        // The name is not repeated: it may be a key in the wrong place.
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| "the name of a header is not valid".to_owned())?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| format!("header `{name}` has an invalid value"))?;
        value.set_sensitive(true);
        if RESERVED.contains(&parsed.as_str()) {
            return Err(format!("header `{name}` is set by the gateway"));
        }
        headers.insert(parsed, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_taken_with_and_without_their_ends() {
        for (base_url, url) in [
            ("http://localhost:8080", "http://localhost:8080/v1/chat/completions"),
            ("http://localhost:8080/", "http://localhost:8080/v1/chat/completions"),
            ("http://localhost:8080/v1", "http://localhost:8080/v1/chat/completions"),
            ("http://localhost:8080/v1/", "http://localhost:8080/v1/chat/completions"),
            ("https://h/openai/v1//", "https://h/openai/v1/chat/completions"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
            ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
            ("https://h/v1/?a=b", "https://h/v1/chat/completions?a=b"),
            (
                "https://r.openai.azure.com/openai/deployments/d?api-version=2024-06-01",
                "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-06-01",
            ),
        ] {
            assert_eq!(Endpoint::parse(base_url).unwrap().url().as_str(), url, "{base_url}");
        }
        for wrong in [
            "",
            "localhost:8080",
            "ftp://h/v1",
            "file:///etc/passwd",
            "http://",
            "/v1",
            "https://user:secret@h/v1",
            "https://secret@h/v1",
            "https://h/#secret",
        ] {
            let refused = Endpoint::parse(wrong);
            assert!(
                refused.as_ref().is_err_and(|line| !line.contains("secret")),
                "{wrong}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_query_is_sent_and_not_shown() {
        let endpoint = Endpoint::parse("https://h/v1?key=secret").unwrap();
        assert_eq!(endpoint.url().query(), Some("key=secret"));
        assert_eq!(endpoint.to_string(), "https://h/v1/chat/completions?…");
        assert!(!format!("{endpoint:?}").contains("secret"));
    }

    #[test]
    fn keys_are_exposed_on_plain_http_to_elsewhere() {
        for (base_url, exposed) in [
            ("http://localhost:1", false),
            ("http://127.0.0.1:1", false),
            ("http://[::1]:1", false),
            ("https://example.com", false),
            ("http://example.com", true),
            ("http://10.0.0.1", true),
        ] {
            assert_eq!(Endpoint::parse(base_url).unwrap().is_exposed(), exposed, "{base_url}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let upstream = UpstreamSettings::new("a", Endpoint::parse("http://h").unwrap());
        assert_eq!(Settings::one(upstream.clone()).validate(), Ok(()));
        let with = |change: &dyn Fn(&mut UpstreamSettings)| {
            let mut changed = upstream.clone();
            change(&mut changed);
            Settings::one(changed)
        };
        let mut twins = Settings::one(upstream.clone());
        twins.upstreams.push(upstream.clone());
        for wrong in [
            twins,
            Settings { upstreams: Vec::new(), ..Settings::one(upstream.clone()) },
            Settings { context_tokens: 0, ..Settings::one(upstream.clone()) },
            with(&|one| one.defaults.capacity.concurrency = 0),
            with(&|one| one.defaults.capacity.queue_size = u32::MAX),
            with(&|one| one.name = String::new()),
            with(&|one| one.name = "a\u{1b}[2Jb\n".into()),
            with(&|one| one.defaults.retries = 99),
            with(&|one| one.ca_cert = Some("ca.pem".into())),
            with(&|one| one.defaults.chunk_timeout = Duration::ZERO),
            with(&|one| one.defaults.temperature = Some(f32::NAN)),
            with(&|one| one.defaults.max_tokens = Some(Settings::CONTEXT_TOKENS)),
            with(&|one| drop(one.body.insert("stream".into(), Value::from(false)))),
        ] {
            assert!(wrong.validate().is_err_and(|line| !line.contains('\n')), "{wrong:?}");
        }
    }
}
