//! The export format: JSON Lines.
//!
//! A line is one [`Record`]: first the header, then each session, followed by its messages in
//! order. `docs/OPERATIONS.md` describes the format. An unknown field is refused: it may be of a
//! later version, and would be lost.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::print;
use crate::{
    session::{Message, Role, SessionId, Status, Timestamp, TokenHash, Usage},
    store::{StoredSession, UnansweredTurn},
};

/// The version of the format.
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Export(Header),
    Session(SessionRecord),
    Message(MessageRecord),
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
    /// SHA-256 of the token, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_sha256: Option<String>,
    pub(super) created_at: RecordTime,
    pub(super) expires_at: RecordTime,
    pub(super) ends_at: RecordTime,
    /// Number of messages that follow.
    pub(super) messages: u32,
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
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_message_id: Option<String>,
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
    pub(super) text: String,
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

    pub(super) fn session(stored: &StoredSession, token: Option<&TokenHash>) -> Self {
        let StoredSession { session, messages, .. } = stored;
        Self::Session(SessionRecord {
            id: session.id.to_string(),
            name: session.name.as_str().into(),
            epoch: session.epoch.as_str().into(),
            token_sha256: token.map(hexadecimal),
            created_at: RecordTime(session.created_at),
            expires_at: RecordTime(session.expires_at),
            ends_at: RecordTime(session.ends_at),
            messages: *messages,
        })
    }

    pub(super) fn message(
        id: SessionId,
        message: &Message,
        waiting: Option<&UnansweredTurn>,
    ) -> Self {
        let mut record = MessageRecord {
            session: id.to_string(),
            seq: message.seq,
            id: message.id.to_string(),
            created_at: RecordTime(message.created_at),
            role: RoleName::User,
            text: message.text.as_ref().into(),
            client_message_id: None,
            waiting: waiting.map(WaitingRecord::of),
            in_reply_to: None,
            status: None,
            finish_reason: None,
            failure: None,
            usage: None,
        };
        match &message.role {
            Role::User { client_message_id } => {
                record.client_message_id = client_message_id.as_deref().map(Into::into);
            }
            Role::Assistant { in_reply_to, status, finish_reason, usage } => {
                record.role = RoleName::Assistant;
                record.in_reply_to = Some(in_reply_to.to_string());
                record.status = Some(status.into());
                record.finish_reason = finish_reason.as_deref().map(Into::into);
                record.failure = status.failure().map(|failure| FailureRecord {
                    code: failure.code.as_ref().into(),
                    message: failure.message.as_ref().into(),
                });
                record.usage = usage.map(Into::into);
            }
        }
        Self::Message(record)
    }
}

impl WaitingRecord {
    fn of(waiting: &UnansweredTurn) -> Self {
        Self { attempt: waiting.attempt, text: waiting.text.clone() }
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
    fn from(Usage { input_tokens, output_tokens, estimated }: Usage) -> Self {
        Self { input_tokens, output_tokens, estimated }
    }
}

impl From<&UsageRecord> for Usage {
    fn from(record: &UsageRecord) -> Self {
        let UsageRecord { input_tokens, output_tokens, estimated } = *record;
        Self { input_tokens, output_tokens, estimated }
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
