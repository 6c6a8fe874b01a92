//! The command line: clap's description of it, derived from the settings.

use clap::{Arg, ArgAction, Command, FromArgMatches as _, Subcommand as _};

use super::{
    generate::Format,
    setting::Setting,
    settings::{self, GROUPS},
    values::Values,
};
use crate::commands::Administration;

/// Flag that prints the effective configuration.
pub(super) const CHECK_CONFIG: &str = "check-config";

/// Flag that prints a file derived from the settings.
pub(super) const GENERATE: &str = "generate";

/// Command that tries the upstreams.
const CHECK_UPSTREAM: &str = "check-upstream";

/// A command that stands on the command line.
#[derive(Debug)]
pub(super) enum Task {
    Administer(Administration),
    CheckUpstream,
}

impl Task {
    /// Returns the command, if there is one.
    pub(super) fn of(matches: &clap::ArgMatches) -> Result<Option<Self>, clap::Error> {
        match matches.subcommand_name() {
            None => Ok(None),
            Some(CHECK_UPSTREAM) => Ok(Some(Self::CheckUpstream)),
            Some(_) => Ok(Some(Self::Administer(Administration::from_arg_matches(matches)?))),
        }
    }
}

/// Describes the command line. `-h` shows the common settings, `--help` all of them by group.
pub(super) fn command() -> Command {
    let defaults = Values::default();
    let command = Command::new("duologue")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(100)
        .after_help("Use --help for all settings: flags, variables and keys of the configuration file.")
        .after_long_help(
            "A flag takes precedence over the environment, .env, the configuration file and the default.",
        );
    let check_upstream = Command::new(CHECK_UPSTREAM)
        .about("Try the configured upstreams, and report their behavior");
    // The commands for the store bring a description of their own.
    let mut command = Administration::augment_subcommands(command)
        .about("A chat gateway between clients and an AI model. Without a command it serves.")
        .subcommand(check_upstream);
    for setting in settings::all().filter(|setting| setting.common) {
        command = command.arg(flag(setting, &defaults));
    }
    command = command
        .arg(
            Arg::new(CHECK_CONFIG)
                .long(CHECK_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the effective configuration, secrets hidden, and exit"),
        )
        .arg(
            Arg::new(GENERATE)
                .long(GENERATE)
                .value_name("FORMAT")
                .value_parser(clap::builder::EnumValueParser::<Format>::new())
                .hide_short_help(true)
                .help("Print a configuration file with every setting, or the reference, and exit"),
        );
    for group in GROUPS {
        for setting in group.settings.iter().filter(|setting| !setting.common) {
            let flag = flag(setting, &defaults).help_heading(group.heading).hide_short_help(true);
            command = command.arg(flag);
        }
    }
    command
}

fn flag(setting: &'static Setting, defaults: &Values) -> Arg {
    let mut long_help = format!("{}.", setting.summary);
    if !setting.details.is_empty() {
        long_help = format!("{long_help} {}", setting.details);
    }
    let default = setting.default_text(defaults);
    let default = default.map(|text| format!("[default: {text}]\n")).unwrap_or_default();
    Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.field.value_name)
        .global(setting.global)
        .help(setting.summary)
        .long_help(format!("{long_help}\n{default}[env: {}]", setting.variable))
}
