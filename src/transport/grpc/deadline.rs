//! Deadlines of calls: the client's `grpc-timeout`, and the gateway's own for unary calls.
//!
//! tonic applies `grpc-timeout` only in its own server, and only until the head of the response.
//! Here a streamed response ends at the deadline, too.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::failure;
use crate::session::{Error, ErrorKind};

/// Streaming methods, which have no deadline of the gateway.
const STREAMS: [&str; 4] = [
    "/duologue.v1.ChatService/Chat",
    "/duologue.v1.ChatService/Subscribe",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.",
];

/// Longest deadline. A longer one could overflow the clock.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug)]
pub(super) struct DeadlineLayer {
    unary: Duration,
}

impl DeadlineLayer {
    /// `unary` is the deadline of unary calls.
    pub(super) const fn new(unary: Duration) -> Self {
        Self { unary }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadlines<S>;

    fn layer(&self, inner: S) -> Deadlines<S> {
        Deadlines { inner, unary: self.unary }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Deadlines<S> {
    inner: S,
    unary: Duration,
}

impl<S, B> Service<Request<B>> for Deadlines<S>
where
    S: Service<Request<B>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let streams = STREAMS.iter().any(|path| request.uri().path().starts_with(path));
        let given = match given_timeout(request.headers()) {
            Ok(given) => given,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let call = self.inner.call(request);
        // The head of a streaming response comes at once, too: it waits at most for a single
        // request.
        let timeout = given.map_or(self.unary, |given| given.min(self.unary));
        Box::pin(async move {
            let now = Instant::now();
            let limit = if streams { given } else { Some(timeout) };
            match timeout_at(now + timeout.min(FOREVER), call).await {
                Ok(Ok(response)) => Ok(match limit {
                    Some(limit) => {
                        let deadline = now + limit.min(FOREVER);
                        response.map(|body| Body::new(Limited::new(body, deadline)))
                    }
                    None => response,
                }),
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(passed().into_http()),
            }
        })
    }
}

fn passed() -> Status {
    failure::status(&ErrorKind::DeadlineExceeded.into())
}

/// Reads `grpc-timeout`: 1 to 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn given_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    let malformed = || Error::new(ErrorKind::InvalidArgument, "Malformed grpc-timeout");
    parsed.map(Some).ok_or_else(|| failure::status(&malformed()))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A response body that ends with DEADLINE_EXCEEDED at its deadline.
struct Limited {
    inner: Body,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Limited {
    fn new(inner: Body, deadline: Instant) -> Self {
        Self { inner, deadline: Box::pin(sleep_until(deadline)), over: false }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.deadline.as_mut().poll(cx));
        self.over = true;
        // Dropped now, so that the call is cancelled even if the client does not read the end.
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        let written = passed().add_header(&mut trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for malformed in ["", "S", "5", "-5S", "5s", "123456789S", "5 S", "5é", "é"] {
            assert_eq!(parse_timeout(malformed), None, "{malformed}");
        }
    }
}
