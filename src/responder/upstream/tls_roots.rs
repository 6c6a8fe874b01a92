//! Authorities that vouch for an upstream: from a PEM file, or those of the system.

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
pub(in crate::responder) fn read(path: &Path) -> Result<Vec<u8>, String> {
    load(path).map(|(pem, _)| pem)
}

/// The file's certificates, as what is trusted alone.
///
/// # Errors
/// As [`read`].
pub(in crate::responder) fn roots(path: &Path) -> Result<RootCertStore, String> {
    load(path).map(|(_, roots)| roots)
}

/// What the system trusts.
///
/// # Errors
/// One line: it trusts nobody.
pub(in crate::responder) fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold what is no certificate any more: the others count.
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
