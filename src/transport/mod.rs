//! The transports. Each authenticates, decodes, calls the core and encodes. Rules of the
//! conversation are in the core, so that no transport can lack one.
//!
//! - `stream` is the state of one stream, whatever carries it; `ws`, `grpc` and `sse` carry it.
//!   `rest` has the single calls, `http` what the HTTP transports share.
//! - `codec` converts between the core's values and frames. `status` is the one table of
//!   failures. `context` holds the parts that all transports share, `connection_context` those of
//!   one connection. `auth` finds the token of a request, `origin` decides which web pages may use
//!   the gateway. `refusal` answers requests that are refused before they are routed.

mod auth;
mod codec;
mod connection_context;
mod context;
mod grpc;
mod http;
mod in_use;
mod origin;
mod refusal;
mod response_budget;
mod rest;
mod router;
mod settings;
mod sse;
mod status;
mod stream;
mod ws;

pub use connection_context::ConnectionContext;
pub use context::TransportContext;
pub use grpc::service as grpc_service;
pub use http::{check_head, detail, ready, secure};
pub use in_use::InUse;
pub use origin::{Hosts, OriginPattern, Origins};
pub use refusal::{check_origin, is_probe, no_connection};
use response_budget::page_size;
pub use response_budget::{ConnectionBudget, ResponseBudget, ResponsePermit};
pub use router::router;
pub use settings::Settings;
