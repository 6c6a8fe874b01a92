//! The flags of the `grpc` responder.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use secrecy::SecretString;

use super::path;
use crate::responder::{
    Capacity,
    grpc::{Endpoint, Settings},
};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bot (--responder grpc)")]
pub(super) struct Bot {
    /// Address of the bot: `http://HOST[:PORT]` or `https://HOST[:PORT]`
    #[arg(long, env = "DUOLOGUE_BOT_ENDPOINT", hide_env_values = true)]
    // Parsed later: clap would repeat a wrong address, with a password in it.
    bot_endpoint: Option<String>,

    /// Bearer token sent to the bot; prefer the environment, since everybody on the machine can
    /// read flags
    #[arg(long, env = "DUOLOGUE_BOT_TOKEN", hide_env_values = true)]
    bot_token: Option<SecretString>,

    /// CA certificates to trust, PEM [default: those of the system]
    #[arg(long, env = "DUOLOGUE_BOT_CA_CERT", value_parser = path)]
    bot_ca_cert: Option<PathBuf>,

    /// How many of the newest messages the bot is sent
    #[arg(long, env = "DUOLOGUE_BOT_HISTORY", default_value = "1000")]
    bot_history: u32,

    /// Connect timeout
    #[arg(long, env = "DUOLOGUE_BOT_CONNECT_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    bot_connect_timeout: Duration,

    /// Timeout from a call to its first text
    #[arg(long, env = "DUOLOGUE_BOT_FIRST_CONTENT_TIMEOUT", default_value = "2m", value_parser = humantime::parse_duration)]
    bot_first_content_timeout: Duration,

    /// Longest silence in the middle of a reply
    #[arg(long, env = "DUOLOGUE_BOT_CHUNK_TIMEOUT", default_value = "1m", value_parser = humantime::parse_duration)]
    bot_chunk_timeout: Duration,

    /// Timeout for a whole reply, waits and retries included
    #[arg(long, env = "DUOLOGUE_BOT_TOTAL_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration)]
    bot_total_timeout: Duration,

    /// Retries before the first text, if the bot is not available
    #[arg(long, env = "DUOLOGUE_BOT_RETRIES", default_value = "2")]
    bot_retries: u32,

    /// A bot that is silent for this long must answer an HTTP/2 PING; 0s sends none
    #[arg(long, env = "DUOLOGUE_BOT_KEEP_ALIVE", default_value = "5m", value_parser = humantime::parse_duration)]
    bot_keep_alive: Duration,

    /// Concurrent calls
    #[arg(long, env = "DUOLOGUE_BOT_CONCURRENCY", default_value_t = Capacity::default().concurrency)]
    bot_concurrency: u32,

    /// Replies that may wait once concurrency is reached; more are refused as overloaded
    #[arg(long, env = "DUOLOGUE_BOT_WAITING_ROOM", default_value_t = Capacity::default().waiting_room)]
    bot_waiting_room: u32,

    /// Longest wait for one of these places
    #[arg(long, env = "DUOLOGUE_BOT_WAITING_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    bot_waiting_timeout: Duration,
}

impl Bot {
    /// The setting that names a bot, if one does.
    pub(super) fn is_set(&self) -> Option<&'static str> {
        self.bot_endpoint.as_ref().map(|_| "--bot-endpoint")
    }

    /// `None` if there is no bot.
    ///
    /// # Errors
    /// One line that names the setting.
    pub(super) fn settings(&self, max_reply_size: usize) -> Result<Option<Settings>, String> {
        let Some(endpoint) = &self.bot_endpoint else { return Ok(None) };
        let endpoint = Endpoint::parse(endpoint);
        Ok(Some(Settings {
            endpoint: endpoint.map_err(|problem| format!("--bot-endpoint: {problem}"))?,
            token: self.bot_token.clone(),
            ca_cert: self.bot_ca_cert.clone(),
            history: self.bot_history,
            max_reply_size,
            connect_timeout: self.bot_connect_timeout,
            first_content_timeout: self.bot_first_content_timeout,
            chunk_timeout: self.bot_chunk_timeout,
            total_timeout: self.bot_total_timeout,
            retries: self.bot_retries,
            keep_alive: self.bot_keep_alive,
            capacity: Capacity {
                concurrency: self.bot_concurrency,
                waiting_room: self.bot_waiting_room,
                waiting_timeout: self.bot_waiting_timeout,
            },
        }))
    }

    /// The settings by their variables; `None` where one is not set.
    pub(super) fn effective(&self) -> Vec<(&'static str, Option<String>)> {
        let duration = |duration| Some(humantime::format_duration(duration).to_string());
        let hidden = self.bot_token.as_ref().map_or("", |_| "(hidden)");
        let ca_cert = self.bot_ca_cert.as_ref().map(|path| path.display().to_string());
        vec![
            ("DUOLOGUE_BOT_ENDPOINT", self.bot_endpoint.clone()),
            // A secret is not shown, and so cannot be read again.
            ("# DUOLOGUE_BOT_TOKEN", Some(hidden.into())),
            ("DUOLOGUE_BOT_CA_CERT", ca_cert),
            ("DUOLOGUE_BOT_HISTORY", Some(self.bot_history.to_string())),
            ("DUOLOGUE_BOT_CONNECT_TIMEOUT", duration(self.bot_connect_timeout)),
            ("DUOLOGUE_BOT_FIRST_CONTENT_TIMEOUT", duration(self.bot_first_content_timeout)),
            ("DUOLOGUE_BOT_CHUNK_TIMEOUT", duration(self.bot_chunk_timeout)),
            ("DUOLOGUE_BOT_TOTAL_TIMEOUT", duration(self.bot_total_timeout)),
            ("DUOLOGUE_BOT_RETRIES", Some(self.bot_retries.to_string())),
            ("DUOLOGUE_BOT_KEEP_ALIVE", duration(self.bot_keep_alive)),
            ("DUOLOGUE_BOT_CONCURRENCY", Some(self.bot_concurrency.to_string())),
            ("DUOLOGUE_BOT_WAITING_ROOM", Some(self.bot_waiting_room.to_string())),
            ("DUOLOGUE_BOT_WAITING_TIMEOUT", duration(self.bot_waiting_timeout)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, tests::parse};

    #[test]
    fn the_token_of_a_bot_is_in_nothing_that_is_shown() -> Result<(), String> {
        let bot = ["--responder", "grpc", "--bot-endpoint", "http://bot:50051", "--bot-token"];
        let shown = match parse(&[&bot[..], &["hunter2", "--check-config"]].concat())? {
            Command::Print(shown) => shown,
            other => return Err(format!("it would {other:?}")),
        };
        assert!(shown.contains("\n# DUOLOGUE_BOT_TOKEN=(hidden)\n"), "{shown}");
        assert!(shown.contains("\nDUOLOGUE_BOT_ENDPOINT=http://bot:50051\n"), "{shown}");
        let served = format!("{:?}", parse(&[&bot[..], &["hunter2"]].concat())?);
        let refused = parse(&[&bot[..], &["hunter 2"]].concat()).err().unwrap_or_default();
        let endpoint = ["--responder", "grpc", "--bot-endpoint", "http://ada:hunter2@bot"];
        let address = parse(&endpoint).err().unwrap_or_default();
        assert!(refused.starts_with("--bot-token") && address.starts_with("--bot-endpoint"));
        for text in [shown, served, refused, address] {
            assert!(!text.contains("hunter"), "{text}");
        }
        Ok(())
    }
}
