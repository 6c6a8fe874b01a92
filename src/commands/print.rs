//! Text for terminals and programs. Foreign text cannot control a terminal or break a line.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::session::{Name, Timestamp};

/// The last millisecond of the year 9999.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// Formats a time by RFC 3339, in UTC, with milliseconds.
pub(super) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.min(LAST).into()).to_string()
}

/// Shows text with control characters and invisible characters escaped.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if Name::hides(c) => write!(f, "{}", c.escape_unicode()),
            c => f.write_char(c),
        })
    }
}

/// Shows a field of a tab-separated line, escaped so that it can be read back: `\t`, `\n`, `\\`,
/// `\u{…}`.
pub(super) struct TableField<'a>(pub(super) &'a str);

impl fmt::Display for TableField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\t' => f.write_str("\\t"),
            '\n' => f.write_str("\\n"),
            '\\' => f.write_str("\\\\"),
            c if Name::hides(c) => write!(f, "{}", c.escape_unicode()),
            c => f.write_char(c),
        })
    }
}

/// Writes a value as one line of JSON. Control characters and invisible characters are escaped.
///
/// # Errors
/// The error of the writer.
pub(super) fn json(out: &mut impl io::Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    let mut rest = json.as_str();
    // Such characters can occur within strings only.
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| Name::hides(*c)) {
        out.write_all(&rest.as_bytes()[..at])?;
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}")?;
        }
        rest = &rest[at + c.len_utf8()..];
    }
    out.write_all(rest.as_bytes())?;
    out.write_all(b"\n")
}

/// Returns a progress bar on standard error, hidden unless that is a terminal.
pub(super) fn progress(length: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
}

/// Prints a summary. A closed output is not an error: the work is done.
pub(super) fn report(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

/// As [`report`], on standard error. `eprintln` would panic if standard error is closed.
pub(super) fn remark(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Formats a number with its noun: "1 session", "2 sessions".
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\tb\nc\\d\u{1b}[2J\u{9b}\u{202e}\u{e0041}é🦀";

    #[test]
    fn nothing_steers_a_terminal_or_breaks_a_line() {
        let field = TableField(NASTY).to_string();
        assert_eq!(field, "a\\tb\\nc\\\\d\\u{1b}[2J\\u{9b}\\u{202e}\\u{e0041}é🦀");
        assert!(!Printable(NASTY).to_string().contains(Name::hides));
    }

    #[test]
    fn json_is_the_same_value_without_what_hides() -> Result<(), Box<dyn std::error::Error>> {
        let mut line = Vec::new();
        json(&mut line, &NASTY)?;
        let line = String::from_utf8(line)?;
        assert!(!line.trim_end().contains(Name::hides) && line.ends_with('\n'), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line)?, NASTY);
        Ok(())
    }

    #[test]
    fn times_beyond_the_calendar_have_a_text() {
        assert_eq!(time(Timestamp::from_millis(u64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(Timestamp::default()), "1970-01-01T00:00:00.000Z");
    }
}
