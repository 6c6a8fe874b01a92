//! Query parameters.

use http::{HeaderMap, Uri};

use super::HttpError;
use crate::{
    session::{ErrorKind, Token},
    transport::auth,
};

/// The decoded pairs of a query; of a name that comes twice, the last one counts.
#[derive(Debug)]
pub(in crate::transport) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    pub(in crate::transport) fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self { pairs: form_urlencoded::parse(query.as_bytes()).into_owned().collect() }
    }

    pub(in crate::transport) fn get(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().rev().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_str())
    }

    /// A parameter that must be there.
    pub(in crate::transport) fn required(&self, name: &'static str) -> Result<&str, HttpError> {
        self.get(name).ok_or(HttpError::Missing("query", name))
    }

    /// A number that may be there.
    pub(in crate::transport) fn number(
        &self,
        name: &'static str,
    ) -> Result<Option<u32>, HttpError> {
        let parse = |text: &str| text.parse().map_err(|_| HttpError::NotANumber(name, text.into()));
        self.get(name).map(parse).transpose()
    }

    /// The token, from the query or the header.
    pub(in crate::transport) fn token(&self, headers: &HeaderMap) -> Result<Token, HttpError> {
        match auth::one_of([self.get("token"), auth::bearer(headers)]) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(HttpError::Missing("query", "token")),
            Err(error) => Err(error.into()),
        }
    }

    /// A text, which must have come as UTF-8: percent-decoding puts U+FFFD where it
    /// did not.
    pub(in crate::transport) fn text(&self, name: &'static str) -> Result<&str, HttpError> {
        let text = self.required(name)?;
        if text.contains('\u{fffd}') {
            return Err(ErrorKind::BadUtf8.into());
        }
        Ok(text)
    }
}
