//! The flags of the `openai` responder.
//!
//! One upstream fits into flags and environment. Several come from a file; flags then
//! hold what an upstream of the file leaves out.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use secrecy::{ExposeSecret as _, SecretString};

use super::path;
use crate::responder::{
    Capacity,
    openai::{Defaults, Endpoint, Settings, UpstreamSettings, file, settings},
};

// They are global, so that they can stand behind `check-upstream`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model (--responder openai)")]
pub(super) struct OpenAi {
    /// TOML file with several upstreams, `[[upstream]]`, in order of preference
    #[arg(long, global = true, env = "DUOLOGUE_CONFIG")]
    config: Option<PathBuf>,

    /// Base URL of the model: `http://localhost:8080`, `https://api.openai.com/v1` …
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_BASE_URL")]
    openai_base_url: Option<String>,

    /// API key; prefer the environment, since everybody on the machine can read flags
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_API_KEY", hide_env_values = true)]
    openai_api_key: Option<SecretString>,

    /// CA certificates to trust, PEM [default: those of the system]
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_CA_CERT", value_parser = path)]
    openai_ca_cert: Option<PathBuf>,

    /// Model name; optional where the server has only one
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_MODEL")]
    openai_model: Option<String>,

    /// System prompt; may hold {name}
    #[arg(long, global = true, env = "DUOLOGUE_SYSTEM_PROMPT")]
    system_prompt: Option<String>,

    /// Context window in tokens, prompt and reply together; the oldest turns are left out
    #[arg(long, global = true, env = "DUOLOGUE_CONTEXT_TOKENS", default_value_t = Settings::CONTEXT_TOKENS)]
    context_tokens: u32,

    /// Sampling temperature [default: the model's own]
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_TEMPERATURE")]
    openai_temperature: Option<f32>,

    /// Maximum tokens per reply [default: the model's own]
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_MAX_TOKENS")]
    openai_max_tokens: Option<u32>,

    /// Extra headers of every request, as a JSON object
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_HEADERS", hide_env_values = true)]
    openai_headers: Option<SecretString>,

    /// Extra fields of every request, as a JSON object; `null` removes a default
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_BODY")]
    openai_body: Option<String>,

    /// Connect timeout, TLS included
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_CONNECT_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    openai_connect_timeout: Duration,

    /// Timeout from the request to the first text
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_FIRST_CONTENT_TIMEOUT", default_value = "2m", value_parser = humantime::parse_duration)]
    openai_first_content_timeout: Duration,

    /// Longest silence in the middle of a reply
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_CHUNK_TIMEOUT", default_value = "1m", value_parser = humantime::parse_duration)]
    openai_chunk_timeout: Duration,

    /// Timeout for a whole reply, waits and retries included
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_TOTAL_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration)]
    openai_total_timeout: Duration,

    /// Retries before the first text
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_RETRIES", default_value_t = Defaults::default().retries)]
    openai_retries: u32,

    /// Concurrent requests per upstream
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_CONCURRENCY", default_value_t = Capacity::default().concurrency)]
    openai_concurrency: u32,

    /// Replies that may wait once concurrency is reached; more are refused as overloaded
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_WAITING_ROOM", default_value_t = Capacity::default().waiting_room)]
    openai_waiting_room: u32,

    /// Longest wait for one of these places
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_WAITING_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    openai_waiting_timeout: Duration,

    /// Treat an answer that ends with [DONE] and no finish_reason as complete
    #[arg(long, global = true, env = "DUOLOGUE_OPENAI_ACCEPT_MISSING_FINISH_REASON", action = ArgAction::Set, default_value_t = false)]
    openai_accept_missing_finish_reason: bool,
}

impl OpenAi {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// One line that names the setting, or the file and its line.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        let upstreams = match &self.config {
            Some(path) => {
                if let Some(name) = self.of_one_upstream() {
                    return Err(format!(
                        "--config and {name} contradict: upstreams come from one place"
                    ));
                }
                file::read(path, &self.defaults())?
            }
            None => self.upstream()?.into_iter().collect(),
        };
        let settings = Settings {
            upstreams,
            system_prompt: self.system_prompt.clone(),
            context_tokens: self.context_tokens,
            total_timeout: self.openai_total_timeout,
        };
        settings.validate()?;
        Ok(settings)
    }

    /// Looks at what must not be printed if it is wrong, whatever answers.
    ///
    /// # Errors
    /// One line that names the setting.
    pub(super) fn check(&self) -> Result<(), String> {
        self.upstream().map(|_| ())
    }

    /// The setting that names a model, if one does.
    pub(super) fn is_set(&self) -> Option<&'static str> {
        let url = self.openai_base_url.as_ref().map(|_| "--openai-base-url");
        url.or_else(|| self.config.as_ref().map(|_| "--config"))
    }

    /// What is set and makes sense for a single upstream only.
    fn of_one_upstream(&self) -> Option<&'static str> {
        let set = [
            ("--openai-base-url", self.openai_base_url.is_some()),
            ("--openai-api-key", self.api_key().is_some()),
            ("--openai-ca-cert", self.openai_ca_cert.is_some()),
            ("--openai-model", self.openai_model.is_some()),
            ("--openai-headers", self.openai_headers.is_some()),
            ("--openai-body", self.openai_body.is_some()),
        ];
        set.into_iter().find_map(|(name, is_set)| is_set.then_some(name))
    }

    fn upstream(&self) -> Result<Option<UpstreamSettings>, String> {
        let Some(base_url) = &self.openai_base_url else { return Ok(None) };
        let endpoint =
            Endpoint::parse(base_url).map_err(|line| format!("--openai-base-url: {line}"))?;
        let named = match &self.openai_headers {
            // serde's own words would repeat what is wrong with a value.
            Some(json) => serde_json::from_str::<BTreeMap<String, String>>(json.expose_secret())
                .map_err(|_| "--openai-headers: expected a JSON object of texts")?,
            None => BTreeMap::new(),
        };
        let body = match &self.openai_body {
            Some(json) => {
                serde_json::from_str(json).map_err(|_| "--openai-body: expected a JSON object")?
            }
            None => BTreeMap::new(),
        };
        Ok(Some(UpstreamSettings {
            api_key: self.api_key(),
            ca_cert: self.openai_ca_cert.clone(),
            model: self.openai_model.clone(),
            headers: settings::headers(&named)
                .map_err(|line| format!("--openai-headers: {line}"))?,
            body,
            defaults: self.defaults(),
            ..UpstreamSettings::new("openai", endpoint)
        }))
    }

    /// Without the blanks and line ends that files and shells add; an empty one is none.
    fn api_key(&self) -> Option<SecretString> {
        let key = self.openai_api_key.as_ref().map(|key| key.expose_secret().trim());
        key.filter(|key| !key.is_empty()).map(Into::into)
    }

    const fn defaults(&self) -> Defaults {
        Defaults {
            temperature: self.openai_temperature,
            max_tokens: self.openai_max_tokens,
            connect_timeout: self.openai_connect_timeout,
            first_content_timeout: self.openai_first_content_timeout,
            chunk_timeout: self.openai_chunk_timeout,
            retries: self.openai_retries,
            capacity: Capacity {
                concurrency: self.openai_concurrency,
                waiting_room: self.openai_waiting_room,
                waiting_timeout: self.openai_waiting_timeout,
            },
            accept_missing_finish_reason: self.openai_accept_missing_finish_reason,
        }
    }

    /// The settings by their variables; `None` where one is not set.
    pub(super) fn effective(&self) -> Vec<(&'static str, Option<String>)> {
        let duration = |duration| Some(humantime::format_duration(duration).to_string());
        let hidden = |secret: &Option<SecretString>| {
            Some(secret.as_ref().map_or("", |_| "(hidden)").to_owned())
        };
        vec![
            ("DUOLOGUE_CONFIG", self.config.as_ref().map(|path| path.display().to_string())),
            ("DUOLOGUE_OPENAI_BASE_URL", self.openai_base_url.as_deref().map(without_query)),
            // A secret is not shown, and so cannot be read again.
            ("# DUOLOGUE_OPENAI_API_KEY", hidden(&self.openai_api_key)),
            (
                "DUOLOGUE_OPENAI_CA_CERT",
                self.openai_ca_cert.as_ref().map(|path| path.display().to_string()),
            ),
            ("DUOLOGUE_OPENAI_MODEL", self.openai_model.clone()),
            ("DUOLOGUE_SYSTEM_PROMPT", self.system_prompt.clone()),
            ("DUOLOGUE_CONTEXT_TOKENS", Some(self.context_tokens.to_string())),
            (
                "DUOLOGUE_OPENAI_TEMPERATURE",
                self.openai_temperature.map(|number| number.to_string()),
            ),
            ("DUOLOGUE_OPENAI_MAX_TOKENS", self.openai_max_tokens.map(|number| number.to_string())),
            ("# DUOLOGUE_OPENAI_HEADERS", hidden(&self.openai_headers)),
            ("DUOLOGUE_OPENAI_BODY", self.openai_body.clone()),
            ("DUOLOGUE_OPENAI_CONNECT_TIMEOUT", duration(self.openai_connect_timeout)),
            ("DUOLOGUE_OPENAI_FIRST_CONTENT_TIMEOUT", duration(self.openai_first_content_timeout)),
            ("DUOLOGUE_OPENAI_CHUNK_TIMEOUT", duration(self.openai_chunk_timeout)),
            ("DUOLOGUE_OPENAI_TOTAL_TIMEOUT", duration(self.openai_total_timeout)),
            ("DUOLOGUE_OPENAI_RETRIES", Some(self.openai_retries.to_string())),
            ("DUOLOGUE_OPENAI_CONCURRENCY", Some(self.openai_concurrency.to_string())),
            ("DUOLOGUE_OPENAI_WAITING_ROOM", Some(self.openai_waiting_room.to_string())),
            ("DUOLOGUE_OPENAI_WAITING_TIMEOUT", duration(self.openai_waiting_timeout)),
            (
                "DUOLOGUE_OPENAI_ACCEPT_MISSING_FINISH_REASON",
                Some(self.openai_accept_missing_finish_reason.to_string()),
            ),
        ]
    }
}

/// A query may hold a key.
fn without_query(base_url: &str) -> String {
    match base_url.split_once('?') {
        Some((base, _)) => format!("{base}?(hidden)"),
        None => base_url.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, tests::parse};

    const UPSTREAM: [&str; 4] =
        ["--responder", "openai", "--openai-base-url", "http://localhost:8080"];

    #[test]
    fn one_upstream_fits_into_flags() {
        let more =
            ["--openai-api-key", "sk-canary-123", "--openai-headers", r#"{"X-Title":"canary"}"#];
        let flags = [&UPSTREAM[..], &more, &["--openai-body", r#"{"top_p":0.5}"#]].concat();
        let command = parse(&flags).unwrap();
        let shown = format!("{command:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("/v1/chat/completions") && shown.contains("top_p"), "{shown}");
        let checked = [&flags[..], &["--check-config"]].concat();
        let Command::Print(shown) = parse(&checked).unwrap() else { panic!("it serves") };
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("\n# DUOLOGUE_OPENAI_API_KEY=(hidden)\n"), "{shown}");
        assert!(shown.contains("\nDUOLOGUE_OPENAI_BODY=\"{\\\"top_p\\\":0.5}\"\n"), "{shown}");
        assert!(shown.contains("\nDUOLOGUE_OPENAI_BASE_URL=http://localhost:8080\n"), "{shown}");
    }

    #[test]
    fn wrong_upstreams_are_told_in_one_line() {
        let with = |more: &[&'static str]| [&UPSTREAM[..], more].concat();
        for (flags, told) in [
            (vec!["--responder", "openai"], "--openai-base-url is missing"),
            (vec!["--responder", "openai", "--openai-base-url", "nowhere"], "--openai-base-url: "),
            (
                vec!["--check-config", "--openai-base-url", "http://ada:canary@h"],
                "--openai-base-url: ",
            ),
            (with(&["--config", "/no/such/file.toml"]), "contradict"),
            (
                vec!["--responder", "openai", "--config", "/no/such/file.toml"],
                "/no/such/file.toml: ",
            ),
            (with(&["--openai-headers", "canary"]), "--openai-headers: "),
            (with(&["--openai-headers", r#"{"a b":"canary"}"#]), "--openai-headers: "),
            (with(&["--openai-api-key", "can\nary"]), "API key"),
            (with(&["--openai-body", "[]"]), "--openai-body: "),
            (with(&["--openai-body", r#"{"stream":false}"#]), "stream"),
            (with(&["--openai-chunk-timeout", "0s"]), "chunk_timeout"),
            (with(&["--openai-ca-cert", "ca.pem"]), "ca_cert needs"),
            (
                vec![
                    "--check-config",
                    "--responder",
                    "openai",
                    "--openai-base-url",
                    "https://h",
                    "--openai-ca-cert",
                    "/no/such/file",
                ],
                "ca_cert /no/such/file: No such",
            ),
            (with(&["--openai-body", "\"canary\""]), "--openai-body: expected a JSON object"),
            (vec!["--addr", "127.0.0.1:1", "--ops-addr", "127.0.0.1:1"], "must differ"),
            (with(&["--openai-concurrency", "0"]), "concurrency"),
            (with(&["--openai-max-tokens", "8192"]), "max_tokens"),
        ] {
            let Err(line) = parse(&flags) else { panic!("{flags:?}") };
            assert!(line.contains(told) && !line.contains('\n'), "{flags:?}: {line}");
            assert!(!line.contains("canary"), "{line}");
        }
    }

    #[test]
    fn a_model_that_nothing_asks_is_warned_of() {
        for (flags, warning) in [
            (&UPSTREAM[..], None),
            (&UPSTREAM[2..], Some("--openai-base-url has no effect with --responder simulated")),
            (
                &["--config", "/no/such/file"],
                Some("--config has no effect with --responder simulated"),
            ),
            (
                &["--bot-endpoint", "http://localhost:1"],
                Some("--bot-endpoint has no effect with --responder simulated"),
            ),
        ] {
            let Ok(Command::Serve(config)) = parse(flags) else { panic!("{flags:?}") };
            assert_eq!(config.warning.as_deref(), warning);
        }
    }

    #[test]
    fn flags_of_the_upstream_may_stand_behind_the_command() {
        let url = ["--openai-base-url", "http://localhost:8080"];
        for flags in
            [[&["check-upstream"], &url[..]].concat(), [&url[..], &["check-upstream"]].concat()]
        {
            assert!(matches!(parse(&flags), Ok(Command::CheckUpstream(_))), "{flags:?}");
        }
        assert!(parse(&["check-upstream"]).is_err_and(|line| line.contains("--openai-base-url")));
    }
}
