//! Finds the token of a request.
//!
//! A token travels in the query (`?token=`), in `Authorization: Bearer` (RFC 6750, section 2.1;
//! gRPC metadata is the same header), in a field of a request, or in a `bearer.<token>` entry of
//! `Sec-WebSocket-Protocol`, since a browser can set no other header of a WebSocket. Several tokens
//! must be equal.

use http::{HeaderMap, header};

use crate::session::{Error, ErrorKind, Result, Token};

/// Prefix of the subprotocol entry that carries a token. It is never echoed.
pub(super) const BEARER_PROTOCOL: &str = "bearer.";

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

/// Returns the credentials of `Authorization: Bearer`. `None` without the header, or with another
/// scheme, which may be meant for a proxy.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
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
