//! Sessions: `/token`, `/refresh_token`.

use std::time::SystemTime;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use futures_util::future::OptionFuture;
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use crate::{
    session::{Error, Failure, Message, Role, Session, Snapshot, Status, Timestamp, Usage},
    transport::{
        ConnectionBudget, ConnectionContext, TransportContext,
        http::{HttpResult, Params},
        page_size,
    },
};

/// A new session.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Created {
    #[schema(example = "Ada")]
    name: String,
    /// The secret that opens the session.
    #[schema(format = "uuid")]
    token: String,
    #[schema(format = DateTime)]
    session_start: String,
    #[schema(format = DateTime)]
    expires_at: String,
    messages: Vec<LogEntry>,
}

/// A session and a part of its log.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Refreshed {
    #[schema(format = "uuid")]
    token: String,
    name: String,
    #[schema(format = DateTime)]
    session_start: String,
    #[schema(format = DateTime)]
    expires_at: String,
    messages: Vec<LogEntry>,
    position: At,
}

/// "I have everything up to here."
#[derive(Serialize, ToSchema)]
struct At {
    epoch: String,
    #[schema(value_type = i64, minimum = 0)]
    seq: u32,
}

/// A message of the log.
#[derive(Serialize, ToSchema)]
struct LogEntry {
    #[schema(format = "uuid")]
    id: String,
    msg: String,
    #[schema(format = DateTime)]
    timestamp: String,
    /// `user` or `assistant`.
    role: &'static str,
    #[schema(value_type = i64, minimum = 0)]
    seq: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_reply_to: Option<String>,
    /// How a reply ended: `complete`, `stopped`, `interrupted`, `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Tokens>,
    /// Why a reply failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ReplyFailure>,
}

/// Why a reply failed.
#[derive(Serialize, ToSchema)]
struct ReplyFailure {
    /// For programs; stable.
    #[schema(example = "upstream_unavailable")]
    code: String,
    /// For people.
    message: String,
}

/// Tokens of the model that a reply took.
#[derive(Serialize, ToSchema)]
struct Tokens {
    #[schema(value_type = i64, minimum = 0)]
    input_tokens: u32,
    #[schema(value_type = i64, minimum = 0)]
    output_tokens: u32,
    /// The numbers, or a part of them, are the gateway's estimate.
    estimated: bool,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        let Usage { input_tokens, output_tokens, estimated } = usage;
        Self { input_tokens, output_tokens, estimated }
    }
}

/// Starts a session for a user.
#[utoipa::path(
    post, path = "/token", tag = "session",
    params(("name" = String, Query, description = "1 to 128 characters", example = "Ada")),
    responses(
        (status = 200, body = Created, description = "The session and its token"),
        (status = 400, description = "Not a valid name"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(in crate::transport) async fn create(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Json<Created>> {
    let params = Params::of(request.uri());
    let caller = ConnectionContext::caller(request.extensions());
    let created = context.gateway.create_token(&caller, params.required("name")?).await?;
    Ok(Json(Created {
        name: created.session.name.as_str().into(),
        token: created.token.expose(),
        session_start: rfc3339(created.session.created_at),
        expires_at: rfc3339(created.session.expires_at),
        messages: Vec::new(),
    }))
}

/// Renews a session's idle deadline and reads it.
#[utoipa::path(
    post, path = "/refresh_token", tag = "session",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Only messages after this number, oldest first"),
        ("limit" = Option<i64>, Query, minimum = 0, description = "How many messages at most"),
    ),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 200, body = Refreshed, description = "The session and a page of its log"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing or no number"),
    )
)]
pub(in crate::transport) async fn refresh(
    state: State<TransportContext>,
    request: Request,
) -> HttpResult<Response> {
    renew(state, request).await
}

/// As `POST`.
#[utoipa::path(
    get, path = "/refresh_token", tag = "session",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Only messages after this number, oldest first"),
        ("limit" = Option<i64>, Query, minimum = 0, description = "How many messages at most"),
    ),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 200, body = Refreshed, description = "The session and a page of its log"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing or no number"),
    )
)]
pub(in crate::transport) async fn refresh_by_get(
    state: State<TransportContext>,
    request: Request,
) -> HttpResult<Response> {
    renew(state, request).await
}

async fn renew(State(context): State<TransportContext>, request: Request) -> HttpResult<Response> {
    let params = Params::of(request.uri());
    let token = params.token(request.headers())?;
    let (after, limit) = (params.number("after")?, params.number("limit")?);
    let budget = ConnectionContext::budget(request.extensions());
    let caller = ConnectionContext::caller(request.extensions());
    let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
    let snapshot = context.gateway.refresh_token(&caller, &token, after, limit).await?;
    let size = page_size(&snapshot);
    let permit = budget.map(|budget| budget.reserve(size)).transpose()?;
    let encode = move || Json(Refreshed::new(token.expose(), &snapshot, after)).into_response();
    let mut response = if size < LARGE_PAGE {
        encode()
    } else {
        spawn_blocking(encode).await.map_err(Error::internal)?
    };
    if let Some(permit) = permit {
        response.extensions_mut().insert(permit);
    }
    Ok(response)
}

/// Bytes from which a page is encoded on a thread that may block.
const LARGE_PAGE: usize = 64 << 10;

/// Ends a session.
#[utoipa::path(
    delete, path = "/token", tag = "session",
    params(("token" = Option<String>, Query, description = "Or `Authorization: Bearer`")),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 204, description = "Ended"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(in crate::transport) async fn revoke(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<StatusCode> {
    let token = Params::of(request.uri()).token(request.headers())?;
    let caller = ConnectionContext::caller(request.extensions());
    context.gateway.revoke_token(&caller, &token).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Refreshed {
    fn new(token: String, snapshot: &Snapshot, after: Option<u32>) -> Self {
        let Session { name, created_at, expires_at, .. } = &snapshot.session;
        let position = snapshot.position(after);
        Self {
            token,
            name: name.as_str().into(),
            session_start: rfc3339(*created_at),
            expires_at: rfc3339(*expires_at),
            messages: snapshot.messages.iter().map(|message| LogEntry::new(message)).collect(),
            position: At { epoch: position.epoch.as_str().into(), seq: position.seq },
        }
    }
}

impl LogEntry {
    fn new(message: &Message) -> Self {
        let entry = Self {
            id: message.id.to_string(),
            msg: message.text.as_ref().into(),
            timestamp: rfc3339(message.created_at),
            role: "user",
            seq: message.seq,
            client_message_id: message.client_message_id().map(|id| id.as_ref().into()),
            in_reply_to: message.in_reply_to().map(|id| id.to_string()),
            status: None,
            finish_reason: None,
            usage: None,
            failure: None,
        };
        match &message.role {
            Role::User { .. } => entry,
            Role::Assistant { status, finish_reason, usage, .. } => Self {
                role: "assistant",
                status: Some(status.as_str()),
                finish_reason: finish_reason.as_deref().map(Into::into),
                usage: usage.map(Into::into),
                failure: ReplyFailure::of(status),
                ..entry
            },
        }
    }
}

impl ReplyFailure {
    fn of(status: &Status) -> Option<Self> {
        match status {
            Status::Complete | Status::Stopped | Status::Interrupted => None,
            Status::Failed(Failure { code, message }) => {
                Some(Self { code: code.as_ref().into(), message: message.as_ref().into() })
            }
        }
    }
}

/// RFC 3339, UTC, milliseconds.
fn rfc3339(time: Timestamp) -> String {
    humantime::format_rfc3339_millis(SystemTime::from(time)).to_string()
}
