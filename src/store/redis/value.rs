//! Reads the values of answers.

use redis::Value;

use super::codec;
use crate::session::{Error, Result};

/// Returns the items of an array.
pub(super) fn items(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(&other)),
    }
}

/// Returns the bytes of a string or a number.
pub(super) fn bytes(value: Value) -> Result<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        other => Err(unexpected(&other)),
    }
}

/// Returns a number.
pub(super) fn number(value: Value) -> Result<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| unexpected(&Value::Int(number))),
        other => codec::digits(&bytes(other)?),
    }
}

/// Returns the error for an answer of an unexpected type. It does not show the value, which may be part
/// of a conversation.
pub(super) fn unexpected(value: &Value) -> Error {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) => "an array",
        _ => "something else",
    };
    Error::internal(format!("the store has answered {kind} where another value is expected"))
}
