//! Flags and environment.
//!
//! Every setting is a flag, an environment variable and a line of `.env.example`; the
//! flag wins. A value that does not parse stops the start with one line.

mod bot;
pub mod env_file;
mod openai;

use std::{
    ffi::OsString,
    fmt::Write as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{
    ArgAction, CommandFactory, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

use crate::{
    commands::Administration,
    config::{Config, Environment},
    responder,
    server::{self, TlsFiles},
    session, store, telemetry,
    transport::{self, Hosts, Origins},
};

// Headings of `--help`.
const SESSIONS: &str = "Sessions";
const REPLIES: &str = "Replies";
const LIMITS: &str = "Limits";

/// A chat gateway: people talk to an AI model over gRPC, WebSocket, SSE and REST, on one port.
///
/// Without a command it serves.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// Without one it serves.
    #[command(subcommand)]
    task: Option<Task>,

    /// Environment: `development`, or `production` (JSON logs; reflection, /docs and localhost
    /// origins off)
    #[arg(long, global = true, env = "APP_ENV", default_value_t = Environment::Development)]
    app_env: Environment,

    /// Listen address for every protocol
    #[arg(long, env = "DUOLOGUE_ADDR", default_value_t = server::Settings::default().addr, value_parser = addr)]
    addr: SocketAddr,

    /// Listen address for metrics and probes, not meant for visitors; `off` disables it
    #[arg(long, env = "DUOLOGUE_OPS_ADDR", default_value = "127.0.0.1:3501", value_parser = ops_addr)]
    ops_addr: OpsAddr,

    /// TLS certificate chain, PEM, leaf first; serves HTTPS on the same port. Read again on SIGHUP
    #[arg(long, env = "DUOLOGUE_TLS_CERT", requires = "tls_key", value_parser = path)]
    tls_cert: Option<PathBuf>,

    /// TLS private key, PEM
    #[arg(long, env = "DUOLOGUE_TLS_KEY", requires = "tls_cert", value_parser = path)]
    tls_key: Option<PathBuf>,

    /// Where sessions are kept: `sqlite:PATH`, or `memory`
    #[arg(long, help_heading = SESSIONS, global = true, env = "DUOLOGUE_STORE", default_value_t = store::Settings::default().to_string())]
    // Parsed later: clap would repeat a wrong address, with the password in it.
    store: String,

    /// When an acknowledged message is on disk: `full` (before it is acknowledged) or `relaxed`
    /// (soon after)
    #[arg(long, help_heading = SESSIONS, env = "DUOLOGUE_DURABILITY", default_value_t = store::Durability::Full)]
    durability: store::Durability,

    /// Idle TTL: a session expires after this long without a message or a refresh
    #[arg(long, help_heading = SESSIONS, env = "DUOLOGUE_SESSION_TTL", default_value = "1h", value_parser = humantime::parse_duration)]
    session_ttl: Duration,

    /// A session expires at this age, whatever happens
    #[arg(long, help_heading = SESSIONS, env = "DUOLOGUE_SESSION_MAX_AGE", default_value = "24h", value_parser = humantime::parse_duration)]
    session_max_age: Duration,

    /// What answers: `simulated`, `openai` (any OpenAI-compatible model) or `grpc` (a bot of your
    /// own)
    #[arg(long, global = true, help_heading = REPLIES, env = "DUOLOGUE_RESPONDER", default_value = "simulated", value_parser = ["simulated", "openai", "grpc"])]
    responder: String,

    /// Reply of the simulated responder; may hold {text} and {name}
    #[arg(long, help_heading = REPLIES, env = "DUOLOGUE_SIMULATED_REPLY", default_value = responder::Settings::SIMULATED_REPLY)]
    simulated_reply: String,

    /// Delay between words of the simulated reply; 0ms sends it as one delta
    #[arg(long, help_heading = REPLIES, env = "DUOLOGUE_SIMULATED_DELAY", default_value = "0ms", value_parser = humantime::parse_duration)]
    simulated_delay: Duration,

    #[command(flatten)]
    openai: openai::OpenAi,

    #[command(flatten)]
    bot: bot::Bot,

    /// Largest user message
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_MESSAGE_SIZE", default_value = "64KiB")]
    max_message_size: ByteSize,

    /// Largest reply; a longer one is cut and kept as interrupted
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_REPLY_SIZE", default_value = "1MiB")]
    max_reply_size: ByteSize,

    /// User messages per session that wait for their reply, the one being answered included
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_QUEUED_TURNS", default_value_t = session::Settings::default().max_queued_turns)]
    max_queued_turns: u32,

    /// Messages per session, replies included
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_SESSION_MESSAGES", default_value_t = session::Settings::default().max_session_messages)]
    max_session_messages: u32,

    /// Streams attached to one session
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_SESSION_STREAMS", default_value_t = session::Settings::default().max_session_streams)]
    max_session_streams: usize,

    /// Unread bytes per stream before it is closed and told to reconnect
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_BACKLOG_SIZE", default_value = "4MiB")]
    max_backlog_size: ByteSize,

    /// Sessions in the store
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_SESSIONS", default_value = "1000000")]
    max_sessions: usize,

    /// Bytes of messages in the memory store
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_STORE_SIZE", default_value = "1GiB")]
    max_store_size: ByteSize,

    /// Concurrent connections
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_CONNECTIONS", default_value_t = server::Settings::default().max_connections)]
    max_connections: usize,

    /// Concurrent HTTP/2 streams per connection
    #[arg(long, help_heading = LIMITS, env = "DUOLOGUE_MAX_CONNECTION_STREAMS", default_value_t = server::Settings::default().max_connection_streams)]
    max_connection_streams: u32,

    /// Origins of web pages that may use the gateway, comma-separated, or `*`. One may begin with
    /// `https://*.` [default: same origin; in development also any localhost port]
    #[arg(long, env = "DUOLOGUE_ALLOWED_ORIGINS")]
    allowed_origins: Option<Origins>,

    /// Names of the gateway, comma-separated: a page of another name is not of the same origin
    /// [default: any name]
    #[arg(long, env = "DUOLOGUE_HOST")]
    host: Option<Hosts>,

    /// Heartbeat interval of every stream
    #[arg(long, env = "DUOLOGUE_HEARTBEAT", default_value = "25s", value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    /// How long a shutdown waits for running replies
    #[arg(long, env = "DUOLOGUE_DRAIN_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// gRPC server reflection [default: true in development]
    #[arg(long, env = "DUOLOGUE_REFLECTION", action = ArgAction::Set)]
    reflection: Option<bool>,

    /// Serve /docs, /openapi.json and /asyncapi.yaml [default: true in development]
    #[arg(long, env = "DUOLOGUE_DOCS", action = ArgAction::Set)]
    docs: Option<bool>,

    /// Log filter: `error`, `warn`, `info`, `debug`, `trace`, or per module
    #[arg(long, env = "DUOLOGUE_LOG", default_value_t = telemetry::Filter::default())]
    log: telemetry::Filter,

    /// Print the effective configuration, secrets hidden, and exit
    #[arg(long)]
    check_config: bool,
}

/// What else it can do.
#[derive(Clone, Debug, Subcommand)]
enum Task {
    #[command(flatten)]
    Administer(Administration),
    /// Try the configured upstreams, and say how they behave
    CheckUpstream,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Try these upstreams.
    CheckUpstream(Box<responder::openai::Settings>),
    /// Do this with the store's file.
    Administer(Administration, Box<Config>),
    /// Print this and exit with success.
    Print(String),
}

/// Why a command line cannot be obeyed.
#[derive(Debug)]
pub enum Refusal {
    /// A setting is wrong, by flag, environment or `.env`: one line says which.
    Setting(String),
    /// There is no such flag: clap's explanation, with a suggestion and the usage.
    Flag(String),
    /// A command is not used as it can be: this explains it.
    Usage(String),
}

impl From<String> for Refusal {
    fn from(line: String) -> Self {
        Self::Setting(line)
    }
}

impl Cli {
    /// Reads the process's flags and environment.
    ///
    /// # Errors
    /// What is wrong with which setting, or with the use of a command.
    pub fn command() -> Result<Command, Refusal> {
        let arguments: Vec<_> = std::env::args_os().collect();
        let parsed = without_blank_variables(<Self as CommandFactory>::command())
            .try_get_matches_from(&arguments)
            .and_then(|matches| Self::from_arg_matches(&matches));
        match parsed {
            Ok(cli) => Ok(cli.into_command()?),
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Command::Print(error.render().to_string()))
                }
                _ if is_about_a_command(&error, &arguments) => {
                    Err(Refusal::Usage(error.render().to_string()))
                }
                ErrorKind::UnknownArgument => Err(Refusal::Flag(error.render().to_string())),
                _ => Err(Refusal::Setting(one_line(&error.render().to_string()))),
            },
        }
    }

    /// Variables that look like settings and are none of this version: a typing error,
    /// or a setting of another version.
    #[must_use]
    pub fn unknown_variables() -> Vec<String> {
        let command = <Self as CommandFactory>::command();
        let known: Vec<_> =
            command.get_arguments().filter_map(|argument| argument.get_env()).collect();
        let set = std::env::vars_os().map(|(name, _)| name);
        let unknown = set.filter(|name| !known.contains(&name.as_os_str()));
        let names = unknown.filter_map(|name| name.into_string().ok());
        names.filter(|name| name.starts_with("DUOLOGUE_")).collect()
    }

    fn into_command(self) -> Result<Command, String> {
        let store = self.store.parse().map_err(|problem| format!("--store: {problem}"))?;
        let config = self.config(store, self.responder()?);
        config.validate()?;
        if self.check_config {
            return Ok(Command::Print(self.effective()));
        }
        Ok(match self.task {
            Some(Task::Administer(command)) => Command::Administer(command, Box::new(config)),
            Some(Task::CheckUpstream) => Command::CheckUpstream(Box::new(self.openai.settings()?)),
            None => Command::Serve(Box::new(config)),
        })
    }

    fn responder(&self) -> Result<responder::Settings, String> {
        // Looked at even where nothing calls it: what is wrong with it must not be printed.
        self.openai.check()?;
        let bot = self.bot.settings(size(self.max_reply_size))?;
        match self.responder.as_str() {
            "grpc" => {
                Ok(responder::Settings::Grpc(bot.ok_or("--responder grpc needs a --bot-endpoint")?))
            }
            "openai" => Ok(responder::Settings::OpenAi(self.openai.settings()?)),
            _ => Ok(responder::Settings::Simulated {
                reply: self.simulated_reply.clone(),
                delay: self.simulated_delay,
            }),
        }
    }

    /// What is set and has no effect.
    fn idle(&self) -> Option<String> {
        let model = self.openai.is_set().filter(|_| self.responder != "openai");
        let bot = self.bot.is_set().filter(|_| self.responder != "grpc");
        let name = model.or(bot)?;
        Some(format!("{name} has no effect with --responder {}", self.responder))
    }

    fn config(&self, store: store::Settings, responder: responder::Settings) -> Config {
        let development = self.app_env == Environment::Development;
        let default_origins = if development { Origins::development() } else { Origins::default() };
        Config {
            session: session::Settings {
                session_ttl: self.session_ttl,
                session_max_age: self.session_max_age,
                max_message_size: size(self.max_message_size),
                max_queued_turns: self.max_queued_turns,
                max_session_messages: self.max_session_messages,
                max_session_streams: self.max_session_streams,
                max_reply_size: size(self.max_reply_size),
                max_backlog_size: size(self.max_backlog_size),
                ..session::Settings::default()
            },
            store: store
                .bounded(self.max_sessions, size(self.max_store_size))
                .durable(self.durability),
            responder,
            transport: transport::Settings {
                origins: self.allowed_origins.clone().unwrap_or(default_origins),
                hosts: self.host.clone().unwrap_or_default(),
                docs: self.docs.unwrap_or(development),
                reflection: self.reflection.unwrap_or(development),
                heartbeat: self.heartbeat,
                ..transport::Settings::default()
            },
            server: server::Settings {
                addr: self.addr,
                tls: self.tls(),
                ops_addr: self.ops_addr.0,
                max_connections: self.max_connections,
                max_connection_streams: self.max_connection_streams,
                keep_alive: self.heartbeat,
                drain_timeout: self.drain_timeout,
                ..server::Settings::default()
            },
            warning: self.idle(),
            telemetry: telemetry::Settings { filter: self.log.clone(), json: !development },
        }
    }

    fn tls(&self) -> Option<TlsFiles> {
        let (cert, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { cert, key })
    }

    /// The settings as lines of an `.env` file.
    fn effective(&self) -> String {
        let development = self.app_env == Environment::Development;
        // Unset is no empty list: in development it allows any port of localhost.
        let origins = self.allowed_origins.as_ref().map(ToString::to_string);
        let duration = |duration| humantime::format_duration(duration).to_string();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let values = [
            ("APP_ENV", Some(self.app_env.to_string())),
            ("DUOLOGUE_ADDR", Some(self.addr.to_string())),
            (
                "DUOLOGUE_OPS_ADDR",
                Some(self.ops_addr.0.map_or("off".into(), |addr| addr.to_string())),
            ),
            ("DUOLOGUE_TLS_CERT", path(&self.tls_cert)),
            ("DUOLOGUE_TLS_KEY", path(&self.tls_key)),
            ("DUOLOGUE_STORE", Some(self.store.clone())),
            ("DUOLOGUE_DURABILITY", Some(self.durability.to_string())),
            ("DUOLOGUE_SESSION_TTL", Some(duration(self.session_ttl))),
            ("DUOLOGUE_SESSION_MAX_AGE", Some(duration(self.session_max_age))),
            ("DUOLOGUE_RESPONDER", Some(self.responder.clone())),
            ("DUOLOGUE_SIMULATED_REPLY", Some(self.simulated_reply.clone())),
            ("DUOLOGUE_SIMULATED_DELAY", Some(duration(self.simulated_delay))),
            ("DUOLOGUE_MAX_MESSAGE_SIZE", Some(in_units(self.max_message_size))),
            ("DUOLOGUE_MAX_REPLY_SIZE", Some(in_units(self.max_reply_size))),
            ("DUOLOGUE_MAX_QUEUED_TURNS", Some(self.max_queued_turns.to_string())),
            ("DUOLOGUE_MAX_SESSION_MESSAGES", Some(self.max_session_messages.to_string())),
            ("DUOLOGUE_MAX_SESSION_STREAMS", Some(self.max_session_streams.to_string())),
            ("DUOLOGUE_MAX_BACKLOG_SIZE", Some(in_units(self.max_backlog_size))),
            ("DUOLOGUE_MAX_SESSIONS", Some(self.max_sessions.to_string())),
            ("DUOLOGUE_MAX_STORE_SIZE", Some(in_units(self.max_store_size))),
            ("DUOLOGUE_MAX_CONNECTIONS", Some(self.max_connections.to_string())),
            ("DUOLOGUE_MAX_CONNECTION_STREAMS", Some(self.max_connection_streams.to_string())),
            // Unset is no empty list: in development it allows any port of localhost.
            ("DUOLOGUE_ALLOWED_ORIGINS", origins),
            ("DUOLOGUE_HOST", self.host.as_ref().map(ToString::to_string)),
            ("DUOLOGUE_HEARTBEAT", Some(duration(self.heartbeat))),
            ("DUOLOGUE_DRAIN_TIMEOUT", Some(duration(self.drain_timeout))),
            ("DUOLOGUE_REFLECTION", Some(self.reflection.unwrap_or(development).to_string())),
            ("DUOLOGUE_DOCS", Some(self.docs.unwrap_or(development).to_string())),
        ];
        let mut lines = String::new();
        for (name, value) in
            values.into_iter().chain(self.openai.effective()).chain(self.bot.effective())
        {
            let _infallible = match value {
                Some(value) => writeln!(lines, "{name}={}", quoted(value)),
                None => writeln!(lines, "# {name}="),
            };
        }
        let _infallible = writeln!(lines, "DUOLOGUE_LOG={}", self.log);
        lines
    }
}

/// `None` is `off`.
#[derive(Clone, Copy, Debug)]
struct OpsAddr(Option<SocketAddr>);

fn ops_addr(text: &str) -> Result<OpsAddr, String> {
    match text {
        "off" => Ok(OpsAddr(None)),
        _ => match addr(text) {
            Ok(addr) => Ok(OpsAddr(Some(addr))),
            Err(problem) => Err(format!("{problem}, or `off`")),
        },
    }
}

/// Reads `HOST:PORT`. A host name stands for its first address, and no host for every address of
/// the machine.
fn addr(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected HOST:PORT, for example `localhost:4500`";
    let host_and_port = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.into() };
    let port = host_and_port.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) {
        return Err(expected.into());
    }
    let addresses = host_and_port.to_socket_addrs();
    let mut addresses: Vec<_> =
        addresses.map_err(|error| format!("{error}; {expected}"))?.collect();
    // `localhost` may have both; clients try the older one first, or only.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| expected.into())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    Ok(text.into())
}

fn size(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// A size as it can be read again.
fn in_units(size: ByteSize) -> String {
    let bytes = size.as_u64();
    let unit = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = unit.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A value as an `.env` file has it.
fn quoted(value: String) -> String {
    if value.contains(|c: char| c.is_whitespace() || "\"'\\#$".contains(c)) {
        return env_file::quoted(&value);
    }
    value
}

/// Makes a blank variable count as unset, as Docker Compose writes `NAME=`.
fn without_blank_variables(command: clap::Command) -> clap::Command {
    let is_blank = |argument: &clap::Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.to_string_lossy().trim().is_empty())
    };
    command.mut_args(|argument| {
        if is_blank(&argument) { argument.env(clap::builder::Resettable::Reset) } else { argument }
    })
}

/// Whether a command was given, or something in its place, and no setting is at fault.
fn is_about_a_command(error: &clap::Error, arguments: &[OsString]) -> bool {
    let command = <Cli as CommandFactory>::command();
    let at_fault = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = at_fault.split([' ', '=']).next().unwrap_or_default();
    let is_setting = command
        .get_arguments()
        .filter_map(|setting| setting.get_long())
        .any(|long| flag.strip_prefix("--") == Some(long));
    if is_setting && error.kind() != ErrorKind::UnknownArgument {
        return false;
    }
    let given = command.ignore_errors(true).try_get_matches_from(arguments);
    given.is_ok_and(|given| given.subcommand_name().is_some())
        || error.kind() == ErrorKind::InvalidSubcommand
}

/// clap explains over several lines; the first says what is wrong.
fn one_line(explanation: &str) -> String {
    let lines = explanation.lines().map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(flags: &[&str]) -> Result<Command, String> {
        let cli = Cli::try_parse_from([&["duologue"], flags].concat());
        cli.map_err(|error| one_line(&error.render().to_string()))?.into_command()
    }

    #[test]
    fn every_setting_has_a_flag_a_variable_and_a_line_in_the_example() {
        let example = include_str!("../.env.example");
        let reference = include_str!("../docs/SETTINGS.md");
        for argument in <Cli as CommandFactory>::command().get_arguments() {
            let Some(variable) = argument.get_env().and_then(|name| name.to_str()) else {
                continue;
            };
            assert!(argument.get_long().is_some(), "{variable} has no flag");
            assert!(example.contains(&format!("# {variable}=")), ".env.example lacks {variable}");
            assert!(
                reference.contains(&format!("| `{variable}` |")),
                "SETTINGS.md lacks {variable}"
            );
        }
    }

    #[test]
    fn the_effective_configuration_lists_every_setting_and_is_an_env_file() -> Result<(), String> {
        let Command::Print(shown) = parse(&["--check-config", "--addr", "127.0.0.1:0"])? else {
            return Err("it serves".into());
        };
        assert!(shown.contains("DUOLOGUE_ADDR=127.0.0.1:0\n"), "{shown}");
        for argument in <Cli as CommandFactory>::command().get_arguments() {
            let Some(variable) = argument.get_env().and_then(|name| name.to_str()) else {
                continue;
            };
            assert!(shown.contains(&format!("{variable}=")), "{variable} is missing");
        }
        Ok(())
    }

    #[test]
    fn wrong_values_and_contradictions_are_told_in_one_line() {
        for flags in [
            ["--session-ttl", "soon"],
            ["--session-ttl", "48h"],
            ["--session-ttl", "0s"],
            ["--max-message-size", "0"],
            ["--max-message-size", "8MiB"],
            ["--max-message-size", "lots"],
            ["--max-session-messages", "1"],
            ["--store", "etcd://x"],
            ["--responder", "parrot"],
            ["--responder", "grpc"],
            ["--addr", "3500"],
            ["--allowed-origins", "example.com"],
            ["--app-env", "staging"],
            ["--log", "duologue=loud"],
            ["--heartbeat", "0s"],
        ] {
            match parse(&flags) {
                Ok(command) => panic!("{flags:?} gave {command:?}"),
                Err(line) => assert!(!line.contains('\n') && line.len() > 10, "{flags:?}: {line}"),
            }
        }
    }

    #[test]
    fn a_store_that_is_refused_keeps_its_password() {
        let refused = parse(&["--store", "redis://:hunter2@host"]);
        assert!(refused.is_err_and(|line| line.contains("--store") && !line.contains("hunter2")));
    }

    #[test]
    fn production_turns_off_what_helps_in_development() {
        let cli = Cli::try_parse_from(["duologue", "--app-env", "production"]);
        let cli = cli.unwrap_or_else(|error| panic!("{error}"));
        let config = cli.config(store::Settings::default(), responder::Settings::default());
        assert!(!config.transport.docs && !config.transport.reflection && config.telemetry.json);
        assert_eq!(config.transport.origins, Origins::default());
    }
}
