//! Duologue: a chat gateway. One session core, two protocol families, one port.
//!
//! ```text
//! main → cli, server → transport → session ← store, responder
//! ```
//!
//! - [`session`] is the core: every rule that both protocol families must agree on.
//! - [`store`] and [`responder`] implement its traits.

pub mod responder;
pub mod session;
pub mod store;
