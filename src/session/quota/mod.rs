//! Limits per caller: what one address, one subject and one API key may use.
//!
//! An [`Account`] holds the counts of one of them. The [`Accounts`] of an operation are those of the
//! caller's address and of the owner of the session. An operation that would exceed a limit is
//! refused before it causes any work. The owner is charged first: a refusal by its limits does not
//! use up those of an address that others share.

mod account;
mod account_key;
mod bucket;
mod limits;
mod table;

use std::{
    ops::Deref,
    sync::{Arc, atomic::Ordering},
};

use account::Account;
pub use account::ConnectionSlot;
use account_key::AccountKey;
pub use limits::{CallerLimits, Limits};
use table::AccountTable;

use super::{
    caller::{Caller, PeerAddress},
    model::{IdentityKind, Result, Timestamp},
    ports::{Origin, ShareOf, Store},
};

/// The accounts of recent callers.
#[derive(Debug)]
pub(super) struct Quota {
    limits: CallerLimits,
    /// The secret of the store.
    secret: [u8; 32],
    table: AccountTable,
}

/// The accounts that an operation is charged to, each with its limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    address: Option<Arc<Account>>,
    subject: Option<Arc<Account>>,
    key: Option<Arc<Account>>,
}

impl Quota {
    pub(super) fn new(limits: CallerLimits, secret: [u8; 32]) -> Self {
        Self { limits, secret, table: AccountTable::default() }
    }

    /// Sets the number of living processes that share the store. Each grants its part of the rates.
    pub(super) fn set_processes(&self, processes: usize) {
        let processes = u32::try_from(processes).unwrap_or(u32::MAX);
        self.table.processes.store(processes, Ordering::Relaxed);
    }

    /// Returns the accounts of an operation of a caller on a session of this owner.
    pub(super) fn accounts(&self, caller: &Caller, owner: Option<&Arc<str>>) -> Accounts {
        let CallerLimits { address, subject, key } = &self.limits;
        // A service calls for many users from one address.
        let is_service = |caller: &Caller| {
            let identity = caller.identity.as_ref();
            identity.is_some_and(|identity| identity.kind == IdentityKind::Service)
        };
        let of_address = caller.address.filter(|_| address.has_any() && !is_service(caller));
        Accounts {
            address: of_address.map(|address| self.of_address(address)),
            subject: owner
                .filter(|_| subject.has_any())
                .map(|owner| self.get(AccountKey::Subject(Arc::clone(owner)), *subject)),
            key: owner
                .filter(|_| key.has_any())
                .and_then(|owner| AccountKey::of_key(owner))
                .map(|of_key| self.get(of_key, *key)),
        }
    }

    fn of_address(&self, address: PeerAddress) -> Arc<Account> {
        self.get(AccountKey::of_address(address), self.limits.address)
    }

    fn get(&self, key: AccountKey, limits: Limits) -> Arc<Account> {
        self.table.get(key, limits, &self.secret)
    }

    /// Returns the origin of a session without an owner.
    pub(super) fn origin(&self, caller: &Caller) -> Option<Origin> {
        match AccountKey::of_address(caller.address?).share(&self.secret) {
            Some(ShareOf::Origin(origin)) => Some(origin),
            Some(ShareOf::Subject(_)) | None => None,
        }
    }

    /// Takes a connection of an address. The slot is given back when it is dropped.
    ///
    /// # Errors
    /// `RateLimited` if the address has too many.
    pub(super) fn connection(&self, address: PeerAddress) -> Result<Option<ConnectionSlot>> {
        if self.limits.address.connections == 0 {
            return Ok(None);
        }
        self.of_address(address).connection().map(Some)
    }

    /// Fails if an address has presented too many wrong tokens and credentials.
    pub(super) fn check_failures(
        &self,
        address: Option<PeerAddress>,
        now: Timestamp,
    ) -> Result<()> {
        match address.filter(|_| self.limits.address.failures_per_minute > 0) {
            Some(address) => self.of_address(address).check_failures(now),
            None => Ok(()),
        }
    }

    /// Counts a wrong token or credential.
    pub(super) fn count_failure(&self, address: Option<PeerAddress>, now: Timestamp) {
        if let Some(address) = address.filter(|_| self.limits.address.failures_per_minute > 0) {
            self.of_address(address).count_failure(now);
        }
    }
}

impl Accounts {
    fn all(&self) -> impl Iterator<Item = &Arc<Account>> {
        [&self.subject, &self.key, &self.address].into_iter().flatten()
    }

    /// Reads the share of the store of each account whose share is unknown or old.
    pub(super) async fn read_shares(&self, store: &dyn Store, now: Timestamp) -> Result<()> {
        for account in self.all() {
            if let Some(of) = account.share_to_read(now) {
                account.share_was_read(store.share(of, now).await?, now);
            }
        }
        Ok(())
    }

    /// Charges a new session.
    ///
    /// # Errors
    /// `RateLimited`, `StoreFull`.
    pub(super) fn charge_session(&self, now: Timestamp) -> Result<()> {
        self.all().try_for_each(|account| account.charge_session(true, now))
    }

    /// Charges a new token.
    ///
    /// # Errors
    /// `RateLimited`.
    pub(super) fn charge_token(&self, now: Timestamp) -> Result<()> {
        self.all().try_for_each(|account| account.charge_session(false, now))
    }

    /// Charges a user message of this size.
    ///
    /// # Errors
    /// `RateLimited`, `StoreFull`.
    #[inline]
    pub(super) fn charge_message(&self, size: usize, now: Timestamp) -> Result<()> {
        self.all().try_for_each(|account| account.charge_message(size, now))
    }

    /// Takes a stream of each account.
    ///
    /// # Errors
    /// `RateLimited`.
    pub(super) fn into_stream(self) -> Result<StreamAccounts> {
        let mut stream = StreamAccounts(Self::default());
        let places = [
            (self.subject, &mut stream.0.subject),
            (self.key, &mut stream.0.key),
            (self.address, &mut stream.0.address),
        ];
        for (account, place) in places {
            if let Some(account) = account {
                account.take_stream()?;
                *place = Some(account);
            }
        }
        Ok(stream)
    }
}

/// The accounts of a stream. Dropping them gives the stream back.
#[derive(Debug)]
pub(super) struct StreamAccounts(Accounts);

/// A stream of a caller, until it is dropped.
#[derive(Debug)]
pub struct StreamSlot {
    _accounts: StreamAccounts,
}

impl StreamSlot {
    pub(super) const fn new(accounts: StreamAccounts) -> Self {
        Self { _accounts: accounts }
    }
}

impl Deref for StreamAccounts {
    type Target = Accounts;

    fn deref(&self) -> &Accounts {
        &self.0
    }
}

impl Drop for StreamAccounts {
    fn drop(&mut self) {
        self.0.all().for_each(|account| account.return_stream());
    }
}
