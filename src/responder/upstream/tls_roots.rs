//! Trusted CA certificates: of a PEM file, or of the system.

use std::{fmt::Display, fs, path::Path};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Reads the file and checks each certificate. The TLS libraries ignore certificates that they
/// cannot use, and would trust none in the end.
///
/// # Errors
/// One line that begins with the path.
pub(in crate::responder) fn read(path: &Path) -> Result<Vec<u8>, String> {
    load(path).map(|(pem, _)| pem)
}

/// Returns the certificates of the file as the only trusted ones.
///
/// # Errors
/// As [`read`].
pub(in crate::responder) fn roots(path: &Path) -> Result<RootCertStore, String> {
    load(path).map(|(_, roots)| roots)
}

/// Returns the certificates that the system trusts.
///
/// # Errors
/// One line: the system trusts no certificate.
pub(in crate::responder) fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // The store of a system may contain invalid certificates. They are ignored.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("the system has no certificates to trust: {}", errors.join(", ")));
    }
    Ok(roots)
}

fn load(path: &Path) -> Result<(Vec<u8>, RootCertStore), String> {
    let problem = |problem: &dyn Display| format!("{}: {problem}", path.display());
    let pem = fs::read(path).map_err(|error| problem(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.map(|certificate| roots.add(certificate));
        added.map_err(|error| problem(&error))?.map_err(|error| problem(&error))?;
    }
    if roots.is_empty() {
        return Err(problem(&"it holds no certificate in PEM form"));
    }
    Ok((pem, roots))
}
