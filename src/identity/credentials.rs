//! Checks credentials by their form.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    RELOAD_INTERVAL,
    api_key::KeyHash,
    jwks_source::file_state,
    jwt::JwtVerifier,
    key_file::{KeyFile, KeyRecord},
    settings::Settings,
};
use crate::session::{
    Authenticator, Credential, CredentialForm, Error, ErrorKind, Identity, Result, Timestamp,
};

/// Checks API keys and JWTs, as far as they are accepted.
pub struct Credentials {
    keys: Option<Arc<Keys>>,
    jwt: Option<JwtVerifier>,
}

impl Credentials {
    /// Reads the file of API keys, and follows its changes and those of the keys of the issuer.
    /// Must be called on a runtime.
    ///
    /// # Errors
    /// One line for the operator: the file of keys cannot be read.
    pub fn start(settings: &Settings) -> std::result::Result<Self, String> {
        let keys = settings.api_keys.clone().map(Keys::start).transpose()?;
        let jwt = settings.jwt.clone().map(JwtVerifier::start).transpose()?;
        Ok(Self { keys, jwt })
    }
}

#[async_trait]
impl Authenticator for Credentials {
    async fn identify(&self, credential: &Credential, now: Timestamp) -> Result<Identity> {
        match (credential.form(), &self.keys, &self.jwt) {
            (CredentialForm::ApiKey, Some(keys), _) => keys.identify(credential.expose(), now),
            (CredentialForm::ApiKey, None, _) => Err(refused("This gateway accepts no API keys")),
            (CredentialForm::Jwt, _, Some(jwt)) => jwt.identify(credential.expose(), now).await,
            (CredentialForm::Jwt, _, None) => Err(refused("This gateway accepts no JWTs")),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

/// The API keys of a file.
struct Keys {
    current: RwLock<HashMap<KeyHash, KeyRecord>>,
}

impl Keys {
    fn start(path: PathBuf) -> std::result::Result<Arc<Self>, String> {
        let keys = Arc::new(Self { current: RwLock::new(by_hash(KeyFile::at(&path).read()?)) });
        let followed = Arc::downgrade(&keys);
        tokio::spawn(async move {
            let mut seen = None;
            loop {
                let now = file_state(path.clone()).await;
                let Some(keys) = followed.upgrade() else { return };
                if seen.replace(now) != Some(now) {
                    keys.read_again(path.clone()).await;
                }
                drop(keys);
                sleep(RELOAD_INTERVAL).await;
            }
        });
        Ok(keys)
    }

    /// Reads the file. If it is wrong, the current keys stay.
    async fn read_again(&self, path: PathBuf) {
        let read = spawn_blocking(move || KeyFile::at(&path).read());
        match read.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(records) => {
                let count = records.len();
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = by_hash(records);
                tracing::info!(keys = count, "the file of API keys was read");
            }
            Err(error) => {
                tracing::error!(error, "the new file of API keys is refused, the old keys stay");
            }
        }
    }

    fn identify(&self, key: &str, now: Timestamp) -> Result<Identity> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let record = current.get(&KeyHash::of(key)).ok_or_else(|| refused("Unknown API key"))?;
        if record.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(refused("The API key has expired"));
        }
        Ok(Identity {
            subject: format!("key:{}", record.name).into(),
            kind: record.kind,
            expires_at: record.expires_at,
        })
    }
}

fn by_hash(records: Vec<KeyRecord>) -> HashMap<KeyHash, KeyRecord> {
    records.into_iter().map(|record| (record.hash, record)).collect()
}
