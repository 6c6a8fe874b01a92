//! TLS on the port.
//!
//! The certificate can be replaced while the gateway runs. New connections use the new one,
//! existing connections continue.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        Error, InconsistentKeys, ServerConfig,
        crypto::{self, CryptoProvider},
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject as _},
        },
        sign::CertifiedKey,
    },
    server::TlsStream,
};
use tokio_util::either::Either;

use super::{
    socket::{Socket, peek},
    write_timeout::WriteTimeout,
};

/// First byte of every TLS connection: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The files of the certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate of the gateway, then the intermediate certificates.
    pub cert: PathBuf,
    /// PEM: the private key, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Accepts TLS connections with the current certificate.
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the file and the problem. It contains nothing of the key.
    pub fn check(&self) -> Result<(), String> {
        self.load().map(|_| ())
    }

    fn load(&self) -> Result<ServerConfig, String> {
        let (chain, secret) = (self.chain()?, self.secret()?);
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        self.check_key(&chain, &secret, &provider)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, secret));
        let mut config = config.map_err(|error| of_file(&self.cert, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let chain = CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| of_file(&self.cert, explain(&error)))?;
        if chain.is_empty() {
            return Err(of_file(&self.cert, "holds no certificate in PEM form"));
        }
        Ok(chain)
    }

    fn secret(&self) -> Result<PrivateKeyDer<'static>, String> {
        // Read only once: the file may be a pipe.
        let pem = fs::read(&self.key).map_err(|error| of_file(&self.key, error))?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            // In the label (PKCS #8), or in a header (RFC 1421).
            let is_encrypted = pem.windows(9).any(|word| word == b"ENCRYPTED");
            let problem = match error {
                _ if is_encrypted => {
                    "the private key is encrypted; `openssl pkey -in … -out …` decrypts it".into()
                }
                pem::Error::NoItemsFound => "holds no private key in PEM form".into(),
                error => explain(&error),
            };
            of_file(&self.key, problem)
        })
    }

    /// Checks the key. The error of `with_single_cert` would not name the file.
    fn check_key(
        &self,
        chain: &[CertificateDer<'static>],
        secret: &PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<(), String> {
        let signer = provider.key_provider.load_private_key(secret.clone_key());
        let signer = signer.map_err(|_| of_file(&self.key, UNUSABLE_KEY))?;
        match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
            // Some kinds of keys cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
            Err(Error::InconsistentKeys(_)) => {
                let problem = format!("is not the key of {}", self.cert.display());
                Err(of_file(&self.key, problem))
            }
            Err(error) => Err(of_file(&self.cert, error)),
        }
    }
}

const UNUSABLE_KEY: &str = "the private key is broken, too weak, or of an unsupported kind: it must \
    be RSA with 2048 bits or more, ECDSA with P-256, P-384 or P-521, or Ed25519";

fn of_file(path: &Path, problem: impl fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

/// Explains an error to the operator, without text that may be a key.
fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let end = section_name(end_marker).map(|name| format!(" (`-----END {name}-----`)"));
            format!("it is cut off: the end of a section{} is missing", end.unwrap_or_default())
        }
        pem::Error::IllegalSectionStart { .. } => "a line with `-----BEGIN` is broken".into(),
        other => other.to_string(),
    }
}

/// Returns the label of a PEM section, if it is one. In a file of one line, the whole key stands in
/// its place.
fn section_name(name: &[u8]) -> Option<&str> {
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    str::from_utf8(name).ok().filter(|name| name.len() < 32 && name.as_bytes().iter().all(is_plain))
}

/// The bytes of a connection, without or with TLS.
pub(super) type MaybeTls = Either<WriteTimeout, Box<TlsStream<WriteTimeout>>>;

impl Tls {
    pub(super) fn load(files: TlsFiles) -> io::Result<Self> {
        let config = files.load().map_err(io::Error::other)?;
        Ok(Self { files, current: RwLock::new(Arc::new(config)) })
    }

    /// As [`Self::read_again`], on a thread of its own: a pipe or a network file system may block
    /// it forever.
    pub(super) async fn reload(self: Arc<Self>) {
        /// Time after which a slow read is logged.
        const USUAL: Duration = Duration::from_secs(10);
        let cert = self.files.cert.clone();
        let mut reading = spawn_blocking(move || self.read_again());
        if timeout(USUAL, &mut reading).await.is_err() {
            let cert = path(&cert);
            tracing::warn!(cert, "reading the certificate takes long");
            let _read_or_panicked = reading.await;
        }
    }

    /// Reads the files again. If they are wrong, the current certificate stays.
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

    /// Accepts a TLS connection. A client that speaks HTTP/1.1 without TLS gets a response that
    /// says so. `write_timeout` limits a peer that does not read.
    pub(super) async fn accept(
        &self,
        mut socket: Socket,
        write_timeout: Duration,
    ) -> io::Result<MaybeTls> {
        let mut first = [0];
        if peek(&socket, &mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            super::listener::answer_and_close(&mut socket, WRONG_SCHEME).await?;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let accepted =
            TlsAcceptor::from(current).accept(WriteTimeout::new(socket, write_timeout)).await?;
        Ok(Either::Right(Box::new(accepted)))
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
