//! The command `sessions import`.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::PathBuf,
};

use clap::Args;
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;

use super::{
    failure::CommandFailure,
    imported_log::{ImportedLog, stored_session, tokens},
    print::{self, Printable, count},
    record::{self, Announcement, Record},
};
use crate::{
    session::{self, SessionId, Timestamp},
    store::{Import, OpenError, StoredLog, StoredSessions},
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
    open: &dyn Fn() -> Result<Box<dyn StoredSessions>, OpenError>,
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
        file: open()?,
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
    file: Box<dyn StoredSessions>,
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
        /// Names of fields, metadata, options, and the tokens of a session.
        const ENVELOPE: u64 = 1 << 20;
        // JSON escapes a byte with six at most. A message without a reply has a second content.
        let texts = limits.messages.content.max_size.saturating_add(limits.max_reply_size);
        let longest = (texts as u64).saturating_mul(6).saturating_add(ENVELOPE);
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
        let (oldest, newest) = (record::OLDEST_FORMAT, record::FORMAT);
        if !(oldest..=newest).contains(&format) {
            let known = format!("known are {oldest} to {newest}");
            return Err(self.wrong(format!("the export's format is {format}, {known}")));
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
        let tokens = tokens(&record).map_err(|problem| self.wrong(problem))?;
        let id = stored.session.id;
        if !self.seen.insert(id) {
            return Err(self.wrong("the session was there already"));
        }
        let mut log = ImportedLog::of(stored, tokens);
        while log.messages.len() < record.messages as usize {
            let missing = || format!("{} of {} messages", log.messages.len(), record.messages);
            let Some(line) = self.next()? else {
                return Err(self.wrong(format!("session {id} ends after {}", missing())));
            };
            let Record::Message(message) = self.parse(&line)? else {
                return Err(self.wrong(format!("session {id} ends after {}", missing())));
            };
            log.add(*message, limits).map_err(|problem| self.wrong(problem))?;
        }
        Ok(Some(log.finish()))
    }
}
