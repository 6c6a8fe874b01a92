//! The commands: `serve` runs the gateway; the others work on the file of a store.
//!
//! The commands for a store use `store::SqliteFile`. Each of them works on the file of a stopped or
//! running gateway.

mod backup;
mod delete;
mod export;
mod failure;
mod import;
mod imported_log;
mod keys;
mod print;
mod record;
pub mod serve;
mod sessions;
mod transcript;

use std::io;

use clap::Subcommand;
use failure::CommandFailure;

use crate::store;

/// A command for the files of the gateway.
#[derive(Clone, Debug, Subcommand)]
pub enum Administration {
    /// List, export, import and delete sessions
    #[command(subcommand)]
    Sessions(Sessions),
    /// Copy the file of the store
    Backup(backup::Arguments),
    /// Make, list and remove API keys
    #[command(subcommand)]
    Keys(keys::Keys),
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
    Delete(delete::Arguments),
}

/// Runs a command with the gateway's settings.
///
/// # Errors
/// One line for the operator. A reader that closes the output early is not an error.
pub fn run(command: &Administration, settings: &serve::Settings) -> Result<(), String> {
    match dispatch(command, settings) {
        Ok(()) => Ok(()),
        Err(CommandFailure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(CommandFailure::Output(error)) => Err(format!("cannot write: {error}")),
        Err(CommandFailure::Told(line)) => Err(line),
    }
}

fn dispatch(command: &Administration, settings: &serve::Settings) -> Result<(), CommandFailure> {
    let file = || match &settings.store {
        store::Settings::Memory { .. } => {
            let line = "the store is `memory`: it has no file, and ends with its gateway";
            Err(CommandFailure::Told(line.into()))
        }
        store::Settings::Redis { .. } => {
            let line = "this command works on a file; sessions on a server are not supported yet";
            Err(CommandFailure::Told(line.into()))
        }
        store::Settings::Sqlite { path, .. } => Ok(&**path),
    };
    match command {
        Administration::Sessions(Sessions::List(arguments)) => sessions::list(arguments, file()?),
        Administration::Sessions(Sessions::Show(arguments)) => sessions::show(arguments, file()?),
        Administration::Sessions(Sessions::Export(arguments)) => export::run(arguments, file()?),
        Administration::Sessions(Sessions::Import(arguments)) => {
            import::run(arguments, file()?, &settings.session)
        }
        Administration::Sessions(Sessions::Delete(arguments)) => delete::run(arguments, file()?),
        Administration::Backup(arguments) => backup::run(arguments, file()?),
        Administration::Keys(command) => keys::run(command, &settings.key_file),
    }
}
