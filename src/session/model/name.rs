//! The name of a user.

use std::sync::Arc;

use super::{ErrorKind, Result};

/// Longest name, in characters (Unicode scalar values).
const MAX_CHARS: usize = 128;

/// A name that can be shown: trimmed, 1 to 128 characters, none of which is invisible or reorders
/// others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl Name {
    /// Trims and checks the name that a user gave.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`].
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.trim();
        let valid = (1..=MAX_CHARS).contains(&name.chars().count()) && is_visible(name);
        if valid { Ok(Self(name.into())) } else { Err(ErrorKind::InvalidName.into()) }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Creates a name from a store, without a check.
    #[must_use]
    pub fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns true if a character is invisible or changes how its neighbors are shown (Unicode
    /// Technical Report 36, section 3.1), and for the replacement character, which marks bytes that
    /// were not UTF-8.
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

/// Returns true if every character can be seen, or has a visible effect where it stands.
fn is_visible(name: &str) -> bool {
    let letters: Vec<char> = name.chars().collect();
    let mut at = 0;
    while let Some(&letter) = letters.get(at) {
        if letter == FLAG {
            let Some(tags) = flag_tags(&letters[at + 1..]) else { return false };
            at += tags;
        } else if Name::hides(letter) {
            let before = at.checked_sub(1).and_then(|before| letters.get(before));
            let Some((&before, &after)) = before.zip(letters.get(at + 1)) else { return false };
            if !joins(before, letter, after) {
                return false;
            }
        }
        at += 1;
    }
    true
}

const NON_JOINER: char = '\u{200c}';
const JOINER: char = '\u{200d}';

/// Begins the flag of a region (Unicode Technical Standard 51, section 2.8).
const FLAG: char = '\u{1f3f4}';

/// Returns how many tag characters follow a flag: none, or up to a cancel tag.
fn flag_tags(letters: &[char]) -> Option<usize> {
    let tags = letters.iter().take_while(|tag| ('\u{e0020}'..='\u{e007e}').contains(*tag)).count();
    match letters.get(tags) {
        Some('\u{e007f}') if tags > 0 => Some(tags + 1),
        _ if tags == 0 => Some(0),
        _ => None,
    }
}

/// Returns true if a joiner is correct orthography between these two: letters of a script that
/// joins (as in Persian and Hindi), or emoji. Between other letters it would be invisible.
fn joins(before: char, letter: char, after: char) -> bool {
    match letter {
        NON_JOINER => is_of_joining_script(before) && is_of_joining_script(after),
        JOINER => {
            (is_of_joining_script(before) && is_of_joining_script(after))
                || (is_emoji_part(before) && is_emoji(after))
        }
        _ => false,
    }
}

const fn is_of_joining_script(c: char) -> bool {
    // Without direction marks, which `hides` covers, and the digits between scripts.
    !Name::hides(c)
        && matches!(c,
            '\u{620}'..='\u{8ff}'       // Arabic, Syriac, Thaana, N'Ko, Mandaic
            | '\u{900}'..='\u{dff}'     // the scripts of India and Sri Lanka
            | '\u{f00}'..='\u{109f}'    // Tibetan, Myanmar
            | '\u{1780}'..='\u{18af}'   // Khmer, Mongolian
            | '\u{1a20}'..='\u{1bff}'   // Tai Tham, Balinese, Sundanese, Batak
            | '\u{a800}'..='\u{a8ff}'   // Syloti Nagri, Saurashtra, Devanagari Extended
            | '\u{a980}'..='\u{abff}'   // Javanese, Cham, Meetei Mayek
            | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' // Arabic presentation forms
            | '\u{10a00}'..='\u{11fff}' // further Brahmic scripts
            | '\u{1e900}'..='\u{1e95f}' // Adlam
        )
}

const fn is_emoji(c: char) -> bool {
    matches!(c,
        '\u{2190}'..='\u{23ff}' | '\u{25a0}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}'
        | '\u{1f000}'..='\u{1faff}')
}

/// Returns true for emoji and the selector that may end one.
const fn is_emoji_part(c: char) -> bool {
    is_emoji(c) || matches!(c, '\u{fe0f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOTLAND: &str = "\u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";

    #[test]
    fn names_are_trimmed_and_kept() {
        for (given, partial) in [
            ("Ada", "Ada"),
            ("  Ada Lovelace \t", "Ada Lovelace"),
            ("Дарья 🦀", "Дарья 🦀"),
            ("李小龍", "李小龍"),
            ("عائشة", "عائشة"),
            ("علی\u{200c}رضا", "علی\u{200c}رضا"),
            ("क्\u{200d}ष", "क्\u{200d}ष"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
            ("🏳\u{fe0f}\u{200d}🌈 Ada", "🏳\u{fe0f}\u{200d}🌈 Ada"),
            ("👨🏽\u{200d}👩\u{200d}👧", "👨🏽\u{200d}👩\u{200d}👧"),
            ("🏴", "🏴"),
            (SCOTLAND, SCOTLAND),
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
            // Joiners alone, at an edge, repeated, between kinds.
            "\u{200d}",
            "\u{200c}علی",
            "علی\u{200c}",
            "علی\u{200c}\u{200c}رضا",
            "علی\u{200c} رضا",
            "👩\u{200d}",
            "👩\u{200d}\u{200d}🚀",
            "👩\u{200d}A",
            "👩\u{200c}🚀",
            // Tags outside a flag, and flags that do not end.
            "A\u{e0041}da",
            "\u{1f3f4}\u{e0067}\u{e0062}",
            "\u{1f3f4}\u{e007f}",
            "\u{1f3f4}\u{e0067}A",
            "🏳\u{e0067}\u{e007f}",
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
