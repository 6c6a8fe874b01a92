//! Derives a status from a response that is not gRPC, as a proxy in front of the bot sends it.
//! Removes headers that the library panics at.

use http::{HeaderMap, Response, StatusCode, header::CONTENT_TYPE, response::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tonic::{Code, Status, body::Body, metadata::MetadataMap};

/// Returns the response if the generated client can read it.
///
/// # Errors
/// The status that corresponds to the HTTP response.
pub(super) fn checked(answer: Response<Incoming>) -> Result<Response<Body>, Status> {
    let (mut head, body) = answer.into_parts();
    if !is_grpc(&head) {
        let message = format!("the response is HTTP {} and not gRPC", head.status.as_u16());
        return Err(Status::new(code(head.status), message));
    }
    drop_broken_details(&mut head.headers);
    let body = body.map_frame(|mut frame| {
        frame.trailers_mut().map(drop_broken_details);
        frame
    });
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Returns true for a content type of gRPC, or none.
fn is_grpc(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    head.headers.contains_key(Status::GRPC_STATUS)
        || head.status == StatusCode::OK && kind.starts_with(b"application/grpc")
}

/// Maps a status by gRPC's own table, `doc/http-grpc-status-mapping.md`.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Removes details that are not Base64: tonic panics at them. The status stays.
fn drop_broken_details(headers: &mut HeaderMap) {
    let metadata = MetadataMap::from_headers(std::mem::take(headers));
    let details = metadata.get_bin(Status::GRPC_STATUS_DETAILS.as_str());
    let is_broken = details.is_some_and(|details| details.to_bytes().is_err());
    *headers = metadata.into_headers();
    if is_broken {
        headers.remove(Status::GRPC_STATUS_DETAILS);
    }
}
