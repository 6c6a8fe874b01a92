//! One reply: calls to the bot, until one of them brings text.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryFutureExt as _, stream};
use http::Uri;
use proto::{respond_response::Event, responder_service_client::ResponderServiceClient};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
};

use super::{
    Bot, MAX_FRAME,
    channel::{Channel, Connection},
    failure::{self, Failed},
};
use crate::{
    proto,
    responder::{
        Reason,
        admission::{Admission, Place, Refused},
        retry, words,
    },
    session::{Chunk, Chunks, Outcome},
};

/// A bot that has said its outcome gets so long to end the call by itself.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Answer {
    channel: Arc<Channel>,
    /// Where the bot is.
    origin: Uri,
    authorization: Option<MetadataValue<Ascii>>,
    admission: Arc<Admission>,
    request: proto::RespondRequest,
    first_content_timeout: Duration,
    chunk_timeout: Duration,
    /// Calls that may still be made after one that failed.
    retries: u32,
    /// Calls that failed.
    failures: u32,
    /// Before the next call.
    back_off: Duration,
    /// The reply has to be over by then.
    total: Instant,
    call: Option<Call>,
}

/// A call that the bot has taken.
struct Call {
    frames: Streaming<proto::RespondResponse>,
    /// It has brought text.
    spoke: bool,
    /// More of it has to come by then.
    due: Instant,
    _place: Place,
}

/// What is waited for, and until when.
#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    otherwise: Reason,
}

impl Answer {
    pub(super) fn new(bot: &Bot, request: proto::RespondRequest) -> Self {
        Self {
            channel: Arc::clone(&bot.channel),
            origin: bot.settings.endpoint.uri().clone(),
            authorization: bot.authorization.clone(),
            admission: Arc::clone(&bot.admission),
            request,
            first_content_timeout: bot.settings.first_content_timeout,
            chunk_timeout: bot.settings.chunk_timeout,
            retries: bot.settings.retries,
            failures: 0,
            back_off: Duration::ZERO,
            total: Instant::now() + bot.settings.total_timeout,
            call: None,
        }
    }

    /// Dropping them cancels the call.
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
            if let Some(asked) = failed.retry_after {
                self.admission.cool_down(asked);
            }
            let again = self.again_after(&failed);
            tracing::warn!(
                session = self.request.session_id,
                reply = self.request.reply_id,
                call = self.failures,
                again = again.is_some(),
                code = failed.reason.code(),
                cause = failed.cause,
                "a bot did not answer"
            );
            match again {
                Some(wait) => self.back_off = wait,
                None => return Chunk::End(failed.reason.outcome()),
            }
        }
    }

    /// Waits for the call, or for its next frame; `None` if that says nothing.
    async fn step(&mut self) -> Result<Option<Chunk>, Failed> {
        let Some(call) = &mut self.call else {
            self.call = Some(self.begin().await?);
            return Ok(None);
        };
        let limit = call.limit(self.total);
        let spoke = call.spoke;
        let frame = call.frames.message().map_err(|status| Failed::of_status(&status, spoke));
        let frame = limit.within(frame).await?;
        let Some(proto::RespondResponse { event }) = frame else {
            return Err(Failed::new(Reason::Truncated, "the call ended without an outcome"));
        };
        if call.spoke {
            call.due = Instant::now() + self.chunk_timeout;
        }
        match event {
            Some(Event::Delta(delta)) if !delta.text.is_empty() => {
                call.spoke = true;
                call.due = Instant::now() + self.chunk_timeout;
                Ok(Some(Chunk::Delta(delta.text)))
            }
            Some(Event::Outcome(outcome)) => {
                if let Some(call) = self.call.take() {
                    tokio::spawn(linger(call));
                }
                Ok(Some(Chunk::End(ending(outcome))))
            }
            Some(Event::Delta(_)) | None => Ok(None),
        }
    }

    async fn begin(&mut self) -> Result<Call, Failed> {
        let place = self.enter().await?;
        let connection = Limit::total(self.total).within(self.channel.connected()).await?;
        let due = Instant::now() + self.first_content_timeout;
        let limit = Limit::first_content(due, self.total);
        let frames = limit.within(self.ask(connection)).await?;
        Ok(Call { frames, spoke: false, due, _place: place })
    }

    async fn ask(&self, line: Connection) -> Result<Streaming<proto::RespondResponse>, Failed> {
        let mut request = Request::new(self.request.clone());
        request.set_timeout(self.total.saturating_duration_since(Instant::now()));
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let client = ResponderServiceClient::with_origin(line, self.origin.clone());
        let mut client = client.max_decoding_message_size(MAX_FRAME);
        let answered = client.respond(request).await;
        Ok(answered.map_err(|status| Failed::of_status(&status, false))?.into_inner())
    }

    /// Waits for a place, and while the bot wants to be left alone.
    async fn enter(&mut self) -> Result<Place, Failed> {
        loop {
            let entered = timeout_at(self.total, self.admission.enter(self.back_off)).await;
            let refused = match entered {
                Ok(Ok(place)) => return Ok(place),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(Failed::new(Reason::TotalTimeout, "the time is up")),
            };
            let wait = retry::after(self.admission.cooldown());
            if refused != Refused::Cooling
                || wait > retry::MAX_WAIT
                || Instant::now() + wait >= self.total
            {
                return Err(Failed::new(refused.reason(), refused));
            }
            self.back_off = wait;
        }
    }

    /// How long to wait before the call is made again; `None` if it is not.
    fn again_after(&self, failed: &Failed) -> Option<Duration> {
        if !failed.passes || self.failures > self.retries {
            return None;
        }
        let asked = failed.retry_after.map_or(Duration::ZERO, retry::after);
        let wait = retry::back_off(self.failures).max(asked);
        let then = Instant::now() + wait;
        (wait <= retry::MAX_WAIT && then < self.total).then_some(wait)
    }
}

impl Call {
    fn limit(&self, total: Instant) -> Limit {
        if self.spoke {
            Limit { at: self.due, otherwise: Reason::ChunkTimeout }.until(total)
        } else {
            Limit::first_content(self.due, total)
        }
    }
}

impl Limit {
    fn total(at: Instant) -> Self {
        Self { at, otherwise: Reason::TotalTimeout }
    }

    fn first_content(at: Instant, total: Instant) -> Self {
        Self { at, otherwise: Reason::FirstContentTimeout }.until(total)
    }

    fn until(self, total: Instant) -> Self {
        if total <= self.at { Self::total(total) } else { self }
    }

    async fn within<T>(self, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        match timeout_at(self.at, work).await {
            Ok(Ok(done)) => Ok(done),
            // A bot that knows how long it has may look at its clock before this does.
            Ok(Err(failed)) if Instant::now() < self.at => Err(failed),
            Ok(Err(_)) | Err(_) => Err(Failed::new(self.otherwise, "the time is up")),
        }
    }
}

/// What a bot says at the end.
fn ending(outcome: proto::ReplyOutcome) -> Outcome {
    let proto::ReplyOutcome { finish_reason, usage, failure } = outcome;
    Outcome {
        failure: failure.as_ref().map(failure::shown),
        finish_reason: finish_reason.as_deref().and_then(words::finish_reason),
        usage: usage.map(Into::into),
    }
}

/// Lets the bot end the call: a cancellation would tell it that the reply was stopped.
async fn linger(mut call: Call) {
    if let Ok(Ok(Some(_))) = timeout(LINGER, call.frames.message()).await {
        tracing::warn!("a bot said more after its outcome");
    }
}
