//! The command `sessions import`.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;

use super::{
    failure::CommandFailure,
    print::{self, Printable, count},
    record::{self, Announcement, MessageRecord, Record, RoleName, SessionRecord, StatusName},
};
use crate::{
    session::{
        self, Epoch, Message, MessageId, Name, NewMessage, Role, Session, SessionId, Status,
        Timestamp,
    },
    store::{Import, SqliteFile, StoredLog, StoredSession, UnansweredTurn},
};

/// Most sessions and messages of one transaction. A gateway waits for it.
const GROUP: (usize, usize) = (256, 1024);

/// Arguments of `sessions import`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A file that an export wrote [default: standard input]
    file: Option<PathBuf>,
}

/// Numbers of sessions by their result.
#[derive(Default)]
struct ImportCounts {
    imported: u64,
    messages: u64,
    there: u64,
    differ: u64,
    expired: u64,
}

pub(super) fn run(
    arguments: &Arguments,
    path: &Path,
    limits: &session::Settings,
) -> Result<(), CommandFailure> {
    let (input, length): (Box<dyn io::Read>, _) = match &arguments.file {
        None => (Box::new(io::stdin().lock()), None),
        Some(name) => {
            let cannot = |error: io::Error| {
                CommandFailure::Told(format!("cannot read {}: {error}", name.display()))
            };
            let input = File::open(name).map_err(cannot)?;
            let length = input.metadata().map_err(cannot)?.len();
            (Box::new(input), Some(length))
        }
    };
    let bar = match length {
        Some(length) => print::progress(length, "{wide_bar} {bytes}/{total_bytes}  {eta} left"),
        None => print::progress(0, "{spinner} {bytes}"),
    };
    let mut lines = Lines::new(BufReader::new(bar.wrap_read(input)), limits);
    let announced = lines.header()?;
    let mut importing = Importing {
        file: SqliteFile::open_or_make(path)?,
        group: Vec::new(),
        messages: 0,
        tally: ImportCounts::default(),
        bar: bar.clone(),
    };
    let read = importing.all(&mut lines, limits, announced);
    let stored = importing.keep();
    bar.finish_and_clear();
    let ImportCounts { imported, messages, there, differ, expired } = importing.tally;
    let summary = format!(
        "{} imported, with {}; {there} already there, {differ} different and left alone, \
         {expired} expired",
        count(imported, "session"),
        count(messages, "message"),
    );
    // Sessions before a wrong line are stored, so the summary is printed in any case.
    print::report(&summary);
    stored?;
    read?;
    match differ {
        0 => Ok(()),
        _ => Err(CommandFailure::Told(format!(
            "{} different from what is there",
            count(differ, "session")
        ))),
    }
}

struct Importing {
    file: SqliteFile,
    group: Vec<StoredLog>,
    /// Number of messages in the group.
    messages: usize,
    tally: ImportCounts,
    bar: ProgressBar,
}

impl Importing {
    fn all<R: BufRead>(
        &mut self,
        lines: &mut Lines<R>,
        limits: &session::Settings,
        announced: u64,
    ) -> Result<(), CommandFailure> {
        let mut sessions = 0;
        while let Some(log) = lines.session(limits)? {
            sessions += 1;
            self.messages += log.messages.len();
            self.group.push(log);
            if self.group.len() >= GROUP.0 || self.messages >= GROUP.1 {
                self.keep()?;
            }
        }
        if sessions == announced {
            return Ok(());
        }
        Err(CommandFailure::Told(format!("it holds {sessions} of {}", count(announced, "session"))))
    }

    fn keep(&mut self) -> Result<(), CommandFailure> {
        let group = std::mem::take(&mut self.group);
        self.messages = 0;
        let done = self.file.import(&group, Timestamp::of_wall_clock())?;
        for (log, became) in group.iter().zip(done) {
            match became {
                Import::Imported => {
                    self.tally.imported += 1;
                    self.tally.messages += log.messages.len() as u64;
                }
                Import::AlreadyThere => self.tally.there += 1,
                Import::Expired => self.tally.expired += 1,
                Import::Differs => {
                    self.tally.differ += 1;
                    let id = log.stored.session.id;
                    let line =
                        format!("duologue: session {id} differs from what is there: left alone");
                    self.bar.suspend(|| print::remark(&line));
                }
            }
        }
        Ok(())
    }
}

/// Reads an export line by line.
struct Lines<R> {
    input: R,
    number: u64,
    longest: u64,
    /// Ids of the sessions that were read.
    seen: HashSet<SessionId>,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R, limits: &session::Settings) -> Self {
        // JSON escapes a byte with six at most. A message without a reply has a second text.
        let texts = limits.max_message_size.saturating_add(limits.max_reply_size);
        let longest = (texts as u64).saturating_mul(6).saturating_add(64 << 10);
        Self { input, number: 0, longest, seen: HashSet::new() }
    }

    fn wrong(&self, problem: impl AsRef<str>) -> CommandFailure {
        CommandFailure::Told(format!("line {}: {}", self.number, Printable(problem.as_ref())))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, CommandFailure> {
        loop {
            self.number += 1;
            let mut line = Vec::new();
            let mut input = (&mut self.input).take(self.longest + 1);
            let read = input.read_until(b'\n', &mut line);
            read.map_err(|error| self.wrong(format!("cannot be read: {error}")))?;
            if line.len() as u64 > self.longest {
                return Err(self.wrong(format!(
                    "longer than {} bytes: no message of this gateway's",
                    self.longest
                )));
            }
            if line.is_empty() {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, CommandFailure> {
        serde_json::from_slice(line).map_err(|error| {
            // The parser's own line number is always 1.
            let told = error.to_string();
            let problem = told.split(" at line 1 column").next().unwrap_or_default();
            self.wrong(format!("{problem} (column {})", error.column()))
        })
    }

    /// Checks the first line. Returns the number of sessions that it announces.
    fn header(&mut self) -> Result<u64, CommandFailure> {
        let line = self.next()?.ok_or_else(|| self.wrong("there is nothing"))?;
        let announcement = self.parse::<Announcement>(&line);
        let announcement =
            announcement.map_err(|_| self.wrong("not the header of an export of sessions"))?;
        let format = announcement.export.format;
        if format != record::FORMAT {
            let known = record::FORMAT;
            return Err(self.wrong(format!("the export's format is {format}, known is {known}")));
        }
        match self.parse(&line)? {
            Record::Export(header) => Ok(header.sessions),
            Record::Session(_) | Record::Message(_) => Err(self.wrong("no header")),
        }
    }

    /// Returns the next session with its messages, after the same checks as for live input.
    fn session(&mut self, limits: &session::Settings) -> Result<Option<StoredLog>, CommandFailure> {
        let Some(line) = self.next()? else { return Ok(None) };
        let Record::Session(record) = self.parse(&line)? else {
            return Err(self.wrong("a session is expected here"));
        };
        let stored = stored_session(&record, limits).map_err(|problem| self.wrong(problem))?;
        let id = stored.session.id;
        if !self.seen.insert(id) {
            return Err(self.wrong("the session was there already"));
        }
        let mut log = Log::of(stored);
        while log.messages.len() < record.messages as usize {
            let missing = || format!("{} of {} messages", log.messages.len(), record.messages);
            let Some(line) = self.next()? else {
                return Err(self.wrong(format!("session {id} ends after {}", missing())));
            };
            let Record::Message(message) = self.parse(&line)? else {
                return Err(self.wrong(format!("session {id} ends after {}", missing())));
            };
            log.add(message, limits).map_err(|problem| self.wrong(problem))?;
        }
        Ok(Some(log.finish()))
    }
}

fn stored_session(
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
    let token = record.token_sha256.as_deref().ok_or("token_sha256 is missing")?;
    let token = record::token_hash(token).ok_or("token_sha256 must be 64 hexadecimal digits")?;
    let (created_at, expires_at) = (record.created_at.0, record.expires_at.0);
    let ends_at = record.ends_at.0;
    if expires_at > ends_at {
        return Err("it expires after its end".into());
    }
    if record.messages > limits.max_session_messages {
        let max = limits.max_session_messages;
        return Err(format!("more than {max} messages: see --max-session-messages"));
    }
    let session = Session { id, name, epoch, created_at, expires_at, ends_at };
    Ok(StoredSession { session, token, messages: record.messages, last_activity: created_at })
}

/// The log of the session that is being read.
struct Log {
    stored: StoredSession,
    messages: Vec<Arc<Message>>,
    ids: HashSet<MessageId>,
    client_ids: HashSet<Arc<str>>,
    /// User messages without a reply so far, and the progress of their replies.
    unanswered: HashMap<MessageId, UnansweredTurn>,
    /// Messages that the export marks as having no reply.
    expected: HashSet<MessageId>,
}

impl Log {
    fn of(stored: StoredSession) -> Self {
        Self {
            stored,
            messages: Vec::new(),
            ids: HashSet::new(),
            client_ids: HashSet::new(),
            unanswered: HashMap::new(),
            expected: HashSet::new(),
        }
    }

    fn add(&mut self, record: MessageRecord, limits: &session::Settings) -> Result<(), String> {
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
        let (text, created_at) = (record.text.into(), record.created_at.0);
        self.messages.push(Arc::new(Message { seq, id, text, created_at, role }));
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
        if of_a_reply || failure.is_some() || usage.is_some() {
            return Err("a user's message with a field of a reply's".into());
        }
        let key = record.client_message_id.as_deref();
        if key == Some("") {
            return Err("client_message_id is empty".into());
        }
        NewMessage::new(record.text.as_str(), key)
            .check(limits.max_message_size)
            .map_err(|error| error.message().to_owned())?;
        let client_message_id: Option<Arc<str>> = key.map(Into::into);
        if let Some(key) = &client_message_id
            && !self.client_ids.insert(Arc::clone(key))
        {
            return Err("the client_message_id was there already".into());
        }
        let mut waiting = UnansweredTurn { seq: record.seq, attempt: 1, text: String::new() };
        if let Some(recorded) = &record.waiting {
            let is_attempt = (1..=session::MAX_ATTEMPTS).contains(&recorded.attempt);
            if !is_attempt || recorded.text.len() > limits.max_reply_size {
                return Err("how far the reply has come is not valid".into());
            }
            (waiting.attempt, waiting.text) = (recorded.attempt, recorded.text.clone());
            self.expected.insert(id);
        }
        self.unanswered.insert(id, waiting);
        Ok(Role::User { client_message_id })
    }

    fn assistant(
        &mut self,
        record: &MessageRecord,
        limits: &session::Settings,
    ) -> Result<Role, String> {
        if record.client_message_id.is_some() || record.waiting.is_some() {
            return Err("a reply with a field of a user's message".into());
        }
        if record.text.len() > limits.max_reply_size {
            let max = limits.max_reply_size;
            return Err(format!("the reply is larger than {max} bytes: see --max-reply-size"));
        }
        let in_reply_to = record.in_reply_to.as_deref().ok_or("in_reply_to is missing")?;
        let in_reply_to = in_reply_to.parse().map_err(|_| "in_reply_to is no UUID")?;
        if self.unanswered.remove(&in_reply_to).is_none() || self.expected.contains(&in_reply_to) {
            return Err("a reply to no message before it that waits for one".into());
        }
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
        Ok(Role::Assistant {
            in_reply_to,
            status,
            finish_reason: record.finish_reason.as_deref().map(Into::into),
            usage: record.usage.as_ref().map(session::Usage::from),
        })
    }

    fn finish(self) -> StoredLog {
        let mut waiting: Vec<_> = self.unanswered.into_values().collect();
        waiting.sort_unstable_by_key(|waiting| waiting.seq);
        StoredLog { stored: self.stored, messages: self.messages, waiting }
    }
}
