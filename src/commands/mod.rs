//! The commands: `serve` runs the gateway; the others work on the file of a store.
//!
//! The commands for a store use `store::SqliteFile`. Each of them works on the file of a stopped or
//! running gateway.

mod backup;
mod export;
mod failure;
mod import;
mod imported_log;
mod print;
mod record;
mod revoke;
pub mod serve;
mod sessions;
mod transcript;

use std::{io, path::Path};

use clap::Subcommand;
use failure::CommandFailure;

use crate::{session, store};

/// A command for the file of the store.
#[derive(Clone, Debug, Subcommand)]
pub enum Administration {
    /// List, export, import and revoke sessions
    #[command(subcommand)]
    Sessions(Sessions),
    /// Copy the file of the store
    Backup(backup::Arguments),
}

/// A command for sessions.
#[derive(Clone, Debug, Subcommand)]
pub enum Sessions {
    /// List sessions, oldest first: a table on a terminal, otherwise tab-separated lines
    List(sessions::ListArguments),
    /// Print a session with its messages
    Show(sessions::ShowArguments),
    /// Write sessions as JSON Lines
    Export(export::Arguments),
    /// Store the sessions of an export that do not exist yet
    Import(import::Arguments),
    /// Delete sessions with their messages; their tokens become invalid
    Revoke(revoke::Arguments),
}

/// Runs a command with the gateway's settings of the store and the limits.
///
/// # Errors
/// One line for the operator. A reader that closes the output early is not an error.
pub fn run(
    command: &Administration,
    store: &store::Settings,
    limits: &session::Settings,
) -> Result<(), String> {
    let path = match store {
        store::Settings::Memory { .. } => {
            return Err("the store is `memory`: it has no file, and ends with its gateway".into());
        }
        store::Settings::Sqlite { path, .. } => path,
    };
    match dispatch(command, path, limits) {
        Ok(()) => Ok(()),
        Err(CommandFailure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(CommandFailure::Output(error)) => Err(format!("cannot write: {error}")),
        Err(CommandFailure::Told(line)) => Err(line),
    }
}

fn dispatch(
    command: &Administration,
    path: &Path,
    limits: &session::Settings,
) -> Result<(), CommandFailure> {
    match command {
        Administration::Sessions(Sessions::List(arguments)) => sessions::list(arguments, path),
        Administration::Sessions(Sessions::Show(arguments)) => sessions::show(arguments, path),
        Administration::Sessions(Sessions::Export(arguments)) => export::run(arguments, path),
        Administration::Sessions(Sessions::Import(arguments)) => {
            import::run(arguments, path, limits)
        }
        Administration::Sessions(Sessions::Revoke(arguments)) => revoke::run(arguments, path),
        Administration::Backup(arguments) => backup::run(arguments, path),
    }
}
