//! What of an upstream's own words the log may hold.
//!
//! Its words are of use to the operator ("the model `x` does not exist"), and servers like
//! to quote in them: the key, the visitor's name, what was said. So secrets are taken out
//! whole, and of the rest each word that occurs in the conversation, unless it is one that
//! tells nothing about anybody. Not the other way round, to log them only where nothing is
//! quoted: whether something is cannot be known, since servers cut, escape and shout.

use std::{collections::HashSet, fmt};

use secrecy::{ExposeSecret as _, SecretString};

use super::words::shorten;

/// What stands where something was taken out.
const HIDDEN: &str = "[hidden]";
const ELLIPSIS: &str = "…";

/// As much of an upstream's words as is looked at, in bytes.
const MAX_LOOKED_AT: usize = 4 << 10;

/// Longer words are none.
const MAX_WORD: usize = 64;

/// A word of the conversation counts within a longer one from this length on, in characters.
const MIN_PART: usize = 4;

/// Words that may stand in a log though somebody has said them.
const PLAIN: &[&str] = &[
    "a",
    "address",
    "an",
    "and",
    "api",
    "application",
    "are",
    "as",
    "at",
    "auth",
    "available",
    "bad",
    "be",
    "before",
    "body",
    "by",
    "cannot",
    "certificate",
    "choices",
    "closed",
    "code",
    "completed",
    "connect",
    "connection",
    "content",
    "context",
    "could",
    "denied",
    "dns",
    "does",
    "error",
    "exceed",
    "exceeded",
    "exceeds",
    "exist",
    "expected",
    "failed",
    "field",
    "for",
    "format",
    "found",
    "from",
    "gateway",
    "has",
    "have",
    "host",
    "http",
    "http2",
    "in",
    "incorrect",
    "input",
    "internal",
    "invalid",
    "invalidcertificate",
    "is",
    "it",
    "json",
    "key",
    "later",
    "length",
    "limit",
    "long",
    "lookup",
    "max",
    "maximum",
    "message",
    "messages",
    "missing",
    "model",
    "must",
    "name",
    "not",
    "number",
    "of",
    "on",
    "only",
    "or",
    "os",
    "out",
    "param",
    "parameter",
    "peer",
    "permission",
    "please",
    "prompt",
    "protocol",
    "provided",
    "quota",
    "rate",
    "reached",
    "received",
    "refused",
    "request",
    "requests",
    "required",
    "reset",
    "resource",
    "role",
    "sending",
    "server",
    "service",
    "size",
    "stream",
    "supported",
    "tcp",
    "temperature",
    "than",
    "that",
    "the",
    "this",
    "timed",
    "timeout",
    "to",
    "token",
    "tokens",
    "too",
    "try",
    "type",
    "unavailable",
    "unexpected",
    "unknown",
    "unknownissuer",
    "unsupported",
    "url",
    "use",
    "user",
    "valid",
    "value",
    "was",
    "with",
    "you",
    "your",
];

/// The operator's own, which is sent along: keys, tokens.
pub(super) struct Secrets(Vec<SecretString>);

impl Secrets {
    /// A token, however short it is.
    pub(super) fn of_token(token: Option<&SecretString>) -> Self {
        Self(token.into_iter().cloned().collect())
    }

    /// What stands in headers.
    pub(super) fn of_headers<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        // `Bearer KEY` is quoted without its first word.
        let words = values.flat_map(|value| [value].into_iter().chain(value.split(' ')));
        // A short word is no secret, and would be found everywhere.
        let mut words: Vec<_> = words.filter(|word| word.len() >= 8).collect();
        words.sort_unstable_by_key(|word| std::cmp::Reverse(word.len()));
        Self(words.into_iter().map(Into::into).collect())
    }

    fn hide(&self, text: &str) -> String {
        let remove =
            |text: String, secret: &SecretString| text.replace(secret.expose_secret(), HIDDEN);
        self.0.iter().fold(text.to_owned(), remove)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

/// An upstream's words as the log may hold them; `conversation` is everything that was said
/// in it, the visitor's name included.
pub(super) fn logged<'a>(
    said: &str,
    secrets: &Secrets,
    conversation: impl Iterator<Item = &'a str>,
) -> String {
    let said = secrets.hide(said);
    let said = unescaped(&said[..said.floor_char_boundary(MAX_LOOKED_AT)]);
    shorten(&Heard::new(conversation).taken_out_of(&said))
}

/// What was said in a conversation.
struct Heard {
    text: String,
}

impl Heard {
    fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut text = String::new();
        for one in texts {
            text.push_str(&one.to_lowercase());
            text.push('\n');
        }
        Self { text }
    }

    fn taken_out_of(&self, said: &str) -> String {
        let words: HashSet<_> = self.text.split(is_between).collect();
        let mut out = String::with_capacity(said.len());
        let mut rest = said;
        while let Some(start) = rest.find(|letter| !is_between(letter)) {
            let (between, at_word) = rest.split_at(start);
            let (word, behind) =
                at_word.split_at(at_word.find(is_between).unwrap_or(at_word.len()));
            out.push_str(between);
            let known = self.knows(&word.to_lowercase(), &words);
            out.push_str(if known { ELLIPSIS } else { word });
            rest = behind;
        }
        out + rest
    }

    /// It holds this word, the whole of it or a telling part, or the word holds one of its.
    fn knows(&self, word: &str, words: &HashSet<&str>) -> bool {
        if PLAIN.contains(&word) || self.text.is_empty() {
            return false;
        }
        let letters: Vec<_> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
        let count = letters.len() - 1;
        let part = |from: usize, to: usize| &word[letters[from]..letters[to]];
        if count > MAX_WORD {
            return true;
        }
        if !word.is_ascii() {
            // Not all scripts part words: two letters that stand together tell enough.
            let pair = 2.min(count);
            return (0..=count - pair).any(|from| self.text.contains(part(from, from + pair)));
        }
        let is_telling = count > 2 || word.bytes().any(|byte| byte.is_ascii_digit());
        let mut parts =
            (0..count).flat_map(|from| (from + MIN_PART..=count).map(move |to| (from, to)));
        is_telling && self.text.contains(word)
            || parts.any(|(from, to)| words.contains(part(from, to)))
    }
}

fn is_between(letter: char) -> bool {
    !letter.is_alphanumeric()
}

/// Text in which JSON's escapes are what they stand for: it may have been quoted as JSON
/// within JSON.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\u") {
        let code = rest.get(at + 2..at + 6).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let (letter, end) = match code.and_then(char::from_u32) {
            Some(letter) => (letter, at + 6),
            None => ('\u{fffd}', at + 2),
        };
        out.push_str(&rest[..at]);
        out.push(letter);
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(said: &str, conversation: &[&str]) -> String {
        logged(said, &Secrets::of_token(None), conversation.iter().copied())
    }

    #[test]
    fn secrets_are_hidden_whole_and_word_by_word() {
        let headers = ["sk-12345678", "Bearer xk-87654321", "short"];
        let secrets = Secrets::of_headers(headers.into_iter());
        let told = |said: &str| logged(said, &secrets, std::iter::empty());
        assert_eq!(told("the key sk-12345678 is wrong"), "the key [hidden] is wrong");
        assert_eq!(told("provided: xk-87654321, short"), "provided: [hidden], short");
        let token = Secrets::of_token(Some(&"t0p".into()));
        assert_eq!(logged("Bearer t0p?", &token, std::iter::empty()), "Bearer [hidden]?");
        // At the place where it is cut, too.
        let cut = told(&format!("{}sk-12345678", "x ".repeat(97)));
        assert!(!cut.contains("sk-1") && !format!("{secrets:?}").contains("123"), "{cut}");
    }

    #[test]
    fn what_nobody_has_said_is_told_as_it_is() {
        let said = "The model `llama-9` does not exist (ctx 4096), see https://x.example/e?a=1";
        assert_eq!(heard(said, &[]), said);
        assert_eq!(heard(said, &["Hi", "What is the model of your car?", "", "日本"]), said);
        assert_eq!(heard(&"y".repeat(9999), &[]).chars().count(), 201);
    }

    #[test]
    fn what_was_said_is_not_told_however_it_is_quoted() {
        let conversation = [
            "Zebediah Q",
            "My PIN is 4711. Who lives at number four, and why?",
            "Grüße aus 東京都庁",
        ];
        for (said, told) in [
            ("user Zebediah is blocked", "user … is blocked"),
            ("user zebediahs key", "user … key"),
            ("invalid prompt near \"PIN is 47", "invalid prompt near \"… is …"),
            ("WHO LIVES AT NUMBER FOUR", "… … AT NUMBER …"),
            ("bad: wholivesthere", "bad: …"),
            (r"bad: Gr\u00fc\u00dfe aus \u6771\u4eac", "bad: … … …"),
            ("入力 東京都 は無効", "入力 … は無効"),
            (r"\ud83d\u", "\u{fffd}d83d\u{fffd}"),
        ] {
            assert_eq!(heard(said, &conversation), told, "{said}");
        }
        assert_eq!(heard(&"y".repeat(99), &conversation), "…", "a word of no language");
    }
}
