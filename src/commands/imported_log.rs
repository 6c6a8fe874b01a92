//! The sessions of an export, checked like live input.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::record::{self, MessageRecord, RoleName, SessionRecord, StatusName, TokenRecord};
use crate::{
    session::{
        self, Content, Epoch, Message, MessageId, MessageLimits, Metadata, Name, NewMessage, Part,
        ReplyFields, Role, Scope, Session, SessionId, Status, TokenHash, TokenId,
        TokenRecord as Token, TurnOption, UserFields, check_label, check_title,
    },
    store::{StoredLog, StoredSession, UnansweredTurn},
};

/// Returns the session of a record, after the same checks as for live input.
///
/// # Errors
/// The field that is wrong.
pub(super) fn stored_session(
    record: &SessionRecord,
    limits: &session::Settings,
) -> Result<StoredSession, String> {
    let id: SessionId = record.id.parse().map_err(|_| "the session's id is no UUID")?;
    // Sessions are listed in the order of their ids, which must be the order of their creation.
    if !id.is_version_7() {
        return Err("the session's id is no UUID of version 7".into());
    }
    let name = Name::parse(&record.name).map_err(|_| "the name is not valid")?;
    if name.as_str() != record.name {
        return Err("the name begins or ends with a space".into());
    }
    let epoch = Epoch::parse(&record.epoch).ok().filter(|epoch| !epoch.as_str().is_empty());
    let epoch = epoch.ok_or("the epoch is not valid")?;
    let (created_at, expires_at) = (record.created_at.0, record.expires_at.0);
    let ends_at = record.ends_at.0;
    if expires_at > ends_at {
        return Err("it expires after its end".into());
    }
    if record.messages > limits.max_session_messages {
        let max = limits.max_session_messages;
        return Err(format!("more than {max} messages: see --max-session-messages"));
    }
    let message = |error: session::Error| error.message().to_owned();
    let metadata = checked_metadata(&record.metadata)?;
    let title = record.title.as_deref().map(check_title).transpose().map_err(message)?.flatten();
    let session = Session {
        id,
        name,
        epoch,
        created_at,
        expires_at,
        ends_at,
        delete_at: record.delete_at.map(|time| time.0),
        title,
        metadata,
        subject: record.subject.as_deref().map(Into::into),
    };
    Ok(StoredSession { session, messages: record.messages, last_activity: created_at })
}

/// Returns the tokens of a record.
///
/// # Errors
/// The field that is wrong.
pub(super) fn tokens(record: &SessionRecord) -> Result<Vec<Token>, String> {
    let hash = |text: &str, name: &str| {
        record::token_hash(text).ok_or_else(|| format!("{name} must be 64 hexadecimal digits"))
    };
    match (&record.token_sha256, &record.tokens[..]) {
        // Format 1: one token, which permits everything.
        (Some(text), []) => Ok(vec![Token {
            id: TokenId::generate(),
            hash: hash(text, "token_sha256")?,
            scope: Scope::Write,
            label: None,
            deadlines: None,
        }]),
        (None, [_, ..]) => {
            let tokens = record.tokens.iter().map(|token| token_of(token, &hash));
            let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
            let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
            match tokens.iter().all(|token| ids.insert(token.id) && hashes.insert(token.hash)) {
                true => Ok(tokens),
                false => Err("a token was there already".into()),
            }
        }
        (None, []) => Err("tokens are missing".into()),
        (Some(_), [_, ..]) => Err("tokens and token_sha256 exclude each other".into()),
    }
}

fn token_of(
    token: &TokenRecord,
    hash: &impl Fn(&str, &str) -> Result<TokenHash, String>,
) -> Result<Token, String> {
    let message = |error: session::Error| error.message().to_owned();
    let deadlines = match (token.expires_at, token.ends_at) {
        (Some(expires_at), Some(ends_at)) => Some((expires_at.0, ends_at.0)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("a token has one deadline of two".into()),
    };
    Ok(Token {
        id: token.id.parse().map_err(|_| "the token's id is no UUID")?,
        hash: hash(&token.sha256, "sha256")?,
        scope: Scope::parse(&token.scope).map_err(message)?,
        label: token.label.as_deref().map(check_label).transpose().map_err(message)?.flatten(),
        deadlines,
    })
}

fn checked_metadata(pairs: &BTreeMap<String, String>) -> Result<Metadata, String> {
    let metadata = Metadata::new(pairs.clone());
    metadata.check().map_err(|error| error.message().to_owned())?;
    Ok(metadata)
}

/// Returns the content of the fields `text` and `parts`.
fn content(text: String, parts: Vec<Part>) -> Result<Content, String> {
    match (text.is_empty(), parts.is_empty()) {
        (_, true) => Ok(Content::of_text(text)),
        (true, false) => Ok(Content::of_parts(parts)),
        (false, false) => Err("text and parts exclude each other".into()),
    }
}

/// The log of the session that is being read.
pub(super) struct ImportedLog {
    stored: StoredSession,
    tokens: Vec<Token>,
    pub(super) messages: Vec<Arc<Message>>,
    ids: HashSet<MessageId>,
    client_ids: HashSet<Arc<str>>,
    /// User messages without a reply so far, and the progress of their replies.
    unanswered: HashMap<MessageId, UnansweredTurn>,
    /// Messages that the export marks as having no reply.
    expected: HashSet<MessageId>,
}

impl ImportedLog {
    pub(super) fn of(stored: StoredSession, tokens: Vec<Token>) -> Self {
        Self {
            stored,
            tokens,
            messages: Vec::new(),
            ids: HashSet::new(),
            client_ids: HashSet::new(),
            unanswered: HashMap::new(),
            expected: HashSet::new(),
        }
    }

    /// Adds the next message.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(super) fn add(
        &mut self,
        record: MessageRecord,
        limits: &session::Settings,
    ) -> Result<(), String> {
        if record.session.parse() != Ok(self.stored.session.id) {
            return Err("a message of another session".into());
        }
        let seq = u32::try_from(self.messages.len() + 1).map_err(|_| "too many messages")?;
        if record.seq != seq {
            return Err(format!("message {} where {seq} is expected", record.seq));
        }
        let id: MessageId = record.id.parse().map_err(|_| "the message's id is no UUID")?;
        if !id.is_version_7() {
            return Err("the message's id is no UUID of version 7".into());
        }
        if !self.ids.insert(id) {
            return Err("the message's id was there already".into());
        }
        let role = match record.role {
            RoleName::User => self.user(id, &record, limits)?,
            RoleName::Assistant => self.assistant(&record, limits)?,
        };
        let metadata = checked_metadata(&record.metadata)?;
        let content = content(record.text, record.parts)?;
        let created_at = record.created_at.0;
        self.messages.push(Arc::new(Message { seq, id, content, created_at, metadata, role }));
        Ok(())
    }

    fn user(
        &mut self,
        id: MessageId,
        record: &MessageRecord,
        limits: &session::Settings,
    ) -> Result<Role, String> {
        let MessageRecord { in_reply_to, status, finish_reason, failure, usage, .. } = record;
        let of_a_reply = in_reply_to.is_some() || status.is_some() || finish_reason.is_some();
        let of_a_reply = of_a_reply || record.model.is_some() || record.provider_data.is_some();
        if of_a_reply || failure.is_some() || usage.is_some() {
            return Err("a user's message with a field of a reply's".into());
        }
        let key = record.client_message_id.as_deref();
        if key == Some("") {
            return Err("client_message_id is empty".into());
        }
        let client_message_id: Option<Arc<str>> = key.map(Into::into);
        let options = record.options.clone().map(Arc::new);
        let message = NewMessage {
            content: content(record.text.clone(), record.parts.clone())?,
            client_message_id: client_message_id.clone(),
            options: options.clone(),
            ..NewMessage::default()
        };
        // The operator may have allowed more options before.
        let limits_of_message =
            MessageLimits { options: TurnOption::ALL.into(), ..limits.messages.clone() };
        message.check(&limits_of_message).map_err(|error| error.message().to_owned())?;
        if let Some(key) = &client_message_id
            && !self.client_ids.insert(Arc::clone(key))
        {
            return Err("the client_message_id was there already".into());
        }
        let mut waiting =
            UnansweredTurn { seq: record.seq, attempt: 1, partial: Content::default() };
        if let Some(recorded) = &record.waiting {
            let is_attempt = (1..=session::MAX_ATTEMPTS).contains(&recorded.attempt);
            let partial = content(recorded.text.clone(), recorded.parts.clone())?;
            if !is_attempt || partial.size() > limits.max_reply_size {
                return Err("the progress of the reply is not valid".into());
            }
            (waiting.attempt, waiting.partial) = (recorded.attempt, partial);
            self.expected.insert(id);
        }
        self.unanswered.insert(id, waiting);
        Ok(Role::User(UserFields {
            client_message_id,
            parent_seq: self.parent_seq(record.parent_seq)?,
            regenerates_seq: record.regenerates_seq.map(|seq| self.question(seq)).transpose()?,
            options,
        }))
    }

    /// Returns the parent of a user message. Format 1 has only lines: the user message before it.
    fn parent_seq(&self, recorded: Option<u32>) -> Result<u32, String> {
        match recorded {
            None => {
                let before = self.messages.iter().rev().find(|message| message.user().is_some());
                Ok(before.map_or(0, |message| message.seq))
            }
            Some(0) => Ok(0),
            Some(seq) => self.question(seq),
        }
    }

    /// Returns the number of an earlier user message.
    fn question(&self, seq: u32) -> Result<u32, String> {
        let message = (seq as usize).checked_sub(1).and_then(|place| self.messages.get(place));
        match message.is_some_and(|message| message.user().is_some()) {
            true => Ok(seq),
            false => Err(format!("{seq} is no user message before it")),
        }
    }

    fn assistant(
        &mut self,
        record: &MessageRecord,
        limits: &session::Settings,
    ) -> Result<Role, String> {
        let of_a_user = record.parent_seq.is_some() || record.regenerates_seq.is_some();
        let of_a_user = of_a_user || record.options.is_some() || record.waiting.is_some();
        if record.client_message_id.is_some() || of_a_user {
            return Err("a reply with a field of a user's message".into());
        }
        let size = record.text.len() + record.parts.iter().map(Part::size).sum::<usize>();
        if size > limits.max_reply_size {
            let max = limits.max_reply_size;
            return Err(format!("the reply is larger than {max} bytes: see --max-reply-size"));
        }
        let in_reply_to = record.in_reply_to.as_deref().ok_or("in_reply_to is missing")?;
        let in_reply_to = in_reply_to.parse().map_err(|_| "in_reply_to is no UUID")?;
        let question = self.unanswered.remove(&in_reply_to);
        let Some(question) = question.filter(|_| !self.expected.contains(&in_reply_to)) else {
            return Err("a reply to no message before it that waits for one".into());
        };
        let status = match (record.status.ok_or("status is missing")?, &record.failure) {
            (StatusName::Complete, None) => Status::Complete,
            (StatusName::Stopped, None) => Status::Stopped,
            (StatusName::Interrupted, None) => Status::Interrupted,
            (StatusName::Failed, Some(failure)) => Status::Failed(session::Failure {
                code: failure.code.as_str().into(),
                message: failure.message.as_str().into(),
            }),
            (StatusName::Failed, None)
            | (StatusName::Complete | StatusName::Stopped | StatusName::Interrupted, Some(_)) => {
                return Err(
                    "`failure` is required for the status `failed`, and for no other".into()
                );
            }
        };
        Ok(Role::Assistant(ReplyFields {
            finish_reason: record.finish_reason.as_deref().map(Into::into),
            usage: record.usage.as_ref().map(session::Usage::from),
            model: record.model.as_deref().map(Into::into),
            first_content_ms: record.first_content_ms,
            duration_ms: record.duration_ms,
            provider_data: record.provider_data.as_deref().map(Into::into),
            ..ReplyFields::new(in_reply_to, question.seq, status)
        }))
    }

    pub(super) fn finish(self) -> StoredLog {
        let mut waiting: Vec<_> = self.unanswered.into_values().collect();
        waiting.sort_unstable_by_key(|waiting| waiting.seq);
        StoredLog { stored: self.stored, tokens: self.tokens, messages: self.messages, waiting }
    }
}
