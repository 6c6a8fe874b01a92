//! Where the keys of an issuer come from: a file, or a URL. Keeps the last good ones.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use reqwest::{Client, redirect};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{RELOAD_INTERVAL, jwk_set::JwkSet, settings::JwksLocation};
use crate::telemetry;

/// Interval at which a URL is read again. A key that the issuer has removed is accepted for this
/// long, unless an unknown key is seen before.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// Shortest time between two reads because of an unknown key: anybody can name one.
const COOLDOWN: Duration = Duration::from_secs(5);

/// Longest time of a read.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest document, in bytes.
const MAX_SIZE: usize = 1 << 20;

pub(super) struct JwksSource {
    location: JwksLocation,
    client: Client,
    current: RwLock<Option<Arc<JwkSet>>>,
    /// The time of the last read. Held while one is in progress, so that there is one at a time.
    last_read: Mutex<Option<Instant>>,
}

impl JwksSource {
    /// Creates a source without keys.
    ///
    /// # Errors
    /// One line: the HTTP client cannot be built.
    pub(super) fn new(location: JwksLocation) -> Result<Self, String> {
        let mut client = Client::builder()
            .user_agent(concat!("duologue/", env!("CARGO_PKG_VERSION")))
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none())
            // Variables of the environment could send the request elsewhere.
            .no_proxy();
        if !matches!(&location, JwksLocation::Url(url) if url.starts_with("https:")) {
            // The system's certificates are not needed, and may be missing.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| {
            format!("the HTTP client cannot be built: {}", telemetry::error_chain(&error))
        })?;
        let (current, last_read) = (RwLock::default(), Mutex::default());
        Ok(Self { location, client, current, last_read })
    }

    /// Returns the current keys. Reads them if there are none.
    pub(super) async fn keys(&self) -> Option<Arc<JwkSet>> {
        if let Some(keys) = self.current() {
            return Some(keys);
        }
        self.read_unless_recent().await;
        self.current()
    }

    /// Returns keys that are newer than the given ones, if the issuer has some.
    pub(super) async fn newer_than(&self, known: &Arc<JwkSet>) -> Option<Arc<JwkSet>> {
        let is_newer = |keys: &Arc<JwkSet>| !Arc::ptr_eq(keys, known);
        if let Some(keys) = self.current().filter(is_newer) {
            return Some(keys);
        }
        self.read_unless_recent().await;
        self.current().filter(is_newer)
    }

    fn current(&self) -> Option<Arc<JwkSet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read_unless_recent(&self) {
        let mut last_read = self.last_read.lock().await;
        if last_read.is_none_or(|at| at.elapsed() >= COOLDOWN) {
            self.read().await;
            *last_read = Some(Instant::now());
        }
    }

    /// Reads the keys. Keeps the current ones if that fails.
    async fn read(&self) {
        let document = match &self.location {
            JwksLocation::Url(url) => fetch(&self.client, url).await,
            JwksLocation::File(path) => read_file(path.clone()).await,
        };
        match document.and_then(|document| JwkSet::parse(&document)) {
            Ok(keys) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::new(keys));
                tracing::debug!(jwks = %self.location, "the keys of the issuer were read");
            }
            Err(error) => {
                tracing::warn!(jwks = %self.location, error, "failed to read the keys of the issuer");
            }
        }
    }

    /// Follows the changes of the source until it is dropped.
    pub(super) fn follow(self: &Arc<Self>) {
        let source = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut seen = None;
            loop {
                let Some(source) = source.upgrade() else { return };
                let wait = match &source.location {
                    JwksLocation::Url(_) => {
                        source.read_now().await;
                        // A failed first read is repeated soon.
                        if source.current().is_some() { REFRESH_INTERVAL } else { COOLDOWN }
                    }
                    JwksLocation::File(path) => {
                        let now = file_state(path.clone()).await;
                        if seen.replace(now) != Some(now) {
                            source.read_now().await;
                        }
                        RELOAD_INTERVAL
                    }
                };
                drop(source);
                sleep(wait).await;
            }
        });
    }

    async fn read_now(&self) {
        let mut last_read = self.last_read.lock().await;
        self.read().await;
        *last_read = Some(Instant::now());
    }
}

async fn fetch(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let fetch = async {
        let response = client.get(url).send().await?.error_for_status()?;
        let mut response = response;
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            document.extend_from_slice(&chunk);
            if document.len() > MAX_SIZE {
                break;
            }
        }
        Ok::<_, reqwest::Error>(document)
    };
    let fetched =
        timeout(FETCH_TIMEOUT, fetch).await.map_err(|_| "no answer in time".to_owned())?;
    let document = fetched.map_err(|error| telemetry::error_chain(&error))?;
    if document.len() > MAX_SIZE { Err("it is too large".into()) } else { Ok(document) }
}

async fn read_file(path: PathBuf) -> Result<Vec<u8>, String> {
    let read = move || {
        let size = fs::metadata(&path)?.len();
        if size > MAX_SIZE as u64 {
            return Err(std::io::Error::other("it is too large"));
        }
        fs::read(&path)
    };
    let read = spawn_blocking(read).await.map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())
}

/// The state of a file, by which a change is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    size: u64,
    modified: Option<std::time::SystemTime>,
    inode: u64,
}

/// Returns the state of a file. `None` if it does not exist.
pub(super) async fn file_state(path: PathBuf) -> Option<FileState> {
    let read = move || state_of(&path);
    spawn_blocking(read).await.ok()?
}

fn state_of(path: &Path) -> Option<FileState> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).ok()?;
    Some(FileState { size: found.len(), modified: found.modified().ok(), inode: found.ino() })
}
