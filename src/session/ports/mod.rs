//! Traits that the core needs implemented: where sessions are stored, and what produces replies.

mod responder;
mod store;

pub use responder::{Chunk, Chunks, History, Outcome, Prompt, Reply, Responder};
pub use store::{
    AppendLimits, Appended, Checkpoint, Head, NewEntry, NewSession, Page, Snapshot, Store, Swept,
    Unfinished,
};
