//! `GET /events`: server-sent events (WHATWG HTML, section 9.2), for clients without WebSocket.
//!
//! Each event is one frame of the contract as proto-JSON. Its `id:` is a position, so that a
//! browser resumes with `Last-Event-ID` when it reconnects, also inside a reply.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{
    TransportContext,
    codec::Form,
    http::{Call, HttpResult},
    stream::{ClientStream, ListenOnly, Outbound, Protocol, StreamRecord},
};
use crate::session::{Event, Position};

/// Attaches, and streams what happens.
#[utoipa::path(
    get, path = "/events", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("position" = Option<String>, Query, description = "EPOCH:SEQ or EPOCH:SEQ:REPLY:OFFSET; replay what came after it"),
        ("Last-Event-ID" = Option<String>, Header, description = "As `position`, and before it"),
    ),
    security(("bearer" = []), ("token" = [])),
    responses(
        (status = 200, body = String, description = "A stream of ChatResponse frames as proto-JSON", content_type = "text/event-stream"),
        (status = 400, description = "Session expired or does not exist"),
        (status = 422, description = "A parameter is missing"),
    )
)]
pub(super) async fn events(
    State(context): State<TransportContext>,
    request: Request,
) -> HttpResult<Response> {
    let call = Call::of(&context, request).await?;
    let token = call.token()?;
    let position = position(&call)?;
    let caller = call.caller;
    let (subscription, opened) = context.gateway.attach(&caller, &token, position.as_ref()).await?;
    let record = StreamRecord::new(Protocol::Sse, "json");
    let stream = ClientStream::attached(&context, caller, record, subscription, opened);
    // Boxed, since each item moves it.
    let feed = Box::new(Feed { context, stream });
    Ok(response(Body::from_stream(futures_util::stream::unfold(Some(feed), |feed| async {
        feed?.next().await
    }))))
}

fn position(call: &Call) -> HttpResult<Option<Position>> {
    let last = call.parts.headers.get("last-event-id").and_then(|last| last.to_str().ok());
    // A browser sends an empty id if no event had one.
    let given = |text: &&str| !text.is_empty();
    let text = last.filter(given).or_else(|| call.params.get("position").filter(given));
    Ok(text.map(str::parse).transpose()?)
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // A buffering proxy would delay events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

struct Feed {
    context: TransportContext,
    stream: ClientStream,
}

impl Feed {
    async fn next(mut self: Box<Self>) -> Option<(Result<Bytes, Infallible>, Option<Box<Self>>)> {
        let outbound = self.stream.next(&mut ListenOnly).await;
        let bytes = self.event(&outbound)?;
        let is_over = matches!(outbound, Outbound::End(_));
        Some((Ok(bytes), (!is_over).then_some(self)))
    }

    /// Returns the lines of an event; `None` if the item has no form as an event.
    fn event(&self, outbound: &Outbound) -> Option<Bytes> {
        if matches!(outbound, Outbound::Heartbeat) {
            return Some(Bytes::from_static(b": keep-alive\n\n"));
        }
        let limits = self.context.gateway.settings();
        let heartbeat = self.context.settings.heartbeat;
        let data = Form::Json.encoded(outbound, limits, heartbeat).ok()??;
        let mut event = self.fields(outbound).into_bytes();
        event.reserve(data.len() + 8);
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&data);
        event.extend_from_slice(b"\n\n");
        Some(event.into())
    }

    fn fields(&self, outbound: &Outbound) -> String {
        match outbound {
            Outbound::Opened(opened) => format!("id: {}\n", opened.position),
            Outbound::Event(Event::GoAway(after)) => format!("retry: {}\n", after.as_millis()),
            // The position after the event: the stream has delivered it.
            Outbound::Event(
                Event::Message(_) | Event::ReplyStarted(_) | Event::Delta(_) | Event::ReplyPart(_),
            ) => match self.stream.position() {
                Some(position) => format!("id: {position}\n"),
                None => String::new(),
            },
            Outbound::Accepted(_)
            | Outbound::Refused { .. }
            | Outbound::Pong
            | Outbound::Heartbeat
            | Outbound::End(_) => String::new(),
        }
    }
}
