//! The command line and the settings.
//!
//! Each setting has one definition, in `settings/`. `resolve` takes its value from the first
//! source that has one: flag, environment, `.env`, configuration file, default. `Values` then
//! becomes the validated `Config`.

mod arguments;
mod config;
mod config_file;
mod env_file;
mod generate;
mod lists;
mod resolve;
mod setting;
mod settings;
mod value;
mod values;

pub use config::{Config, Environment};
pub use env_file::EnvFile;

use std::{env, ffi::OsString, fmt::Write as _};

use arguments::{CHECK_CONFIG, GENERATE, Task};
use clap::error::{ContextKind, ErrorKind};
use generate::{Format, generate};
use resolve::{resolve, unknown_variables};
use setting::HIDDEN;
use values::Values;

use crate::{commands::Administration, responder::openai};

/// An order that a command line gives.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Try these upstreams.
    CheckUpstream(Box<openai::Settings>),
    /// Work on the file of the store.
    Administer(Administration, Box<Config>),
    /// Print this text and exit with success.
    Print(String),
}

/// Why a command line cannot be obeyed.
#[derive(Debug)]
pub enum CommandError {
    /// A setting is wrong: one line that names its place.
    Setting(String),
    /// A flag does not exist: clap's explanation, with a suggestion and the usage.
    Flag(String),
    /// A command is used in a wrong way: clap's explanation.
    Usage(String),
}

impl From<String> for CommandError {
    fn from(line: String) -> Self {
        Self::Setting(line)
    }
}

/// Reads the command line of the process and its environment, into which `env_file` was loaded.
///
/// # Errors
/// Says which setting is wrong, or which command is used in a wrong way.
pub fn command(env_file: &EnvFile) -> Result<Command, CommandError> {
    let mut command = command_of(env::args_os().collect(), env_file, |name| env::var_os(name))?;
    if let Command::Serve(config) = &mut command {
        // Not refused: orchestrators set variables of this form by themselves.
        let unknown = unknown_variables().into_iter();
        config
            .warnings
            .extend(unknown.map(|name| format!("{name} is not a setting of this version")));
    }
    Ok(command)
}

fn command_of(
    arguments: Vec<OsString>,
    env_file: &EnvFile,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, CommandError> {
    let parsed = arguments::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Ok((Task::of(&matches)?, matches)));
    let (task, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return refusal(&error, &arguments),
    };
    if let Some(format) = matches.get_one::<Format>(GENERATE) {
        return Ok(Command::Print(generate(*format)));
    }
    let values = resolve(&matches, env_file, variable)?;
    let effective = effective(&values);
    if matches!(task, Some(Task::CheckUpstream)) && !matches.get_flag(CHECK_CONFIG) {
        return Ok(Command::CheckUpstream(Box::new(values.openai()?)));
    }
    let config = Box::new(values.into_config()?);
    Ok(match task {
        _ if matches.get_flag(CHECK_CONFIG) => Command::Print(effective),
        Some(Task::Administer(command)) => Command::Administer(command, config),
        Some(Task::CheckUpstream) | None => Command::Serve(config),
    })
}

/// The settings as lines of an `.env` file.
fn effective(values: &Values) -> String {
    let mut lines = String::new();
    for setting in settings::all() {
        let name = setting.variable;
        let _infallible = match (setting.field.show)(values) {
            // A hidden value cannot be read again.
            Some(value) if value.contains(HIDDEN) => writeln!(lines, "# {name}={value}"),
            Some(value) => writeln!(lines, "{name}={}", env_file::quoted_if_needed(&value)),
            None => writeln!(lines, "# {name}="),
        };
    }
    lines
}

fn refusal(error: &clap::Error, arguments: &[OsString]) -> Result<Command, CommandError> {
    let explanation = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Print(explanation)),
        _ if is_about_a_command(error, arguments) => Err(CommandError::Usage(explanation)),
        ErrorKind::UnknownArgument => Err(CommandError::Flag(explanation)),
        _ => Err(CommandError::Setting(one_line(&explanation))),
    }
}

/// Whether a command was given, or something in its place, and no setting is at fault.
fn is_about_a_command(error: &clap::Error, arguments: &[OsString]) -> bool {
    let at_fault = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = at_fault.split([' ', '=']).next().unwrap_or_default();
    let is_setting = settings::all().any(|setting| flag.strip_prefix("--") == Some(setting.name));
    if is_setting && error.kind() != ErrorKind::UnknownArgument {
        return false;
    }
    let given = arguments::command().ignore_errors(true).try_get_matches_from(arguments);
    given.is_ok_and(|given| given.subcommand_name().is_some())
        || error.kind() == ErrorKind::InvalidSubcommand
}

/// Returns the first line of clap's explanation, which names the error.
fn one_line(explanation: &str) -> String {
    let lines = explanation.lines().map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests;
