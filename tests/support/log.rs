//! The log of the gateway of one test.

use std::sync::Arc;

use tempfile::NamedTempFile;
use tracing::subscriber::DefaultGuard;

/// Collects the lines of this thread while it lives.
pub struct Log {
    file: NamedTempFile,
    _collects: DefaultGuard,
}

impl Log {
    pub fn begin() -> Self {
        let file = NamedTempFile::new().unwrap();
        let writer = Arc::new(file.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        Self { file, _collects: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap()
    }
}
