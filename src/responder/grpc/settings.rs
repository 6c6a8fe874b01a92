//! Settings of the bot.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use crate::responder::upstream::{Capacity, timeouts, tls_roots};

/// A bot and the limits of its calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the bot.
    pub endpoint: Endpoint,
    /// Sent as `authorization: Bearer`.
    pub token: Option<SecretString>,
    /// PEM file of the trusted CA certificates. `None`: those of the system.
    pub ca_cert: Option<PathBuf>,
    /// Number of the newest messages that it receives.
    pub history: u32,
    /// Longest reply in bytes. It is sent with the request.
    pub max_reply_size: usize,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest time from the acceptance of a call to its first text.
    pub first_content_timeout: Duration,
    /// Longest silence after the first text.
    pub chunk_timeout: Duration,
    /// Longest time for one reply, retries included.
    pub total_timeout: Duration,
    /// Retries before the first text.
    pub retries: u32,
    /// Silence of a called bot after which it must answer an HTTP/2 PING. Zero sends none.
    pub keep_alive: Duration,
    /// Limits of concurrent and waiting calls.
    pub capacity: Capacity,
}

impl Default for Settings {
    /// A bot on this machine, without a token.
    fn default() -> Self {
        Self {
            endpoint: Endpoint(Uri::from_static("http://localhost:50051")),
            token: None,
            ca_cert: None,
            history: 1000,
            max_reply_size: 1 << 20,
            connect_timeout: Duration::from_secs(10),
            first_content_timeout: Duration::from_secs(120),
            chunk_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(600),
            retries: 2,
            // By default gRPC servers close a connection with PINGs more often than every five
            // minutes (gRPC proposal A8).
            keep_alive: Duration::from_secs(300),
            capacity: Capacity::default(),
        }
    }
}

impl Settings {
    /// A bot without a token, with the default limits.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, ..Self::default() }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        timeouts::check(&[
            ("--bot-connect-timeout", self.connect_timeout),
            ("--bot-first-content-timeout", self.first_content_timeout),
            ("--bot-chunk-timeout", self.chunk_timeout),
            ("--bot-total-timeout", self.total_timeout),
            ("--bot-queue-timeout", self.capacity.queue_timeout),
        ])?;
        if self.keep_alive > LONGEST {
            return Err("--bot-keep-alive must not be more than a day".into());
        }
        if self.retries > 10 {
            return Err("--bot-retries must not be more than 10".into());
        }
        if self.history > 100_000 {
            return Err("--bot-history must not be more than 100000".into());
        }
        self.capacity
            .validate()
            .map_err(|(name, problem)| format!("--bot-{} {problem}", name.replace('_', "-")))?;
        if let Some(path) = self.ca_cert.as_ref().filter(|_| self.endpoint.is_tls()) {
            tls_roots::read(path).map_err(|line| format!("--bot-ca-cert {line}"))?;
        }
        if self.ca_cert.is_some() && !self.endpoint.is_tls() {
            return Err("--bot-ca-cert needs an https:// --bot-endpoint".into());
        }
        let visible =
            |token: &SecretString| token.expose_secret().bytes().all(|b| b.is_ascii_graphic());
        let blank = |token: &SecretString| token.expose_secret().is_empty();
        if self.token.as_ref().is_some_and(|token| blank(token) || !visible(token)) {
            return Err("--bot-token must be visible ASCII characters without spaces".into());
        }
        Ok(())
    }
}

/// The address of a bot: `http://HOST[:PORT]` or `https://HOST[:PORT]`. The default ports are 80
/// and 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// Reads an address.
    ///
    /// # Errors
    /// Says what is wrong, without the address itself: it may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "it is not a URL".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("it must begin with http:// or https://".into());
        }
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err("it must not contain a user or a password: use --bot-token".into());
        }
        // `http::Uri` reports an invalid port as none.
        let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
        let port = after_host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if uri.host().is_none_or(str::is_empty) || port.is_some_and(|port| !matches!(port, Ok(1..)))
        {
            return Err("it has no host, or an invalid port".into());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
            return Err("it must not have a path or a query".into());
        }
        Ok(Self(uri))
    }

    /// Returns the address as it was given.
    #[must_use]
    pub const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns true if the bot is called over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Returns true if requests leave the host without TLS.
    pub(super) fn is_exposed(&self) -> bool {
        let host = self.0.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        !(self.is_tls() || here || host == "localhost")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_anything_more_is_refused() {
        for (text, tls) in [
            ("http://localhost:50051", false),
            ("http://127.0.0.1:50051/", false),
            ("http://[::1]:50051", false),
            ("http://bot", false),
            ("https://bot.example.com", true),
        ] {
            assert_eq!(Endpoint::parse(text).map(|endpoint| endpoint.is_tls()), Ok(tls), "{text}");
        }
        for text in [
            "",
            "bot",
            "localhost:50051",
            "grpc://bot:1",
            "unix:/tmp/bot",
            "http://",
            "http://:50051",
            "http://bot:0",
            "http://bot:",
            "http://bot:99999",
            "http://bot/v1",
            "http://bot/?a=b",
            "http://bot#a",
            "http://ada:hunter2@bot",
        ] {
            match Endpoint::parse(text) {
                Ok(endpoint) => panic!("{text} is taken for {endpoint}"),
                Err(problem) => assert!(!problem.contains("hunter2"), "{problem}"),
            }
        }
    }

    #[test]
    fn only_what_leaves_the_host_without_tls_is_exposed() {
        for (text, exposed) in [
            ("http://localhost:1", false),
            ("http://127.9.9.9:1", false),
            ("http://[::1]:1", false),
            ("https://bot", false),
            ("http://bot", true),
            ("http://[2001:db8::1]", true),
            ("http://192.0.2.1", true),
        ] {
            let endpoint = Endpoint::parse(text).map(|endpoint| endpoint.is_exposed());
            assert_eq!(endpoint, Ok(exposed), "{text}");
        }
    }

    #[test]
    fn impossible_settings_are_named_and_a_token_is_never_shown() {
        let parsed = Endpoint::parse("http://bot:1");
        let settings = Settings::new(parsed.unwrap_or_else(|problem| panic!("{problem}")));
        assert_eq!(settings.validate(), Ok(()));
        let zero = Duration::ZERO;
        for wrong in [
            Settings { token: Some("".into()), ..settings.clone() },
            Settings { token: Some("hunter 2".into()), ..settings.clone() },
            Settings { token: Some("hunter2\n".into()), ..settings.clone() },
            Settings { ca_cert: Some("ca.pem".into()), ..settings.clone() },
            Settings { connect_timeout: zero, ..settings.clone() },
            Settings { first_content_timeout: zero, ..settings.clone() },
            Settings { chunk_timeout: zero, ..settings.clone() },
            Settings { total_timeout: Duration::MAX, ..settings.clone() },
            Settings { keep_alive: Duration::MAX, ..settings.clone() },
            Settings { retries: 11, ..settings.clone() },
            Settings { history: u32::MAX, ..settings.clone() },
            Settings {
                capacity: Capacity { concurrency: 0, ..settings.capacity },
                ..settings.clone()
            },
            Settings {
                capacity: Capacity { queue_size: u32::MAX, ..settings.capacity },
                ..settings.clone()
            },
            Settings {
                capacity: Capacity { queue_timeout: zero, ..settings.capacity },
                ..settings.clone()
            },
        ] {
            let shown = format!("{wrong:?} {:?}", wrong.validate());
            assert!(wrong.validate().is_err_and(|line| line.starts_with("--bot-")), "{shown}");
            assert!(!shown.contains("hunter"), "{shown}");
        }
    }
}
