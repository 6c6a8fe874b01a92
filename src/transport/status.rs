//! The one table of failures: the codes of each kind in each protocol.

use http::StatusCode;
use metrics::counter;
use tonic::Code;

use crate::session::ErrorKind;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusRow {
    /// RFC 9110, section 15.
    pub(super) http: StatusCode,
    /// The canonical gRPC codes.
    pub(super) grpc: Code,
    /// RFC 6455, section 7.4; 4000 and above are this gateway's own.
    pub(super) close: u16,
    /// A client that lost its stream to this failure should reconnect.
    pub(super) reconnect: bool,
}

/// Counts a failure that is reported to a client.
pub(super) fn count_refusal(kind: ErrorKind) {
    counter!("duologue_refusals_total", "code" => kind.code()).increment(1);
}

/// Returns the row of a kind.
pub(super) const fn row(kind: ErrorKind) -> StatusRow {
    use ErrorKind as K;
    let (http, grpc, close, reconnect) = match kind {
        K::InvalidName => (StatusCode::BAD_REQUEST, Code::InvalidArgument, 1008, false),
        K::InvalidArgument => (StatusCode::BAD_REQUEST, Code::InvalidArgument, 1008, false),
        K::MessageTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, 1009, false),
        K::MissingToken => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, 1008, false),
        // 400, as the service answered whose clients must work unchanged.
        K::SessionExpired => (StatusCode::BAD_REQUEST, Code::Unauthenticated, 4001, false),
        K::SessionRevoked => (StatusCode::BAD_REQUEST, Code::Unauthenticated, 4002, false),
        K::MessageIdReused => (StatusCode::CONFLICT, Code::AlreadyExists, 1008, false),
        K::QueueFull => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, 1013, true),
        K::SessionFull => (StatusCode::CONFLICT, Code::FailedPrecondition, 1008, false),
        K::StoreFull => (StatusCode::INSUFFICIENT_STORAGE, Code::ResourceExhausted, 1013, true),
        K::TooManyStreams => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, 1013, true),
        K::SlowConsumer => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, 4003, true),
        K::OpenTimeout => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, 4004, true),
        K::Unresponsive => (StatusCode::REQUEST_TIMEOUT, Code::Unavailable, 4006, true),
        K::ProtocolViolation => (StatusCode::BAD_REQUEST, Code::InvalidArgument, 1002, false),
        K::BadFrame => (StatusCode::BAD_REQUEST, Code::InvalidArgument, 4005, false),
        K::WrongFrameType => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, 1003, false)
        }
        K::BadUtf8 => (StatusCode::BAD_REQUEST, Code::InvalidArgument, 1007, false),
        K::FrameTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, 1009, false),
        K::OriginForbidden => (StatusCode::FORBIDDEN, Code::PermissionDenied, 1008, false),
        K::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, 1013, true),
        K::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, 1013, true),
        K::Draining => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, 1001, true),
        K::Unauthenticated => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, 1008, false),
        K::Forbidden => (StatusCode::FORBIDDEN, Code::PermissionDenied, 1008, false),
        K::NotFound => (StatusCode::NOT_FOUND, Code::NotFound, 1008, false),
        K::RateLimited => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, 1013, true),
        K::BudgetExceeded => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, 1008, false),
        // A newer credential opens the stream again.
        K::CredentialExpired => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, 4007, true),
        K::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, 1013, true),
        K::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, 1011, true),
    };
    StatusRow { http, grpc, close, reconnect }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_in_the_protocol_documentation() {
        let documentation = include_str!("../../docs/PROTOCOL.md");
        for kind in ErrorKind::ALL {
            let StatusRow { http, grpc, close, reconnect } = row(kind);
            let grpc = format!("{grpc:?}");
            let comes_back = if reconnect { "yes" } else { "no" };
            let line = format!(
                "| `{}` | {} | `{}` | {close} | {comes_back} |",
                kind.code(),
                http.as_u16(),
                screaming(&grpc),
            );
            assert!(documentation.contains(&line), "docs/PROTOCOL.md lacks: {line}");
        }
    }

    fn screaming(camel: &str) -> String {
        let underscored = camel.chars().enumerate().flat_map(|(at, c)| {
            let gap = (at > 0 && c.is_uppercase()).then_some('_');
            gap.into_iter().chain([c.to_ascii_uppercase()])
        });
        underscored.collect()
    }
}
