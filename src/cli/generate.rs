//! Files that are derived from the settings: examples and the reference.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::{env_file, setting::Setting, settings::GROUPS, values::Values};

/// A file that is derived from the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// `.env.example`
    Env,
    /// `examples/duologue.toml`
    Toml,
    /// `docs/SETTINGS.md`
    Markdown,
}

const ENV_HEAD: &str = "\
# Copy this file to .env and remove the `#` from the lines that you change. A variable of the
# environment takes precedence over .env, a flag over both. The values are the defaults unless
# marked as an example. Durations: 500ms, 30s, 1h. Sizes: 64KiB, 4MiB.
";

const TOML_HEAD: &str = "\
# Start the gateway with `duologue --config FILE`, and remove the `#` from the lines that you
# change. Flags, the environment and .env take precedence. The values are the defaults unless
# marked as an example. Durations: 500ms, 30s, 1h. Sizes: 64KiB, 4MiB.
";

const TOML_TAIL: &str = r#"
# Upstreams, in order of preference. They replace the settings of a single upstream above.

# [[upstream]]
# name = "near"
# base_url = "http://localhost:8080"
# concurrency = 4

# [[upstream]]
# name = "far"
# base_url = "https://api.openai.com/v1"
# api_key_env = "OPENAI_API_KEY"
# model = "gpt-5-mini"
"#;

/// Returns the file as text.
pub(super) fn generate(format: Format) -> String {
    match format {
        Format::Env => example(ENV_HEAD, "", |setting, value| {
            format!("{}={}", setting.variable, env_file::quoted_if_needed(value))
        }),
        Format::Toml => example(TOML_HEAD, TOML_TAIL, |setting, value| {
            let is_bare = value.parse::<f64>().is_ok() || matches!(value, "true" | "false");
            let value =
                if is_bare { value.into() } else { toml::Value::String(value.into()).to_string() };
            format!("{} = {value}", setting.key())
        }),
        Format::Markdown => reference(),
    }
}

fn example(head: &str, tail: &str, line: impl Fn(&Setting, &str) -> String) -> String {
    let defaults = Values::default();
    let mut text = head.to_owned();
    for group in GROUPS {
        let _infallible = write!(text, "\n# {}\n", group.heading);
        for setting in group.settings {
            // In TOML the file that is read cannot name another one.
            if !tail.is_empty() && setting.name == "config" {
                continue;
            }
            let _infallible = match (setting.field.show)(&defaults) {
                Some(value) => {
                    write!(text, "\n# {}.\n# {}\n", setting.summary, line(setting, &value))
                }
                None => {
                    let example = line(setting, setting.example.unwrap_or_default());
                    write!(text, "\n# {}. The value is an example.\n# {example}\n", setting.summary)
                }
            };
        }
    }
    text + tail
}

fn reference() -> String {
    let defaults = Values::default();
    let mut text = include_str!("settings_introduction.md").to_owned();
    for group in GROUPS {
        let _infallible = write!(text, "\n## {}\n\n", group.heading);
        if !group.introduction.is_empty() {
            let _infallible = write!(text, "{}\n\n", group.introduction);
        }
        text.push_str("| flag | variable | default | meaning |\n|---|---|---|---|\n");
        for setting in group.settings {
            let default = match (setting.default, (setting.field.show)(&defaults)) {
                (Some(words), _) => words.into(),
                (None, Some(value)) => format!("`{value}`"),
                (None, None) => "none".into(),
            };
            let details = if setting.details.is_empty() {
                String::new()
            } else {
                format!(" {}", setting.details)
            };
            let _infallible = writeln!(
                text,
                "| `--{}` | `{}` | {default} | {}.{details} |",
                setting.name, setting.variable, setting.summary,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings;

    /// Environment variable that makes the test write the files.
    const UPDATE: &str = "UPDATE_GENERATED";

    #[test]
    fn the_generated_files_are_up_to_date() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for format in Format::value_variants() {
            let path = root.join(match format {
                Format::Env => ".env.example",
                Format::Toml => "examples/duologue.toml",
                Format::Markdown => "docs/SETTINGS.md",
            });
            let expected = generate(*format);
            if std::env::var_os(UPDATE).is_some() {
                std::fs::write(&path, &expected).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == expected,
                "{} differs from the settings: run `{UPDATE}=1 cargo test generated`",
                path.display()
            );
        }
    }

    #[test]
    fn every_line_of_the_example_files_can_be_used() {
        let uncommented = |text: String, is_setting: fn(&str) -> bool| {
            let lines = text.lines().filter_map(|line| line.strip_prefix("# "));
            lines
                .filter(|line| is_setting(line))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        };
        let toml = uncommented(generate(Format::Toml), |line| line.contains(" = "));
        let toml = &toml[..toml.find("\nname = ").unwrap_or(toml.len())];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.toml");
        std::fs::write(&path, toml).unwrap();
        let file = super::super::config_file::ConfigFile::read(&path);
        let file = file.unwrap_or_else(|line| panic!("{line}"));
        let mut values = Values::default();
        for setting in settings::all().filter(|setting| setting.name != "config") {
            let (text, place) = file.value(setting).unwrap_or_else(|| panic!("{}", setting.name));
            (setting.field.set)(&mut values, text).unwrap_or_else(|line| panic!("{place}: {line}"));
        }
        let env = uncommented(generate(Format::Env), |line| {
            line.split_once('=').is_some_and(|(name, _)| !name.contains(' '))
        });
        assert_eq!(env_file::parse(&env).unwrap().len(), settings::all().count());
    }
}
