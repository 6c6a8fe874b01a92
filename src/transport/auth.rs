//! Finds the token and the credential of a request.
//!
//! A token travels in the query (`?token=`), in `Authorization: Bearer` (RFC 6750, section 2.1;
//! gRPC metadata is the same header), in a field of a request, or in a `bearer.<token>` entry of
//! `Sec-WebSocket-Protocol`, since a browser can set no other header of a WebSocket. Several tokens
//! must be equal.
//!
//! A credential travels in `Authorization: Bearer`, in the field of `open`, or in a
//! `credential.<credential>` entry of `Sec-WebSocket-Protocol`. Its form tells it apart from a
//! token.

use http::{Extensions, HeaderMap, header};

use super::{ConnectionContext, TransportContext};
use crate::session::{Caller, Credential, Error, ErrorKind, Result, Token};

/// Prefix of the subprotocol entry that carries a token. It is never echoed.
pub(super) const BEARER_PROTOCOL: &str = "bearer.";

/// Prefix of the subprotocol entry that carries a credential. It is never echoed.
pub(super) const CREDENTIAL_PROTOCOL: &str = "credential.";

/// The secrets of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// Says which session.
    pub(super) token: Option<Token>,
    /// Says who the caller is.
    pub(super) credential: Option<Credential>,
}

impl Secrets {
    /// Reads the credential of a request that needs no token. Ignores anything else.
    pub(super) fn of_caller(headers: &HeaderMap) -> Self {
        let credential = bearer(headers).and_then(Credential::recognize);
        Self { token: None, credential }
    }

    /// Reads the secrets of a request from its headers, and from the places that may hold a token.
    ///
    /// # Errors
    /// `SessionExpired` for a text that is not a token, `InvalidArgument` for two different tokens.
    pub(super) fn of<'a>(
        headers: &'a HeaderMap,
        tokens: impl IntoIterator<Item = Option<&'a str>>,
    ) -> Result<Self> {
        let bearer = bearer(headers);
        let credential = bearer.and_then(Credential::recognize);
        let bearer = bearer.filter(|_| credential.is_none());
        let token = one_of(tokens.into_iter().chain([bearer]))?;
        Ok(Self { token, credential })
    }

    /// Adds the credential of another place.
    ///
    /// # Errors
    /// `Unauthenticated` for a text that is no credential, `InvalidArgument` for two different ones.
    pub(super) fn with_credential(self, text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(self) };
        let credential = Credential::parse(text)?;
        if self.credential.as_ref().is_some_and(|other| *other != credential) {
            let message = "Two different credentials were given";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { credential: Some(credential), ..self })
    }

    /// Returns the caller of a request.
    ///
    /// # Errors
    /// `Unauthenticated` for a wrong credential.
    pub(super) async fn caller(
        &self,
        context: &TransportContext,
        extensions: &Extensions,
    ) -> Result<Caller> {
        let caller = ConnectionContext::caller(extensions);
        context.gateway.identify(caller, self.credential.as_ref()).await
    }
}

/// Returns the token among the given places, or `None` if there is none.
///
/// # Errors
/// `SessionExpired` for a text that is not a token, `InvalidArgument` for two different tokens.
pub(super) fn one_of<'a>(
    places: impl IntoIterator<Item = Option<&'a str>>,
) -> Result<Option<Token>> {
    let mut found = None;
    for text in places.into_iter().flatten() {
        let token = Token::parse(text)?;
        if found.as_ref().is_some_and(|other| *other != token) {
            return Err(Error::new(ErrorKind::InvalidArgument, "Two different tokens were given"));
        }
        found = Some(token);
    }
    Ok(found)
}

/// Returns the secret of `Authorization: Bearer`. `None` without the header, or with another
/// scheme, which may be meant for a proxy.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tokens_that_agree_are_one_and_others_are_refused() {
        let (one, other) = (Token::generate().expose(), Token::generate().expose());
        let found = |places: [Option<&str>; 2]| one_of(places).map_err(|error| error.kind());
        assert_eq!(found([None, None]).map(|token| token.is_some()), Ok(false));
        assert_eq!(found([Some(&one), None]).map(|token| token.is_some()), Ok(true));
        assert_eq!(found([Some(&one), Some(&one)]).map(|token| token.is_some()), Ok(true));
        assert_eq!(found([Some(&one), Some(&other)]), Err(ErrorKind::InvalidArgument));
        assert_eq!(found([Some(&one), Some("x")]), Err(ErrorKind::SessionExpired));
    }

    #[test]
    fn only_the_bearer_scheme_counts() {
        let header = |value| {
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
        };
        assert_eq!(bearer(&header("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&header("bearer  abc ")), Some("abc"));
        assert_eq!(bearer(&header("Basic abc")), None);
        assert_eq!(bearer(&header("Bearer")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
