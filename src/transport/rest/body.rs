//! JSON bodies of requests.

use axum::body::{Body, Bytes, to_bytes};
use http::{HeaderMap, HeaderValue, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    session::ErrorKind,
    transport::{
        TransportContext,
        codec::{self, Codec},
        http::{HttpError, HttpResult},
    },
};

/// Reads a JSON body. Returns the bytes as well. `None` if there is no body.
pub(super) async fn json_body<T: DeserializeOwned>(
    context: &TransportContext,
    headers: &HeaderMap,
    body: Body,
) -> HttpResult<Option<(T, Bytes)>> {
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(HttpError::BodyEncoding);
    }
    let body = read(context, body).await?;
    if body.is_empty() {
        return Ok(None);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(HttpError::BodyType);
    }
    // serde would accept an array as the fields of a struct.
    if matches!(
        body.trim_ascii_start().first(),
        Some(b'[' | b'"' | b'0'..=b'9' | b't' | b'f' | b'n')
    ) {
        return Err(HttpError::NotAnObject);
    }
    let text = str::from_utf8(&body).map_err(|_| HttpError::from(ErrorKind::BadUtf8))?;
    let value = codec::json_from_str(text);
    let value = value.map_err(|error| HttpError::BadJson(error.to_string()))?;
    Ok(Some((value, body)))
}

async fn read(context: &TransportContext, body: Body) -> HttpResult<Bytes> {
    let limit = Codec::Json.max_frame(context.gateway.settings().messages.content.max_size);
    match timeout(context.settings.call_timeout, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ErrorKind::FrameTooLarge.into()),
        Err(_) => Err(ErrorKind::DeadlineExceeded.into()),
    }
}
