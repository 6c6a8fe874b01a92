//! What can go wrong with the file, and which of it is final.

use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};
use tokio::sync::watch;

use crate::session::{Error, ErrorKind};

/// Why something is not done: a rule, which concerns it alone, or a failure, which ends
/// the whole transaction. A rule is looked at before anything is written.
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

/// The core's word for a failure of the library.
pub(super) fn failure(error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::StoreFull.into(),
        _ => Error::internal(error.to_string()),
    }
}

/// The file is not to be used any more: an fsync that failed may have lost pages that the
/// next one would call written; a disk that cannot be read, or a file that contradicts
/// itself, may give wrong answers next.
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

/// Whether the file can be trusted to keep what is written and to say what was written.
#[derive(Clone, Debug)]
pub(super) struct FailureSignal(watch::Sender<Option<Arc<str>>>);

impl FailureSignal {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// It is lost, for good; the first cause counts.
    pub(super) fn lose(&self, cause: &str) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| cause.into());
            first
        });
    }

    /// Waits until it is lost.
    pub(super) async fn lost(&self) -> Error {
        let mut told = self.0.subscribe();
        // The sender is here, so that it cannot be gone.
        let cause = told.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        Error::internal(cause.unwrap_or_default().to_string())
    }
}
