//! The sessions of an owner: `/sessions`. The caller is known by its credential.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, Request, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{body::json_body, timestamp::rfc3339, token::Created};
use crate::{
    session::{
        Error, ErrorKind, ListRequest, ListedSession, Scope, Session, SessionId, TokenId,
        TokenRecord,
    },
    transport::{
        TransportContext,
        http::{Call, HttpError, HttpResult},
    },
};

/// A page of the sessions of an owner.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Sessions {
    /// Newest activity first.
    sessions: Vec<Listed>,
    /// Continues the list. Absent: there are no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A session in a list.
#[derive(Serialize, ToSchema)]
struct Listed {
    #[serde(flatten)]
    session: Owned,
    /// The title was not set, and has the first words of the first message.
    title_generated: bool,
    /// Time of the last message, or of the creation.
    #[schema(format = DateTime)]
    last_activity: String,
    /// Number of messages.
    #[schema(value_type = i64, minimum = 0)]
    message_count: u32,
}

/// A session, as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Owned {
    #[schema(format = "uuid")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[schema(format = DateTime)]
    session_start: String,
    /// When it is deleted. Absent: not by itself.
    #[schema(format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_at: Option<String>,
}

/// The tokens of a session.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Tokens {
    /// Oldest first.
    tokens: Vec<TokenInfo>,
}

/// A token without its secret.
#[derive(Serialize, ToSchema)]
struct TokenInfo {
    #[schema(format = "uuid")]
    id: String,
    /// `write` or `read`.
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
}

/// The change of a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct SessionChange {
    /// The new title. Empty: removes it.
    title: String,
}

/// The properties of a new token.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct TokenRequest {
    /// `write` (default) or `read`.
    scope: Option<String>,
    /// Names the token in lists.
    label: Option<String>,
}

/// Lists the sessions of the caller, newest activity first.
#[utoipa::path(
    get, path = "/sessions", tag = "owner",
    params(
        ("limit" = Option<i64>, Query, minimum = 0, description = "How many sessions at most"),
        ("cursor" = Option<String>, Query, description = "next_cursor of the page before"),
        ("subject" = Option<String>, Query, description = "The sessions of this user; with the API key of a service"),
    ),
    security(("bearer" = [])),
    responses(
        (status = 200, body = Sessions, description = "A page of the list"),
        (status = 400, description = "Not a valid parameter"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials, or the credential is not of a service"),
        (status = 422, description = "A parameter is no number"),
    )
)]
pub(in crate::transport) async fn list_sessions(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Json<Sessions>> {
    let Call { caller, params, .. } = Call::identified(&context, request).await?;
    let list = ListRequest {
        subject: params.get("subject"),
        after: params.get("cursor").map(str::parse).transpose()?,
        limit: params.number("limit")?,
    };
    let list = context.gateway.list_sessions(&caller, list).await?;
    Ok(Json(Sessions {
        sessions: list.sessions.iter().map(Listed::new).collect(),
        next_cursor: list.next.map(|next| next.to_string()),
    }))
}

/// Changes the title of a session of the caller.
#[utoipa::path(
    patch, path = "/sessions/{id}", tag = "owner",
    params(("id" = String, Path, description = "Id of the session")),
    request_body = SessionChange,
    security(("bearer" = [])),
    responses(
        (status = 200, body = Owned, description = "The session with its new title"),
        (status = 400, description = "Not a valid title"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials"),
        (status = 404, description = "The caller has no such session"),
        (status = 422, description = "The body is not of this form"),
    )
)]
pub(in crate::transport) async fn update_session(
    State(context): State<TransportContext>,
    Path(id): Path<String>,
    request: Request,
) -> HttpResult<Json<Owned>> {
    let Call { caller, parts, body, .. } = Call::identified(&context, request).await?;
    let id = session_id(&id)?;
    let change = json_body::<SessionChange>(&context, &parts.headers, body).await?;
    let (change, _) = change.ok_or(HttpError::Missing("body", "title"))?;
    let session = context.gateway.set_title(&caller, id, &change.title).await?;
    Ok(Json(Owned::new(&session)))
}

/// Deletes a session of the caller with its log.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "owner",
    params(("id" = String, Path, description = "Id of the session")),
    security(("bearer" = [])),
    responses(
        (status = 204, description = "Deleted"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials"),
        (status = 404, description = "The caller has no such session"),
    )
)]
pub(in crate::transport) async fn delete_session(
    State(context): State<TransportContext>,
    Path(id): Path<String>,
    request: Request,
) -> HttpResult<StatusCode> {
    let Call { caller, .. } = Call::identified(&context, request).await?;
    context.gateway.delete_session(&caller, session_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the tokens of a session of the caller, without their secrets.
#[utoipa::path(
    get, path = "/sessions/{id}/tokens", tag = "owner",
    params(("id" = String, Path, description = "Id of the session")),
    security(("bearer" = [])),
    responses(
        (status = 200, body = Tokens, description = "The tokens that have not expired"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials"),
        (status = 404, description = "The caller has no such session"),
    )
)]
pub(in crate::transport) async fn list_tokens(
    State(context): State<TransportContext>,
    Path(id): Path<String>,
    request: Request,
) -> HttpResult<Json<Tokens>> {
    let Call { caller, .. } = Call::identified(&context, request).await?;
    let tokens = context.gateway.list_tokens(&caller, session_id(&id)?).await?;
    Ok(Json(Tokens { tokens: tokens.iter().map(TokenInfo::new).collect() }))
}

/// Issues another token for a session of the caller.
#[utoipa::path(
    post, path = "/sessions/{id}/tokens", tag = "owner",
    params(("id" = String, Path, description = "Id of the session")),
    request_body = TokenRequest,
    security(("bearer" = [])),
    responses(
        (status = 200, body = Created, description = "The session and its new token"),
        (status = 400, description = "Not a valid scope or label"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials"),
        (status = 404, description = "The caller has no such session"),
        (status = 422, description = "The body is not of this form"),
        (status = 503, description = "The session has too many tokens"),
    )
)]
pub(in crate::transport) async fn issue_token(
    State(context): State<TransportContext>,
    Path(id): Path<String>,
    request: Request,
) -> HttpResult<Json<Created>> {
    let Call { caller, parts, body, .. } = Call::identified(&context, request).await?;
    let id = session_id(&id)?;
    let request = json_body::<TokenRequest>(&context, &parts.headers, body).await?;
    let TokenRequest { scope, label } = request.map(|(request, _)| request).unwrap_or_default();
    let scope = scope.as_deref().map(Scope::parse).transpose()?;
    let gateway = &context.gateway;
    let created = gateway.issue_token_by_owner(&caller, id, scope, label.as_deref()).await?;
    Ok(Json(Created::new(&created)))
}

/// Ends a token of a session of the caller.
#[utoipa::path(
    delete, path = "/sessions/{id}/tokens/{token_id}", tag = "owner",
    params(
        ("id" = String, Path, description = "Id of the session"),
        ("token_id" = String, Path, description = "Id of the token"),
    ),
    security(("bearer" = [])),
    responses(
        (status = 204, description = "Ended"),
        (status = 401, description = "A valid credential is required"),
        (status = 403, description = "The gateway accepts no credentials"),
        (status = 404, description = "The caller has no such session, or the session no such token"),
    )
)]
pub(in crate::transport) async fn revoke_session_token(
    State(context): State<TransportContext>,
    Path((id, token)): Path<(String, String)>,
    request: Request,
) -> HttpResult<StatusCode> {
    let Call { caller, .. } = Call::identified(&context, request).await?;
    let token = token.parse::<TokenId>().map_err(|_| Error::from(ErrorKind::NotFound))?;
    context.gateway.revoke_token_by_owner(&caller, session_id(&id)?, token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An id of another form is the id of no session.
fn session_id(text: &str) -> Result<SessionId, Error> {
    text.parse().map_err(|_| ErrorKind::NotFound.into())
}

impl Listed {
    fn new(listed: &ListedSession) -> Self {
        let (title, title_generated) = listed.shown_title();
        Self {
            session: Owned { title, ..Owned::new(&listed.session) },
            title_generated,
            last_activity: rfc3339(listed.active_at),
            message_count: listed.head_seq,
        }
    }
}

impl Owned {
    fn new(session: &Session) -> Self {
        let metadata = session.metadata.iter();
        Self {
            id: session.id.to_string(),
            name: session.name.as_str().into(),
            title: session.title.as_deref().map(Into::into),
            metadata: metadata.map(|(key, value)| (key.into(), value.into())).collect(),
            session_start: rfc3339(session.created_at),
            delete_at: session.delete_at.map(rfc3339),
        }
    }
}

impl TokenInfo {
    fn new(token: &TokenRecord) -> Self {
        let (expires_at, ends_at) = token.deadlines.unzip();
        Self {
            id: token.id.to_string(),
            scope: token.scope.as_str(),
            label: token.label.as_deref().map(Into::into),
            created_at: rfc3339(token.id.created_at()),
            expires_at: expires_at.map(rfc3339),
            ends_at: ends_at.map(rfc3339),
        }
    }
}
