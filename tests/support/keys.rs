//! A file of API keys, and the gateway's own check of them.

use std::{sync::Arc, time::Duration};

use duologue::{
    identity::{Credentials, KeyFile, Settings},
    session::{Authenticator, IdentityKind, Timestamp},
};

/// A file of API keys.
pub struct TestKeys {
    folder: tempfile::TempDir,
}

impl TestKeys {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn file(&self) -> KeyFile {
        KeyFile::at(&self.path())
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("keys.toml")
    }

    /// Makes a key that does not expire.
    pub fn add(&self, name: &str, kind: IdentityKind) -> String {
        self.file().add(name, kind, None).unwrap().expose().to_owned()
    }

    /// Makes a key of a user that expires after a while.
    pub fn add_for(&self, name: &str, length: Duration) -> String {
        let end = Timestamp::of_wall_clock().plus(length);
        self.file().add(name, IdentityKind::User, Some(end)).unwrap().expose().to_owned()
    }

    /// Returns the check of the keys that were made so far.
    pub fn authenticator(&self) -> Arc<dyn Authenticator> {
        let settings = Settings { api_keys: Some(self.path()), jwt: None };
        Arc::new(Credentials::start(&settings).unwrap())
    }
}
