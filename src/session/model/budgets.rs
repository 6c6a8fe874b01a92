//! Budgets of model tokens.

use std::time::{Duration, SystemTime};

use super::{Error, ErrorKind, Result, Timestamp, Usage};

/// Limits on model tokens, input and output together. 0 means no limit.
///
/// A turn is refused once a budget is used up. A reply that is running finishes, so that the last
/// one may exceed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of a session, over its life.
    pub session: u64,
    /// Of all sessions of an owner, per day (UTC).
    pub subject_per_day: u64,
    /// Of all sessions of the store, per day (UTC).
    pub per_day: u64,
}

/// Model tokens that have been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// By the session.
    pub session: u64,
    /// By the sessions of its owner, today.
    pub subject_today: u64,
    /// By all sessions of the store, today.
    pub today: u64,
}

impl Budgets {
    /// Returns true if the tokens of a day are needed for [`Self::check`].
    #[must_use]
    pub const fn has_daily(&self) -> bool {
        self.subject_per_day > 0 || self.per_day > 0
    }

    /// Refuses a turn if a budget is used up.
    ///
    /// # Errors
    /// `BudgetExceeded`, with the time of renewal for the budget of a day.
    pub fn check(&self, spent: Spent, now: Timestamp) -> Result<()> {
        let is_used_up = |budget: u64, spent: u64| budget > 0 && spent >= budget;
        if is_used_up(self.session, spent.session) {
            let message = format!(
                "The session has used its budget of {} model tokens: start a new one",
                self.session
            );
            return Err(Error::new(ErrorKind::BudgetExceeded, message));
        }
        let (budget, of) = if is_used_up(self.subject_per_day, spent.subject_today) {
            (self.subject_per_day, "of its owner")
        } else if is_used_up(self.per_day, spent.today) {
            (self.per_day, "of the gateway")
        } else {
            return Ok(());
        };
        let renewal = now.next_day();
        let at = humantime::format_rfc3339_seconds(SystemTime::from(renewal));
        let message = format!("Today's budget {of}, {budget} model tokens, is used up until {at}");
        let wait = renewal.since(now).max(Duration::from_secs(1));
        Err(Error::new(ErrorKind::BudgetExceeded, message).retry_after(wait))
    }
}

impl Usage {
    /// Returns the tokens that count for budgets.
    #[must_use]
    pub fn spent(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.output_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_budget_and_the_time_of_its_renewal() {
        let budgets = Budgets { session: 10, subject_per_day: 20, per_day: 30 };
        // 2026-11-27, 23:00 UTC.
        let now = Timestamp::from_millis(1_795_820_400_000);
        let check = |session, subject_today, today| {
            let refused = budgets.check(Spent { session, subject_today, today }, now);
            refused.map_err(|error| (error.kind(), error.message().to_owned(), error.wait()))
        };
        assert_eq!(check(9, 19, 29), Ok(()));
        let exceeded = ErrorKind::BudgetExceeded;
        let hour = Some(Duration::from_secs(3600));
        let (kind, message, wait) = check(10, 0, 0).unwrap_err();
        assert_eq!((kind, message.contains("10 model tokens"), wait), (exceeded, true, None));
        for (subject, day, part) in [(20, 0, "of its owner, 20"), (0, 31, "of the gateway, 30")] {
            let (kind, message, wait) = check(0, subject, day).unwrap_err();
            assert!(
                message.contains(part) && message.contains("2026-11-28T00:00:00Z"),
                "{message}"
            );
            assert_eq!((kind, wait), (exceeded, hour));
        }
        let none = Budgets::default();
        let spent = Spent { session: 99, subject_today: 99, today: 99 };
        assert!(none.check(spent, now).is_ok() && !none.has_daily());
    }
}
