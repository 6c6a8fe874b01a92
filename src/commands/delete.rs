//! The command `sessions delete`.

use std::io::{self, Write as _};

use clap::Args;

use super::{failure::CommandFailure, print::count};
use crate::{
    session::{SessionId, Timestamp},
    store::{SessionFilter, StoredSessions},
};

/// Sessions of one query.
const PAGE: u32 = 512;

/// Arguments of `sessions delete`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Ids of the sessions
    #[arg(required_unless_present = "subject")]
    ids: Vec<SessionId>,

    /// Every session of this owner, for example `key:web/ada`
    #[arg(long)]
    subject: Option<String>,
}

pub(super) fn run(
    arguments: &Arguments,
    file: &mut dyn StoredSessions,
) -> Result<(), CommandFailure> {
    let mut deleting = Deleting { unknown: Vec::new(), printed: Ok(()) };
    for id in &arguments.ids {
        deleting.one(file, *id)?;
    }
    if let Some(subject) = &arguments.subject {
        while let Some(page) = of_subject(file, subject)? {
            for id in page {
                deleting.one(file, id)?;
            }
        }
    }
    match &*deleting.unknown {
        [] => Ok(deleting.printed?),
        ids => {
            let what = count(ids.len() as u64, "session");
            Err(CommandFailure::Told(format!("{what} not there: {}", ids.join(", "))))
        }
    }
}

/// Returns sessions of a subject. `None` if there are none.
fn of_subject(
    file: &dyn StoredSessions,
    subject: &str,
) -> Result<Option<Vec<SessionId>>, CommandFailure> {
    let filter = SessionFilter {
        subject: Some(subject.into()),
        now: Timestamp::of_wall_clock(),
        ..SessionFilter::default()
    };
    let page = file.sessions(&filter, None, PAGE)?;
    let ids: Vec<_> = page.iter().map(|stored| stored.session.id).collect();
    Ok((!ids.is_empty()).then_some(ids))
}

struct Deleting {
    unknown: Vec<String>,
    printed: io::Result<()>,
}

impl Deleting {
    fn one(&mut self, file: &mut dyn StoredSessions, id: SessionId) -> Result<(), CommandFailure> {
        if !file.delete(id)? {
            self.unknown.push(id.to_string());
        } else if self.printed.is_ok() {
            // If the output is closed, the remaining sessions are deleted nevertheless.
            self.printed = writeln!(io::stdout(), "deleted {id}");
        }
        Ok(())
    }
}
