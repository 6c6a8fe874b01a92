//! `/docs`, `/openapi.json`, `/asyncapi.yaml`: what the port speaks, served from the
//! binary itself. Nothing is loaded from anywhere else.

use axum::{Router, http::header, routing::get};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::transport::TransportContext;

/// WebSocket and its frames. OpenAPI has no word for them.
const ASYNCAPI: &str = include_str!("asyncapi.yaml");

/// The head of the description; the routes add themselves.
pub(in crate::transport) fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Duologue")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Sessions and conversations over REST and server-sent events."))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    OpenApiBuilder::new().info(info).build()
}

pub(in crate::transport) fn router(description: OpenApi) -> Router<TransportContext> {
    let config = Config::default().validator_url("none");
    let ui = SwaggerUi::new("/docs").url("/openapi.json", description).config(config);
    let asyncapi = async || ([(header::CONTENT_TYPE, "application/yaml")], ASYNCAPI);
    Router::new().merge(ui).route("/asyncapi.yaml", get(asyncapi))
}
