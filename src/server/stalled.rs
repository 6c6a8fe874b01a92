//! Answers that a peer does not take.
//!
//! An HTTP/2 peer can close its window and answer pings for ever: hyper then waits for
//! room and does not ask the body for more, so that nothing the body knows (the session
//! is over, the deadline passed, the backlog is full) is ever heard. The connection
//! notices it from outside: a body that was not asked for its next frame.

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

use crate::transport::InUse;

/// The bodies of a connection that have something to say and are not asked.
#[derive(Debug, Default)]
pub(super) struct StalledBodies {
    since: Mutex<BTreeMap<u64, Instant>>,
    next_id: AtomicU64,
}

impl StalledBodies {
    /// Whether a body has waited for longer than this.
    pub(super) fn exceeds(&self, write_timeout: Duration) -> bool {
        self.since().values().any(|since| since.elapsed() > write_timeout)
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that notes when it waits to be asked, and marks its connection as used.
pub(super) struct TrackedBody {
    body: Body,
    id: u64,
    stalled: Arc<StalledBodies>,
    _in_use: InUse,
}

impl TrackedBody {
    pub(super) fn new(body: Body, stalled: Arc<StalledBodies>, in_use: InUse) -> Self {
        let id = stalled.next_id.fetch_add(1, Ordering::Relaxed);
        stalled.since().insert(id, Instant::now());
        Self { body, id, stalled, _in_use: in_use }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(_)) => self.stalled.since().insert(self.id, Instant::now()),
            Poll::Ready(None) | Poll::Pending => self.stalled.since().remove(&self.id),
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.stalled.since().remove(&self.id);
    }
}
