//! A gateway on a free port, and a client for every transport of it.

mod authority;
mod bot;
mod client;
mod clock;
mod core;
mod gateway;
mod hub;
mod keys;
mod load;
mod log;
pub mod model;
mod redis;
mod redis_groups;
mod responders;
mod rest;
mod stores;
pub mod upstream;
mod websocket;

pub use authority::Authority;
pub use bot::{Act, LineState, TestBot, answering, bot_call, bot_part, calls, line, tls_line};
pub use client::{Attached, Transport};
pub use client::{code_of, piece_of, send_text, stub};
pub use clock::Clock;
pub use core::{core, named, new_message, next_reply, status, unshared, watched};
pub use duologue::proto::{self, chat_response::Event};
pub use gateway::{Address, Running, Setup};
pub use hub::{Faults, Hub, Node, nodes};
pub use keys::TestKeys;
pub use load::{Figures, Load};
pub use log::Log;
pub use redis::{RedisServer, programs};
pub use redis_groups::{RedisCluster, WatchedMaster, wait_until};
pub use responders::{Scripted, Step};
pub use rest::{Entry, Rest, create, history};
pub use stores::{Call, DelayedStore};
pub use websocket::{Socket, handshake};

use std::time::Duration;

/// Time limit of every wait.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, up to a time limit.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
