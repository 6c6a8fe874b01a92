//! Rows as values of the core.

use std::{error::Error, sync::Arc};

use rusqlite::{
    Row, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Type, Value, ValueRef},
};

use crate::session::{
    self, Content, Epoch, Failure, Message, MessageId, Metadata, Name, ReplyFields, Role, Scope,
    Session, SessionId, Status, Timestamp, TokenHash, TokenId, TokenRecord, TurnOptions, Usage,
    UserFields, parts_from_json, parts_to_json,
};

/// Columns of [`session`], in its order.
pub(super) const SESSION: &str = "sessions.id, sessions.name, sessions.epoch, sessions.created_at, \
     sessions.expires_at, sessions.ends_at, sessions.delete_at, sessions.title, \
     sessions.metadata, sessions.subject";

/// Number of the columns of [`SESSION`].
pub(super) const SESSION_WIDTH: usize = 10;

/// Columns of [`head`], in its order.
pub(super) const HEAD: &str = "head_seq, newest_turn, input_tokens, output_tokens, \
     usage_estimated, cached_input_tokens, cache_write_tokens, reasoning_tokens";

/// Columns of [`message`], in its order.
pub(super) const MESSAGE: &str = "seq, id, text, parts, created_at, metadata, in_reply_to, \
     client_message_id, parent_seq, regenerates_seq, options, turn_seq, status, finish_reason, \
     failure_code, failure_message, input_tokens, output_tokens, usage_estimated, \
     cached_input_tokens, cache_write_tokens, reasoning_tokens, model, first_content_ms, \
     duration_ms, provider_data";

/// Columns of [`token`], in its order.
pub(super) const TOKEN: &str =
    "tokens.hash, tokens.id, tokens.scope, tokens.label, tokens.expires_at, tokens.ends_at";

/// The head of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Number of the last message.
    pub(super) seq: u32,
    /// Number of the newest user message.
    pub(super) newest_turn: u32,
    /// Tokens of all replies.
    pub(super) usage: Usage,
}

fn unreadable<E: Into<Box<dyn Error + Send + Sync>>>(
    column: usize,
) -> impl FnOnce(E) -> rusqlite::Error {
    move |error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}

fn shared(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Arc<str>>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(Into::into))
}

fn metadata(row: &Row<'_>, column: usize) -> rusqlite::Result<Metadata> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(Metadata::default()),
        Some(json) => Metadata::from_json(json).map_err(unreadable(column)),
    }
}

pub(super) fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let epoch = row.get_ref(2)?.as_str()?;
    Ok(Session {
        id: row.get::<_, Id<SessionId>>(0)?.0,
        name: Name::trusted(row.get_ref(1)?.as_str()?),
        epoch: Epoch::parse(epoch).map_err(unreadable(2))?,
        created_at: row.get::<_, StoredTime>(3)?.0,
        expires_at: row.get::<_, StoredTime>(4)?.0,
        ends_at: row.get::<_, StoredTime>(5)?.0,
        delete_at: row.get::<_, Option<StoredTime>>(6)?.map(|time| time.0),
        title: shared(row, 7)?,
        metadata: metadata(row, 8)?,
        subject: shared(row, 9)?,
    })
}

/// Reads a token whose columns begin at `first`.
pub(super) fn token(row: &Row<'_>, first: usize) -> rusqlite::Result<TokenRecord> {
    let time = |column| row.get::<_, Option<StoredTime>>(column).map(|it| it.map(|it| it.0));
    Ok(TokenRecord {
        hash: TokenHash::from_bytes(row.get(first)?),
        id: row.get::<_, Id<TokenId>>(first + 1)?.0,
        scope: Scope::parse(row.get_ref(first + 2)?.as_str()?).map_err(unreadable(first + 2))?,
        label: shared(row, first + 3)?,
        deadlines: time(first + 4)?.zip(time(first + 5)?),
    })
}

pub(super) fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    let usage = Usage {
        input_tokens: row.get(2)?,
        output_tokens: row.get(3)?,
        estimated: row.get(4)?,
        cached_input_tokens: row.get(5)?,
        cache_write_tokens: row.get(6)?,
        reasoning_tokens: row.get(7)?,
    };
    Ok(Head { seq: row.get(0)?, newest_turn: row.get(1)?, usage })
}

/// Reads a content of a text column and the column of the parts behind it.
pub(super) fn content(row: &Row<'_>, text: usize) -> rusqlite::Result<Content> {
    let words = row.get_ref(text)?.as_str()?;
    match row.get_ref(text + 1)?.as_str_or_null()? {
        None => Ok(Content::of_text(words)),
        Some(json) => {
            let parts = parts_from_json(json).map_err(unreadable(text + 1))?;
            Ok(Content::stored(words.into(), parts))
        }
    }
}

/// Returns the column of the parts. NULL if the text is the whole content.
pub(super) fn parts_column(content: &Content) -> rusqlite::Result<Option<String>> {
    let parts = content.parts();
    (!parts.is_empty()).then(|| parts_to_json(parts)).transpose().map_err(unwritable)
}

/// Returns the column of the options.
pub(super) fn options_column(options: Option<&TurnOptions>) -> rusqlite::Result<Option<String>> {
    options.map(TurnOptions::to_json).transpose().map_err(unwritable)
}

/// Fails the transaction: a part of the write may have been made.
fn unwritable(error: session::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Arc<Message>> {
    let role = match row.get::<_, Option<Id<MessageId>>>(6)? {
        None => Role::User(UserFields {
            client_message_id: shared(row, 7)?,
            parent_seq: row.get(8)?,
            regenerates_seq: row.get(9)?,
            options: options(row)?,
        }),
        Some(Id(in_reply_to)) => Role::Assistant(ReplyFields {
            in_reply_to,
            turn_seq: row.get(11)?,
            status: status(row)?,
            finish_reason: shared(row, 13)?,
            usage: usage(row)?,
            model: shared(row, 22)?,
            first_content_ms: row.get(23)?,
            duration_ms: row.get(24)?,
            provider_data: shared(row, 25)?,
        }),
    };
    Ok(Arc::new(Message {
        seq: row.get(0)?,
        id: row.get::<_, Id<MessageId>>(1)?.0,
        content: content(row, 2)?,
        created_at: row.get::<_, StoredTime>(4)?.0,
        metadata: metadata(row, 5)?,
        role,
    }))
}

fn options(row: &Row<'_>) -> rusqlite::Result<Option<Arc<TurnOptions>>> {
    let json = row.get_ref(10)?.as_str_or_null()?;
    json.map(|json| TurnOptions::from_json(json).map(Arc::new).map_err(unreadable(10))).transpose()
}

fn status(row: &Row<'_>) -> rusqlite::Result<Status> {
    Ok(match row.get_ref(12)?.as_str()? {
        "complete" => Status::Complete,
        "stopped" => Status::Stopped,
        "interrupted" => Status::Interrupted,
        "failed" => Status::Failed(Failure {
            code: row.get_ref(14)?.as_str()?.into(),
            message: row.get_ref(15)?.as_str()?.into(),
        }),
        other => return Err(unreadable(12)(format!("unknown status {other}"))),
    })
}

fn usage(row: &Row<'_>) -> rusqlite::Result<Option<Usage>> {
    let Some(input_tokens) = row.get(16)? else { return Ok(None) };
    Ok(Some(Usage {
        input_tokens,
        output_tokens: row.get(17)?,
        estimated: row.get(18)?,
        cached_input_tokens: row.get(19)?,
        cache_write_tokens: row.get(20)?,
        reasoning_tokens: row.get(21)?,
    }))
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
id!(TokenId);

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
