//! Query parameters.

use http::{HeaderMap, Uri};

use super::HttpError;
use crate::{
    session::{Error, ErrorKind},
    transport::auth::Secrets,
};

/// The decoded pairs of a query. The last value of a name counts.
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

    pub(in crate::transport) fn required(&self, name: &'static str) -> Result<&str, HttpError> {
        self.get(name).ok_or(HttpError::Missing("query", name))
    }

    pub(in crate::transport) fn number(
        &self,
        name: &'static str,
    ) -> Result<Option<u32>, HttpError> {
        let parse = |text: &str| text.parse().map_err(|_| HttpError::NotANumber(name, text.into()));
        self.get(name).map(parse).transpose()
    }

    /// Returns a switch, which is off if it is absent.
    pub(in crate::transport) fn flag(&self, name: &'static str) -> Result<bool, HttpError> {
        match self.get(name) {
            None | Some("false" | "0" | "") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => {
                let message = format!("{name} must be true or false");
                Err(Error::new(ErrorKind::InvalidArgument, message).into())
            }
        }
    }

    /// Returns the secrets of the query and the headers.
    pub(in crate::transport) fn secrets(&self, headers: &HeaderMap) -> Result<Secrets, HttpError> {
        Ok(Secrets::of(headers, [self.get("token")])?)
    }

    /// Returns a required text. Refuses text that was not UTF-8, which percent-decoding marks with
    /// U+FFFD.
    pub(in crate::transport) fn text(&self, name: &'static str) -> Result<&str, HttpError> {
        let text = self.required(name)?;
        if text.contains('\u{fffd}') {
            return Err(ErrorKind::BadUtf8.into());
        }
        Ok(text)
    }
}
