//! The commands `sessions list` and `sessions show`.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use clap::Args;
use serde::Serialize;

use super::{
    failure::{CommandFailure, no_session},
    print::{self, Printable, TableField, time},
    record,
    transcript::Transcript,
};
use crate::{
    session::{SessionId, Timestamp, TokenRecord},
    store::{SessionFilter, StoredSession, StoredSessions},
};

/// Sessions of one query. The WAL of a gateway grows during a query, and the reader of the output
/// may be slow.
const PAGE: u32 = 512;

/// Arguments of `sessions list`.
#[derive(Args, Clone, Debug)]
pub struct ListArguments {
    /// Only users whose name contains this text; ASCII letters match in either case
    #[arg(long)]
    name: Option<String>,

    /// Only sessions of this owner, for example `key:web/ada`
    #[arg(long)]
    subject: Option<String>,

    /// Sessions that have expired and are not deleted yet, instead of live ones
    #[arg(long)]
    expired: bool,

    /// Largest number of sessions
    #[arg(long)]
    limit: Option<u64>,

    /// Print JSON Lines
    #[arg(long)]
    json: bool,
}

/// Arguments of `sessions show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArguments {
    /// Id of the session
    id: SessionId,

    /// Only this many of the newest messages
    #[arg(long)]
    limit: Option<u32>,

    /// Print JSON Lines as in an export, without its tokens
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
enum OutputFormat {
    Table,
    Tabs,
    Json,
}

#[derive(Serialize)]
struct TableRow<'a> {
    id: String,
    name: &'a str,
    created_at: String,
    expires_at: String,
    messages: u32,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

pub(super) fn list(
    arguments: &ListArguments,
    file: &dyn StoredSessions,
) -> Result<(), CommandFailure> {
    let form = match arguments.json {
        true => OutputFormat::Json,
        false if io::stdout().is_terminal() => OutputFormat::Table,
        false => OutputFormat::Tabs,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if let OutputFormat::Table = form {
        writeln!(
            out,
            "{:36}  {:24}  {:24}  {:>8}  {:24}  NAME",
            "ID", "CREATED", "EXPIRES", "MESSAGES", "LAST ACTIVITY"
        )?;
    }
    let filter = SessionFilter {
        name: arguments.name.clone(),
        subject: arguments.subject.clone(),
        expired: arguments.expired,
        now: Timestamp::of_wall_clock(),
    };
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut after = None;
    loop {
        let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
        let page = file.sessions(&filter, after, limit)?;
        for stored in &page {
            row(&mut out, stored, form)?;
        }
        left -= page.len() as u64;
        match page.last() {
            Some(last) if left > 0 => after = Some(last.session.id),
            _ => break,
        }
    }
    Ok(out.flush()?)
}

fn row(out: &mut impl Write, stored: &StoredSession, form: OutputFormat) -> io::Result<()> {
    let StoredSession { session, messages, last_activity, .. } = stored;
    let row = TableRow {
        id: session.id.to_string(),
        name: session.name.as_str(),
        created_at: time(session.created_at),
        expires_at: time(session.expires_at),
        messages: *messages,
        last_activity: time(*last_activity),
        subject: session.subject.as_deref(),
    };
    let TableRow { id, name, created_at, expires_at, messages, last_activity, .. } = &row;
    match form {
        OutputFormat::Json => print::json(out, &row),
        OutputFormat::Tabs => {
            let name = TableField(name);
            writeln!(out, "{id}\t{name}\t{created_at}\t{expires_at}\t{messages}\t{last_activity}")
        }
        // The name comes last: the width of its characters on the terminal is unknown.
        OutputFormat::Table => {
            let name = Printable(name);
            writeln!(
                out,
                "{id}  {created_at}  {expires_at}  {messages:>8}  {last_activity}  {name}"
            )
        }
    }
}

pub(super) fn show(
    arguments: &ShowArguments,
    file: &dyn StoredSessions,
) -> Result<(), CommandFailure> {
    let id = arguments.id;
    let stored = file.session(id)?.ok_or_else(|| no_session(id))?;
    let waiting = file.waiting(id)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        print::json(&mut out, &record::Record::session(&stored, &[]))?;
    } else {
        head(&mut out, &stored, &file.tokens(id)?, waiting.len())?;
    }
    let mut after = stored.messages.saturating_sub(arguments.limit.unwrap_or(u32::MAX));
    let mut transcript = Transcript::after(after);
    loop {
        let page = file.messages(id, after)?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        for message in &page {
            let waits = waiting.iter().find(|waiting| waiting.seq == message.seq);
            if arguments.json {
                print::json(&mut out, &record::Record::message(id, message, waits))?;
            } else {
                transcript.print(&mut out, message, waits.is_some())?;
            }
        }
    }
    Ok(out.flush()?)
}

fn head(
    out: &mut impl Write,
    stored: &StoredSession,
    tokens: &[TokenRecord],
    waiting: usize,
) -> io::Result<()> {
    let StoredSession { session, messages, last_activity, .. } = stored;
    let expired = session.expires_at <= Timestamp::of_wall_clock();
    writeln!(out, "session        {}", session.id)?;
    writeln!(out, "name           {}", Printable(session.name.as_str()))?;
    if let Some(title) = &session.title {
        writeln!(out, "title          {}", Printable(title))?;
    }
    if let Some(subject) = &session.subject {
        writeln!(out, "subject        {}", Printable(subject))?;
    }
    for token in tokens {
        let label = Printable(token.label.as_deref().unwrap_or_default());
        writeln!(out, "token          {}  {:5}  {label}", token.id, token.scope.as_str())?;
    }
    writeln!(out, "created        {}", time(session.created_at))?;
    writeln!(out, "last activity  {}", time(*last_activity))?;
    let word = if expired { "expired" } else { "expires" };
    writeln!(out, "{word}        {}", time(session.expires_at))?;
    writeln!(out, "ends           {}", time(session.ends_at))?;
    writeln!(out, "messages       {messages}")?;
    if waiting > 0 {
        writeln!(out, "unanswered     {waiting}")?;
    }
    Ok(())
}
