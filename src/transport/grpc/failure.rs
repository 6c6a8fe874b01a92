//! Converts failures to gRPC statuses, with the standard details (google.rpc.ErrorInfo and
//! RetryInfo) for programs, and `grpc-retry-pushback-ms` for clients that retry.

use tonic::{Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    session::{Error, ErrorKind},
    telemetry::PEER,
    transport::status,
};

/// Counts an error of a call and converts it to a status.
pub(in crate::transport) fn refuse(error: &Error) -> Status {
    status::count_refusal(error.kind());
    status(error)
}

/// Converts an error of the core to a status. Logs the cause of an internal error, which the
/// client does not see.
pub(super) fn status(error: &Error) -> Status {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(target: PEER, cause = ?error, "call failed");
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(error.kind().code(), "duologue", []);
    if let Some(wait) = error.wait() {
        details.set_retry_info(Some(wait));
    }
    let code = status::row(error.kind()).grpc;
    let mut status = Status::with_error_details(code, error.message(), details);
    if let Some(wait) = error.wait() {
        let millis = MetadataValue::from(wait.as_millis().try_into().unwrap_or(u64::MAX));
        status.metadata_mut().insert("grpc-retry-pushback-ms", millis);
    }
    status
}
