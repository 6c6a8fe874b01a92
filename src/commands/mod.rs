//! What an operator does with the store's file, from the command line.
//!
//! `store::SqliteFile` does it; here is what is asked, what is printed, and the form in
//! which sessions travel. Each command works on the file of a stopped and of a running
//! gateway.

mod backup;
mod export;
mod failure;
mod import;
mod print;
mod record;
mod revoke;
pub mod serve;
mod sessions;

use std::{io, path::Path};

use clap::Subcommand;
use failure::CommandFailure;

use crate::{session, store};

/// A command for the store's file.
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
    /// List them, the oldest first: a table on a terminal, else lines with tabs between
    List(sessions::ListArguments),
    /// Print one with its messages
    Show(sessions::ShowArguments),
    /// Write them, all or some, as JSON Lines
    Export(export::Arguments),
    /// Keep those of an export that are not there
    Import(import::Arguments),
    /// End them: their logs are gone, their tokens open nothing
    Revoke(revoke::Arguments),
}

/// Does what is asked, with the store and the limits of the gateway's settings.
///
/// # Errors
/// One line for the operator. A reader of the output who has seen enough is none.
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
