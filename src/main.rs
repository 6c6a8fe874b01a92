//! The program: parses the command line, starts the log, runs a command, returns the exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use duologue::{
    cli::{self, Command, CommandError, Config, EnvFile},
    commands::{self, serve},
    responder::openai,
    telemetry,
};
use tokio::runtime::Runtime;

/// Exit code for wrong settings (sysexits.h, EX_CONFIG).
const BAD_CONFIG: u8 = 78;

/// Exit code for wrong usage of a command.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Before the threads of the runtime exist, since it changes the environment.
    let env_file = match EnvFile::load() {
        Ok(env_file) => env_file,
        Err(line) => return refuse(&line),
    };
    match cli::command(&env_file) {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Serve(config)) => run(&config),
        Ok(Command::CheckUpstream(settings)) => check_upstream(&settings),
        Ok(Command::Administer(command, config)) => {
            match commands::run(&command, &config.serve) {
                Ok(()) => ExitCode::SUCCESS,
                Err(line) => {
                    // `eprintln` would panic if standard error is closed.
                    drop(writeln!(io::stderr(), "duologue: {line}"));
                    ExitCode::FAILURE
                }
            }
        }
        Err(CommandError::Setting(line)) => refuse(&line),
        Err(CommandError::Flag(explanation)) => {
            eprint!("{explanation}");
            ExitCode::from(BAD_CONFIG)
        }
        Err(CommandError::Usage(explanation)) => {
            eprint!("{explanation}");
            ExitCode::from(BAD_USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check_upstream(settings: &openai::Settings) -> ExitCode {
    let checked = Runtime::new()
        .and_then(|runtime| runtime.block_on(openai::check(settings, &mut io::stdout())));
    match checked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => refuse(&error.to_string()),
        Err(error) => {
            eprintln!("duologue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(line: &str) -> ExitCode {
    eprintln!("duologue: {line}");
    ExitCode::from(BAD_CONFIG)
}

fn run(config: &Config) -> ExitCode {
    match telemetry::start(&config.telemetry).and_then(|log| Ok((log, Runtime::new()?))) {
        Ok((log, runtime)) => {
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
            let served = runtime.block_on(serve::serve(&config.serve, &log));
            // The connections that remain did not end in time.
            runtime.shutdown_background();
            match served {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(
                        error = telemetry::error_chain(&*error),
                        "the gateway cannot run"
                    );
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => refuse(&error.to_string()),
    }
}
