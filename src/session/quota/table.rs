//! The accounts by their keys, in bounded memory.
//!
//! The table is a set of small buckets, like a set-associative cache. A full bucket evicts the account
//! that has used the smallest part of its limits, so that an account at a limit stays in the table.
//! The hash of a key is seeded at random, so that a caller cannot choose which accounts are evicted.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
};

use super::{account::Account, account_key::AccountKey, limits::Limits};
use crate::session::model::Timestamp;

/// Number of buckets, a power of two.
const BUCKETS: usize = 4096;

/// Accounts of a bucket that no stream or connection holds.
const WIDTH: usize = 16;

type Entry = (AccountKey, Arc<Account>);

#[derive(Debug)]
pub(super) struct AccountTable {
    hasher: RandomState,
    // A std mutex: it is held for a few instructions and never across an await.
    buckets: Box<[Mutex<Vec<Entry>>]>,
    /// Living processes that share the store.
    pub(super) processes: Arc<AtomicU32>,
}

impl Default for AccountTable {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(Mutex::default).take(BUCKETS);
        let processes = Arc::new(AtomicU32::new(1));
        Self { hasher: RandomState::new(), buckets: buckets.collect(), processes }
    }
}

impl AccountTable {
    /// Returns the account of a key. Creates it if it does not exist.
    pub(super) fn get(&self, key: AccountKey, limits: Limits, secret: &[u8; 32]) -> Arc<Account> {
        let place = self.hasher.hash_one(&key) as usize % BUCKETS;
        let mut bucket = self.buckets[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, account)) = bucket.iter().find(|(known, _)| *known == key) {
            return Arc::clone(account);
        }
        let account = Arc::new(Account::new(&key, limits, secret, Arc::clone(&self.processes)));
        let entry = (key, Arc::clone(&account));
        let is_full = bucket.len() >= WIDTH;
        match least_used(&bucket).filter(|_| is_full) {
            Some(place) => bucket[place] = entry,
            // All of them are held: there are no more of these than streams and connections.
            None => bucket.push(entry),
        }
        account
    }
}

/// Returns the place of the account that has used the least of its limits and is not held.
fn least_used(bucket: &[Entry]) -> Option<usize> {
    let now = Timestamp::of_wall_clock();
    let free = bucket.iter().enumerate().filter(|(_, (_, it))| Arc::strong_count(it) == 1);
    let used = free.map(|(place, (_, account))| (account.use_of_limits(now), place));
    used.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> AccountKey {
        AccountKey::V4(number.to_be_bytes())
    }

    #[test]
    fn memory_is_bounded_and_a_limited_account_stays_limited() {
        let table = AccountTable::default();
        let limits = Limits { sessions_per_minute: 1, ..Limits::default() };
        let attacker = address(u32::MAX);
        let now = Timestamp::of_wall_clock();
        table.get(attacker.clone(), limits, &[0; 32]).charge_session(true, now).unwrap();
        let held = table.get(address(u32::MAX - 1), limits, &[0; 32]);
        for number in 0..300_000 {
            table.get(address(number), limits, &[0; 32]);
        }
        let entries = table.buckets.iter().map(|bucket| bucket.lock().unwrap().len());
        assert!(entries.sum::<usize>() <= BUCKETS * WIDTH + 1);
        assert!(table.get(attacker, limits, &[0; 32]).charge_session(true, now).is_err());
        assert!(Arc::ptr_eq(&held, &table.get(address(u32::MAX - 1), limits, &[0; 32])));
    }
}
