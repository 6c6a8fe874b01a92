//! The parts of a request that most handlers need.

use axum::{body::Body, extract::Request};
use http::request;

use super::{HttpError, HttpResult, Params};
use crate::{
    session::{Caller, Token},
    transport::{TransportContext, auth::Secrets},
};

/// A request whose caller is identified.
pub(in crate::transport) struct Call {
    pub(in crate::transport) caller: Caller,
    pub(in crate::transport) token: Option<Token>,
    pub(in crate::transport) params: Params,
    pub(in crate::transport) parts: request::Parts,
    pub(in crate::transport) body: Body,
}

impl Call {
    /// Reads the query and identifies the caller of an operation that needs no token.
    ///
    /// # Errors
    /// A wrong credential.
    pub(in crate::transport) async fn identified(
        context: &TransportContext,
        request: Request,
    ) -> HttpResult<Self> {
        let (parts, body) = request.into_parts();
        let params = Params::of(&parts.uri);
        let secrets = Secrets::of_caller(&parts.headers);
        let caller = secrets.caller(context, &parts.extensions).await?;
        Ok(Self { caller, token: None, params, parts, body })
    }

    /// Reads the query and the token, and identifies the caller.
    ///
    /// # Errors
    /// Text that is not a token, two different tokens, or a wrong credential.
    pub(in crate::transport) async fn of(
        context: &TransportContext,
        request: Request,
    ) -> HttpResult<Self> {
        let (parts, body) = request.into_parts();
        let params = Params::of(&parts.uri);
        let secrets = params.secrets(&parts.headers)?;
        let caller = secrets.caller(context, &parts.extensions).await?;
        Ok(Self { caller, token: secrets.token, params, parts, body })
    }

    /// Returns the token.
    ///
    /// # Errors
    /// The token is missing.
    pub(in crate::transport) fn token(&self) -> HttpResult<Token> {
        self.token.clone().ok_or(HttpError::Missing("query", "token"))
    }
}
