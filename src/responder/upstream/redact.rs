//! Redacts the text of an upstream's error for the log.
//!
//! The text helps the operator ("the model `x` does not exist"). But servers quote secrets in it:
//! the key, the user's name, parts of the conversation. A quote may be in capitals, in nested JSON,
//! in percent escapes or in token numbers, so a list of forbidden texts cannot be complete.
//!
//! Therefore only two kinds of words are kept: a fixed list of words that errors use, and the
//! operator's own words, such as the names of the model and of the upstream.

use std::{collections::HashSet, sync::LazyLock};

use super::sanitize::MAX_LOGGED;

/// Replaces words that are left out.
const ELLIPSIS: &str = "…";

static COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "a able above access account across active added address after again alert all allow allowed
    already also although am an and another any api application are argument arguments as ask
    associated at attempt auth authentication authorization authorized available away bad be
    because been before beginning being below between billing body both broken but by bytes call
    called calls can cancelled cannot caused certificate chain change channel characters check
    choices chunk client close closed code complete completed completion completions compression
    configuration connect connected connecting connection contact content context contract
    corrupt could count credential credentials credits current currently daily data deadline
    decode decoding decrypt denied deployment deprecated describe detail details did disabled dns
    do does done down due during each early either empty enabled encoding end ended endpoint
    engine enough entity eof error errors exceed exceeded exceeds exception exhausted exist
    exists expected expired external failed failing failure fatal field fields file filter
    filtered finish finished first flag for forbidden format found frame from full function
    gateway generate generation get given go goaway got grpc had handshake handshakefailure has
    have header headers help here high host hostname hour how http http2 https id if illegal
    implemented in inactive incomplete incorrect increase input inputs insufficient insufficient
    internal into invalid io is issue issuer it its json key keys kind known large larger last
    later least length less limit limited limits line list loaded loading local location lock
    long longer lookup lost low made make malformed malicious many match max maximum may memory
    message messages method minute missing mode model models modified monthly more most moved must
    name need needed network new no none not notvalidforname notvalidyet null number object of off
    offline ok old on once one only open operation option or order organization os other out
    output over overloaded own page parameter parameters parse parsing part payload peer pending
    per permission permitted pipe plan please policy port positive prefill prefix present previous
    problem process processed processing project prompt protocol protocolversion provide provided
    provider proxy quota range rate reach reached read reading ready reason received record
    reduce refused region reject rejected remote remove request requested requests required
    requires reset resource response rest result retry returned review role root route run running
    safety same schema second seconds see select self send sending sent sequence server service
    session set settings short should shut shutdown signature signed size slot slots small so
    socket some specified stack start started state status still stop stopped stream streaming
    string such supplied support supported syntax system tcp temperature template temporarily
    temporary than that the their them then there these they this throttled throttling time timed
    timeout times tls to token tokens too tool tools top total try trying type unable unauthorized
    unavailable unencrypted unexpected unexpectedly unit unknown unknownissuer unknownstatus
    unprocessable unreachable unrecognized unsupported until up update upgrade upstream url usage
    use used user using utf valid validation value values verify version very via violation wait
    waiting was way we were what when where which while who why will window with within without
    work worker write writing wrong yet you your zero"
        .split_whitespace()
        .collect()
});

/// Words beside which a number is a measure, and not personal data.
const BEFORE_NUMBERS: [&str; 2] = ["status", "error"];
const BEHIND_NUMBERS: [&str; 7] =
    ["token", "tokens", "second", "seconds", "requests", "bytes", "characters"];

/// Words that the operator chose.
#[derive(Clone, Debug, Default)]
pub(in crate::responder) struct Vocabulary(HashSet<String>);

impl Vocabulary {
    pub(in crate::responder) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let words = names.into_iter().flat_map(words).filter(|word| !word.is_empty());
        Self(words.map(|word| word.to_lowercase()).collect())
    }

    fn holds(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        COMMON.contains(word.as_str()) || self.0.contains(&word)
    }
}

/// Returns the text with all other words replaced.
pub(in crate::responder) fn logged(text: &str, own: &Vocabulary) -> String {
    let mut out = String::new();
    let mut before = "";
    let mut rest = text;
    while let Some(start) = rest.find(|letter: char| letter.is_alphanumeric()) {
        let (between, at_word) = rest.split_at(start);
        let end = at_word.find(|letter| !is_joined(letter)).unwrap_or(at_word.len());
        let word = at_word[..end].trim_end_matches(JOINTS);
        let behind = &at_word[word.len()..];
        // A part of a name would reveal the rest.
        let is_shown = words(word).all(|part| own.holds(part)) || is_measure(before, word, behind);
        push(&mut out, between, if is_shown { word } else { ELLIPSIS });
        if out.chars().count() > MAX_LOGGED {
            return out.chars().take(MAX_LOGGED).chain(ELLIPSIS.chars()).collect();
        }
        (before, rest) = (word, behind);
    }
    push(&mut out, rest, "");
    out
}

/// Adds a word and the text before it. Several words in a row that are left out become one
/// ellipsis.
fn push(out: &mut String, between: &str, word: &str) {
    // Signs can form words, too: marks of some scripts, drawings.
    let signs = between.chars().filter(char::is_ascii).filter(|sign| !sign.is_control());
    if word == ELLIPSIS && out.ends_with(ELLIPSIS) && between.chars().count() == 1 {
        return;
    }
    out.extend(signs.take(MAX_SIGNS));
    out.push_str(word);
}

/// Most signs in a row that are kept.
const MAX_SIGNS: usize = 4;

fn is_measure(before: &str, number: &str, behind: &str) -> bool {
    let is_number = number.len() <= 7 && number.bytes().all(|byte| byte.is_ascii_digit());
    let next = behind.strip_prefix(' ').and_then(|behind| words(behind).next());
    is_number
        && (BEFORE_NUMBERS.contains(&before.to_lowercase().as_str())
            || next.is_some_and(|next| BEHIND_NUMBERS.contains(&next.to_lowercase().as_str())))
}

/// Characters that join words to names and keys.
const JOINTS: [char; 3] = ['-', '_', '.'];

fn is_joined(letter: char) -> bool {
    letter.is_alphanumeric() || JOINTS.contains(&letter)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        logged(text, &Vocabulary::of(["llama-9", "near"]))
    }

    #[test]
    fn errors_stay_readable() {
        for text in [
            "The model `llama-9` does not exist, or you do not have access to it.",
            "type invalid_request_error, code context_length_exceeded, message maximum context \
             length is 4096 tokens, you requested 5000 tokens",
            "error sending request: client error (Connect): tcp connect error: Connection \
             refused (os error 111)",
            "client error (Connect): invalid peer certificate: UnknownIssuer",
            "dns error: failed to lookup address",
            "Rate limit reached, please try again in 20 seconds",
            "type insufficient_quota",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn quoted_secrets_are_redacted_in_every_form() {
        for (text, shown) in [
            ("Incorrect API key provided: sk-proj-AbCd1234EfGh", "Incorrect API key provided: …"),
            (r"Bearer sk\u002dproj\u002dAbCd", "…"),
            ("canary-in-a-key, see https://an.example/page", "…, see https://…/page"),
            ("user Zebediah Q is blocked", "user … is …"),
            ("MY PIN IS 4711", "… IS …"),
            ("4711 4711 4711 4711", "…"),
            ("tokens [4711, 815]", "tokens […, …]"),
            ("%41%42%C3%BC &#228; aGVsbG8=", "%… &#…; …="),
            (r"\xd0\x9f \320\237", r"\… \…"),
            ("入力 は無効 🤖🤖", "… "),
            ("a\u{1b}[2Jb\u{202e}c", "a[…"),
            ("((((((((code))))))))", "((((code))))"),
        ] {
            assert_eq!(redacted(text), shown, "{text}");
        }
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(redacted(&"not ".repeat(9999)).chars().count(), MAX_LOGGED + 1);
        assert_eq!(redacted(&"y".repeat(9999)), ELLIPSIS);
    }
}
