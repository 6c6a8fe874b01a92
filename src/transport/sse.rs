//! `GET /events`: server-sent events (WHATWG HTML, section 9.2), for clients that
//! cannot or need not write on the same connection.
//!
//! Each event is one frame of the contract as proto-JSON. Its `id:` is a position, so
//! that a browser that reconnects resumes by itself with `Last-Event-ID`; deltas have
//! none, since a reply in progress is told anew to whoever attaches.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};

use super::{
    TransportContext, codec,
    http::{HttpError, HttpResult, Params},
    status,
    stream::{ClientStream, Close, ListenOnly, Outbound, StreamRecord},
};
use crate::session::{Epoch, Event, Position};

/// Attaches, and streams what happens.
#[utoipa::path(
    get, path = "/events", tag = "conversation",
    params(
        ("token" = Option<String>, Query, description = "Or `Authorization: Bearer`"),
        ("position" = Option<String>, Query, description = "EPOCH:SEQ; replay what came after it"),
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
    let params = Params::of(request.uri());
    let token = params.token(request.headers())?;
    let position = position(&params, &request)?;
    let (subscription, opened) = context.gateway.attach(&token, position.as_ref()).await?;

    let mut log = StreamRecord::open("sse", "json");
    log.attached(opened.session.id);
    let epoch = opened.session.epoch.clone();
    let conversation = ClientStream::attached(
        context.gateway.clone(),
        Arc::clone(&context.settings),
        subscription,
    );
    let first = Some(Outbound::Opened(Box::new(opened)));
    let feed = Feed { context, conversation, epoch, first, log };
    Ok(response(Body::from_stream(stream::unfold(Some(feed), |feed| async { feed?.next().await }))))
}

fn position(params: &Params, request: &Request) -> Result<Option<Position>, HttpError> {
    let last = request.headers().get("last-event-id").and_then(|last| last.to_str().ok());
    // A browser sends an empty one if no event had an id.
    let given = |text: &&str| !text.is_empty();
    let text = last.filter(given).or_else(|| params.get("position").filter(given));
    Ok(text.map(str::parse).transpose()?)
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // A buffering proxy would hold events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

struct Feed {
    context: TransportContext,
    conversation: ClientStream,
    epoch: Epoch,
    first: Option<Outbound>,
    log: StreamRecord,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Option<Self>)> {
        let outbound = match self.first.take() {
            Some(outbound) => outbound,
            None => self.conversation.next(&mut ListenOnly).await,
        };
        if let Outbound::End(end) = &outbound {
            let row = |kind| (status::told(kind).close, kind.code());
            let (code, reason) = end.as_ref().err().map_or((1000, "ok"), |error| row(error.kind()));
            self.log.closes(Close::Code(code, reason));
        }
        let bytes = self.event(&outbound)?;
        let over = matches!(outbound, Outbound::End(_));
        Some((Ok(bytes), (!over).then_some(self)))
    }

    /// The lines of an event; `None` if there is nothing left to say.
    fn event(&mut self, outbound: &Outbound) -> Option<Bytes> {
        if matches!(outbound, Outbound::Heartbeat) {
            return Some(Bytes::from_static(b": keep-alive\n\n"));
        }
        self.log.sent();
        let limits = self.context.gateway.settings();
        let frame = codec::response(outbound, limits, self.context.settings.heartbeat)?;
        let data = codec::json(&frame).ok()?;
        let fields = self.fields(outbound);
        Some(Bytes::from(format!("{fields}data: {data}\n\n")))
    }

    fn fields(&self, outbound: &Outbound) -> String {
        match outbound {
            Outbound::Opened(opened) => format!("id: {}\n", opened.position),
            Outbound::Event(Event::Message(message)) => {
                let position = Position { epoch: self.epoch.clone(), seq: message.seq };
                format!("id: {position}\n")
            }
            Outbound::Event(Event::GoAway(after)) => format!("retry: {}\n", after.as_millis()),
            _ => String::new(),
        }
    }
}
