//! Several upstreams, from a TOML file.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::settings::{Defaults, Endpoint, UpstreamSettings, headers};
use crate::responder::upstream::Capacity;

/// Reads `[[upstream]]` entries from a TOML file. What an entry leaves out is as in
/// `defaults`.
///
/// # Errors
/// One line that names the file and, where it can be, the line.
pub fn read(path: &Path, defaults: &Defaults) -> Result<Vec<UpstreamSettings>, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("{shown}:{}: {}", before.matches('\n').count() + 1, discreet(error.message()))
    })?;
    if file.upstream.is_empty() {
        return Err(format!("{shown}: there is no [[upstream]]"));
    }
    let entries = file.upstream.into_iter().map(|entry| {
        let line = text.get(..entry.span().start).unwrap_or_default().matches('\n').count() + 1;
        entry
            .into_inner()
            .settings(defaults)
            .map_err(|problem| format!("{shown}:{line}: {problem}"))
    });
    entries.collect()
}

/// A parser's message without the values and the odd names that it quotes: a key may stand
/// anywhere in a wrong file.
fn discreet(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let is_ours = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let named = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    match (named, message.split_once(", expected ")) {
        (Some((name, _)), _) if is_ours(name) => message,
        (Some((_, rest)), _) => format!("unknown field{rest}"),
        (None, Some((_, expected))) if message.starts_with("invalid ") => {
            format!("expected {expected}")
        }
        _ => message,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    upstream: Vec<toml::Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    base_url: String,
    api_key: Option<SecretText>,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    ca_cert: Option<PathBuf>,
    model: Option<String>,
    temperature: Option<f32>,
    max_tokens: Option<u32>,
    #[serde(default)]
    headers: BTreeMap<String, SecretText>,
    #[serde(default)]
    body: toml::Table,
    connect_timeout: Option<Span>,
    first_content_timeout: Option<Span>,
    chunk_timeout: Option<Span>,
    retries: Option<u32>,
    concurrency: Option<u32>,
    waiting_room: Option<u32>,
    waiting_timeout: Option<Span>,
    accept_missing_finish_reason: Option<bool>,
}

impl Entry {
    fn settings(self, defaults: &Defaults) -> Result<UpstreamSettings, String> {
        let time = |own: Option<Span>, default| own.map_or(default, |Span(time)| time);
        let api_key = self.key()?;
        let named =
            self.headers.into_iter().map(|(name, SecretText(value))| (name, value)).collect();
        Ok(UpstreamSettings {
            endpoint: Endpoint::parse(&self.base_url)?,
            api_key,
            ca_cert: self.ca_cert,
            model: self.model,
            headers: headers(&named)?,
            body: body(self.body)?,
            defaults: Defaults {
                temperature: self.temperature.or(defaults.temperature),
                max_tokens: self.max_tokens.or(defaults.max_tokens),
                connect_timeout: time(self.connect_timeout, defaults.connect_timeout),
                first_content_timeout: time(
                    self.first_content_timeout,
                    defaults.first_content_timeout,
                ),
                chunk_timeout: time(self.chunk_timeout, defaults.chunk_timeout),
                retries: self.retries.unwrap_or(defaults.retries),
                capacity: Capacity {
                    concurrency: self.concurrency.unwrap_or(defaults.capacity.concurrency),
                    waiting_room: self.waiting_room.unwrap_or(defaults.capacity.waiting_room),
                    waiting_timeout: time(self.waiting_timeout, defaults.capacity.waiting_timeout),
                },
                accept_missing_finish_reason: self
                    .accept_missing_finish_reason
                    .unwrap_or(defaults.accept_missing_finish_reason),
            },
            name: self.name,
        })
    }

    fn key(&self) -> Result<Option<SecretString>, String> {
        match (&self.api_key, &self.api_key_env, &self.api_key_file) {
            (None, None, None) => Ok(None),
            (Some(SecretText(key)), None, None) => not_empty("api_key", key),
            (None, Some(name), None) if !is_variable(name) => {
                Err("api_key_env must be the name of a variable".into())
            }
            (None, Some(name), None) => match env::var(name) {
                Ok(key) => not_empty("api_key_env: the variable", &key),
                Err(_) => Err(format!("api_key_env: there is no variable {name}")),
            },
            // Without the path, which may be the key itself.
            (None, None, Some(path)) => match fs::read_to_string(path) {
                Ok(key) => not_empty("api_key_file: the file", &key),
                Err(error) => Err(format!("api_key_file: {error}")),
            },
            _ => Err("give one of api_key, api_key_env and api_key_file".into()),
        }
    }
}

fn not_empty(what: &str, key: &str) -> Result<Option<SecretString>, String> {
    match key.trim() {
        "" => Err(format!("{what} is empty")),
        key => Ok(Some(key.into())),
    }
}

fn is_variable(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

fn body(table: toml::Table) -> Result<BTreeMap<String, Value>, String> {
    let fields = table.into_iter().map(|(name, value)| {
        let value = json(value).ok_or_else(|| format!("body: JSON has no value for `{name}`"))?;
        Ok((name, value))
    });
    fields.collect()
}

/// `None` for what JSON does not have: dates, and numbers that are none.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(values) => {
            values.into_iter().map(json).collect::<Option<Vec<_>>>()?.into()
        }
        toml::Value::Table(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Some((name, json(value)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
    })
}

/// A text whose wrong form is told without showing it.
struct SecretText(String);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer) {
            Ok(Value::String(text)) => Ok(Self(text)),
            _ => Err(D::Error::custom("expected a text in quotes")),
        }
    }
}

/// A duration as `500ms`, `30s`, `1h`.
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn written(text: &str) -> Result<Vec<UpstreamSettings>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstreams.toml");
        std::fs::write(&path, text).unwrap();
        let shown = format!("{}", path.display());
        read(&path, &Defaults::default()).map_err(|line| line.replace(&shown, "FILE"))
    }

    #[test]
    fn a_file_names_upstreams_in_order_and_inherits_what_it_leaves_out() {
        let key = std::env::temp_dir().join(format!("duologue-key-{}", std::process::id()));
        std::fs::write(&key, "from-a-file\n").unwrap();
        let text = format!(
            r#"
[[upstream]]
name = "near"
base_url = "http://localhost:8080"
retries = 0
chunk_timeout = "5s"
headers = {{ X-Title = "Chat with someone" }}
body = {{ top_p = 0.9, stop = ["a"], stream_options = {{ include_usage = false }} }}

[[upstream]]
name = "far"
base_url = "https://api.example.com/v1"
api_key_file = {key:?}
model = "large"
"#
        );
        let [near, far] = <[_; 2]>::try_from(written(&text).unwrap()).unwrap();
        std::fs::remove_file(&key).unwrap();
        assert_eq!((near.name.as_str(), far.name.as_str()), ("near", "far"));
        assert_eq!((near.defaults.retries, far.defaults.retries), (0, 2));
        assert_eq!(near.defaults.chunk_timeout, Duration::from_secs(5));
        assert_eq!(near.headers["x-title"], "Chat with someone");
        assert_eq!(near.body["stop"], serde_json::json!(["a"]));
        assert_eq!(far.api_key.as_ref().unwrap().expose_secret(), "from-a-file");
        let shown = format!("{near:?} {far:?}");
        assert!(!shown.contains("from-a-file") && !shown.contains("someone"), "{shown}");
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line_and_without_its_secrets() {
        const GOOD: &str = "[[upstream]]\nname = \"a\"\nbase_url = \"http://h\"\n";
        for (text, told) in [
            ("", "FILE: there is no [[upstream]]"),
            ("[[upstream]]\nname = \"a\"\n", "FILE:1: missing field `base_url`"),
            ("[[upstream]]\nname = \"a\"\nbase_url = \"nowhere\"\n", "FILE:1: the base URL"),
            ("\n[[downstream]]\n", "FILE:2: unknown field `downstream`"),
            ("[[upstream]\n", "FILE:1: "),
            (&format!("{GOOD}retrys = 3\n"), "FILE:4: unknown field `retrys`"),
            (&format!("{GOOD}retries = -3\n"), "FILE:4: "),
            (&format!("{GOOD}chunk_timeout = \"soon\"\n"), "FILE:4: "),
            (&format!("{GOOD}api_key = 99887766\n"), "FILE:4: expected a text"),
            (&format!("{GOOD}api_key = \"99887766\"\napi_key_env = \"X\"\n"), "FILE:1: give one"),
            (&format!("{GOOD}api_key_env = \"DUOLOGUE_NO_SUCH_KEY\"\n"), "FILE:1: api_key_env"),
            (&format!("{GOOD}api_key_env = \"sk-99887766\"\n"), "FILE:1: api_key_env must be"),
            (&format!("{GOOD}api_key_file = \"/no/such/file\"\n"), "FILE:1: api_key_file: No such"),
            (&format!("{GOOD}api_key_file = \"sk-99887766\"\n"), "FILE:1: api_key_file: No such"),
            (&format!("{GOOD}api_key_file = \"/dev/null\"\n"), "FILE:1: api_key_file: the file is"),
            (&format!("{GOOD}api_key = \" \"\n"), "FILE:1: api_key is empty"),
            (&format!("{GOOD}headers = \"99887766\"\n"), "FILE:4: expected a map"),
            (&format!("{GOOD}model = 99887766\n"), "FILE:4: expected a string"),
            (&format!("{GOOD}sk-99887766 = 1\n"), "FILE:4: unknown field, expected one of"),
            ("upstream = \"99887766\"\n", "FILE:1: expected a sequence"),
            ("upstream = [\"99887766\"]\n", "FILE:1: expected struct"),
            (&format!("{GOOD}body = {{ a = nan }}\n"), "FILE:1: body: JSON has no value for `a`"),
            (&format!("{GOOD}body = {{ a = [{{ b = 2026-11-22 }}] }}\n"), "FILE:1: body: JSON has"),
            (&format!("{GOOD}headers = {{ \"a b\" = \"99887766\" }}\n"), "FILE:1: the name of a"),
            (
                &format!("{GOOD}headers = {{ \"Bearer 99887766\" = \"x\" }}\n"),
                "FILE:1: the name of a",
            ),
            (&format!("{GOOD}headers = {{ X = \"99887766\\n\" }}\n"), "FILE:1: header `X`"),
            (&format!("{GOOD}headers = {{ Host = \"99887766\" }}\n"), "FILE:1: header `Host`"),
        ] {
            let refused = written(text).map(|_| ()).unwrap_err();
            assert!(refused.starts_with(told), "{text}: {refused}");
            assert!(!refused.contains('\n') && !refused.contains("99887766"), "{refused}");
        }
    }
}
