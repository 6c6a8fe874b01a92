//! Which web pages may use the gateway (RFC 6454).
//!
//! A browser asks before it lets a page read a REST or gRPC-Web answer, but opens a
//! WebSocket for any page: there the gateway must check by itself.

use std::str::FromStr;

use http::{HeaderMap, Uri, header};

/// The allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page.
    Any,
    /// The gateway's own pages, and those listed.
    Listed {
        /// Origins in their canonical form: `https://example.com`, `http://localhost:8080`.
        origins: Vec<String>,
        /// Also any port of this machine's loopback names, for development.
        loopback: bool,
    },
}

impl Default for Origins {
    fn default() -> Self {
        Self::Listed { origins: Vec::new(), loopback: false }
    }
}

impl Origins {
    /// What development allows where nothing is listed.
    #[must_use]
    pub const fn development() -> Self {
        Self::Listed { origins: Vec::new(), loopback: true }
    }

    /// Whether a request may come from where its headers say. One without `Origin` does
    /// not come from a foreign page.
    #[must_use]
    pub fn allow(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        let single = origins.next().is_none();
        single && origin.to_str().is_ok_and(|origin| self.allows(origin, host(headers, uri)))
    }

    fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let Self::Listed { origins, loopback } = self else { return true };
        let Some((_, authority)) = origin.split_once("://") else { return false };
        host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
            || origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
            || (*loopback && is_loopback(authority))
    }
}

/// The authority that the client believes it talks to.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host.eq_ignore_ascii_case(name))
}

impl FromStr for Origins {
    type Err = String;

    /// A comma-separated list, or `*`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let origins = entries.map(canonical).collect::<Result<_, _>>()?;
        Ok(Self::Listed { origins, loopback: false })
    }
}

fn canonical(entry: &str) -> Result<String, String> {
    let invalid = || format!("`{entry}` is not an origin such as https://example.com");
    let uri: Uri = entry.parse().map_err(|_| invalid())?;
    let scheme = uri.scheme_str().ok_or_else(invalid)?;
    let authority = uri.authority().ok_or_else(invalid)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@')
    {
        return Err(invalid());
    }
    Ok(format!("{scheme}://{authority}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn allowed(origins: &Origins, origin: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example.com"));
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        origins.allow(&headers, &Uri::from_static("/chat"))
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
        for entry in ["example.com", "https://", "https://a.example/path", "https://u@a.example"] {
            assert!(entry.parse::<Origins>().is_err(), "{entry}");
        }
    }
}
