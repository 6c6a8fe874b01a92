//! The commands `keys add`, `keys list` and `keys remove`.

use std::{
    io::{self, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    failure::CommandFailure,
    print::{self, time},
};
use crate::{
    identity::{KeyFile, KeyRecord},
    session::{IdentityKind, Timestamp},
};

/// A command for API keys.
#[derive(Clone, Debug, Subcommand)]
pub enum Keys {
    /// Make a key and print it; the file holds only its hash
    Add(AddArguments),
    /// List the keys as tab-separated lines: name, kind, creation, end
    List,
    /// Remove a key; it opens nothing from then on
    Remove(RemoveArguments),
}

/// Arguments of `keys add`.
#[derive(Args, Clone, Debug)]
pub struct AddArguments {
    /// A name of a-z, 0-9, `-`, `_` and `.`; the subject of the caller is `key:NAME`
    name: String,

    /// `user` acts for itself; `service` may set the subject of a session
    #[arg(long, default_value = "user")]
    kind: Kind,

    /// Time until the key expires, for example `90d` [default: never]
    #[arg(long, value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    User,
    Service,
}

/// Arguments of `keys remove`.
#[derive(Args, Clone, Debug)]
pub struct RemoveArguments {
    /// Name of the key
    name: String,
}

pub(super) fn run(command: &Keys, path: &Path) -> Result<(), CommandFailure> {
    let file = KeyFile::at(path);
    let mut out = io::stdout();
    match command {
        Keys::Add(AddArguments { name, kind, expires }) => {
            let kind = match kind {
                Kind::User => IdentityKind::User,
                Kind::Service => IdentityKind::Service,
            };
            let now = Timestamp::from(SystemTime::now());
            let expires_at = expires.map(|expires| now.plus(expires).min(Timestamp::NEVER));
            let key = file.add(name, kind, expires_at).map_err(CommandFailure::Told)?;
            writeln!(out, "{}", key.expose())?;
            print::remark("keep it: it cannot be shown again");
        }
        Keys::List => {
            for record in file.read().map_err(CommandFailure::Told)? {
                let KeyRecord { name, kind, created_at, expires_at, .. } = record;
                let kind = match kind {
                    IdentityKind::User => "user",
                    IdentityKind::Service => "service",
                };
                let end = expires_at.map_or_else(|| "never".into(), time);
                writeln!(out, "{name}\t{kind}\t{}\t{end}", time(created_at))?;
            }
        }
        Keys::Remove(RemoveArguments { name }) => {
            file.remove(name).map_err(CommandFailure::Told)?;
            writeln!(out, "removed {name}")?;
        }
    }
    Ok(())
}
