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
//! - `handle`: one live session (fan-out, turn queue, reply in progress).
//! - `metrics`: what all of it counts. `panic`: what becomes of one.
//! - `turn`: runs the turns of a live session. `run`: one reply; `prompt`, what it
//!   is made from; `checkpointer`, which keeps its progress. `attachment`, `queue`: one
//!   watcher.

mod active_session;
mod checkpointer;
mod clock;
mod error;
mod event;
mod gateway;
mod id;
mod lifecycle;
mod message;
mod metrics;
mod name;
mod new_message;
mod panic;
mod position;
mod prompt;
mod registry;
mod reply_run;
mod responder;
mod settings;
mod store;
mod subscriber_queue;
mod subscription;
mod token;
mod turn;

pub use clock::{Clock, Timestamp};
pub use error::{Error, ErrorKind};
pub use event::{Accepted, Event, Opened, ReplyStarted};
pub use gateway::{Created, EagerTask, Gateway};
pub use id::{MessageId, SessionId};
pub use lifecycle::Drained;
pub use message::{Failure, Message, Role, Status, Usage, estimate_tokens};
pub use name::Name;
pub use new_message::NewMessage;
pub use position::{Epoch, Position};
pub use responder::{Chunk, Chunks, History, Outcome, Prompt, Reply, Responder};
pub use settings::Settings;
pub use store::{
    AppendLimits, Appended, Checkpoint, Entry, NewSession, Page, Session, Snapshot, Store, Swept,
    Unfinished,
};
pub use subscription::Subscription;
pub use token::{Token, TokenHash};
pub use turn::MAX_ATTEMPTS;

/// What the fallible operations of the core return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
