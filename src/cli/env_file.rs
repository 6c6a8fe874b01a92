//! The file `.env`: read as Docker Compose and python-dotenv read it.
//!
//! The library `dotenvy` refuses unquoted values with spaces and expands `$`. It still sets the
//! environment, from lines that are quoted here.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

/// A file `.env` that was loaded.
#[derive(Debug, Default)]
pub struct EnvFile {
    path: PathBuf,
    /// The variables that it set, and the lines that did.
    lines: BTreeMap<String, usize>,
}

impl EnvFile {
    /// Loads the nearest `.env` of the working directory and the folders above it. A variable of
    /// the environment takes precedence, unless it is blank. Must be called before any thread
    /// exists, since it changes the environment.
    ///
    /// # Errors
    /// One line that names the file, the number of the line, and not its content: it may hold a
    /// secret.
    pub fn load() -> Result<Self, String> {
        let Some(path) = find() else { return Ok(Self::default()) };
        let shown = path.display();
        let text = fs::read_to_string(&path).map_err(|error| format!("{shown}: {error}"))?;
        let variables =
            parse(&text).map_err(|(line, problem)| format!("{shown}:{line}: {problem}"))?;
        let (mut absent, mut blank) = (String::new(), String::new());
        let mut lines = BTreeMap::new();
        for Variable { name, value, line } in variables {
            let target = match env::var_os(&name) {
                Some(set) if set.to_string_lossy().trim().is_empty() => &mut blank,
                Some(_) => continue,
                None => &mut absent,
            };
            let _infallible = writeln!(target, "{name}={}", quoted(&value));
            lines.insert(name, line);
        }
        let problem = |error: dotenvy::Error| match error {
            // Its words would show the line.
            dotenvy::Error::LineParse(..) => format!("{shown}: a value cannot be set"),
            other => format!("{shown}: {other}"),
        };
        dotenvy::from_read(absent.as_bytes()).map_err(problem)?;
        dotenvy::from_read_override(blank.as_bytes()).map_err(problem)?;
        Ok(Self { path, lines })
    }

    /// Returns the place of a variable for an error message: the file and the line, if this file
    /// set it.
    pub(super) fn place(&self, variable: &str) -> String {
        match self.lines.get(variable) {
            Some(line) => format!("{}:{line}: {variable}", self.path.display()),
            None => variable.into(),
        }
    }
}

/// A variable of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    name: String,
    value: String,
    line: usize,
}

fn find() -> Option<PathBuf> {
    let folder = env::current_dir().ok()?;
    folder.ancestors().map(|folder| folder.join(".env")).find(|path| path.is_file())
}

/// A value in the double quotes of an `.env` file, as `parse` and `dotenvy` read it.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for letter in value.chars() {
        match letter {
            '\n' => text.push_str("\\n"),
            '"' | '\\' | '$' => text.extend(['\\', letter]),
            _ => text.push(letter),
        }
    }
    text.push('"');
    text
}

/// A value as an `.env` file has it: quoted if it must be.
pub(super) fn quoted_if_needed(value: &str) -> String {
    if value.contains(|c: char| c.is_whitespace() || "\"'\\#$".contains(c)) {
        return quoted(value);
    }
    value.into()
}

/// The number of a line, and what is wrong with it.
type Problem = (usize, &'static str);

/// Returns the variables in order. The last value of a name counts.
pub(super) fn parse(text: &str) -> Result<Vec<Variable>, Problem> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut variables, mut number) = (Vec::<Variable>::new(), 0);
    while !rest.is_empty() {
        number += 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (line, None),
        };
        if !is_name(name) {
            return Err((number, "expected NAME=VALUE"));
        }
        // A name alone stands for the variable of the environment.
        let Some(value) = value else { continue };
        let first = number;
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut text = value[1..].to_owned();
                // A quoted value may span lines.
                while quoted_value(&text, quote).is_none() {
                    if rest.is_empty() {
                        return Err((first, "the closing quote is missing"));
                    }
                    let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
                    (rest, number) = (after, number + 1);
                    text.push('\n');
                    text.push_str(line.strip_suffix('\r').unwrap_or(line));
                }
                let (value, tail) = quoted_value(&text, quote).unwrap_or_default();
                if !matches!(tail.trim_start().chars().next(), None | Some('#')) {
                    return Err((number, "text follows the closing quote"));
                }
                value
            }
            _ => unquoted_value(value).into(),
        };
        variables.retain(|known| known.name != name);
        variables.push(Variable { name: name.into(), value, line: first });
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.');
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(is_letter)
}

/// The value up to a comment, which needs white space before it.
fn unquoted_value(value: &str) -> &str {
    if value.starts_with('#') {
        return "";
    }
    let comment = value
        .match_indices('#')
        .find(|(at, _)| value[..*at].ends_with(|before: char| before.is_whitespace()));
    comment.map_or(value, |(at, _)| &value[..at]).trim_end()
}

/// The value up to the closing quote, and the text behind it; `None` if there is none.
fn quoted_value(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            letter if letter == quote => return Some((value, &text[at + 1..])),
            '\\' => {
                let (_, escaped) = letters.next()?;
                match (quote, escaped) {
                    ('"', 'n') => value.push('\n'),
                    ('"', 'r') => value.push('\r'),
                    ('"', 't') => value.push('\t'),
                    ('"', '"' | '\\' | '$') | ('\'', '\'' | '\\') => value.push(escaped),
                    _ => value.extend(['\\', escaped]),
                }
            }
            letter => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String)> {
        let variables = parse(text).unwrap().into_iter();
        variables.map(|variable| (variable.name, variable.value)).collect()
    }

    #[test]
    fn values_are_read_as_docker_and_python_dotenv_read_them() {
        for (line, value) in [
            ("A=Hello there friend", "Hello there friend"),
            ("A=costs $5", "costs $5"),
            ("A=${HOME}", "${HOME}"),
            ("  export A = b  ", "b"),
            ("A=", ""),
            ("A=b # comment", "b"),
            ("A=b#c", "b#c"),
            ("A= # comment", ""),
            ("A=it's", "it's"),
            ("A=\"a \\\"b\\\" \\$5 \\n c\" # x", "a \"b\" $5 \n c"),
            ("A='a \"b\" $5 \\n'", "a \"b\" $5 \\n"),
            ("A='it\\'s'", "it's"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("\u{feff}A=b\r\n", "b"),
            ("A=first\nA=second", "second"),
            ("A=x=y", "x=y"),
        ] {
            assert_eq!(values(line), [("A".to_owned(), value.to_owned())], "{line}");
        }
        assert!(values("\n# comment\nJUST_A_NAME\n").is_empty());
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        for (text, line) in [
            ("A=b\nnot a name=c", 2),
            ("\n\n=b", 3),
            ("A=b\n1A=c", 2),
            ("A=\"b\nB=c", 1),
            ("A=\"b\nc\" d", 2),
            ("A='b' c", 1),
        ] {
            assert_eq!(parse(text).map_err(|(line, _)| line), Err(line), "{text}");
        }
    }

    #[test]
    fn a_quoted_value_is_itself_again() {
        for value in ["", "plain", "a \"b\" \\ $c #d\ne'f", "\\n"] {
            let quoted = quoted(value);
            let (read, rest) = quoted_value(&quoted[1..], '"').unwrap();
            assert_eq!((read.as_str(), rest), (value, ""));
        }
    }
}
