//! The attempts of one reply: the choice of the upstream, retries, and giving up.
//!
//! Before the first content, every failure leads to another attempt: the next upstream is asked at
//! once, and after all have failed, those with a transient failure are asked again after a delay.
//! After the first content there is no further attempt, since users have seen it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    context::Context,
    failure::UpstreamError,
    pool::Pool,
    report::Report,
    response::{ResponseStream, Step},
};
use crate::{
    responder::upstream::{
        Effect, Reason, backoff,
        limiter::{LimiterError, Patience, Permit},
        metrics,
    },
    session::{Chunk, Outcome},
};

/// A reply before its first content.
pub(super) struct Attempts {
    pool: Arc<Pool>,
    context: Context,
    /// A shorter context, for upstreams that refused the first as too long.
    halved: Option<Context>,
    report: Report,
    /// Deadline of the reply.
    deadline: Instant,
    /// The attempts made so far, by upstream.
    tries: Vec<Tries>,
}

#[derive(Clone, Copy, Default)]
struct Tries {
    made: u32,
    /// No further attempt.
    over: bool,
    /// It refused the context as too long.
    halved: bool,
    /// A reused connection was lost. Further attempts use new ones.
    reconnects: bool,
}

/// A response and its first step.
type Begun = (ResponseStream, Step);

/// A reply after its first content.
pub(super) struct ReplyStream {
    response_stream: ResponseStream,
    report: Report,
    pool: Arc<Pool>,
    upstream: usize,
}

impl Attempts {
    pub(super) fn new(pool: Arc<Pool>, context: Context, report: Report) -> Self {
        let deadline = Instant::now() + pool.total_timeout;
        let tries = vec![Tries::default(); pool.upstreams.len()];
        Self { pool, context, halved: None, report, deadline, tries }
    }

    /// Asks upstreams until one answers. Returns the chunks up to the first content, and the stream of
    /// the rest. `None` if the reply is over.
    pub(super) async fn begin(mut self) -> (Vec<Chunk>, Option<ReplyStream>) {
        let begun = self.attempts().await;
        let was_halved = match &begun {
            Ok((n, _)) => self.tries[*n].halved,
            Err(_) => true,
        };
        let mut chunks = Vec::new();
        if let Some(half) = self.halved.take().filter(|_| was_halved) {
            self.report.trimmed(half.tokens());
            chunks.push(Chunk::ContextTrimmed { input_tokens: Some(half.tokens()) });
        }
        match begun {
            Err(failed) => {
                self.report.gave_up(&failed);
                chunks.push(Chunk::End(failed.reason.outcome()));
                (chunks, None)
            }
            Ok((upstream, (response_stream, first))) => {
                let Self { pool, report, .. } = self;
                let mut reply = ReplyStream { response_stream, report, pool, upstream };
                let (chunk, is_over) = reply.chunk(Ok(first));
                chunks.push(chunk);
                (chunks, (!is_over).then_some(reply))
            }
        }
    }

    async fn attempts(&mut self) -> Result<(usize, Begun), UpstreamError> {
        let mut last = None;
        while let Some((n, wait)) = self.choose(&mut last) {
            let pool = Arc::clone(&self.pool);
            let upstream = &pool.upstreams[n];
            let tried = match self.permit(n, wait).await {
                Ok(permit) => {
                    let asked = timeout_at(self.deadline, self.ask(n, permit)).await;
                    asked.unwrap_or_else(|_| Err(too_late())).map(Some)
                }
                Err(LimiterError::Cooling) => Ok(None),
                Err(refused) => Err(UpstreamError::new(refused.reason(), refused)),
            };
            let failed = match tried {
                Ok(Some(begun)) => {
                    metrics::attempt(upstream.name(), "answered");
                    upstream.succeeded();
                    return Ok((n, begun));
                }
                Ok(None) => continue,
                Err(failed) => failed,
            };
            metrics::attempt(upstream.name(), failed.reason.code());
            self.report.failed_attempt(upstream, &failed);
            if let Some(asked) = failed.retry_after {
                upstream.cool_down(asked);
            }
            if self.avoids(n, &failed) {
                continue;
            }
            upstream.failed(failed.reason);
            self.tries[n].made += 1;
            self.tries[n].over = failed.reason.effect() != Effect::Transient
                || self.tries[n].made > upstream.retries();
            last = Some(failed);
        }
        Err(last.unwrap_or_else(too_late))
    }

    /// Waits for a delay, then for a permit of an upstream. `Cooling` if the upstream has asked for a
    /// pause meanwhile, so that another one may be the better choice.
    ///
    /// The turn was accepted: it does not fail because others run. Where no other upstream is left it
    /// waits as long as it takes, and the wait does not count for the deadline.
    async fn permit(&mut self, n: usize, wait: Duration) -> Result<Permit, LimiterError> {
        let others = self.tries.iter().enumerate().filter(|(m, tries)| *m != n && !tries.over);
        let is_last = others.count() == 0;
        let patience = if is_last { Patience::Unlimited } else { Patience::Limited };
        let began = Instant::now();
        let permit = self.pool.upstreams[n].acquire(wait, patience).await;
        self.deadline += began.elapsed().saturating_sub(wait);
        permit
    }

    /// Asks an upstream, and waits for the first content.
    async fn ask(&mut self, n: usize, permit: Permit) -> Result<Begun, UpstreamError> {
        let pool = Arc::clone(&self.pool);
        let upstream = &pool.upstreams[n];
        self.report.attempt(upstream);
        let Tries { halved, reconnects, .. } = self.tries[n];
        let context = self.halved.as_ref().filter(|_| halved).unwrap_or(&self.context);
        let request = context.request(upstream.name());
        let mut response_stream = upstream.ask(&request, self.deadline, permit, reconnects).await?;
        let first = response_stream.next().await?;
        Ok((response_stream, first))
    }

    /// Changes the next attempt so that this failure cannot occur again: with a shorter prompt, or
    /// a new connection. Returns false if neither is the cause.
    fn avoids(&mut self, n: usize, failed: &UpstreamError) -> bool {
        let tries = &mut self.tries[n];
        let is_context = failed.reason == Reason::ContextTooLong || failed.is_empty;
        if is_context && !tries.halved {
            self.halved = self.halved.take().or_else(|| self.context.halved());
            tries.halved = self.halved.is_some();
            return tries.halved;
        }
        let upstream = &self.pool.upstreams[n];
        let was_kept = failed.is_lost && upstream.has_answered() && upstream.retries() > 0;
        was_kept && !std::mem::replace(&mut tries.reconnects, true)
    }

    /// Returns the next upstream and the delay before. Prefers the shortest delay, then the fewest
    /// attempts, then a healthy upstream, then the configured order.
    fn choose(&mut self, last: &mut Option<UpstreamError>) -> Option<(usize, Duration)> {
        loop {
            let upstreams = self.pool.upstreams.iter().zip(&self.tries).enumerate();
            let open = upstreams.filter(|(_, (_, tries))| !tries.over);
            let states = open.map(|(n, (upstream, tries))| {
                let soonest = upstream.cooldown().max(backoff::nominal(tries.made));
                (soonest, tries.made, upstream.is_avoided(), n)
            });
            let (_, made, _, n) = states.min()?;
            let cooldown = self.pool.upstreams[n].cooldown();
            let floor = if cooldown.is_zero() { cooldown } else { backoff::after(cooldown) };
            let wait = floor.max(backoff::jittered(made));
            if wait <= backoff::MAX_WAIT && Instant::now() + wait < self.deadline {
                return Some((n, wait));
            }
            self.tries[n].over = true;
            last.get_or_insert_with(|| {
                UpstreamError::new(LimiterError::Cooling.reason(), LimiterError::Cooling)
            });
        }
    }
}

impl ReplyStream {
    /// Returns the next chunk, and true if it is the last.
    pub(super) async fn next(&mut self) -> (Chunk, bool) {
        let step = self.response_stream.next().await;
        self.chunk(step)
    }

    fn chunk(&mut self, step: Result<Step, UpstreamError>) -> (Chunk, bool) {
        let failed = match step {
            Ok(Step::Chunk(chunk)) => {
                self.report.chunk(&chunk);
                return (chunk, false);
            }
            Ok(Step::Finished) => {
                let finish_reason = self.response_stream.finish_reason();
                return (Chunk::Finished { finish_reason }, false);
            }
            Ok(Step::End) => None,
            Err(failed) => Some(failed),
        };
        if let Some(failed) = &failed {
            let upstream = &self.pool.upstreams[self.upstream];
            self.report.failed_attempt(upstream, failed);
            upstream.failed(failed.reason);
            if let Some(asked) = failed.retry_after {
                upstream.cool_down(asked);
            }
        }
        self.report.ended(&self.response_stream, failed.as_ref());
        let outcome = Outcome {
            usage: self.response_stream.usage(),
            finish_reason: self.response_stream.finish_reason(),
            model: self.response_stream.model(),
            provider_data: self.response_stream.provider_data(),
            ..failed.map_or_else(Outcome::default, |failed| failed.reason.outcome())
        };
        (Chunk::End(outcome), true)
    }
}

fn too_late() -> UpstreamError {
    UpstreamError::new(Reason::TotalTimeout, "the total timeout has passed")
}
