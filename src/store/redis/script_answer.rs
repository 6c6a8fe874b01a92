//! The answer of a script that begins with its kind.

use std::num::NonZeroU64;

use redis::Value;

use super::{
    codec, gone,
    value::{bytes, items, number},
};
use crate::session::{Error, Lease, Origin, Result, ShareOf, Timestamp};

/// An answer: its kind, and the items after it.
pub(super) struct Answer {
    pub(super) kind: Vec<u8>,
    rest: std::vec::IntoIter<Value>,
}

impl Answer {
    pub(super) fn new(value: Value) -> Result<Self> {
        let mut rest = items(value)?.into_iter();
        let kind = bytes(rest.next().ok_or_else(gone)?)?;
        Ok(Self { kind, rest })
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        bytes(self.rest.next().unwrap_or(Value::Nil))
    }

    pub(super) fn seq(&mut self) -> Result<u32> {
        let number = number(self.rest.next().unwrap_or(Value::Nil))?;
        u32::try_from(number).map_err(|_| Error::internal("a number of a message is too large"))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::from_millis(codec::digits(&self.bytes()?)?))
    }

    /// Reads an optional time.
    pub(super) fn optional_time(&mut self) -> Result<Option<Timestamp>> {
        let digits = self.bytes()?;
        let time = (!digits.is_empty()).then(|| codec::digits(&digits));
        Ok(time.transpose()?.map(Timestamp::from_millis))
    }

    pub(super) fn lease(&mut self) -> Result<Option<Lease>> {
        lease(&self.bytes()?)
    }

    /// Reads the share of the store that a session counts for.
    pub(super) fn share(&mut self) -> Result<Option<ShareOf>> {
        let (subject, origin) = (self.bytes()?, self.bytes()?);
        if !subject.is_empty() {
            return Ok(Some(ShareOf::Subject(codec::text(&subject)?.into())));
        }
        Ok(origin.try_into().ok().map(|origin| ShareOf::Origin(Origin(origin))))
    }
}

/// Reads the digits of a fence. Empty: no lease.
pub(super) fn lease(digits: &[u8]) -> Result<Option<Lease>> {
    if digits.is_empty() {
        return Ok(None);
    }
    Ok(NonZeroU64::new(codec::digits(digits)?).map(Lease::new))
}
