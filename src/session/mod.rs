//! The core: every rule that all transports must agree on.
//!
//! A [`Gateway`] owns every session. Transports authenticate and decode, call it, and encode the
//! result; they contain no rule of the conversation. The core knows no transport and no client
//! library: storage and reply production are behind the traits [`Store`] and [`Responder`].
//!
//! - `model`: validated values. `ports`: the traits that other modules implement.
//! - `live`: the sessions that are active in this process, their subscribers and events.
//! - `turn`: accepts user messages and runs the responder, one turn at a time.
//! - `service`: the operations, one file per group; `caller`: the origin of an operation. `lifecycle`: start and shutdown.
//! - `sweeper`: ends expired and removed sessions.

mod caller;
mod core;
mod eager_task;
mod lifecycle;
mod live;
mod metrics;
mod model;
mod panic;
mod ports;
mod service;
mod settings;
mod sweeper;
mod turn;

pub use caller::Caller;
pub use eager_task::EagerTask;
pub use lifecycle::Drained;
pub use live::{
    event::{Accepted, Event, Opened, ReplyStarted},
    subscription::Subscription,
};
pub use model::{
    Clock, Epoch, Error, ErrorKind, Failure, Message, MessageId, Name, NewMessage, Position,
    Result, Role, Session, SessionId, Status, Timestamp, Token, TokenHash, Usage, estimate_tokens,
};
pub use ports::{
    AppendLimits, Appended, Checkpoint, Chunk, Chunks, Head, History, NewEntry, NewSession,
    Outcome, Page, Prompt, Reply, Responder, Snapshot, Store, Swept, Unfinished,
};
pub use service::{Created, Gateway};
pub use settings::Settings;
pub use turn::MAX_ATTEMPTS;
