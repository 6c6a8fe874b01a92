//! Sessions: `/token`, `/refresh_token`.

use std::collections::BTreeMap;

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

use super::{log_entry::LogEntry, timestamp::rfc3339};
use crate::{
    session::{
        self, Error, ErrorKind, Metadata, NewToken, PageRequest, Revocation, Scope, Session,
        Snapshot, Token,
    },
    transport::{
        ConnectionBudget, ConnectionContext, TransportContext,
        http::{Call, HttpResult, Params},
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
    /// There are more messages in the direction of the page.
    has_more: bool,
    /// Names the conversation in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

/// A position: the client has everything up to here.
#[derive(Serialize, ToSchema)]
struct At {
    epoch: String,
    #[schema(value_type = i64, minimum = 0)]
    seq: u32,
}

/// Starts a session for a user.
#[utoipa::path(
    post, path = "/token", tag = "session",
    params(
        ("name" = Option<String>, Query, description = "1 to 128 characters; required without session_token", example = "Ada"),
        ("title" = Option<String>, Query, description = "Names the conversation in lists"),
        ("metadata" = Option<String>, Query, description = "A JSON object of strings, kept with the session"),
        ("session_token" = Option<String>, Query, description = "Issues another token for the session of this one"),
        ("scope" = Option<String>, Query, description = "`write` (default) or `read`"),
        ("label" = Option<String>, Query, description = "Names the token"),
        ("subject" = Option<String>, Query, description = "The user who owns the session; with the API key of a service"),
    ),
    security((), ("bearer" = [])),
    responses(
        (status = 200, body = Created, description = "The session and its token"),
        (status = 400, description = "Not a valid name or parameter"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The session_token permits reading only, or the credential is not of a service"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(in crate::transport) async fn create(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Json<Created>> {
    let call = Call::identified(&context, request).await?;
    let Call { caller, params, .. } = &call;
    let mut new = NewToken {
        name: params.get("name").unwrap_or_default(),
        metadata: metadata(params)?,
        title: params.get("title"),
        scope: params.get("scope").map(Scope::parse).transpose()?,
        label: params.get("label"),
        subject: params.get("subject"),
    };
    let gateway = &context.gateway;
    let created = match params.get("session_token") {
        Some(token) => gateway.issue_token(caller, &Token::parse(token)?, new).await?,
        None => {
            new.name = params.required("name")?;
            gateway.create_token(caller, new).await?
        }
    };
    Ok(Json(Created::new(&created)))
}

impl Created {
    pub(super) fn new(created: &session::Created) -> Self {
        let Session { name, created_at, expires_at, .. } = &created.session;
        Self {
            name: name.as_str().into(),
            token: created.token.expose(),
            session_start: rfc3339(*created_at),
            expires_at: rfc3339(*expires_at),
            messages: Vec::new(),
        }
    }
}

fn metadata(params: &Params) -> HttpResult<Metadata> {
    let Some(json) = params.get("metadata").filter(|json| !json.is_empty()) else {
        return Ok(Metadata::default());
    };
    Metadata::from_json(json).map_err(|_| {
        let message = "metadata must be a JSON object of strings";
        Error::new(ErrorKind::InvalidArgument, message).into()
    })
}

/// Renews a session's idle deadline and reads it.
#[utoipa::path(
    post, path = "/refresh_token", tag = "session",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Only messages after this number, the oldest of them"),
        ("before" = Option<i64>, Query, minimum = 0, description = "Only messages before this number, the newest of them. Not with after"),
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
        ("after" = Option<i64>, Query, minimum = 0, description = "Only messages after this number, the oldest of them"),
        ("before" = Option<i64>, Query, minimum = 0, description = "Only messages before this number, the newest of them. Not with after"),
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
    let call = Call::of(&context, request).await?;
    let (token, params) = (call.token()?, &call.params);
    let page = PageRequest {
        after: params.number("after")?,
        before: params.number("before")?,
        limit: params.number("limit")?,
    };
    let budget = ConnectionContext::budget(&call.parts.extensions);
    let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
    let snapshot = context.gateway.refresh_token(&call.caller, &token, page).await?;
    let size = page_size(&snapshot);
    let permit = budget.map(|budget| budget.reserve(size)).transpose()?;
    let encode = move || Json(Refreshed::new(token.expose(), &snapshot)).into_response();
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

/// Ends a session, or one token of it.
#[utoipa::path(
    delete, path = "/token", tag = "session",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("token_only" = Option<bool>, Query, description = "Ends this token alone. The session ends with its last token"),
    ),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 204, description = "Ended"),
        (status = 403, description = "The token permits reading only"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(in crate::transport) async fn revoke(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<StatusCode> {
    let call = Call::of(&context, request).await?;
    let token = call.token()?;
    let extent = match call.params.flag("token_only")? {
        true => Revocation::Token,
        false => Revocation::Session,
    };
    context.gateway.revoke_token(&call.caller, &token, extent).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Refreshed {
    fn new(token: String, snapshot: &Snapshot) -> Self {
        let Session { name, created_at, expires_at, title, metadata, .. } = &snapshot.session;
        let position = snapshot.position();
        Self {
            token,
            name: name.as_str().into(),
            session_start: rfc3339(*created_at),
            expires_at: rfc3339(*expires_at),
            messages: snapshot.messages.iter().map(|message| LogEntry::new(message)).collect(),
            position: At { epoch: position.epoch.as_str().into(), seq: position.seq },
            has_more: snapshot.has_more,
            title: title.as_deref().map(Into::into),
            metadata: metadata.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }
}
