//! The model tokens of a day.

use std::{collections::HashMap, sync::Arc};

use crate::session::Timestamp;

/// Tokens of the newest day.
#[derive(Debug, Default)]
pub(super) struct SpentToday {
    day: u64,
    all: u64,
    subjects: HashMap<Arc<str>, u64>,
}

impl SpentToday {
    /// Counts tokens of a session of this owner.
    pub(super) fn count(&mut self, owner: Option<&Arc<str>>, tokens: u64, now: Timestamp) {
        if now.day() != self.day {
            *self = Self { day: now.day(), ..Self::default() };
        }
        self.all += tokens;
        if let Some(owner) = owner {
            *self.subjects.entry(Arc::clone(owner)).or_default() += tokens;
        }
    }

    /// Returns the tokens of an owner, and of all sessions.
    pub(super) fn today(&self, owner: Option<&Arc<str>>, now: Timestamp) -> (u64, u64) {
        if now.day() != self.day {
            return (0, 0);
        }
        let of_owner = owner.and_then(|owner| self.subjects.get(owner));
        (of_owner.copied().unwrap_or(0), self.all)
    }
}
