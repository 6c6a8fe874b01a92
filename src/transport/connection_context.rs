//! The parts of a connection that its requests use.

use http::Extensions;

use super::{in_use::InUse, response_budget::ConnectionBudget};
use crate::session::Caller;

/// A connection, as its requests see it. The server puts it into the extensions of every request.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    /// The peer.
    pub caller: Caller,
    /// Keeps the connection in use.
    pub in_use: InUse,
    /// Limits the bytes of responses that wait to be read.
    pub budget: ConnectionBudget,
}

impl ConnectionContext {
    /// Returns the caller of a request, without its credential.
    pub(super) fn caller(extensions: &Extensions) -> Caller {
        extensions.get::<Self>().map(|connection| connection.caller.clone()).unwrap_or_default()
    }

    /// Returns the budget of a request's connection.
    pub(super) fn budget(extensions: &Extensions) -> Option<&ConnectionBudget> {
        extensions.get::<Self>().map(|connection| &connection.budget)
    }
}
