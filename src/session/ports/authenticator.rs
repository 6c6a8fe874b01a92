//! The port for components that check credentials.

use async_trait::async_trait;

use crate::session::model::{Credential, Error, ErrorKind, Identity, Result, Timestamp};

/// Checks credentials.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Returns the identity that a credential proves. `now` is the time of the wall clock.
    ///
    /// # Errors
    /// `Unauthenticated` for a credential that is unknown, expired or of a form that is not
    /// accepted; `Overloaded` if it cannot be checked at the moment.
    async fn identify(&self, credential: &Credential, now: Timestamp) -> Result<Identity>;
}

/// Accepts no credential.
#[derive(Clone, Copy, Debug)]
pub struct NoCredentials;

#[async_trait]
impl Authenticator for NoCredentials {
    async fn identify(&self, _: &Credential, _: Timestamp) -> Result<Identity> {
        let message = "This gateway accepts no API keys and no JWTs";
        Err(Error::new(ErrorKind::Unauthenticated, message))
    }
}
