//! One reply: calls to the bot until one of them produces content.

use std::{collections::HashSet, mem, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use proto::{reply_delta, respond_response::Event};
use tokio::time::Instant;

use super::{
    bot_client::BotClient,
    call::{BotCall, is_content},
    failure::{self, UpstreamError},
    request::request,
};
use crate::{
    proto,
    responder::upstream::{
        backoff,
        limiter::{LimiterError, Patience, Permit},
        metrics, sanitize,
    },
    session::{Chunk, Chunks, Metadata, Outcome, Part, Piece, Prompt},
};

/// Name of the bot in the metrics of upstreams.
const METER: &str = "bot";

pub(super) struct ReplyStream {
    bot: Arc<BotClient>,
    prompt: Prompt,
    /// Content has arrived.
    has_content: bool,
    /// The calls so far, by id.
    calls: HashSet<String>,
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
            has_content: false,
            calls: HashSet::new(),
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
            if !self.has_content {
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
        let Some(event) = call.next().await? else { return Ok(None) };
        if is_content(&event) {
            self.drop_history();
        }
        match event {
            Event::Delta(delta) => {
                Ok(delta.piece.and_then(|piece| self.piece(piece)).map(Chunk::Delta))
            }
            // A part of a kind that is not known here is a keep-alive.
            Event::Part(part) => Ok(Part::try_from(part).ok().map(Chunk::Part)),
            Event::PartEnd(end) => Ok(Some(Chunk::PartEnd {
                citations: end.citations.into_iter().map(Into::into).collect(),
                provider_data: end.provider_data.map(Into::into),
            })),
            Event::ContextTrimmed(_) if self.has_content => Ok(None),
            Event::ContextTrimmed(_) => Ok(Some(Chunk::ContextTrimmed { input_tokens: None })),
            Event::Outcome(outcome) => {
                self.drop_history();
                if let Some(call) = self.call.take() {
                    call.end();
                }
                Ok(Some(Chunk::End(self.ending(outcome))))
            }
        }
    }

    async fn begin(&mut self) -> Result<BotCall, UpstreamError> {
        let began = Instant::now();
        let permit = self.permit().await?;
        // The turn was accepted: its wait for others does not count.
        self.total += began.elapsed().saturating_sub(self.backoff);
        let request = request(&self.prompt, self.bot.settings.max_reply_size);
        BotCall::begin(&self.bot, request, self.total, permit).await
    }

    /// Waits for a permit, also during a pause that the bot asked for.
    async fn permit(&self) -> Result<Permit, UpstreamError> {
        let limiter = &self.bot.limiter;
        let mut backoff = self.backoff;
        loop {
            let refused = match limiter.acquire(backoff, Patience::Unlimited).await {
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

    /// Frees the history: after the first content no call is repeated.
    fn drop_history(&mut self) {
        if !mem::replace(&mut self.has_content, true) {
            metrics::attempt(METER, "answered");
            self.prompt.history = Vec::new();
        }
    }

    /// Converts a piece. `None` for an empty one, which is a keep-alive.
    fn piece(&mut self, piece: reply_delta::Piece) -> Option<Piece> {
        let (piece, begins) = match piece {
            reply_delta::Piece::Text(text) => (Piece::Text(text), false),
            reply_delta::Piece::Reasoning(text) => (Piece::Reasoning(text), false),
            reply_delta::Piece::ToolCall(call) => {
                let begins = self.calls.insert(call.id.clone());
                (Piece::ToolCall(call.into()), begins)
            }
        };
        (begins || !piece.text().is_empty()).then_some(piece)
    }

    /// Converts the outcome of the bot.
    fn ending(&self, outcome: proto::ReplyOutcome) -> Outcome {
        let proto::ReplyOutcome { finish_reason, usage, failure, model, metadata, provider_data } =
            outcome;
        let metadata = Metadata::new(metadata.into_iter().collect());
        let metadata = match metadata.check() {
            Ok(()) => metadata,
            Err(error) => {
                let (session, reply) = (self.prompt.session, self.prompt.reply);
                tracing::warn!(%session, %reply, %error, "the metadata of the bot was dropped");
                Metadata::default()
            }
        };
        Outcome {
            failure: failure.as_ref().map(failure::shown),
            finish_reason: finish_reason.as_deref().and_then(sanitize::finish_reason),
            usage: usage.map(Into::into),
            model: model.as_deref().and_then(sanitize::model),
            metadata,
            provider_data: provider_data.map(Into::into),
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
            let delta = Event::Delta(proto::ReplyDelta {
                piece: Some(reply_delta::Piece::Text("well".into())),
            });
            let frame = Ok(proto::RespondResponse { event: Some(delta) });
            Ok(Response::new(stream::iter([frame]).chain(stream::pending()).boxed()))
        }
    }

    #[tokio::test]
    async fn the_history_is_freed_at_the_first_content() {
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
