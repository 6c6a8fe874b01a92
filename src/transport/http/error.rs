//! Errors as HTTP responses: `{"detail": …}`, as FastAPI writes them.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    session::{Error, ErrorKind},
    telemetry::PEER,
    transport::status,
};

/// The result of a handler.
pub(in crate::transport) type HttpResult<T> = std::result::Result<T, HttpError>;

/// A request that is refused.
#[derive(Debug)]
pub(in crate::transport) enum HttpError {
    /// The core returned an error.
    Failed(Error),
    /// A parameter is missing: its location and name.
    Missing(&'static str, &'static str),
    /// A parameter is not a number.
    NotANumber(&'static str, String),
    /// The body is not JSON of the expected form.
    BadJson(String),
    /// The body is JSON, but not an object.
    NotAnObject,
    /// The content type of the body is not supported.
    BodyType,
    /// The body is compressed.
    BodyEncoding,
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ErrorKind> for HttpError {
    fn from(kind: ErrorKind) -> Self {
        Self::Failed(kind.into())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        match self {
            Self::Failed(error) => error_response(&error),
            Self::Missing(place, name) => {
                unprocessable("missing", json!([place, name]), "Field required", &Value::Null)
            }
            Self::NotANumber(name, input) => {
                let message =
                    "Input should be a valid integer, unable to parse string as an integer";
                let input = Error::capped(input.into()).into_owned();
                unprocessable("int_parsing", json!(["query", name]), message, &input.into())
            }
            Self::BadJson(message) => {
                let message = Error::capped(message.into());
                unprocessable("json_invalid", json!(["body"]), &message, &Value::Null)
            }
            Self::NotAnObject => {
                let message = "Input should be a valid dictionary or object to extract fields from";
                unprocessable("model_attributes_type", json!(["body"]), message, &Value::Null)
            }
            Self::BodyEncoding => detail(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must not be compressed (Content-Encoding)",
            ),
            Self::BodyType => {
                detail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json")
            }
        }
    }
}

/// Written by hand, since a `json!` map would put the keys into alphabetical order.
fn unprocessable(kind: &str, loc: Value, message: &str, input: &Value) -> Response {
    let (kind, message) = (Value::from(kind), Value::from(message));
    let body =
        format!(r#"{{"detail":[{{"type":{kind},"loc":{loc},"msg":{message},"input":{input}}}]}}"#);
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (StatusCode::UNPROCESSABLE_ENTITY, json, body).into_response()
}

/// Converts an error of the core into a response. Logs the cause of internal errors, which the
/// client does not see.
pub(in crate::transport) fn error_response(error: &Error) -> Response {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(target: PEER, cause = ?error, "request failed");
    }
    status::count_refusal(error.kind());
    let status = status::row(error.kind()).http;
    let mut response = if error.kind() == ErrorKind::InvalidName {
        let body = json!({"detail": {"loc": "name", "msg": error.message()}});
        (status, Json(body)).into_response()
    } else {
        detail(status, error.message())
    };
    if let Some(wait) = error.wait() {
        let seconds = wait.as_millis().div_ceil(1000);
        if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    response
}

/// Returns a response with the body `{"detail": message}`.
#[must_use]
pub fn detail(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"detail": message}))).into_response()
}

/// Returns the answer of a gateway that takes requests, with the parts that do not work now.
pub fn ready(status: StatusCode, degraded: &[&str]) -> Response {
    let mut body = json!({"detail": "ready"});
    if !degraded.is_empty() {
        body["degraded"] = json!(degraded);
    }
    (status, Json(body)).into_response()
}

/// Returns a 405 with the allowed methods (RFC 9110, section 15.5.6).
pub(in crate::transport) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}
