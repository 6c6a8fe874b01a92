//! Refusals before a request is routed, in the form of its protocol.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, header};

use super::{grpc, http::error_response};
use crate::session::{Error, ErrorKind};

/// Returns true for a request of a probe: it is answered even where no connection is left for
/// others.
#[must_use]
pub fn is_probe<B>(request: &Request<B>) -> bool {
    match *request.method() {
        Method::GET | Method::HEAD => matches!(request.uri().path(), "/healthz" | "/readyz"),
        Method::POST => request.uri().path() == "/grpc.health.v1.Health/Check",
        _ => false,
    }
}

/// Returns the refusal of a request on a connection that is kept for probes.
#[must_use]
pub fn no_connection<B>(request: &Request<B>) -> Response<Body> {
    let message = "The gateway has no connection left";
    let error = Error::new(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(5));
    let mut refusal = refuse(request, &error);
    if request.version() < http::Version::HTTP_2 {
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    refusal
}

/// Returns the refusal of a request that changes something, if it comes from a page of an origin
/// that is not allowed. Nothing is done for it.
#[must_use]
pub fn check_origin<B>(settings: &super::Settings, request: &Request<B>) -> Option<Response<Body>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let allowed = is_safe || settings.allows_origin(request.headers(), request.uri());
    (!allowed).then(|| refuse(request, &ErrorKind::OriginForbidden.into()))
}

fn refuse<B>(request: &Request<B>, error: &Error) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return grpc::refuse(error).into_http();
    }
    error_response(error)
}
