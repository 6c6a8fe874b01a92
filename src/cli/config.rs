//! The validated configuration: each module's own settings.

use std::{fmt, str::FromStr, time::Duration};

use crate::{commands::serve, responder, server::TlsFiles, telemetry};

/// Clocks overflow and calendars end some time after this.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The environment that the gateway runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine: text logs, reflection and `/docs`.
    Development,
    /// In front of users: JSON logs; no reflection and no `/docs` unless they are switched on.
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

/// The validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of the gateway.
    pub serve: serve::Settings,
    /// Settings of the log.
    pub telemetry: telemetry::Settings,
    /// Settings that have no effect, one line each; logged at the start.
    pub warnings: Vec<String>,
}

impl Config {
    /// Finds values that are impossible or contradict each other.
    ///
    /// # Errors
    /// One line that names the settings.
    pub fn validate(&self) -> Result<(), String> {
        let serve::Settings { session, transport, server, responder, .. } = &self.serve;
        let content = &session.messages.content;
        server.tls.as_ref().map_or(Ok(()), TlsFiles::check)?;
        let zero_is_impossible = [
            ("--session-ttl", session.session_ttl.is_zero()),
            ("--unused-session-ttl", session.unused_session_ttl.is_zero()),
            ("--retention", session.retention.is_some_and(|retention| retention.is_zero())),
            ("--max-text-size", content.max_text_size == 0),
            ("--max-message-size", content.max_size == 0),
            ("--max-message-parts", content.max_parts == 0),
            ("--max-session-tokens", session.max_session_tokens == 0),
            ("--max-queued-turns", session.max_queued_turns == 0),
            ("--max-session-streams", session.max_session_streams == 0),
            ("--max-reply-size", session.max_reply_size == 0),
            ("--max-reply-text-size", session.max_reply_text_size == 0),
            ("--max-connections", server.max_connections == 0),
            ("--max-connection-streams", server.max_connection_streams == 0),
            ("--heartbeat", transport.heartbeat.is_zero()),
        ];
        if server.ops_addr.is_some_and(|addr| server.addr.tcp() == Some(addr) && addr.port() != 0) {
            return Err("--addr and --ops-addr must differ".into());
        }
        if let Some((name, _)) = zero_is_impossible.iter().find(|(_, is_zero)| *is_zero) {
            return Err(format!("{name} must be more than zero"));
        }
        let delay = match responder {
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
            ("--retention", session.retention.unwrap_or_default()),
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
        // The limits follow from each other: a message at its limit reaches every subscriber.
        for (part, part_size, whole, whole_size) in [
            ("--max-text-size", content.max_text_size, "--max-message-size", content.max_size),
            (
                "--max-inline-file-size",
                content.max_inline_file_size,
                "--max-message-size",
                content.max_size,
            ),
            (
                "--max-reply-text-size",
                session.max_reply_text_size,
                "--max-reply-size",
                session.max_reply_size,
            ),
        ] {
            if part_size > whole_size {
                return Err(format!("{part} must not be larger than {whole}"));
            }
        }
        let turn = content.max_size.saturating_add(session.max_reply_size.saturating_mul(2));
        if session.max_backlog_size < turn.saturating_add(4096) {
            return Err(
                "--max-backlog-size must hold a message and two replies: raise it, or lower \
                        --max-message-size or --max-reply-size"
                    .into(),
            );
        }
        // tokio's semaphore counts no further, and sizes travel as 32 bits.
        if server.max_connections > u32::MAX as usize || content.max_size > (256 << 20) {
            return Err("--max-connections or --max-message-size is too large".into());
        }
        Ok(())
    }
}
