//! Responses that a peer does not read.
//!
//! An HTTP/2 peer can close its window and answer PINGs forever. hyper then waits for room and does
//! not poll the body, so the end of the session, a deadline or a full backlog has no effect. The
//! connection detects this from outside: the body is not polled for its next frame.
//!
//! h2 buffers a whole frame of a body once the window has room for one byte. Large bodies are
//! therefore split into small frames, and a body counts as unread until its last frame has been
//! sent.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use crate::transport::{InUse, ResponsePermit};

/// The bodies of a connection that wait to be polled, and since when.
#[derive(Debug, Default)]
pub(super) struct StalledBodies {
    since: Mutex<BTreeMap<u64, Instant>>,
    next_id: AtomicU64,
}

impl StalledBodies {
    /// Returns true if a body has waited for longer than this.
    pub(super) fn exceeds(&self, write_timeout: Duration) -> bool {
        self.since().values().any(|since| since.elapsed() > write_timeout)
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Largest frame that is handed to the connection, in bytes. It is what one stream can pin in h2
/// unnoticed.
const MAX_FRAME: usize = 16 << 10;

/// Bodies up to this size are handed over with their end: a further frame for the end would cost
/// more than they can pin.
const SMALL_BODY: u64 = 1 << 10;

/// A body in small frames that marks its connection as used, and records when it waits to be polled.
pub(super) struct TrackedBody {
    body: Body,
    /// The rest of a frame.
    rest: Bytes,
    is_large: bool,
    id: u64,
    stalled: Arc<StalledBodies>,
    _in_use: InUse,
    _permit: Option<ResponsePermit>,
}

impl TrackedBody {
    pub(super) fn new(
        body: Body,
        stalled: Arc<StalledBodies>,
        in_use: InUse,
        permit: Option<ResponsePermit>,
    ) -> Self {
        let id = stalled.next_id.fetch_add(1, Ordering::Relaxed);
        stalled.since().insert(id, Instant::now());
        let is_large =
            http_body::Body::size_hint(&body).exact().is_some_and(|size| size > SMALL_BODY);
        Self { body, rest: Bytes::new(), is_large, id, stalled, _in_use: in_use, _permit: permit }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = if self.rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))))
        };
        let frame = frame.map_ok(|frame| match frame.into_data() {
            Ok(mut data) if data.len() > MAX_FRAME => {
                self.rest = data.split_off(MAX_FRAME);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(other) => other,
        });
        match &frame {
            Poll::Ready(Some(_)) => self.stalled.since().insert(self.id, Instant::now()),
            Poll::Ready(None) | Poll::Pending => self.stalled.since().remove(&self.id),
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        !self.is_large && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut whole = http_body::SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.stalled.since().remove(&self.id);
    }
}
