//! Rules for the heads of all requests and responses.

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header,
    uri::Authority,
};

use super::detail;

/// Returns the refusal of a request whose head breaks RFC 9112: sections 3.2 (`Host`) and 6.1
/// (`Transfer-Encoding`). The routes compare the host with the origin, so it must be unambiguous.
#[must_use]
pub fn check_head<B>(request: &Request<B>) -> Option<Response<Body>> {
    let problem = host_problem(request).or_else(|| coding_problem(request.headers()))?;
    let mut refusal = detail(StatusCode::BAD_REQUEST, problem);
    if request.version() < Version::HTTP_2 {
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(refusal)
}

fn host_problem<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("The request has more than one Host header");
    }
    match host {
        Some(host) => {
            let valid = host.to_str().is_ok_and(is_host);
            (!valid).then_some("The Host header is not valid")
        }
        None if request.version() == Version::HTTP_11 => Some("The request has no Host header"),
        None => None,
    }
}

/// `host [ ":" port ]` (RFC 9110, section 7.2).
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    let is_port = |rest: &str| {
        let digits = rest.strip_prefix(':');
        rest.is_empty() || digits.is_some_and(|it| it.is_empty() || it.parse::<u16>().is_ok())
    };
    !host.is_empty() && text.strip_prefix(host).is_some_and(is_port)
}

fn coding_problem(headers: &HeaderMap) -> Option<&'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    let is_chunked = first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    (!is_chunked || codings.next().is_some())
        .then_some("The Transfer-Encoding is not `chunked`, or is given more than once")
}

/// Adds the headers that every response carries, unless the route has set them: responses may
/// contain a token or a conversation, and no page may be framed.
pub fn secure<B>(response: &mut Response<B>) {
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let all = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let page = [
        (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    let page = page.into_iter().filter(|_| is_page);
    for (name, value) in all.into_iter().chain(page) {
        insert_if_absent(response.headers_mut(), name, value);
    }
}

fn insert_if_absent(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}
