//! The commands: `serve` runs the gateway; the others work on its store.
//!
//! The commands for sessions use `store::StoredSessions`. Each of them works beside running gateways,
//! and without one.

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

use crate::store::{self, Use};

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
    let open = |usage| store::open_beside(&settings.store, usage);
    match command {
        Administration::Sessions(Sessions::List(arguments)) => {
            sessions::list(arguments, &*open(Use::Read)?)
        }
        Administration::Sessions(Sessions::Show(arguments)) => {
            sessions::show(arguments, &*open(Use::Read)?)
        }
        Administration::Sessions(Sessions::Export(arguments)) => {
            export::run(arguments, &*open(Use::Read)?)
        }
        Administration::Sessions(Sessions::Import(arguments)) => {
            import::run(arguments, &|| open(Use::Make), &settings.session)
        }
        Administration::Sessions(Sessions::Delete(arguments)) => {
            delete::run(arguments, &mut *open(Use::Change)?)
        }
        Administration::Backup(arguments) => match &settings.store {
            store::Settings::Memory { .. } => {
                let line = "the store is `memory`: it has no file, and ends with its gateway";
                Err(CommandFailure::Told(line.into()))
            }
            store::Settings::Redis { .. } => {
                let line = "a backup of Redis or Valkey is a copy of its own files: see BGSAVE and \
                    its append-only file. `duologue sessions export` writes all sessions as JSON Lines";
                Err(CommandFailure::Told(line.into()))
            }
            store::Settings::Sqlite { path, .. } => backup::run(arguments, path),
        },
        Administration::Keys(command) => keys::run(command, &settings.key_file),
    }
}
