//! Every route that is not gRPC.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    response::Response,
    routing::{any, get},
};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    TransportContext,
    http::detail,
    rest::{documentation, message, probe, sessions, token},
    sse, ws,
};

/// Returns the router of REST, server-sent events and WebSocket.
pub fn router(context: &TransportContext) -> Router {
    let (api, description) = OpenApiRouter::with_openapi(documentation::description())
        .routes(routes!(probe::test))
        .routes(routes!(token::create, token::revoke))
        .routes(routes!(token::refresh, token::refresh_by_get))
        .routes(routes!(message::send))
        .routes(routes!(message::regenerate))
        .routes(routes!(message::stop))
        .routes(routes!(sse::events))
        .routes(routes!(sessions::list_sessions))
        .routes(routes!(sessions::update_session, sessions::delete_session))
        .routes(routes!(sessions::list_tokens, sessions::issue_token))
        .routes(routes!(sessions::revoke_session_token))
        .routes(routes!(probe::healthz))
        .routes(routes!(probe::readyz))
        .split_for_parts();
    let api =
        if context.settings.docs { api.merge(documentation::router(description)) } else { api };
    api.route("/chat", any(ws::upgrade))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        // Handlers that read a body limit it by themselves, to the size of a message.
        .layer(DefaultBodyLimit::disable())
        .with_state(context.clone())
}

async fn not_found() -> Response {
    detail(StatusCode::NOT_FOUND, "Not Found")
}

/// axum adds `Allow`.
async fn wrong_method() -> Response {
    detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}
