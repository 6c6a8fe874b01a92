//! HTTPS on the one port.
//!
//! The certificate can be replaced while the gateway runs: new connections are shown the
//! new one, those that exist go on.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        sign::CertifiedKey,
    },
};

use super::{patience::Patient, stream::Stream};

/// First byte of every TLS connection: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate of the gateway, then those between it and the root.
    pub cert: PathBuf,
    /// PEM: the private key, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Shakes hands with the certificate that is current.
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it. It shows nothing of the
    /// key.
    pub fn check(&self) -> Result<(), String> {
        self.load().map(|_| ())
    }

    fn load(&self) -> Result<ServerConfig, String> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let chain = CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| format!("{cert}: {error}"))?;
        if chain.is_empty() {
            return Err(format!("{cert}: holds no certificate in PEM form"));
        }
        let secret = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("{key}: no private key can be read: {error}"))?;
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        // Not `with_single_cert` alone: what it says of a foreign key names no file.
        CertifiedKey::from_der(chain.clone(), secret.clone_key(), &provider)
            .map_err(|error| format!("{key}: is not the key of {cert}: {error}"))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, secret));
        let mut config = config.map_err(|error| format!("{cert}: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Tls {
    pub(super) fn load(files: TlsFiles) -> io::Result<Self> {
        let config = files.load().map_err(io::Error::other)?;
        Ok(Self { files, current: RwLock::new(Arc::new(config)) })
    }

    /// As [`Self::read_again`], on a thread of its own: a pipe or a network's file system
    /// may let it wait for ever, and a worker that waits serves nobody.
    pub(super) async fn reload(self: Arc<Self>) {
        /// How long a reading may take before the operator is told of it.
        const USUAL: Duration = Duration::from_secs(10);
        let cert = self.files.cert.clone();
        let mut reading = spawn_blocking(move || self.read_again());
        if timeout(USUAL, &mut reading).await.is_err() {
            let cert = path(&cert);
            tracing::warn!(cert, "the certificate is not read yet: its files do not answer");
            let _read_or_panicked = reading.await;
        }
    }

    /// Reads the files again. If they are wrong, what was read before stays.
    fn read_again(&self) {
        let cert = path(&self.files.cert);
        match self.files.load() {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(cert, "the certificate was read again");
            }
            Err(error) => {
                tracing::error!(cert, error, "the new certificate is refused, the old one stays");
            }
        }
    }

    /// Shakes hands with a peer that may take nothing for so long. Whoever speaks plain HTTP
    /// is told so, as far as HTTP/1.1 goes.
    pub(super) async fn accept(
        &self,
        mut stream: TcpStream,
        patience: Duration,
    ) -> io::Result<Stream> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            super::answer_and_close(&mut stream, WRONG_SCHEME).await?;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let accepted = TlsAcceptor::from(current).accept(Patient::new(stream, patience)).await?;
        Ok(Stream::Tls(Box::new(accepted)))
    }
}

const WRONG_SCHEME: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\
    connection: close\r\ncontent-length: 35\r\n\r\n{\"detail\":\"This port speaks HTTPS\"}";

fn path(path: &Path) -> tracing::field::DisplayValue<std::path::Display<'_>> {
    tracing::field::display(path.display())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}
