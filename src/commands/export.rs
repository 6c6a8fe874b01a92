//! The command `sessions export`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use clap::Args;
use indicatif::ProgressBar;

use super::{
    failure::{CommandFailure, no_session},
    print::{self, count},
    record::Record,
};
use crate::{
    session::{SessionId, Timestamp},
    store::{SessionFilter, StoredSession, StoredSessions},
};

/// Sessions of one query.
const PAGE: u32 = 512;

/// Arguments of `sessions export`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Ids of the sessions [default: all live sessions]
    ids: Vec<SessionId>,

    /// Only sessions of this owner, for example `key:web/ada`
    #[arg(long, conflicts_with = "ids")]
    subject: Option<String>,

    /// A new file, readable by its owner only [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, file: &dyn StoredSessions) -> Result<(), CommandFailure> {
    match &arguments.output {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let told = export(file, arguments, &mut out)?;
            print::remark(&told);
        }
        Some(output) => {
            let cannot = |error: io::Error| {
                CommandFailure::Told(format!("cannot write {}: {error}", output.display()))
            };
            let new = File::options().write(true).create_new(true).mode(0o600).open(output);
            let mut out = BufWriter::new(new.map_err(cannot)?);
            let exported = export(file, arguments, &mut out)
                .and_then(|told| Ok(out.get_ref().sync_all().map(|()| told)?));
            match exported {
                Ok(told) => print::report(&format!("{told}: {}", output.display())),
                Err(failure) => {
                    // An incomplete export could be taken for a complete one.
                    drop(fs::remove_file(output));
                    return Err(match failure {
                        CommandFailure::Output(error) => cannot(error),
                        told @ CommandFailure::Told(_) => told,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Writes the sessions as of one moment. Returns their number.
fn export(
    file: &dyn StoredSessions,
    arguments: &Arguments,
    out: &mut impl Write,
) -> Result<String, CommandFailure> {
    let mut exported = None;
    file.at_one_moment(&mut || exported = Some(export_all(file, arguments, out)))?;
    exported.unwrap_or_else(|| Ok(String::new()))
}

fn export_all(
    file: &dyn StoredSessions,
    arguments: &Arguments,
    out: &mut impl Write,
) -> Result<String, CommandFailure> {
    let mut exporting = Exporting { file, out, bar: ProgressBar::hidden(), messages: 0 };
    let sessions = match &*arguments.ids {
        [] => exporting.all(arguments.subject.as_deref())?,
        ids => exporting.some(ids)?,
    };
    exporting.out.flush()?;
    exporting.bar.finish_and_clear();
    let messages = count(exporting.messages, "message");
    Ok(format!("{}, {messages}", count(sessions, "session")))
}

struct Exporting<'a, W> {
    file: &'a dyn StoredSessions,
    out: &'a mut W,
    bar: ProgressBar,
    messages: u64,
}

impl<W: Write> Exporting<'_, W> {
    fn begin(&mut self, sessions: u64, messages: u64) -> Result<(), CommandFailure> {
        self.bar = print::progress(messages, "{wide_bar} {pos}/{len} messages  {eta} left");
        Ok(print::json(self.out, &Record::header(sessions))?)
    }

    fn some(&mut self, ids: &[SessionId]) -> Result<u64, CommandFailure> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let find = |id: &SessionId| self.file.session(*id)?.ok_or_else(|| no_session(*id));
        let chosen = ids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let messages = chosen.iter().map(|stored| u64::from(stored.messages)).sum();
        self.begin(chosen.len() as u64, messages)?;
        for stored in &chosen {
            self.one(stored)?;
        }
        Ok(chosen.len() as u64)
    }

    fn all(&mut self, subject: Option<&str>) -> Result<u64, CommandFailure> {
        let filter = SessionFilter {
            subject: subject.map(Into::into),
            now: Timestamp::of_wall_clock(),
            ..SessionFilter::default()
        };
        let (sessions, messages) = self.file.totals(&filter)?;
        self.begin(sessions, messages)?;
        let mut after = None;
        loop {
            let page = self.file.sessions(&filter, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(sessions) };
            after = Some(last.session.id);
            for stored in &page {
                self.one(stored)?;
            }
        }
    }

    fn one(&mut self, stored: &StoredSession) -> Result<(), CommandFailure> {
        let id = stored.session.id;
        let tokens = self.file.tokens(id)?;
        print::json(self.out, &Record::session(stored, &tokens))?;
        let waiting = self.file.waiting(id)?;
        let mut after = 0;
        loop {
            let page = self.file.messages(id, after)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.seq;
            for message in &page {
                let waits = waiting.iter().find(|waiting| waiting.seq == message.seq);
                print::json(self.out, &Record::message(id, message, waits))?;
            }
            self.bar.inc(page.len() as u64);
            self.messages += page.len() as u64;
        }
    }
}
