//! Rows as values of the core.

use std::sync::Arc;

use rusqlite::{
    Row, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Type, Value, ValueRef},
};

use crate::session::{
    Epoch, Failure, Message, MessageId, Name, Role, Session, SessionId, Status, Timestamp, Usage,
};

/// Columns of [`session`], in its order.
pub(super) const SESSION: &str = "id, name, epoch, created_at, expires_at, ends_at";

/// Columns of [`head`], in its order.
pub(super) const HEAD: &str = "head_seq, input_tokens, output_tokens, usage_estimated";

/// Columns of [`message`], in its order.
pub(super) const MESSAGE: &str = "seq, id, text, created_at, client_message_id, in_reply_to, status, \
     finish_reason, failure_code, failure_message, input_tokens, output_tokens, usage_estimated";

pub(super) fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let epoch: String = row.get(2)?;
    let epoch = Epoch::parse(&epoch)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into()))?;
    Ok(Session {
        id: row.get::<_, Id<SessionId>>(0)?.0,
        name: Name::trusted(row.get_ref(1)?.as_str()?),
        epoch,
        created_at: row.get::<_, StoredTime>(3)?.0,
        expires_at: row.get::<_, StoredTime>(4)?.0,
        ends_at: row.get::<_, StoredTime>(5)?.0,
    })
}

/// Returns the number of the last message of a session, and the tokens of its replies.
pub(super) fn head(row: &Row<'_>) -> rusqlite::Result<(u32, Usage)> {
    let usage =
        Usage { input_tokens: row.get(1)?, output_tokens: row.get(2)?, estimated: row.get(3)? };
    Ok((row.get(0)?, usage))
}

pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Arc<Message>> {
    let role = match row.get::<_, Option<Id<MessageId>>>(5)? {
        None => Role::User { client_message_id: row.get::<_, Option<String>>(4)?.map(Into::into) },
        Some(Id(in_reply_to)) => Role::Assistant {
            in_reply_to,
            status: status(row)?,
            finish_reason: row.get::<_, Option<String>>(7)?.map(Into::into),
            usage: usage(row)?,
        },
    };
    Ok(Arc::new(Message {
        seq: row.get(0)?,
        id: row.get::<_, Id<MessageId>>(1)?.0,
        text: row.get_ref(2)?.as_str()?.into(),
        created_at: row.get::<_, StoredTime>(3)?.0,
        role,
    }))
}

fn status(row: &Row<'_>) -> rusqlite::Result<Status> {
    Ok(match row.get_ref(6)?.as_str()? {
        "complete" => Status::Complete,
        "stopped" => Status::Stopped,
        "interrupted" => Status::Interrupted,
        "failed" => Status::Failed(Failure {
            code: row.get_ref(8)?.as_str()?.into(),
            message: row.get_ref(9)?.as_str()?.into(),
        }),
        other => {
            let unknown = format!("unknown status {other}").into();
            return Err(rusqlite::Error::FromSqlConversionFailure(6, Type::Text, unknown));
        }
    })
}

fn usage(row: &Row<'_>) -> rusqlite::Result<Option<Usage>> {
    let Some(input_tokens) = row.get(10)? else { return Ok(None) };
    Ok(Some(Usage { input_tokens, output_tokens: row.get(11)?, estimated: row.get(12)? }))
}

/// A UUID as its 16 bytes.
pub(super) struct Id<T>(pub(super) T);

/// Milliseconds since the Unix epoch.
pub(super) struct StoredTime(pub(super) Timestamp);

macro_rules! id {
    ($name:ident) => {
        impl ToSql for Id<$name> {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
            }
        }

        impl FromSql for Id<$name> {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let bytes = value.as_blob()?.try_into().map_err(|_| FromSqlError::InvalidType)?;
                Ok(Self($name::from_bytes(bytes)))
            }
        }
    };
}

id!(SessionId);
id!(MessageId);

impl ToSql for StoredTime {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        // Times beyond the range of the column are deadlines that are never reached.
        let millis = i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX);
        Ok(ToSqlOutput::Owned(Value::Integer(millis)))
    }
}

impl FromSql for StoredTime {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let millis = value.as_i64()?;
        u64::try_from(millis)
            .map(|millis| Self(Timestamp::from_millis(millis)))
            .map_err(|_| FromSqlError::OutOfRange(millis))
    }
}
