//! Authorities that vouch for an upstream, from a PEM file.

use std::{fmt::Display, fs, path::Path};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The file, once each of its certificates has been looked at: the libraries pass over what
/// they cannot use, and would trust nobody in the end.
///
/// # Errors
/// One line that begins with the path.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
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
    Ok(pem)
}
