//! One reply: calls to the bot until one of them produces text.

use std::{mem, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use proto::respond_response::Event;
use tokio::time::Instant;

use super::{
    bot_client::BotClient,
    call::{BotCall, Limit},
    failure::{self, UpstreamError},
    request::request,
};
use crate::{
    proto,
    responder::upstream::{
        backoff,
        limiter::{LimiterError, Permit},
        metrics, sanitize,
    },
    session::{Chunk, Chunks, Outcome, Prompt},
};

/// Name of the bot in the metrics of upstreams.
const METER: &str = "bot";

pub(super) struct ReplyStream {
    bot: Arc<BotClient>,
    prompt: Prompt,
    /// Text has arrived.
    has_text: bool,
    failures: u32,
    /// Delay before the next call.
    backoff: Duration,
    /// Deadline of the reply.
    total: Instant,
    call: Option<BotCall>,
}

impl ReplyStream {
    pub(super) fn new(bot: &Arc<BotClient>, prompt: Prompt) -> Self {
        Self {
            bot: Arc::clone(bot),
            prompt,
            has_text: false,
            failures: 0,
            backoff: Duration::ZERO,
            total: Instant::now() + bot.settings.total_timeout,
            call: None,
        }
    }

    /// Returns the chunks of the reply. Dropping them cancels the call.
    pub(super) fn chunks(self) -> Chunks {
        let chunks = stream::unfold(Some(self), |answer| async {
            let mut answer = answer?;
            let chunk = answer.next().await;
            let over = matches!(chunk, Chunk::End(_));
            Some((chunk, (!over).then_some(answer)))
        });
        chunks.boxed()
    }

    async fn next(&mut self) -> Chunk {
        loop {
            let failed = match self.step().await {
                Ok(Some(chunk)) => return chunk,
                Ok(None) => continue,
                Err(failed) => failed,
            };
            self.call = None;
            self.failures += 1;
            if !self.has_text {
                metrics::attempt(METER, failed.reason.code());
            }
            if let Some(asked) = failed.retry_after {
                self.bot.limiter.cool_down(asked);
            }
            let again = self.again_after(&failed);
            self.report(&failed, again.is_some());
            match again {
                Some(wait) => self.backoff = wait,
                None => return Chunk::End(failed.reason.outcome()),
            }
        }
    }

    /// Begins the call, or waits for its next frame. Returns `None` for a frame without content.
    async fn step(&mut self) -> Result<Option<Chunk>, UpstreamError> {
        let Some(call) = &mut self.call else {
            self.call = Some(self.begin().await?);
            return Ok(None);
        };
        match call.next().await? {
            Some(Event::Delta(delta)) if !delta.text.is_empty() => {
                self.drop_history();
                Ok(Some(Chunk::Delta(delta.text)))
            }
            Some(Event::Outcome(outcome)) => {
                self.drop_history();
                if let Some(call) = self.call.take() {
                    call.end();
                }
                Ok(Some(Chunk::End(ending(outcome))))
            }
            Some(Event::Delta(_)) | None => Ok(None),
        }
    }

    async fn begin(&mut self) -> Result<BotCall, UpstreamError> {
        let permit = Limit::total(self.total).within(self.permit()).await?;
        let request = request(&self.prompt, self.bot.settings.max_reply_size);
        BotCall::begin(&self.bot, request, self.total, permit).await
    }

    /// Waits for a permit, also during a pause that the bot asked for.
    async fn permit(&self) -> Result<Permit, UpstreamError> {
        let limiter = &self.bot.limiter;
        let mut backoff = self.backoff;
        loop {
            let refused = match limiter.acquire(backoff).await {
                Ok(permit) => return Ok(permit),
                Err(refused) => refused,
            };
            let wait = backoff::after(limiter.cooldown());
            match refused {
                LimiterError::Cooling if self.has_time_for(wait) => backoff = wait,
                LimiterError::Cooling | LimiterError::Full | LimiterError::Late => {
                    return Err(UpstreamError::new(refused.reason(), refused));
                }
            }
        }
    }

    /// Returns the delay before the call is repeated, or `None` if it is not.
    fn again_after(&self, failed: &UpstreamError) -> Option<Duration> {
        if !failed.is_transient || self.failures > self.bot.settings.retries {
            return None;
        }
        let asked = failed.retry_after.map_or(Duration::ZERO, backoff::after);
        let wait = backoff::jittered(self.failures).max(asked);
        self.has_time_for(wait).then_some(wait)
    }

    fn has_time_for(&self, wait: Duration) -> bool {
        wait <= backoff::MAX_WAIT && Instant::now() + wait < self.total
    }

    /// Frees the history: after the first text no call is repeated.
    fn drop_history(&mut self) {
        if !mem::replace(&mut self.has_text, true) {
            metrics::attempt(METER, "answered");
            self.prompt.history = Vec::new();
        }
    }

    fn report(&self, failed: &UpstreamError, again: bool) {
        let cause = failed.in_log();
        tracing::warn!(
            session = %self.prompt.session,
            reply = %self.prompt.reply,
            call = self.failures,
            again,
            code = failed.reason.code(),
            cause,
            "a bot did not answer"
        );
    }
}

/// Converts the outcome of a bot.
fn ending(outcome: proto::ReplyOutcome) -> Outcome {
    let proto::ReplyOutcome { finish_reason, usage, failure } = outcome;
    Outcome {
        failure: failure.as_ref().map(failure::shown),
        finish_reason: finish_reason.as_deref().and_then(sanitize::finish_reason),
        usage: usage.map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::BoxStream;
    use proto::responder_service_server::{ResponderService, ResponderServiceServer};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status, transport::Server};

    use super::*;
    use crate::{
        responder::grpc::{Bot, Endpoint, Settings, request::tests::prompt},
        session::Responder as _,
    };

    /// Says one word, and never ends.
    struct OneWordBot;

    #[tonic::async_trait]
    impl ResponderService for OneWordBot {
        type RespondStream = BoxStream<'static, Result<proto::RespondResponse, Status>>;

        async fn respond(
            &self,
            _: Request<proto::RespondRequest>,
        ) -> Result<Response<Self::RespondStream>, Status> {
            let delta = Event::Delta(proto::ReplyDelta { text: "well".into() });
            let frame = Ok(proto::RespondResponse { event: Some(delta) });
            Ok(Response::new(stream::iter([frame]).chain(stream::pending()).boxed()))
        }
    }

    #[tokio::test]
    async fn the_history_is_freed_at_the_first_text() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = ResponderServiceServer::new(OneWordBot);
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let bot = Bot::new(Settings::new(Endpoint::parse(&endpoint).unwrap())).unwrap();
        let prompt = prompt(&["Hi"]);
        let message = Arc::downgrade(&prompt.history[0]);
        let mut reply = bot.respond(prompt);
        assert!(message.upgrade().is_some(), "it may have to be sent again");
        assert!(matches!(reply.chunks.next().await, Some(Chunk::Delta(_))));
        assert!(message.upgrade().is_none());
    }
}
