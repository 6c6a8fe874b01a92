//! The command `sessions revoke`.

use std::{
    io::{self, Write as _},
    path::Path,
};

use clap::Args;

use super::{failure::CommandFailure, print::count};
use crate::{session::SessionId, store::SqliteFile};

/// Arguments of `sessions revoke`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Ids of the sessions
    #[arg(required = true)]
    ids: Vec<SessionId>,
}

pub(super) fn run(arguments: &Arguments, path: &Path) -> Result<(), CommandFailure> {
    let mut file = SqliteFile::open_for_changes(path)?;
    let mut unknown = Vec::new();
    let mut printed = Ok(());
    for id in &arguments.ids {
        if file.revoke(*id)? {
            // If the output is closed, the remaining sessions are revoked nevertheless.
            printed = printed.and(writeln!(io::stdout(), "revoked {id}"));
        } else {
            unknown.push(id.to_string());
        }
    }
    match &*unknown {
        [] => Ok(printed?),
        ids => {
            let what = count(ids.len() as u64, "session");
            Err(CommandFailure::Told(format!("{what} not there: {}", ids.join(", "))))
        }
    }
}
