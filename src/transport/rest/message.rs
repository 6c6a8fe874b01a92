//! `/messages`, `/regenerate` and `/stop`, for clients that listen with server-sent events.

use axum::{
    Json,
    extract::{Request, State},
};
use http::StatusCode;
use serde::{Serialize, de::IgnoredAny};
use utoipa::ToSchema;

use super::{body::json_body, schema};
use crate::{
    proto, session,
    transport::{
        TransportContext, codec,
        http::{Call, HttpError, HttpResult},
    },
};

/// The message is durable.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Accepted {
    #[schema(format = "uuid")]
    message_id: String,
    #[schema(value_type = i64, minimum = 1)]
    seq: u32,
    client_message_id: Option<String>,
    /// The message had been accepted before: this is the first answer again.
    duplicate: bool,
    /// The user message before it on its branch. 0: none.
    #[schema(value_type = i64, minimum = 0)]
    parent_seq: u32,
}

/// Whether there was a reply to stop.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Stopped {
    stopped: bool,
}

/// Sends a message. The reply comes through `/events`.
#[utoipa::path(
    post, path = "/messages", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("text" = Option<String>, Query, description = "Where there is no body"),
        ("client_message_id" = Option<String>, Query, description = "Where there is no body"),
    ),
    request_body(content = schema::SendBody, description = "The message. Without a body it is read from the query"),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 202, body = Accepted, description = "The message is durable"),
        (status = 400, description = "Session expired or does not exist, or not a valid message"),
        (status = 403, description = "The token permits reading only"),
        (status = 409, description = "The client_message_id was used for another message, or the conversation is full"),
        (status = 413, description = "The message is too large"),
        (status = 422, description = "A parameter is missing"),
        (status = 429, description = "Too many messages wait for their reply"),
    )
)]
pub(in crate::transport) async fn send(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<(StatusCode, Json<Accepted>)> {
    let call = Call::of(&context, request).await?;
    let token = call.token()?;
    let Call { caller, params, parts, body, .. } = call;
    let send = match json_body::<proto::Send>(&context, &parts.headers, body).await? {
        Some((send, body)) => {
            // An absent text differs from an empty one.
            if send.text.is_empty() && send.parts.is_empty() && !has_field(&body, "text") {
                return Err(HttpError::Missing("body", "text"));
            }
            send
        }
        None => proto::Send {
            text: params.text("text")?.into(),
            client_message_id: params.get("client_message_id").map(Into::into),
            ..proto::Send::default()
        },
    };
    let message = codec::new_message(send)?;
    let accepted = context.gateway.send(&caller, &token, message).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted.into())))
}

/// Asks for another reply to a question. It comes through `/events`.
#[utoipa::path(
    post, path = "/regenerate", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("seq" = Option<i64>, Query, minimum = 0, description = "A message of the turn to repeat, where there is no body. 0: the newest turn"),
        ("client_message_id" = Option<String>, Query, description = "Where there is no body"),
    ),
    request_body(content = schema::RegenerateBody, description = "Without a body the request is read from the query"),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 202, body = Accepted, description = "The new user message is durable"),
        (status = 400, description = "Session expired or does not exist, or there is no such turn"),
        (status = 403, description = "The token permits reading only"),
        (status = 409, description = "The client_message_id was used for another message, or the conversation is full"),
        (status = 422, description = "A parameter is missing or no number"),
        (status = 429, description = "Too many messages wait for their reply"),
    )
)]
pub(in crate::transport) async fn regenerate(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<(StatusCode, Json<Accepted>)> {
    let call = Call::of(&context, request).await?;
    let token = call.token()?;
    let Call { caller, params, parts, body, .. } = call;
    let again = match json_body::<proto::Regenerate>(&context, &parts.headers, body).await? {
        Some((again, _)) => again,
        None => proto::Regenerate {
            seq: params.number("seq")?.unwrap_or(0),
            client_message_id: params.get("client_message_id").map(Into::into),
            ..proto::Regenerate::default()
        },
    };
    let again = codec::regeneration(again);
    let accepted = context.gateway.regenerate(&caller, &token, again).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted.into())))
}

/// Stops a turn: the reply in progress, or the next one.
#[utoipa::path(
    post, path = "/stop", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("seq" = Option<i64>, Query, minimum = 0, description = "The number of the user message whose turn is stopped, where there is no body"),
    ),
    request_body(content = schema::StopBody, description = "Without a body the request is read from the query"),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 200, body = Stopped, description = "Whether there was a reply to stop"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 403, description = "The token permits reading only"),
        (status = 422, description = "A parameter is missing or no number"),
    )
)]
pub(in crate::transport) async fn stop(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Json<Stopped>> {
    let call = Call::of(&context, request).await?;
    let token = call.token()?;
    let Call { caller, params, parts, body, .. } = call;
    let seq = match json_body::<proto::Stop>(&context, &parts.headers, body).await? {
        Some((stop, _)) => stop.seq,
        None => params.number("seq")?,
    };
    let stopped = context.gateway.stop(&caller, &token, seq).await?;
    Ok(Json(Stopped { stopped }))
}

impl From<session::Accepted> for Accepted {
    fn from(accepted: session::Accepted) -> Self {
        let message = &accepted.message;
        Self {
            message_id: message.id.to_string(),
            seq: message.seq,
            client_message_id: message.client_message_id().map(|id| id.as_ref().into()),
            duplicate: accepted.duplicate,
            parent_seq: message.user().map_or(0, |user| user.parent_seq),
        }
    }
}

/// Returns true if a JSON object has a field that is not null.
fn has_field(body: &[u8], name: &str) -> bool {
    type Fields = std::collections::HashMap<String, Option<IgnoredAny>>;
    let fields = serde_json::from_slice::<Fields>(body);
    fields.is_ok_and(|fields| fields.get(name).is_some_and(Option::is_some))
}
