//! Identifies callers.

use std::sync::Arc;

use metrics::counter;

use super::Gateway;
use crate::session::{
    caller::{Caller, PeerAddress},
    core::PEER,
    model::{Credential, Error, ErrorKind, Result, Timestamp},
    quota::{ConnectionSlot, StreamSlot},
};

impl Gateway {
    /// Takes a connection of an address. The slot is given back when it is dropped.
    ///
    /// # Errors
    /// `RateLimited` if the address has too many.
    pub fn connection(&self, address: PeerAddress) -> Result<Option<ConnectionSlot>> {
        self.core.quota.connection(address)
    }

    /// Returns the address of a caller as the log shows it.
    #[must_use]
    pub fn logged_address(&self, caller: &Caller) -> Option<String> {
        self.core.addresses.of(caller.address)
    }

    /// Takes a stream of a caller that is no stream of a session.
    ///
    /// # Errors
    /// `RateLimited` if the caller has too many.
    pub fn stream_slot(&self, caller: &Caller) -> Result<StreamSlot> {
        self.core.quota.accounts(caller, None).into_stream().map(StreamSlot::new)
    }

    /// Returns the caller with the identity that its credential proves. A wrong credential is
    /// refused, also where none is needed.
    ///
    /// # Errors
    /// `Unauthenticated`, or `Overloaded` if the credential cannot be checked at the moment.
    pub async fn identify(
        &self,
        caller: Caller,
        credential: Option<&Credential>,
    ) -> Result<Caller> {
        let Some(credential) = credential else { return Ok(caller) };
        let core = &self.core;
        core.quota.check_failures(caller.address, core.clock.now())?;
        let checked = if credential.expose().len() > Credential::MAX_SIZE {
            Err(Error::new(ErrorKind::Unauthenticated, "The credential is too long"))
        } else {
            core.authenticator.identify(credential, Timestamp::of_wall_clock()).await
        };
        let result = if checked.is_ok() { "accepted" } else { "refused" };
        counter!("duologue_credentials_total", "result" => result).increment(1);
        match checked {
            Ok(identity) => Ok(Caller { identity: Some(Arc::new(identity)), ..caller }),
            Err(error) => {
                let address = core.addresses.of(caller.address);
                tracing::debug!(target: PEER, address, %error, "credential refused");
                if error.kind() == ErrorKind::Unauthenticated {
                    core.quota.count_failure(caller.address, core.clock.now());
                }
                Err(error)
            }
        }
    }
}
