//! One call to the bot, with its time limits.

use std::{pin::pin, time::Duration};

use futures_util::{
    TryFutureExt as _,
    future::{Either, select},
};
use proto::{
    reply_delta::Piece, respond_response::Event, responder_service_client::ResponderServiceClient,
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Streaming};

use super::{
    bot_client::{BotClient, MAX_FRAME},
    channel::Connection,
    failure::UpstreamError,
};
use crate::{
    proto,
    responder::upstream::{Reason, limiter::Permit},
};

/// Time that a bot has to end the call after its outcome.
const LINGER: Duration = Duration::from_secs(1);

/// A call that the bot has accepted.
pub(super) struct BotCall {
    frames: Frames,
    /// Content has arrived.
    has_content: bool,
    /// Deadline of the next content.
    due: Instant,
    chunk_timeout: Duration,
    /// Deadline of the reply.
    total: Instant,
    _permit: Permit,
}

type Frames = Streaming<proto::RespondResponse>;

/// A time limit, and the failure when it is exceeded.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    at: Instant,
    otherwise: Reason,
}

impl BotCall {
    /// Calls the bot, and waits for the head of its response.
    pub(super) async fn begin(
        bot: &BotClient,
        request: proto::RespondRequest,
        total: Instant,
        permit: Permit,
    ) -> Result<Self, UpstreamError> {
        let settings = &bot.settings;
        let (connection, taken) = Limit::total(total).within(bot.channel.connected()).await?;
        let mut answer = pin!(ask(bot, connection, request, total));
        // If the connection is lost, the call may end before the bot has accepted it.
        let taken = async {
            match select(taken, answer.as_mut()).await {
                Either::Left(_) => Ok(None),
                Either::Right((answered, _)) => answered.map(Some),
            }
        };
        let limit = Limit::taken(Instant::now() + settings.capacity.queue_timeout, total);
        let early = limit.within(taken).await?;
        let due = Instant::now() + settings.first_content_timeout;
        let frames = match early {
            Some(frames) => frames,
            None => Limit::first_content(due, total).within(answer).await?,
        };
        let chunk_timeout = settings.chunk_timeout;
        Ok(Self { frames, has_content: false, due, chunk_timeout, total, _permit: permit })
    }

    /// Returns the next event of the bot. `None` is a keep-alive.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, UpstreamError> {
        let (limit, has_content) = (self.limit(), self.has_content);
        let frame =
            self.frames.message().map_err(|status| UpstreamError::of_status(&status, has_content));
        let Some(proto::RespondResponse { event }) = limit.within(frame).await? else {
            return Err(UpstreamError::new(Reason::Truncated, "the call ended without an outcome"));
        };
        self.has_content |= event.as_ref().is_some_and(is_content);
        // An empty piece says that the bot works in the middle of a reply.
        if self.has_content {
            self.due = Instant::now() + self.chunk_timeout;
        }
        Ok(event)
    }

    /// Lets the bot end the call in the background. A cancellation would mean that the reply was
    /// stopped. The permit is free at once.
    pub(super) fn end(self) {
        let mut frames = self.frames;
        tokio::spawn(async move {
            if let Ok(Ok(Some(_))) = timeout(LINGER, frames.message()).await {
                tracing::warn!("the bot sent more after its outcome");
            }
        });
    }

    fn limit(&self) -> Limit {
        if self.has_content {
            Limit { at: self.due, otherwise: Reason::ChunkTimeout }.until(self.total)
        } else {
            Limit::first_content(self.due, self.total)
        }
    }
}

/// Returns true for an event that is a part of the reply.
pub(super) fn is_content(event: &Event) -> bool {
    match event {
        Event::Delta(delta) => delta.piece.as_ref().is_some_and(|piece| match piece {
            Piece::Text(text) | Piece::Reasoning(text) => !text.is_empty(),
            // A call without arguments so far still begins.
            Piece::ToolCall(_) => true,
        }),
        Event::Part(part) => part.content.is_some(),
        Event::PartEnd(_) | Event::ContextTrimmed(_) | Event::Outcome(_) => false,
    }
}

async fn ask(
    bot: &BotClient,
    connection: Connection,
    request: proto::RespondRequest,
    total: Instant,
) -> Result<Frames, UpstreamError> {
    let mut request = Request::new(request);
    request.set_timeout(total.saturating_duration_since(Instant::now()));
    if let Some(authorization) = &bot.authorization {
        request.metadata_mut().insert("authorization", authorization.clone());
    }
    let origin = bot.settings.endpoint.uri().clone();
    let client = ResponderServiceClient::with_origin(connection, origin);
    let answered = client.max_decoding_message_size(MAX_FRAME).respond(request).await;
    Ok(answered.map_err(|status| UpstreamError::of_status(&status, false))?.into_inner())
}

impl Limit {
    pub(super) fn total(at: Instant) -> Self {
        Self { at, otherwise: Reason::TotalTimeout }
    }

    /// Limit of the wait until the bot accepts the call. HTTP/2 holds the request back until the
    /// bot has room for one more stream.
    fn taken(at: Instant, total: Instant) -> Self {
        Self { at, otherwise: Reason::Overloaded }.until(total)
    }

    fn first_content(at: Instant, total: Instant) -> Self {
        Self { at, otherwise: Reason::FirstContentTimeout }.until(total)
    }

    fn until(self, total: Instant) -> Self {
        if total <= self.at { Self::total(total) } else { self }
    }

    pub(super) async fn within<T>(
        self,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        match timeout_at(self.at, work).await {
            Ok(Ok(done)) => Ok(done),
            // A bot that knows the deadline may report it before the own timer fires.
            Ok(Err(failed)) if Instant::now() < self.at => Err(failed),
            Ok(Err(_)) | Err(_) => Err(self.passed()),
        }
    }

    fn passed(self) -> UpstreamError {
        let is_taken = self.otherwise != Reason::Overloaded;
        let cause = if is_taken { "the time is up" } else { "the bot takes no further call" };
        UpstreamError::new(self.otherwise, cause)
    }
}
