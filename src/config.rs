//! The one validated configuration, gathered from each module's own settings.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    responder,
    server::{self, TlsFiles},
    session, store, telemetry, transport,
};

/// Clocks overflow and calendars end some time after this.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Where the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// On somebody's desk: everything that helps is on.
    Development,
    /// In front of users: JSON logs, no reflection, no `/docs` unless asked for.
    Production,
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "development" => Ok(Self::Development),
            "production" => Ok(Self::Production),
            _ => Err("expected `development` or `production`".into()),
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Development => "development",
            Self::Production => "production",
        })
    }
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Limits and deadlines of sessions.
    pub session: session::Settings,
    /// Where sessions are kept.
    pub store: store::Settings,
    /// What answers.
    pub responder: responder::Settings,
    /// The doors.
    pub transport: transport::Settings,
    /// The port.
    pub server: server::Settings,
    /// Logs.
    pub telemetry: telemetry::Settings,
    /// What is set and has no effect; said at the start.
    pub warning: Option<String>,
}

impl Config {
    /// Finds values that are impossible or contradict each other.
    ///
    /// # Errors
    /// One line that names the settings.
    pub fn validate(&self) -> Result<(), String> {
        let Self { session, transport, server, .. } = self;
        server.tls.as_ref().map_or(Ok(()), TlsFiles::check)?;
        let zero_is_impossible = [
            ("--session-ttl", session.session_ttl.is_zero()),
            ("--max-message-size", session.max_message_size == 0),
            ("--max-queued-turns", session.max_queued_turns == 0),
            ("--max-session-streams", session.max_session_streams == 0),
            ("--max-reply-size", session.max_reply_size == 0),
            ("--max-connections", server.max_connections == 0),
            ("--max-connection-streams", server.max_connection_streams == 0),
            ("--heartbeat", transport.heartbeat.is_zero()),
        ];
        if server.ops_addr.is_some_and(|addr| addr == server.addr && addr.port() != 0) {
            return Err("--addr and --ops-addr must differ".into());
        }
        if let Some((name, _)) = zero_is_impossible.iter().find(|(_, is_zero)| *is_zero) {
            return Err(format!("{name} must be more than zero"));
        }
        let delay = match &self.responder {
            responder::Settings::Simulated { delay, .. } => *delay,
            responder::Settings::Grpc(bot) => {
                bot.validate()?;
                Duration::ZERO
            }
            responder::Settings::OpenAi(settings) => {
                settings.validate()?;
                Duration::ZERO
            }
        };
        let durations = [
            ("--session-max-age", session.session_max_age),
            ("--heartbeat", transport.heartbeat),
            ("--drain-timeout", server.drain_timeout),
            ("--simulated-delay", delay),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, duration)| *duration > LONGEST) {
            return Err(format!("{name} must not be longer than 100 years"));
        }
        if session.session_ttl > session.session_max_age {
            return Err("--session-ttl must not be longer than --session-max-age".into());
        }
        if session.max_session_messages < 2 {
            return Err("--max-session-messages must be at least 2, a message and its reply".into());
        }
        let turn =
            session.max_message_size.saturating_add(session.max_reply_size.saturating_mul(2));
        if session.max_backlog_size < turn.saturating_add(4096) {
            return Err(
                "--max-backlog-size must hold a message and two replies: raise it, or lower \
                        --max-message-size or --max-reply-size"
                    .into(),
            );
        }
        // tokio's semaphore counts no further, and sizes travel as 32 bits.
        if server.max_connections > u32::MAX as usize || session.max_message_size > (256 << 20) {
            return Err("--max-connections or --max-message-size is too large".into());
        }
        Ok(())
    }
}
