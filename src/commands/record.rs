//! The export format: JSON Lines.
//!
//! A line is one [`Record`]: first the header, then each session, followed by its messages in
//! order. `docs/OPERATIONS.md` describes the format. An unknown field is refused: it may be of a
//! later version, and would be lost.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::print;
use crate::{
    session::{
        Content, Message, Metadata, Part, Role, SessionId, Status, Timestamp, TokenHash,
        TokenRecord as Token, TurnOptions, Usage,
    },
    store::{StoredSession, UnansweredTurn},
};

/// The version of the format.
pub(super) const FORMAT: u32 = 2;

/// The oldest version that can be read. It has one token per session and no parts.
pub(super) const OLDEST_FORMAT: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Export(Header),
    Session(Box<SessionRecord>),
    Message(Box<MessageRecord>),
}

/// The part of the header that is read first.
#[derive(Deserialize)]
pub(super) struct Announcement {
    pub(super) export: AnyVersion,
}

#[derive(Deserialize)]
pub(super) struct AnyVersion {
    pub(super) format: u32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) exported_at: RecordTime,
    /// Number of sessions that follow. Detects a truncated file.
    pub(super) sessions: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionRecord {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) epoch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    /// Format 1: SHA-256 of the only token, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tokens: Vec<TokenRecord>,
    pub(super) created_at: RecordTime,
    pub(super) expires_at: RecordTime,
    pub(super) ends_at: RecordTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) delete_at: Option<RecordTime>,
    /// Number of messages that follow.
    pub(super) messages: u32,
}

/// A token of a session, without its secret.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRecord {
    pub(super) id: String,
    /// SHA-256 of the secret, hexadecimal.
    pub(super) sha256: String,
    /// `read` or `write`.
    pub(super) scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    /// Absent: the deadlines of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<RecordTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ends_at: Option<RecordTime>,
}

/// A message. Fields that do not apply to its role are absent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageRecord {
    pub(super) session: String,
    pub(super) seq: u32,
    pub(super) id: String,
    pub(super) created_at: RecordTime,
    pub(super) role: RoleName,
    /// The whole content if it is one text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_message_id: Option<String>,
    /// Format 1 has none: the user message before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent_seq: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) regenerates_seq: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<TurnOptions>,
    /// Present for a user message without a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) waiting: Option<WaitingRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) in_reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<StatusName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finish_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<FailureRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<UsageRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_content_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) duration_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provider_data: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoleName {
    User,
    Assistant,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StatusName {
    Complete,
    Stopped,
    Interrupted,
    Failed,
}

/// The progress of a reply.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitingRecord {
    pub(super) attempt: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailureRecord {
    pub(super) code: String,
    pub(super) message: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageRecord {
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) estimated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cached_input_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_write_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_tokens: Option<u32>,
}

/// A time by RFC 3339, in UTC, with milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordTime(pub(super) Timestamp);

impl Serialize for RecordTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print::time(self.0))
    }
}

impl<'de> Deserialize<'de> for RecordTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text)
            .map_err(|_| D::Error::custom("a time has the form 2026-11-22T17:21:49.839Z"))?;
        Ok(Self(time.into()))
    }
}

impl Record {
    pub(super) fn header(sessions: u64) -> Self {
        let exported_at = RecordTime(Timestamp::of_wall_clock());
        Self::Export(Header { format: FORMAT, exported_at, sessions })
    }

    pub(super) fn session(stored: &StoredSession, tokens: &[Token]) -> Self {
        let StoredSession { session, messages, .. } = stored;
        Self::Session(Box::new(SessionRecord {
            id: session.id.to_string(),
            name: session.name.as_str().into(),
            epoch: session.epoch.as_str().into(),
            title: session.title.as_deref().map(Into::into),
            metadata: pairs(&session.metadata),
            subject: session.subject.as_deref().map(Into::into),
            token_sha256: None,
            tokens: tokens.iter().map(TokenRecord::of).collect(),
            created_at: RecordTime(session.created_at),
            expires_at: RecordTime(session.expires_at),
            ends_at: RecordTime(session.ends_at),
            delete_at: session.delete_at.map(RecordTime),
            messages: *messages,
        }))
    }

    pub(super) fn message(
        id: SessionId,
        message: &Message,
        waiting: Option<&UnansweredTurn>,
    ) -> Self {
        let (text, parts) = content(&message.content);
        let record = MessageRecord {
            session: id.to_string(),
            seq: message.seq,
            id: message.id.to_string(),
            created_at: RecordTime(message.created_at),
            role: RoleName::User,
            text,
            parts,
            metadata: pairs(&message.metadata),
            client_message_id: None,
            parent_seq: None,
            regenerates_seq: None,
            options: None,
            waiting: waiting.map(WaitingRecord::of),
            in_reply_to: None,
            status: None,
            finish_reason: None,
            failure: None,
            usage: None,
            model: None,
            first_content_ms: None,
            duration_ms: None,
            provider_data: None,
        };
        let record = match &message.role {
            Role::User(user) => MessageRecord {
                client_message_id: user.client_message_id.as_deref().map(Into::into),
                parent_seq: Some(user.parent_seq),
                regenerates_seq: user.regenerates_seq,
                options: user.options.as_deref().cloned(),
                ..record
            },
            Role::Assistant(reply) => MessageRecord {
                role: RoleName::Assistant,
                in_reply_to: Some(reply.in_reply_to.to_string()),
                status: Some((&reply.status).into()),
                finish_reason: reply.finish_reason.as_deref().map(Into::into),
                failure: reply.status.failure().map(|failure| FailureRecord {
                    code: failure.code.as_ref().into(),
                    message: failure.message.as_ref().into(),
                }),
                usage: reply.usage.map(Into::into),
                model: reply.model.as_deref().map(Into::into),
                first_content_ms: reply.first_content_ms,
                duration_ms: reply.duration_ms,
                provider_data: reply.provider_data.as_deref().map(Into::into),
                ..record
            },
        };
        Self::Message(Box::new(record))
    }
}

/// Returns a content as the fields `text` and `parts`, of which one is empty.
fn content(content: &Content) -> (String, Vec<Part>) {
    match content.parts() {
        [] => (content.text().as_ref().into(), Vec::new()),
        parts => (String::new(), parts.to_vec()),
    }
}

fn pairs(metadata: &Metadata) -> BTreeMap<String, String> {
    metadata.iter().map(|(key, value)| (key.into(), value.into())).collect()
}

impl TokenRecord {
    fn of(token: &Token) -> Self {
        let (expires_at, ends_at) = token.deadlines.unzip();
        Self {
            id: token.id.to_string(),
            sha256: hexadecimal(&token.hash),
            scope: token.scope.as_str().into(),
            label: token.label.as_deref().map(Into::into),
            expires_at: expires_at.map(RecordTime),
            ends_at: ends_at.map(RecordTime),
        }
    }
}

impl WaitingRecord {
    fn of(waiting: &UnansweredTurn) -> Self {
        let (text, parts) = content(&waiting.partial);
        Self { attempt: waiting.attempt, text, parts }
    }
}

impl From<&Status> for StatusName {
    fn from(status: &Status) -> Self {
        match status {
            Status::Complete => Self::Complete,
            Status::Stopped => Self::Stopped,
            Status::Interrupted => Self::Interrupted,
            Status::Failed(_) => Self::Failed,
        }
    }
}

impl From<Usage> for UsageRecord {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            estimated: usage.estimated,
            cached_input_tokens: usage.cached_input_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

impl From<&UsageRecord> for Usage {
    fn from(record: &UsageRecord) -> Self {
        Self {
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            estimated: record.estimated,
            cached_input_tokens: record.cached_input_tokens,
            cache_write_tokens: record.cache_write_tokens,
            reasoning_tokens: record.reasoning_tokens,
        }
    }
}

fn hexadecimal(hash: &TokenHash) -> String {
    let mut text = String::with_capacity(64);
    for byte in hash.as_bytes() {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// Parses a hash of 64 hexadecimal digits.
pub(super) fn token_hash(text: &str) -> Option<TokenHash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(TokenHash::from_bytes(hash))
}
