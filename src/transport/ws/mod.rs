//! `/chat`: the WebSocket handshake (RFC 6455, section 4; over HTTP/2, RFC 8441).
//!
//! axum's extractor is not used: its errors are not `{"detail": …}`, and it hides the connection,
//! which must be read to its end after a close frame (see `socket`).

mod plain;
mod socket;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::{ext, upgrade::OnUpgrade};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    ConnectionContext, TransportContext,
    auth::{BEARER_PROTOCOL, CREDENTIAL_PROTOCOL, Secrets},
    codec::Codec,
    http::{Params, detail, error_response, method_not_allowed},
    stream::{ClientStream, Protocol, StreamRecord},
};
use crate::session::{Error, ErrorKind, Result};

/// Handles `/chat` for every method: over HTTP/2 it is CONNECT.
pub(super) async fn upgrade(
    State(context): State<TransportContext>,
    mut request: Request,
) -> Response {
    match handshake(&context, &mut request).await {
        Ok(response) => response,
        Err(refusal) => *refusal,
    }
}

/// Boxed, since most handshakes succeed.
type Refusal = Box<Response>;

async fn handshake(context: &TransportContext, request: &mut Request) -> Result<Response, Refusal> {
    let accept = check_upgrade(request)?;
    if !context.settings.allows_origin(request.headers(), request.uri()) {
        return Err(forbidden(&ErrorKind::OriginForbidden.into()));
    }
    let offers = Offers::read(request.headers());
    let query = Params::of(request.uri());
    let codec = offers.codec;
    let secrets = Secrets::of(request.headers(), [query.get("token"), offers.token]);
    let secrets = secrets.and_then(|found| found.with_credential(offers.credential));
    let stream = open_stream(context, request.extensions(), codec, secrets).await?;
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let on_upgrade =
        on_upgrade.ok_or_else(|| upgrade_required("This connection cannot be upgraded"))?;

    let context = context.clone();
    let connection_context = request.extensions_mut().remove::<ConnectionContext>();
    tokio::spawn(async move {
        // The connection is in use until the socket ends.
        let _in_use = connection_context.map(|connection| connection.in_use);
        match on_upgrade.await {
            Ok(connection) => socket::run(connection, &context, stream, codec).await,
            Err(error) => tracing::debug!(%error, "client disconnected during the handshake"),
        }
    });
    Ok(switching(accept, codec))
}

/// Opens the stream of a handshake. In the structured modes a wrong token is reported in a frame,
/// since a browser cannot see the status of a handshake.
async fn open_stream(
    context: &TransportContext,
    extensions: &Extensions,
    codec: Codec,
    secrets: Result<Secrets>,
) -> Result<ClientStream, Refusal> {
    let record = || StreamRecord::new(Protocol::WebSocket, codec.name());
    let identified = async {
        let secrets = secrets?;
        Ok((secrets.caller(context, extensions).await?, secrets.token))
    };
    let identified = identified.await;
    if codec != Codec::Plain {
        return Ok(match identified {
            Ok((caller, token)) => ClientStream::new(context, caller, record(), token),
            Err(error) => ClientStream::refused(context, record(), error),
        });
    }
    let attach = async {
        let (caller, token) = identified?;
        let token = token.ok_or(ErrorKind::MissingToken)?;
        let attached = context.gateway.attach_replies_only(&caller, &token).await?;
        Ok::<_, Error>((caller, attached))
    };
    match attach.await {
        Ok((caller, (subscription, opened))) => {
            Ok(ClientStream::attached(context, caller, record(), subscription, opened))
        }
        Err(error) => {
            let is_forbidden =
                [ErrorKind::MissingToken, ErrorKind::SessionExpired, ErrorKind::InvalidArgument];
            Err(if is_forbidden.contains(&error.kind()) {
                forbidden(&error)
            } else {
                Box::new(error_response(&error))
            })
        }
    }
}

struct Offers<'a> {
    codec: Codec,
    token: Option<&'a str>,
    credential: Option<&'a str>,
}

impl<'a> Offers<'a> {
    /// Reads the entries. The first known codec counts.
    fn read(headers: &'a HeaderMap) -> Self {
        let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let entries = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        let entries: Vec<_> = entries.map(str::trim).collect();
        let named = |entry: &&str| Codec::of_subprotocol(entry);
        Self {
            codec: entries.iter().find_map(named).unwrap_or(Codec::Plain),
            token: entries.iter().find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL)),
            credential: entries.iter().find_map(|entry| entry.strip_prefix(CREDENTIAL_PROTOCOL)),
        }
    }
}

/// The confirmation of an upgrade.
enum Accept {
    /// HTTP/1.1: `Sec-WebSocket-Accept` with this value.
    Key(HeaderValue),
    /// HTTP/2: a status of 200.
    Connect,
}

fn check_upgrade(request: &Request) -> Result<Accept, Refusal> {
    if request.version() == Version::HTTP_2 && request.method() == Method::CONNECT {
        let websocket = request
            .extensions()
            .get::<ext::Protocol>()
            .is_some_and(|to| to.as_str() == "websocket");
        let accept = websocket.then_some(Accept::Connect);
        return accept.ok_or_else(|| upgrade_required("Only WebSocket is supported here"));
    }
    if request.method() == Method::HEAD {
        return Err(upgrade_required("Upgrade Required"));
    }
    if request.method() != Method::GET {
        return Err(Box::new(method_not_allowed("GET,HEAD")));
    }
    let headers = request.headers();
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
        return Err(upgrade_required("Upgrade Required"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(upgrade_required("WebSocket version 13 is required"));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|key| is_key(key.as_bytes()) && keys.next().is_none());
    let key = key.and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
    let missing =
        || detail(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64");
    key.map(Accept::Key).ok_or_else(|| Box::new(missing()))
}

/// Returns true for 16 bytes in base64 (RFC 6455, section 4.2.1).
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key.strip_suffix(b"==") {
        Some(digits) => digits.len() == 22 && digits.iter().all(is_digit),
        None => false,
    }
}

/// Returns true if a comma-separated header lists a token, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(token))
}

fn switching(accept: Accept, codec: Codec) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Accept::Key(key) = accept {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    }
    if let Some(name) = codec.subprotocol() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    if response.headers().contains_key(UPGRADE) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    response
}

fn forbidden(error: &Error) -> Refusal {
    Box::new(detail(StatusCode::FORBIDDEN, error.message()))
}

/// RFC 9110, section 15.5.22.
fn upgrade_required(message: &str) -> Refusal {
    let mut response = Box::new(detail(StatusCode::UPGRADE_REQUIRED, message));
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}
