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
pub(super) struct Unread {
    since: Mutex<BTreeMap<u64, Instant>>,
    next_id: AtomicU64,
}

impl Unread {
    /// Whether a body has waited for longer than this.
    pub(super) fn exceeds(&self, patience: Duration) -> bool {
        self.since().values().any(|since| since.elapsed() > patience)
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that notes when it waits to be asked, and marks its connection as used.
pub(super) struct Watched {
    body: Body,
    id: u64,
    unread: Arc<Unread>,
    _in_use: InUse,
}

impl Watched {
    pub(super) fn new(body: Body, unread: Arc<Unread>, in_use: InUse) -> Self {
        let id = unread.next_id.fetch_add(1, Ordering::Relaxed);
        unread.since().insert(id, Instant::now());
        Self { body, id, unread, _in_use: in_use }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(_)) => self.unread.since().insert(self.id, Instant::now()),
            Poll::Ready(None) | Poll::Pending => self.unread.since().remove(&self.id),
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

impl Drop for Watched {
    fn drop(&mut self) {
        self.unread.since().remove(&self.id);
    }
}
