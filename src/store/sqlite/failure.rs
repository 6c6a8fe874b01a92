//! Failures of the file, and which of them are final.

use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};
use tokio::sync::watch;

use crate::session::{Error, ErrorKind};

/// The reason why a write is not made: a rule, which concerns this write alone, or a failure, which
/// ends the whole transaction. Rules are checked before anything is written.
#[derive(Debug)]
pub(super) enum WriteError {
    ByRule(Error),
    Failed(rusqlite::Error),
}

pub(super) type WriteResult<T> = Result<T, WriteError>;

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::ByRule(error)
    }
}

impl From<ErrorKind> for WriteError {
    fn from(kind: ErrorKind) -> Self {
        Self::ByRule(kind.into())
    }
}

/// Converts an error of the library to one of the core.
pub(super) fn failure(error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::StoreFull.into(),
        _ => Error::internal(error.to_string()),
    }
}

/// Returns true if the file must not be used any more. A failed fsync may have lost pages that the
/// next fsync reports as written. An unreadable disk or an inconsistent file may cause wrong
/// answers.
pub(super) fn is_final(error: &rusqlite::Error) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    match error.code {
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => true,
        ErrorCode::SystemIoFailure => {
            let of_memory = [ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_NOMEM];
            !of_memory.contains(&error.extended_code)
        }
        _ => false,
    }
}

/// Signals the final failure of the file to the whole gateway.
#[derive(Clone, Debug)]
pub(super) struct FailureSignal(watch::Sender<Option<Arc<str>>>);

impl FailureSignal {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Reports the failure. The first cause counts.
    pub(super) fn lose(&self, cause: &str) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| cause.into());
            first
        });
    }

    pub(super) async fn lost(&self) -> Error {
        let mut told = self.0.subscribe();
        // Cannot fail: the sender is `self`.
        let cause = told.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        Error::internal(cause.unwrap_or_default().to_string())
    }
}
