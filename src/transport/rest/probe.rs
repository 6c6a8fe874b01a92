//! Is it there, does it live, may it be given work.

use axum::{Json, extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{answer, detail};
use crate::{session::ErrorKind, transport::TransportContext};

/// `GET /test`.
#[derive(Serialize, ToSchema)]
pub(super) struct Online {
    #[schema(example = "API is Online")]
    msg: &'static str,
}

/// Is the service there?
#[utoipa::path(get, path = "/test", tag = "service", responses((status = 200, body = Online)))]
pub(super) async fn test() -> Json<Online> {
    Json(Online { msg: "API is Online" })
}

/// Does the process live?
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200)))]
pub(super) async fn healthz() -> Response {
    detail(StatusCode::OK, "ok")
}

/// May it be given work? Not while it shuts down.
#[utoipa::path(get, path = "/readyz", tag = "service", responses((status = 200), (status = 503)))]
pub(super) async fn readyz(State(context): State<TransportContext>) -> Response {
    if context.draining.is_cancelled() {
        return answer(&ErrorKind::Draining.into());
    }
    detail(StatusCode::OK, "ready")
}
