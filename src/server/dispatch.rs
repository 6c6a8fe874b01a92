//! Dispatches requests: gRPC by its content type, everything else to the router.
//!
//! A merged router is not used: its fallback would answer an unknown path with 200 and
//! `grpc-status: 12`, or an unknown RPC with 404.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body};
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::body::Incoming;
use tower::{Layer as _, Service};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use crate::transport::{self, TransportContext};

/// Returns the service of the port.
pub(super) fn service(
    context: &TransportContext,
) -> Result<
    impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    >
    + Clone
    + Send
    + 'static
    + use<>,
    Box<dyn std::error::Error + Send + Sync>,
> {
    let dispatch = Dispatch {
        grpc: transport::grpc_service(context)?,
        http: transport::router(context),
        settings: Arc::clone(&context.settings),
    };
    Ok(Preflights { cors: cors(&context.settings).layer(dispatch.clone()), dispatch })
}

/// Keeps OPTIONS requests that are not preflights (WHATWG Fetch, section 3.3.3) away from the CORS
/// layer, which answers each of them with 200.
#[derive(Clone)]
struct Preflights<G> {
    cors: Cors<Dispatch<G>>,
    dispatch: Dispatch<G>,
}

impl<G> Service<Request<Incoming>> for Preflights<G>
where
    G: Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        >,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The CORS layer has a clone of the dispatch, which is polled separately.
        ready!(self.dispatch.poll_ready(cx))?;
        self.cors.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let headers = request.headers();
        let preflight = headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if request.method() == Method::OPTIONS && !preflight {
            return self.dispatch.call(request);
        }
        self.cors.call(request).boxed()
    }
}

/// Returns the rules for pages of other origins (WHATWG Fetch, section 3.3).
fn cors(settings: &Arc<transport::Settings>) -> CorsLayer {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let settings = Arc::clone(settings);
    let allow = move |_: &HeaderValue, request: &http::request::Parts| {
        settings.allows_origin(&request.headers, &request.uri)
    };
    let exposed = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-retry-pushback-ms",
        "retry-after",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allow))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(DAY)
}

#[derive(Clone)]
struct Dispatch<G> {
    grpc: G,
    http: Router,
    settings: Arc<transport::Settings>,
}

impl<G> Service<Request<Incoming>> for Dispatch<G>
where
    G: Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        >,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The router is always ready.
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let refusal = transport::check_head(&request)
            .or_else(|| transport::check_origin(&self.settings, &request));
        let family = match refusal {
            Some(refusal) => Family::Neither(refusal),
            None => Family::of(&request),
        };
        let secured = |mut response: Response<Body>| {
            transport::secure(&mut response);
            response
        };
        match family {
            Family::Grpc => {
                self.grpc.call(request).map(|answer| answer.map(|it| it.map(Body::new))).boxed()
            }
            Family::GrpcWeb => {
                let call = self.grpc.call(request);
                let answered = move |answer: Response<tonic::body::Body>| {
                    let mut answer = secured(answer.map(Body::new));
                    // nginx would buffer a stream until its end.
                    let unbuffered = HeaderValue::from_static("no");
                    answer.headers_mut().insert("x-accel-buffering", unbuffered);
                    answer
                };
                call.map(move |answer| answer.map(answered)).boxed()
            }
            Family::Http => self.http.call(request).map(move |answer| answer.map(secured)).boxed(),
            Family::Neither(refusal) => std::future::ready(Ok(secured(refusal))).boxed(),
        }
    }
}

/// The family of a request.
enum Family {
    Grpc,
    GrpcWeb,
    Http,
    Neither(Response<Body>),
}

impl Family {
    fn of<B>(request: &Request<B>) -> Self {
        let is_grpc = content_type(request.headers()).starts_with("application/grpc");
        if !is_grpc && !names_method(request.uri().path()) {
            return Self::Http;
        }
        if request.method() != Method::POST {
            let mut refusal =
                transport::detail(StatusCode::METHOD_NOT_ALLOWED, "gRPC takes POST only");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Self::Neither(refusal);
        }
        if !is_grpc {
            // gRPC over HTTP/2, "Requests". Also prevents a foreign page from making a call: a page
            // may post `text/plain` without a preflight.
            let message = "gRPC takes content-type application/grpc or application/grpc-web";
            return Self::Neither(transport::detail(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let web = content_type(request.headers()).starts_with("application/grpc-web");
        if !web && request.version() != Version::HTTP_2 {
            let message = "gRPC needs HTTP/2; gRPC-Web does not";
            return Self::Neither(transport::detail(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                message,
            ));
        }
        if web { Self::GrpcWeb } else { Self::Grpc }
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns true if a path names a method of a gRPC service of the gateway.
fn names_method(path: &str) -> bool {
    ["/duologue.v1.", "/grpc.health.v1.", "/grpc.reflection."]
        .iter()
        .any(|package| path.starts_with(package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_methods_are_recognized() {
        assert!(names_method("/duologue.v1.ChatService/Chat"));
        assert!(names_method("/grpc.health.v1.Health/Check"));
        for path in
            ["/", "/test", "/openapi.json", "/docs/swagger-ui.css", "/docs/", "/a.b", "/v1.0/test"]
        {
            assert!(!names_method(path), "{path}");
        }
    }
}
