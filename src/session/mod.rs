//! The core: what both protocol families must agree on.
//!
//! A [`Gateway`] owns every session. Transports authenticate and decode, call it,
//! and encode what comes back; they hold no rule of their own. It knows no
//! transport and no client library: what keeps the log and what answers are behind
//! the traits [`Store`] and [`Responder`].
//!
//! - `name`, `draft`, `token`, `id`, `position`, `clock`: validated values.
//! - `message`, `event`: what a log holds, and what those who watch it are told.
//! - `gateway`: the operations. `lifecycle`: its beginning, its housekeeping, its end.
//! - `registry`: which sessions are live in this process.
//! - `live`: one live session (fan-out, turn queue, reply in progress).
//! - `metrics`: what all of it counts. `panic`: what becomes of one.
//! - `turn`: runs the turns of a live session. `production`: one reply; `prompt`, what it
//!   is made from; `checkpointer`, which keeps its progress. `attachment`, `mailbox`: one
//!   watcher.

mod attachment;
mod checkpointer;
mod clock;
mod draft;
mod error;
mod event;
mod gateway;
mod id;
mod lifecycle;
mod live;
mod mailbox;
mod message;
mod metrics;
mod name;
mod panic;
mod position;
mod production;
mod prompt;
mod registry;
mod responder;
mod settings;
mod store;
mod token;
mod turn;

pub use attachment::Attachment;
pub use clock::{Clock, Timestamp};
pub use draft::Draft;
pub use error::{Error, ErrorKind};
pub use event::{Accepted, Event, Opened, ReplyStarted};
pub use gateway::{Created, Gateway, Started};
pub use id::{MessageId, SessionId};
pub use lifecycle::Drained;
pub use message::{Failure, Message, Role, Status, Usage, estimate_tokens};
pub use name::Name;
pub use position::{Epoch, Position};
pub use responder::{Chunk, Chunks, History, Outcome, Prompt, Reply, Responder};
pub use settings::Settings;
pub use store::{
    Appended, Checkpoint, Entry, NewSession, Page, Session, Snapshot, Store, Swept, Terms,
    Unfinished,
};
pub use token::{Token, TokenHash};
pub use turn::MAX_ATTEMPTS;

/// What the fallible operations of the core return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
