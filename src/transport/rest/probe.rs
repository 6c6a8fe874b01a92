//! `/test` and the probes.

use axum::{Json, extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    session::ErrorKind,
    transport::{
        TransportContext,
        http::{detail, error_response, ready},
    },
};

/// The answer of `GET /test`.
#[derive(Serialize, ToSchema)]
pub(in crate::transport) struct Online {
    #[schema(example = "API is Online")]
    msg: &'static str,
}

/// Is the service there?
#[utoipa::path(get, path = "/test", tag = "service", responses((status = 200, body = Online, description = "The service answers")))]
pub(in crate::transport) async fn test() -> Json<Online> {
    Json(Online { msg: "API is Online" })
}

/// Does the process live?
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "The process answers")))]
pub(in crate::transport) async fn healthz() -> Response {
    detail(StatusCode::OK, "ok")
}

/// May it be given work? Not while it shuts down. `degraded` lists parts that do not work now, such as
/// `store`.
#[utoipa::path(get, path = "/readyz", tag = "service", responses((status = 200, description = "Ready for requests"), (status = 503, description = "The gateway shuts down")))]
pub(in crate::transport) async fn readyz(State(context): State<TransportContext>) -> Response {
    if context.draining.is_cancelled() {
        return error_response(&ErrorKind::Draining.into());
    }
    ready(StatusCode::OK, &context.gateway.degraded())
}
