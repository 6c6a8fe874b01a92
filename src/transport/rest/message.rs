//! `/messages` and `/stop`, for clients that listen with server-sent events.

use axum::{
    Json,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{
    session::{ErrorKind, NewMessage},
    transport::{
        ConnectionContext, TransportContext,
        codec::Codec,
        http::{HttpError, HttpResult, Params},
    },
};

/// A user message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MessageBody {
    #[schema(example = "Hello Bot", nullable = false, required, min_length = 1)]
    text: Option<String>,
    /// Identifies the message: sending it again under the same id is the same message.
    #[serde(alias = "clientMessageId")]
    #[schema(nullable = false, max_length = 128)]
    client_message_id: Option<String>,
}

/// The message is durable.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Accepted {
    #[schema(format = "uuid")]
    message_id: String,
    #[schema(value_type = i64, minimum = 1)]
    seq: u32,
    client_message_id: Option<String>,
    /// It was there already: this is the first answer again.
    duplicate: bool,
}

/// Whether there was a reply to stop.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Stopped {
    stopped: bool,
}

/// Says something. The reply comes through `/events`.
#[utoipa::path(
    post, path = "/messages", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("text" = Option<String>, Query, description = "Where there is no body"),
        ("client_message_id" = Option<String>, Query, description = "Where there is no body"),
    ),
    request_body(content = MessageBody, description = "The message. Without a body it is read from the query"),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 202, body = Accepted, description = "The message is durable"),
        (status = 400, description = "Session expired or does not exist, or not a valid text"),
        (status = 409, description = "The client_message_id was used for another text, or the conversation is full"),
        (status = 413, description = "The message is too large"),
        (status = 422, description = "A parameter is missing"),
        (status = 429, description = "Too many messages wait for their reply"),
    )
)]
pub(in crate::transport) async fn send(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<(StatusCode, Json<Accepted>)> {
    let caller = ConnectionContext::caller(request.extensions());
    let (parts, body) = request.into_parts();
    let params = Params::of(&parts.uri);
    let token = params.token(&parts.headers)?;
    let body = message_body(&context, &params, &parts.headers, body).await?;
    let text = body.text.ok_or(HttpError::Missing("body", "text"))?;

    let message = NewMessage::new(text, body.client_message_id.as_deref());
    let accepted = context.gateway.send(&caller, &token, message).await?;
    let message = &accepted.message;
    let answer = Accepted {
        message_id: message.id.to_string(),
        seq: message.seq,
        client_message_id: message.client_message_id().map(|id| id.as_ref().into()),
        duplicate: accepted.duplicate,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Stops the reply in progress, or the next one.
#[utoipa::path(
    post, path = "/stop", tag = "conversation",
    params(("token" = Option<String>, Query, description = "Or `Authorization: Bearer`")),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 200, body = Stopped, description = "Whether there was a reply to stop"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(in crate::transport) async fn stop(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Json<Stopped>> {
    let token = Params::of(request.uri()).token(request.headers())?;
    let caller = ConnectionContext::caller(request.extensions());
    let stopped = context.gateway.stop(&caller, &token).await?;
    Ok(Json(Stopped { stopped }))
}

/// Reads the message from a JSON body, or from the query if there is none.
async fn message_body(
    context: &TransportContext,
    params: &Params,
    headers: &HeaderMap,
    body: Body,
) -> HttpResult<MessageBody> {
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(HttpError::BodyEncoding);
    }
    let body = read(context, body).await?;
    if body.is_empty() {
        return Ok(MessageBody {
            text: Some(params.text("text")?.into()),
            client_message_id: params.get("client_message_id").map(Into::into),
        });
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(HttpError::BodyType);
    }
    // serde would accept an array as the fields of a struct.
    if matches!(
        body.trim_ascii_start().first(),
        Some(b'[' | b'"' | b'0'..=b'9' | b't' | b'f' | b'n')
    ) {
        return Err(HttpError::NotAnObject);
    }
    serde_json::from_slice(&body).map_err(|error| HttpError::BadJson(error.to_string()))
}

async fn read(context: &TransportContext, body: Body) -> HttpResult<Bytes> {
    let limit = Codec::Json.max_frame(context.gateway.settings().max_message_size);
    match timeout(context.settings.call_timeout, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ErrorKind::FrameTooLarge.into()),
        Err(_) => Err(ErrorKind::DeadlineExceeded.into()),
    }
}
