//! Duologue: a chat gateway. One session core, two protocol families, one port.
//!
//! ```text
//! main → cli → commands → server → transport → session ← store, responder, identity
//! ```
//!
//! - [`session`] is the core: every rule that both protocol families must agree on.
//! - [`store`], [`responder`] and [`identity`] implement its ports.
//! - [`transport`] implements the protocols: REST, server-sent events, WebSocket, gRPC.
//! - [`server`] binds the port and sets the deadlines of connections.
//! - [`commands`] runs the gateway, and works on the file of the store.
//! - [`cli`] turns flags, environment and files into one validated configuration.
//! - [`telemetry`] writes the log and collects metrics.
//! - [`proto`] is the wire contract, generated from `proto/`.

pub mod cli;
pub mod commands;
pub mod identity;
pub mod proto;
pub mod responder;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod transport;
