//! An upstream as a table of the configuration file.

use std::{collections::BTreeMap, env, fs, path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::settings::{Defaults, Endpoint, UpstreamSettings, headers};
use crate::responder::upstream::Capacity;

/// One `[[upstream]]` table of a configuration file. The keys are those of the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTable {
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
    queue_size: Option<u32>,
    queue_timeout: Option<Span>,
    accept_missing_finish_reason: Option<bool>,
}

impl UpstreamTable {
    /// Returns the upstream. Values that the table leaves out are taken from `defaults`.
    ///
    /// # Errors
    /// Says which key is wrong, without its value: it may be a secret.
    pub fn settings(self, defaults: &Defaults) -> Result<UpstreamSettings, String> {
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
                    queue_size: self.queue_size.unwrap_or(defaults.capacity.queue_size),
                    queue_timeout: time(self.queue_timeout, defaults.capacity.queue_timeout),
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

/// Converts a TOML value to JSON. Returns `None` for values that JSON does not have: dates, and
/// numbers that are infinite or not a number.
pub fn json(value: toml::Value) -> Option<Value> {
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

/// A string whose value does not appear in an error.
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
