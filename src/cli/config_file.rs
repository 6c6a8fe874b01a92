//! The configuration file: TOML, with the settings as keys and upstreams as `[[upstream]]` tables.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use toml::Spanned;

use super::{setting::Setting, settings};
use crate::responder::openai::{
    Defaults, UpstreamSettings,
    upstream_table::{UpstreamTable, json},
};

/// A configuration file that was read.
#[derive(Default)]
pub(super) struct ConfigFile {
    path: PathBuf,
    values: Vec<FileValue>,
    upstreams: Vec<(usize, UpstreamTable)>,
}

struct FileValue {
    setting: &'static Setting,
    text: String,
    line: usize,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file and the line in it, and not its content: it may hold a secret.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let line = |start: usize| text.get(..start).unwrap_or_default().matches('\n').count() + 1;
        let contents: Contents = toml::from_str(&text).map_err(|error| {
            let line = line(error.span().map_or(0, |span| span.start));
            format!("{shown}:{line}: {}", without_values(error.message()))
        })?;
        let mut values = Vec::<FileValue>::new();
        // The parser sorts by key.
        let mut pairs = contents.values;
        pairs.sort_by_key(|(_, value)| value.span().start);
        for (key, value) in pairs {
            let line = line(value.span().start);
            let value = file_value(&key, value.into_inner(), line)
                .map_err(|problem| format!("{shown}:{line}: {problem}"))?;
            if values.iter().any(|known| known.setting.name == value.setting.name) {
                return Err(format!("{shown}:{line}: {} is set twice", value.setting.key()));
            }
            values.push(value);
        }
        let upstreams = contents.upstreams.into_iter();
        let upstreams = upstreams.map(|table| (line(table.span().start), table.into_inner()));
        Ok(Self { path: path.into(), values, upstreams: upstreams.collect() })
    }

    /// Returns the value of a setting, and its place for an error message.
    pub(super) fn value(&self, setting: &Setting) -> Option<(&str, String)> {
        let value = self.values.iter().find(|value| value.setting.name == setting.name)?;
        let place = format!("{}:{}: {}", self.path.display(), value.line, setting.key());
        Some((&value.text, place))
    }

    /// Returns the upstreams in order of preference.
    ///
    /// # Errors
    /// One line that names the file, the line of the table, and the key.
    pub(super) fn upstreams(self, defaults: &Defaults) -> Result<Vec<UpstreamSettings>, String> {
        let tables = self.upstreams.into_iter().map(|(line, table)| {
            table
                .settings(defaults)
                .map_err(|problem| format!("{}:{line}: {problem}", self.path.display()))
        });
        tables.collect()
    }
}

fn file_value(key: &str, value: toml::Value, line: usize) -> Result<FileValue, String> {
    let name = key.replace('_', "-");
    let Some(setting) = settings::all().find(|setting| setting.name == name) else {
        // A key of another form may be a secret in the wrong place.
        let shown = if is_plain(key) {
            format!("`{key}` is not a setting")
        } else {
            "not a setting".into()
        };
        return Err(format!("{shown}; `duologue --generate toml` prints every setting"));
    };
    if setting.name == "config" {
        return Err("a configuration file cannot name another one".into());
    }
    let text = text(value).ok_or("expected a string, a number or a boolean")?;
    Ok(FileValue { setting, text, line })
}

fn is_plain(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The value as a flag has it. An array is a list with commas, a table is a JSON object.
fn text(value: toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(values) => {
            values.into_iter().map(text).collect::<Option<Vec<_>>>()?.join(",")
        }
        table @ toml::Value::Table(_) => json(table)?.to_string(),
    })
}

/// A parser's message without the values and the odd names that it quotes: a key may stand
/// anywhere in a wrong file.
fn without_values(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let named = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    match (named, message.split_once(", expected ")) {
        (Some((name, _)), _) if is_plain(name) => message,
        (Some((_, rest)), _) => format!("unknown field{rest}"),
        (None, Some((_, expected))) if message.starts_with("invalid ") => {
            format!("expected {expected}")
        }
        _ => message,
    }
}

/// A file before the keys are looked up.
#[derive(Default)]
struct Contents {
    values: Vec<(String, Spanned<toml::Value>)>,
    upstreams: Vec<Spanned<UpstreamTable>>,
}

impl<'de> Deserialize<'de> for Contents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentsVisitor)
    }
}

struct ContentsVisitor;

impl<'de> Visitor<'de> for ContentsVisitor {
    type Value = Contents;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Contents, A::Error> {
        let mut contents = Contents::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "upstream" {
                contents.upstreams = map.next_value()?;
            } else {
                contents.values.push((key, map.next_value()?));
            }
        }
        Ok(contents)
    }
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn written(text: &str) -> Result<Vec<UpstreamSettings>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstreams.toml");
        std::fs::write(&path, text).unwrap();
        let shown = format!("{}", path.display());
        let upstreams =
            ConfigFile::read(&path).and_then(|file| file.upstreams(&Defaults::default()));
        upstreams.map_err(|line| line.replace(&shown, "FILE"))
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
            ("[[upstream]]\nname = \"a\"\n", "FILE:1: missing field `base_url`"),
            ("[[upstream]]\nname = \"a\"\nbase_url = \"nowhere\"\n", "FILE:1: the base URL"),
            ("\n[[downstream]]\n", "FILE:2: `downstream` is not a setting"),
            ("session_tll = \"1h\"\n", "FILE:1: `session_tll` is not a setting"),
            ("sk-99887766 = \"1h\"\n", "FILE:1: not a setting"),
            ("addr = 2026-11-22\n", "FILE:1: expected a string"),
            ("config = \"a.toml\"\n", "FILE:1: a configuration file cannot"),
            ("session_ttl = \"1h\"\nsession-ttl = \"2h\"\n", "FILE:2: session_ttl is set twice"),
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
