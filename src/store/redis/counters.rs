//! Counts of several nodes: parts of the store, and model tokens of a day.
//!
//! Each node adds its own counts once a second. Until then, other nodes do not see them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    keys::{Key, Keys},
    link::{Batch, Link},
};
use crate::session::{Result, ShareOf};

/// A count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    /// Sessions of an owner or an address.
    Sessions(Vec<u8>),
    /// Bytes of their messages.
    Size(Vec<u8>),
    /// Model tokens of a day, of an owner or of all.
    Tokens(u64, Option<Box<str>>),
}

/// Time for which the tokens of a day are kept, in seconds.
const DAY_LIFE: i64 = 2 * 86_400;

/// Largest number of sums that are kept in memory.
const MAX_KNOWN: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Counted here and not added yet.
    pending: Mutex<HashMap<Counter, i64>>,
    /// Sums of all nodes, at the last addition or read.
    known: Mutex<HashMap<Counter, i64>>,
}

impl Counters {
    pub(super) fn add(&self, counter: Counter, count: i64) {
        *lock(&self.pending).entry(counter).or_default() += count;
    }

    /// Adds what was counted since the last call. What cannot be added is added by the next call.
    pub(super) async fn flush(&self, link: &Link, keys: &Keys) -> Result<()> {
        let pending = std::mem::take(&mut *lock(&self.pending));
        let pending: Vec<_> = pending.into_iter().filter(|(_, count)| *count != 0).collect();
        if pending.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (counter, count) in &pending {
            batch.cmd("INCRBY", &counter.key(keys)).arg(*count);
        }
        let days = pending.iter().filter(|(counter, _)| matches!(counter, Counter::Tokens(..)));
        for (counter, _) in days {
            batch.cmd("EXPIRE", &counter.key(keys)).arg(DAY_LIFE);
        }
        match link.batch::<i64>(&batch).await {
            Ok(sums) => {
                let mut known = lock(&self.known);
                if known.len() > MAX_KNOWN {
                    known.clear();
                }
                known.extend(pending.into_iter().map(|(counter, _)| counter).zip(sums));
                Ok(())
            }
            Err(error) => {
                for (counter, count) in pending {
                    self.add(counter, count);
                }
                Err(error)
            }
        }
    }

    /// Reads the sums of all nodes.
    pub(super) async fn read(
        &self,
        link: &Link,
        keys: &Keys,
        counters: &[Counter],
    ) -> Result<Vec<u64>> {
        let mut batch = Batch::default();
        for counter in counters {
            batch.cmd("GET", &counter.key(keys));
        }
        let sums: Vec<Option<i64>> = link.batch(&batch).await?;
        let mut known = lock(&self.known);
        known.extend(counters.iter().cloned().zip(sums.into_iter().map(Option::unwrap_or_default)));
        drop(known);
        Ok(counters.iter().map(|counter| self.get(counter).unwrap_or(0)).collect())
    }

    /// Returns a sum as this node knows it. `None` if it has never been read.
    pub(super) fn get(&self, counter: &Counter) -> Option<u64> {
        let known = lock(&self.known).get(counter).copied()?;
        let pending = lock(&self.pending).get(counter).copied().unwrap_or(0);
        Some(u64::try_from(known + pending).unwrap_or(0))
    }
}

impl Counter {
    pub(super) fn sessions(of: &ShareOf) -> Self {
        Self::Sessions(share_name(of))
    }

    pub(super) fn size(of: &ShareOf) -> Self {
        Self::Size(share_name(of))
    }

    fn key(&self, keys: &Keys) -> Key {
        match self {
            Self::Sessions(of) => keys.about("ns:", of),
            Self::Size(of) => keys.about("sz:", of),
            Self::Tokens(day, None) => keys.about("d:", day.to_string().as_bytes()),
            Self::Tokens(day, Some(subject)) => {
                keys.about("d:", format!("{day}:{subject}").as_bytes())
            }
        }
    }
}

/// Names a share. The two kinds have different lengths or beginnings.
fn share_name(of: &ShareOf) -> Vec<u8> {
    match of {
        ShareOf::Subject(subject) => [b"s:", subject.as_bytes()].concat(),
        ShareOf::Origin(origin) => [b"o:", &origin.0[..]].concat(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
