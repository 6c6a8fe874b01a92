//! Counts of what sessions use: bytes, and model tokens of the day.

use super::{Counter, RedisStore};
use crate::session::{
    AppendLimits, Page, Result, SessionId, ShareOf, Spent, Store as _, Timestamp,
};

impl RedisStore {
    /// Returns the tokens of the day of all nodes, as far as a budget needs them.
    pub(super) async fn spent_today(&self, id: SessionId, limits: &AppendLimits) -> Result<Spent> {
        if !limits.budgets.has_daily() {
            return Ok(Spent::default());
        }
        let day = limits.now.day();
        let owner = self.read(id, limits.now, Page::HEAD).await?.session.subject;
        let of_owner = owner.map(|owner| Counter::Tokens(day, Some((*owner).into())));
        let all = Counter::Tokens(day, None);
        let mut counters = vec![all];
        counters.extend(of_owner);
        let sums = self.counters.read(&self.link, &self.keys, &counters).await?;
        let of = |place: usize| sums.get(place).copied().unwrap_or(0);
        Ok(Spent { session: 0, subject_today: of(1), today: of(0) })
    }

    /// Counts the bytes of a message that was appended, and the model tokens of a reply.
    pub(super) fn count_written(
        &self,
        share: Option<ShareOf>,
        size: usize,
        tokens: u64,
        now: Timestamp,
    ) {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if tokens > 0 {
            self.counters.add(Counter::Tokens(now.day(), None), count(tokens));
            if let Some(ShareOf::Subject(subject)) = &share {
                let of_owner = Counter::Tokens(now.day(), Some((**subject).into()));
                self.counters.add(of_owner, count(tokens));
            }
        }
        if let Some(of) = share {
            self.counters.add(Counter::size(&of), count(size as u64));
        }
    }
}
