//! `/docs`, `/openapi.json` and `/asyncapi.yaml`: the documentation of the port. All of it is in
//! the binary.

use axum::{Router, http::header, routing::get};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Required,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::transport::TransportContext;

/// Describes WebSocket and its frames, which OpenAPI cannot.
const ASYNCAPI: &str = include_str!("asyncapi.yaml");

/// Returns the head of the OpenAPI document. The router adds the routes.
pub(in crate::transport) fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Duologue")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Sessions and conversations over REST and server-sent events."))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let in_query = ApiKey::Query(ApiKeyValue::new("token"));
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("token", SecurityScheme::ApiKey(in_query))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

pub(in crate::transport) fn router(description: OpenApi) -> Router<TransportContext> {
    let mut description = description;
    for path in description.paths.paths.values_mut() {
        let bodies = path.post.iter_mut().filter_map(|post| post.request_body.as_mut());
        // The query may hold the same values.
        for body in bodies {
            if let RefOr::T(body) = body {
                body.required = Some(Required::False);
            }
        }
    }
    let config = Config::default().validator_url("none");
    let ui = SwaggerUi::new("/docs").url("/openapi.json", description).config(config);
    let asyncapi = async || ([(header::CONTENT_TYPE, "application/yaml")], ASYNCAPI);
    Router::new().merge(ui).route("/asyncapi.yaml", get(asyncapi))
}
