//! Traits that the core needs implemented: where sessions are stored, and what produces replies.

mod responder;
mod store;

pub use responder::{Chunk, Chunks, History, Outcome, Piece, Prompt, Reply, Responder};
pub use store::{
    AppendLimits, Appended, Checkpoint, FoundSession, Head, NewReply, NewSession, NewTurn, Page,
    Question, Snapshot, Store, Swept, Unfinished,
};
