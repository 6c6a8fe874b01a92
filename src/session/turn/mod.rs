//! Turns: a user message, and the run of the responder that ends in one committed reply.

pub(super) mod append;
pub(super) mod cancel;
mod checkpointer;
mod enter;
pub(super) mod follow;
mod prompt;
pub(super) mod recovery;
mod reply_run;
pub(super) mod runner;
pub(super) mod stop;
mod tree;

pub use runner::MAX_ATTEMPTS;
pub use tree::{LogView, Placed, PlacedTurn, place};
