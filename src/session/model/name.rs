//! A visitor's name.

use std::sync::Arc;

use super::{ErrorKind, Result};

/// Longest name, in characters (Unicode scalar values).
const MAX_CHARS: usize = 128;

/// A name that can be shown: trimmed, 1 to 128 characters, none of which hides or
/// reorders others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl Name {
    /// Trims and checks what a visitor gave.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`].
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.trim();
        let valid = (1..=MAX_CHARS).contains(&name.chars().count()) && !name.contains(Self::hides);
        if valid { Ok(Self(name.into())) } else { Err(ErrorKind::InvalidName.into()) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that a store kept.
    #[must_use]
    pub fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether a character is invisible or changes how its neighbours are shown
    /// (Unicode Technical Report 36, section 3.1); or the replacement character, which
    /// says that the bytes were not UTF-8.
    #[must_use]
    pub const fn hides(c: char) -> bool {
        matches!(c,
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'  // controls
            | '\u{ad}' | '\u{34f}' | '\u{180e}'    // soft hyphen, grapheme joiner, vowel separator
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // blank fillers
            | '\u{61c}' | '\u{200b}'..='\u{200f}'  // zero width, direction marks
            | '\u{2028}'..='\u{202e}'              // line separators, embeddings and overrides
            | '\u{2060}'..='\u{206f}'              // joiners, isolates, deprecated formats
            | '\u{feff}' | '\u{fff9}'..='\u{fffd}' // byte order mark, annotations, replacement
            | '\u{e0000}'..='\u{e007f}'            // tags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_kept() {
        for (given, partial) in [
            ("Ada", "Ada"),
            ("  Ada Lovelace \t", "Ada Lovelace"),
            ("Дарья 🦀", "Дарья 🦀"),
            ("李小龍", "李小龍"),
            ("عائشة", "عائشة"),
        ] {
            assert_eq!(Name::parse(given).ok().as_ref().map(Name::as_str), Some(partial));
        }
        let longest = "é".repeat(MAX_CHARS);
        assert!(Name::parse(&longest).is_ok());
    }

    #[test]
    fn names_that_hide_are_refused() {
        let too_long = "é".repeat(MAX_CHARS + 1);
        for given in [
            "",
            " \t\n",
            "A\0da",
            "A\nda",
            "A\u{202e}da",
            "A\u{2066}da",
            "A\u{200b}da",
            "A\u{200d}da",
            "\u{feff}Ada",
            "A\u{fffd}da",
            "A\u{7f}da",
            "\u{3164}",
            &too_long,
        ] {
            let kind = Name::parse(given).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::InvalidName), "{given:?}");
        }
    }
}
