//! Duologue: a chat gateway. One session core, two protocol families, one port.
//!
//! ```text
//! main → cli, server → transport → session ← store, responder
//! ```
//!
//! - [`session`] is the core: every rule that both protocol families must agree on.
//! - [`store`] and [`responder`] implement its traits.
//! - [`transport`] holds the doors: REST, server-sent events, WebSocket, gRPC.
//! - [`server`] binds the port and gives each connection its deadlines.
//! - [`admin`] is what an operator does with the store's file.
//! - [`cli`] and [`config`] turn flags and environment into one validated value;
//!   [`telemetry`] writes the logs.
//! - [`proto`] is the wire contract, for clients too.

pub mod cli;
pub mod commands;
pub mod config;
pub mod proto;
pub mod responder;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod transport;
