//! Settings that are comma-separated lists. `none` is the empty list: a blank value counts as not
//! set.

use std::sync::Arc;

use super::value::ValueKind;
use crate::session::TurnOption;

const NONE: &str = "none";

fn entries(text: &str) -> impl Iterator<Item = &str> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.filter(move |_| text.trim() != NONE)
}

fn show<'a>(entries: impl Iterator<Item = &'a str>) -> String {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() { NONE.into() } else { entries.join(",") }
}

/// Media types, or all of a kind: `image/*,application/pdf`.
pub(super) struct MediaTypes;

impl ValueKind for MediaTypes {
    type Value = Vec<Arc<str>>;
    const NAME: &'static str = "TYPES";

    fn parse(text: &str) -> Result<Self::Value, String> {
        let is_word = |word: &str| {
            let is_valid =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
            !word.is_empty() && word.bytes().all(is_valid)
        };
        let is_type = |entry: &&str| {
            let halves = entry.split_once('/');
            halves.is_some_and(|(kind, rest)| is_word(kind) && (rest == "*" || is_word(rest)))
        };
        match entries(text).find(|entry| !is_type(entry)) {
            None => Ok(entries(text).map(Into::into).collect()),
            Some(_) => Err("expected media types, for example `image/*,application/pdf`, or \
                            `none`"
                .into()),
        }
    }

    fn show(value: &Self::Value) -> String {
        show(value.iter().map(|entry| &**entry))
    }
}

/// Names of the options of a turn.
pub(super) struct OptionNames;

impl ValueKind for OptionNames {
    type Value = Vec<TurnOption>;
    const NAME: &'static str = "OPTIONS";

    fn parse(text: &str) -> Result<Self::Value, String> {
        let named = |entry: &str| {
            let name = entry.replace('-', "_");
            TurnOption::ALL.into_iter().find(|option| option.name() == name)
        };
        entries(text).map(named).collect::<Option<_>>().ok_or_else(|| {
            let known: Vec<_> = TurnOption::ALL.iter().map(|option| option.name()).collect();
            format!("expected `none`, or some of {}", known.join(", "))
        })
    }

    fn show(value: &Self::Value) -> String {
        show(value.iter().map(|option| option.name()))
    }
}

/// A kind of callers that may create sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthMode {
    Open,
    ApiKey,
    Jwt,
}

impl AuthMode {
    const ALL: [(Self, &str); 3] =
        [(Self::Open, "open"), (Self::ApiKey, "api-key"), (Self::Jwt, "jwt")];
}

/// Names of [`AuthMode`]s.
pub(super) struct AuthModes;

impl ValueKind for AuthModes {
    type Value = Vec<AuthMode>;
    const NAME: &'static str = "LIST";

    fn parse(text: &str) -> Result<Self::Value, String> {
        let mode = |entry: &str| {
            let known = AuthMode::ALL.iter().find(|(_, name)| *name == entry);
            known.map(|(mode, _)| *mode)
        };
        let names = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let modes = names.map(mode).collect::<Option<Vec<_>>>();
        modes
            .filter(|modes| !modes.is_empty())
            .ok_or_else(|| "expected a comma-separated list of `open`, `api-key` and `jwt`".into())
    }

    fn show(value: &Self::Value) -> String {
        let named = AuthMode::ALL.iter().filter(|(mode, _)| value.contains(mode));
        show(named.map(|(_, name)| *name))
    }
}

/// Audiences of JWTs.
pub(super) struct Audiences;

impl ValueKind for Audiences {
    type Value = Vec<String>;
    const NAME: &'static str = "LIST";

    fn parse(text: &str) -> Result<Self::Value, String> {
        Ok(entries(text).map(Into::into).collect())
    }

    fn show(value: &Self::Value) -> String {
        show(value.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_their_own_text_again() {
        for text in ["none", "image/*", "image/png,application/vnd.x+json"] {
            assert_eq!(MediaTypes::parse(text).map(|it| MediaTypes::show(&it)), Ok(text.into()));
        }
        for text in ["none", "model", "tools,max_output_tokens"] {
            assert_eq!(OptionNames::parse(text).map(|it| OptionNames::show(&it)), Ok(text.into()));
        }
        assert_eq!(OptionNames::parse("max-output-tokens"), Ok(vec![TurnOption::MaxOutputTokens]));
    }

    #[test]
    fn other_entries_are_refused() {
        for text in ["image", "*/*", "Image/png", "image/png;q=1", "none,image/png"] {
            assert!(MediaTypes::parse(text).is_err(), "{text}");
        }
        for text in ["speed", "none,model"] {
            assert!(OptionNames::parse(text).is_err(), "{text}");
        }
    }
}
