//! Sanitizes text of an upstream so that it can be stored and shown.

use std::sync::Arc;

use crate::session::Name;

/// Longest text in the log, in characters.
pub(in crate::responder) const MAX_LOGGED: usize = 200;

/// Longest finish reason, in characters.
const MAX_REASON: usize = 64;

/// Longest name of a model, in characters.
const MAX_MODEL: usize = 128;

/// Shortens a text for the log.
pub(in crate::responder) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_LOGGED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Returns a finish reason as it is stored. Unknown reasons are kept, but shortened, and without
/// the characters that names may not contain.
pub(in crate::responder) fn finish_reason(word: &str) -> Option<Arc<str>> {
    shown(word, MAX_REASON)
}

/// Returns the name of a model as it is stored: shortened, and without the characters that names
/// may not contain.
pub(in crate::responder) fn model(name: &str) -> Option<Arc<str>> {
    shown(name, MAX_MODEL)
}

fn shown(text: &str, longest: usize) -> Option<Arc<str>> {
    let shown = text.trim().chars().filter(|&letter| !Name::hides(letter));
    let text: String = shown.take(longest).collect();
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"日".repeat(MAX_LOGGED)), "日".repeat(MAX_LOGGED));
        assert_eq!(shorten(&"日".repeat(9999)), format!("{}…", "日".repeat(MAX_LOGGED)));
    }

    #[test]
    fn reasons_are_cut_and_cleaned_and_empty_ones_are_none() {
        assert_eq!(finish_reason(" stop\u{7}\n").as_deref(), Some("stop"));
        assert_eq!(finish_reason("\u{202e}st\u{200b}op").as_deref(), Some("stop"));
        assert_eq!(finish_reason(&"é".repeat(99)).map(|word| word.chars().count()), Some(64));
        assert_eq!(finish_reason(" \n\u{2066}"), None);
    }
}
