//! One reply: which upstream is asked, how often, and when to give up.
//!
//! Until the first text has come, every failure is ours to mend: the next upstream is
//! asked at once, and when all have failed, those that may have recovered are asked
//! again after a while. After it none is: people have seen the text.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Pool, Upstream, answer::Answer, context::Context, failure::Failed, report::Report};
use crate::{
    responder::{Reason, admission::Refused, metrics, retry},
    session::{Chunk, Outcome},
};

/// A reply that is asked for.
pub(super) struct Exchange {
    pool: Arc<Pool>,
    context: Context,
    report: Report,
    /// When it has to be over.
    deadline: Instant,
    /// The upstreams, as far as this reply has used them up.
    tries: Vec<Tries>,
    /// It was trimmed after an upstream refused it.
    halved: bool,
}

#[derive(Clone, Copy, Default)]
struct Tries {
    made: u32,
    /// It is not asked again.
    over: bool,
    /// It was asked once more since a connection that had been kept was lost.
    reconnected: bool,
}

/// An answer with its first text; `None` if it is whole without any.
type Begun = (Answer, Option<String>);

/// A reply that is being said.
pub(super) struct Speech {
    answer: Answer,
    report: Report,
    context: Context,
    pool: Arc<Pool>,
    upstream: usize,
}

impl Exchange {
    pub(super) fn new(pool: Arc<Pool>, context: Context, report: Report) -> Self {
        let deadline = Instant::now() + pool.total_timeout;
        let tries = vec![Tries::default(); pool.upstreams.len()];
        Self { pool, context, report, deadline, tries, halved: false }
    }

    /// Asks until an upstream answers: what comes before and with the first text, and
    /// what says the rest. Without the latter the reply is over.
    pub(super) async fn begin(mut self) -> (Vec<Chunk>, Option<Speech>) {
        let begun = match timeout_at(self.deadline, self.attempts()).await {
            Ok(begun) => begun,
            Err(_) => Err(too_late()),
        };
        let mut chunks = Vec::new();
        if self.halved {
            chunks.push(Chunk::ContextTrimmed { input_tokens: self.context.tokens() });
        }
        match begun {
            Err(failed) => {
                self.report.gave_up(&failed);
                chunks.push(Chunk::End(failed.reason.outcome()));
                (chunks, None)
            }
            Ok((upstream, (answer, first))) => {
                let Self { pool, context, report, .. } = self;
                let mut speech = Speech { answer, report, context, pool, upstream };
                let (chunk, is_over) = speech.chunk(Ok(first));
                chunks.push(chunk);
                (chunks, (!is_over).then_some(speech))
            }
        }
    }

    async fn attempts(&mut self) -> Result<(usize, Begun), Failed> {
        let mut last = None;
        while let Some((n, wait)) = self.choose(&mut last) {
            let pool = Arc::clone(&self.pool);
            let upstream = &pool.upstreams[n];
            let failed = match self.attempt(upstream, wait).await {
                Ok(Some(begun)) => {
                    metrics::attempt(upstream.name(), "answered");
                    upstream.succeeded();
                    return Ok((n, begun));
                }
                Ok(None) => continue,
                Err(failed) => failed,
            };
            metrics::attempt(upstream.name(), failed.reason.code());
            self.report.failed_attempt(upstream, &failed, &self.context);
            if self.is_mended(n, &failed) {
                continue;
            }
            upstream.failed(&failed);
            self.tries[n].made += 1;
            self.tries[n].over = !failed.passes() || self.tries[n].made > upstream.retries();
            last = Some(failed);
        }
        Err(last.unwrap_or_else(too_late))
    }

    /// Asks an upstream after this long; `None` if it wants to be left alone by then, and
    /// another may be the better choice.
    async fn attempt(
        &mut self,
        upstream: &Upstream,
        wait: Duration,
    ) -> Result<Option<Begun>, Failed> {
        let place = match upstream.enter(wait).await {
            Ok(place) => place,
            Err(Refused::Cooling) => return Ok(None),
            Err(refused @ (Refused::Full | Refused::Late)) => {
                return Err(Failed::new(refused.reason(), refused));
            }
        };
        self.report.attempt(upstream);
        let mut answer = upstream.ask(&self.context.lines(), self.deadline, place).await?;
        let first = answer.next().await?;
        Ok(Some((answer, first)))
    }

    /// The failure was no fault of the upstream, and is not to be expected again: the prompt
    /// was too long and is shorter now, or the connection had been kept for too long.
    fn is_mended(&mut self, n: usize, failed: &Failed) -> bool {
        let is_context = failed.reason == Reason::ContextTooLong || failed.is_empty;
        if is_context && !self.halved && self.context.halve() {
            self.halved = true;
            self.report.trimmed(self.context.tokens());
            return true;
        }
        let upstream = &self.pool.upstreams[n];
        let was_kept = failed.is_lost && upstream.has_answered() && upstream.retries() > 0;
        was_kept && !std::mem::replace(&mut self.tries[n].reconnected, true)
    }

    /// Which upstream is next, and how long to wait before: the one that can be asked the
    /// soonest, of these the one that this reply has tried least, of these the first that
    /// is well, of these the one preferred.
    fn choose(&mut self, last: &mut Option<Failed>) -> Option<(usize, Duration)> {
        loop {
            let upstreams = self.pool.upstreams.iter().zip(&self.tries).enumerate();
            let open = upstreams.filter(|(_, (_, tries))| !tries.over);
            let states = open.map(|(n, (upstream, tries))| {
                let soonest = upstream.cooldown().max(retry::nominal(tries.made));
                (soonest, tries.made, upstream.is_avoided(), n)
            });
            let (_, made, _, n) = states.min()?;
            let cooldown = self.pool.upstreams[n].cooldown();
            let floor = if cooldown.is_zero() { cooldown } else { retry::after(cooldown) };
            let wait = floor.max(retry::back_off(made));
            if wait <= retry::MAX_WAIT && Instant::now() + wait < self.deadline {
                return Some((n, wait));
            }
            self.tries[n].over = true;
            last.get_or_insert_with(|| Failed::new(Refused::Cooling.reason(), Refused::Cooling));
        }
    }
}

impl Speech {
    /// The next piece, and whether it was the last.
    pub(super) async fn next(&mut self) -> (Chunk, bool) {
        let said = self.answer.next().await;
        self.chunk(said)
    }

    fn chunk(&mut self, said: Result<Option<String>, Failed>) -> (Chunk, bool) {
        let failed = match said {
            Ok(Some(text)) => {
                self.report.text(&text);
                return (Chunk::Delta(text), false);
            }
            Ok(None) => None,
            Err(failed) => Some(failed),
        };
        if let Some(failed) = &failed {
            let upstream = &self.pool.upstreams[self.upstream];
            self.report.failed_attempt(upstream, failed, &self.context);
            upstream.failed(failed);
        }
        self.report.ended(&self.answer, failed.as_ref());
        let outcome = Outcome {
            usage: self.answer.usage(),
            finish_reason: self.answer.finish_reason(),
            ..failed.map_or(Outcome::complete(None, None), |failed| failed.reason.outcome())
        };
        (Chunk::End(outcome), true)
    }
}

fn too_late() -> Failed {
    Failed::new(Reason::TotalTimeout, "the total timeout is over")
}
