//! Sessions that are active in this process: their state, their subscribers, and the registry.

mod active_session;
pub(super) mod encoded;
pub(super) mod event;
pub(super) mod registry;
mod remote_owner;
mod reply_draft;
mod reply_in_progress;
mod state;
pub(super) mod subscriber_queue;
pub(super) mod subscription;
mod token_deadlines;
mod turn_queue;

pub(super) use active_session::ActiveSession;
pub(super) use reply_draft::{Extended, ReplyLimits};
pub(super) use reply_in_progress::ReplySoFar;
pub(super) use state::{NewSubscriber, PeerSubscriber, Published, Shown, Work};
pub(super) use turn_queue::Turn;
