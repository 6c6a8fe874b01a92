//! Decides which web pages may use the gateway (RFC 6454).
//!
//! A browser checks CORS headers before a page can read a REST or gRPC-Web response, but it opens a
//! WebSocket for any page. There the gateway must check the origin itself.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderMap, Uri, header};

/// The allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page.
    Any,
    /// The gateway's own pages, and those listed.
    Listed {
        /// The listed origins.
        origins: Vec<OriginPattern>,
        /// Also any port of localhost and the loopback addresses, for development.
        loopback: bool,
    },
}

/// An entry of the allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// One origin in its canonical form: lower case, without a default port. Also `null` and
    /// `file://`.
    Exact(String),
    /// Every subdomain, at any depth, of the domain behind `SCHEME://*`: `https://`,
    /// `.example.com`, and a port or nothing.
    Subdomains {
        /// With `://`.
        scheme: String,
        /// With the leading dot, and the port if it is no default one.
        domain: String,
    },
}

/// The names that the gateway is reached by, beside `localhost` and any address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Default for Origins {
    fn default() -> Self {
        Self::Listed { origins: Vec::new(), loopback: false }
    }
}

impl Origins {
    /// Returns the allow-list of development where nothing is listed.
    #[must_use]
    pub const fn development() -> Self {
        Self::Listed { origins: Vec::new(), loopback: true }
    }

    /// Returns true if a request may come from the origin that its headers name. A request
    /// without `Origin` does not come from a foreign page.
    #[must_use]
    pub fn allow(&self, hosts: &Hosts, headers: &HeaderMap, uri: &Uri) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        let single = origins.next().is_none();
        let host = host(headers, uri).filter(|host| hosts.contain(host));
        single && origin.to_str().is_ok_and(|origin| self.allows(origin, host))
    }

    fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let Self::Listed { origins, loopback } = self else { return true };
        let origin = origin.to_ascii_lowercase();
        let Some((scheme, authority)) = origin.split_once("://") else {
            return origins.iter().any(|listed| listed.matches(&origin));
        };
        let authority = without_port(authority, default_ports(scheme));
        let is_own =
            |host: &str| without_port(&host.to_ascii_lowercase(), &[":80", ":443"]) == authority;
        let canonical = format!("{scheme}://{authority}");
        (!authority.is_empty() && host.is_some_and(is_own))
            || origins.iter().any(|listed| listed.matches(&canonical))
            || (*loopback && is_loopback(authority))
    }
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(listed) => listed == origin,
            Self::Subdomains { scheme, domain } => {
                let labels = origin.strip_prefix(scheme.as_str());
                let labels = labels.and_then(|rest| rest.strip_suffix(domain.as_str()));
                labels.is_some_and(|labels| {
                    !labels.is_empty() && !labels.starts_with('.') && !labels.contains([':', '@'])
                })
            }
        }
    }
}

impl Hosts {
    /// Returns true if a request addresses the gateway by one of its names. One without a host is
    /// not made by a browser.
    #[must_use]
    pub fn allow(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        host(headers, uri).is_none_or(|host| self.contain(host))
    }

    fn contain(&self, host: &str) -> bool {
        let name = without_any_port(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let is_address = || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        name == "localhost" || is_address() || self.0.iter().any(|known| known == name)
    }
}

/// Returns the authority that the client addresses.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

fn default_ports(scheme: &str) -> &'static [&'static str] {
    match scheme {
        "http" => &[":80"],
        "https" => &[":443"],
        _ => &[],
    }
}

/// Removes a default port, and the dot that may end a domain name.
fn without_port<'a>(authority: &'a str, ports: &[&str]) -> &'a str {
    let host = ports.iter().find_map(|port| authority.strip_suffix(port)).unwrap_or(authority);
    host.strip_suffix('.').unwrap_or(host)
}

fn without_any_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn is_loopback(authority: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].contains(&without_any_port(authority))
}

impl FromStr for Origins {
    type Err = String;

    /// Reads a comma-separated list, or `*`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let origins = entries.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self::Listed { origins, loopback: false })
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Listed { origins, .. } => {
                let entries: Vec<_> = origins.iter().map(ToString::to_string).collect();
                f.write_str(&entries.join(","))
            }
        }
    }
}

impl FromStr for OriginPattern {
    type Err = String;

    /// Reads an entry, and refuses one that no browser can send.
    fn from_str(entry: &str) -> Result<Self, String> {
        let invalid = |why: &str| format!("`{entry}` can never match: {why}");
        let entry = &entry.to_ascii_lowercase();
        if matches!(entry.as_str(), "null" | "file://") {
            return Ok(Self::Exact(entry.clone()));
        }
        let example = "expected an origin such as https://example.com or https://*.example.com";
        let (scheme, rest) = entry.split_once("://").ok_or_else(|| invalid(example))?;
        if !rest.is_ascii() {
            return Err(invalid("browsers send such a name in its ASCII form (xn--…)"));
        }
        let (wildcard, rest) = match rest.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err(invalid("`*` may only be the first label, as in https://*.example.com"));
        }
        let uri: Uri = format!("{scheme}://{rest}").parse().map_err(|_| invalid(example))?;
        let authority = uri.authority().ok_or_else(|| invalid(example))?.as_str();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || rest.contains('#') {
            return Err(invalid("an origin has no path"));
        }
        if authority.contains('@') {
            return Err(invalid("an origin has no user"));
        }
        if authority.len() > uri.host().unwrap_or_default().len() && uri.port_u16().is_none() {
            return Err(invalid("the port is not a number"));
        }
        let authority = without_port(authority, default_ports(scheme));
        Ok(match wildcard {
            true => {
                Self::Subdomains { scheme: format!("{scheme}://"), domain: format!(".{authority}") }
            }
            false => Self::Exact(format!("{scheme}://{authority}")),
        })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(origin) => f.write_str(origin),
            Self::Subdomains { scheme, domain } => write!(f, "{scheme}*{domain}"),
        }
    }
}

impl FromStr for Hosts {
    type Err = String;

    /// Reads a comma-separated list of names without ports.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let name = |name: &str| {
            let is_letter =
                |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
            if name.chars().all(is_letter) {
                return Ok(name.to_ascii_lowercase());
            }
            Err(format!("`{name}` is not a host name such as chat.example.com"))
        };
        names.map(name).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn allowed(origins: &Origins, origin: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example.com"));
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        let hosts = "chat.example.com".parse().unwrap();
        origins.allow(&hosts, &headers, &Uri::from_static("/chat"))
    }

    /// Whether a page of this origin is one of the gateway's own.
    fn same(hosts: &str, host: &'static str, origin: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        let hosts = hosts.parse().unwrap();
        Origins::default().allow(&hosts, &headers, &Uri::from_static("/chat"))
    }

    #[test]
    fn default_ports_and_case_make_no_other_origin() {
        for (host, origin) in [
            ("chat.example.com:443", "https://chat.example.com"),
            ("chat.example.com", "https://chat.example.com:443"),
            ("chat.example.com:80", "http://chat.example.com"),
            ("Chat.Example.com.", "https://chat.example.COM"),
            ("[::1]:443", "https://[::1]"),
            ("chat.example.com:8443", "https://chat.example.com:8443"),
        ] {
            assert!(same("chat.example.com", host, origin), "{host} {origin}");
        }
        for (host, origin) in [
            ("chat.example.com:8443", "https://chat.example.com"),
            ("chat.example.com", "https://chat.example.com:8443"),
            ("chat.example.com", "https://"),
        ] {
            assert!(!same("chat.example.com", host, origin), "{host} {origin}");
        }
    }

    #[test]
    fn only_listed_names_and_addresses_are_the_gateways_own() {
        let hosts = "chat.example.com, Other.example";
        for (host, origin) in [
            ("chat.example.com", "https://chat.example.com"),
            ("other.example:8080", "http://other.example:8080"),
            ("127.0.0.1:3500", "http://127.0.0.1:3500"),
            ("[::1]:3500", "http://[::1]:3500"),
            ("localhost:3500", "http://localhost:3500"),
        ] {
            assert!(same(hosts, host, origin), "{host}");
        }
        // DNS rebinding: a foreign name that resolves to this address.
        assert!(!same(hosts, "evil.example", "http://evil.example"));
        assert!(!same("", "evil.example", "http://evil.example"));
    }

    #[test]
    fn a_leading_wildcard_stands_for_subdomains() {
        let origins = "https://*.example.com,http://*.dev.example:8080,null,file://";
        let origins = origins.parse().unwrap();
        for origin in [
            "https://a.example.com",
            "https://a.b.example.com",
            "https://a.example.com:443",
            "http://x.dev.example:8080",
            "null",
            "file://",
        ] {
            assert!(allowed(&origins, origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://aexample.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.evil",
            "https://evil:1.example.com",
            "http://x.dev.example",
        ] {
            assert!(!allowed(&origins, origin), "{origin}");
        }
    }

    #[test]
    fn own_pages_and_listed_ones_are_allowed_and_no_others() {
        let origins = "https://a.example, http://b.example:8080/".parse().unwrap_or_default();
        for origin in ["https://chat.example.com", "https://A.example", "http://b.example:8080"] {
            assert!(allowed(&origins, origin), "{origin}");
        }
        for origin in [
            "null",
            "https://evil.example",
            "https://a.example.evil",
            "http://b.example",
            "http://localhost:3000",
            "https://chat.example.com.evil",
            "",
        ] {
            assert!(!allowed(&origins, origin), "{origin}");
        }
        assert!(allowed(&Origins::Any, "https://evil.example"));
    }

    #[test]
    fn development_allows_any_port_of_this_machine() {
        let origins = Origins::development();
        for origin in
            ["http://localhost", "http://localhost:5173", "http://127.0.0.1:1", "http://[::1]:80"]
        {
            assert!(allowed(&origins, origin), "{origin}");
        }
        for origin in ["http://localhost.evil", "http://127.0.0.1.evil:80", "http://evil:localhost"]
        {
            assert!(!allowed(&origins, origin), "{origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for entry in [
            "example.com",
            "https://",
            "https://a.example/path",
            "https://a.example?q",
            "https://u@a.example",
            "https://a.*.example",
            "https://*",
            "https://*.*.example",
            "https://a.example:port",
            "https://bücher.example",
            "*.example.com",
        ] {
            assert!(entry.parse::<Origins>().is_err(), "{entry}");
        }
    }
}
