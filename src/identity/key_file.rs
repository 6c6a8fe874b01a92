//! The file of API keys. `duologue keys` writes it, the gateway reads it.
//!
//! It is TOML, one `[[key]]` table for each key, and holds no secrets: a key stands in it as its
//! SHA-256.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use super::api_key::{ApiKey, KeyHash};
use crate::session::{IdentityKind, Timestamp};

/// Longest name of a key.
const MAX_NAME: usize = 64;

/// Largest file, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// A stored key: all but its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The subject is `key:NAME`.
    pub name: String,
    /// The kind of the identity.
    pub kind: IdentityKind,
    /// The hash of the secret.
    pub hash: KeyHash,
    /// When the key was made.
    pub created_at: Timestamp,
    /// When it expires. `None`: not by itself.
    pub expires_at: Option<Timestamp>,
}

/// The file of API keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    kind: String,
    sha256: String,
    created_at: String,
    expires_at: Option<String>,
}

impl KeyFile {
    /// Names a file. It need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Returns the keys, in the order of the file. An absent file has none.
    ///
    /// # Errors
    /// One line that names the file and the problem.
    pub fn read(&self) -> Result<Vec<KeyRecord>, String> {
        let text = match fs::metadata(&self.path) {
            Ok(found) if found.len() > MAX_SIZE => return Err(self.problem("it is too large")),
            Ok(_) => fs::read_to_string(&self.path).map_err(|error| self.problem(error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.problem(error)),
        };
        let document: Document = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            self.problem(format_args!("line {line}: {}", error.message()))
        })?;
        let records = document.key.into_iter().map(KeyRecord::of_table);
        let records =
            records.collect::<Result<Vec<_>, _>>().map_err(|problem| self.problem(problem))?;
        let mut names = HashSet::new();
        match records.iter().find(|record| !names.insert(&record.name)) {
            Some(KeyRecord { name, .. }) => {
                Err(self.problem(format_args!("the name `{name}` stands twice")))
            }
            None => Ok(records),
        }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// One line: the name is taken or not valid, or the file cannot be read or written.
    pub fn add(
        &self,
        name: &str,
        kind: IdentityKind,
        expires_at: Option<Timestamp>,
    ) -> Result<ApiKey, String> {
        check_name(name)?;
        let key = ApiKey::generate();
        self.change(|records| {
            if records.iter().any(|record| record.name == name) {
                return Err(format!("there is a key `{name}` already"));
            }
            records.push(KeyRecord {
                name: name.into(),
                kind,
                hash: key.hash(),
                created_at: Timestamp::of_wall_clock(),
                expires_at,
            });
            Ok(())
        })?;
        Ok(key)
    }

    /// Removes a key by its name.
    ///
    /// # Errors
    /// One line: there is no such key, or the file cannot be read or written.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        self.change(|records| match records.iter().position(|record| record.name == name) {
            Some(place) => {
                records.remove(place);
                Ok(())
            }
            None => Err(format!("there is no key `{name}` in {}", self.path.display())),
        })
    }

    /// Replaces the file, under a lock that excludes other changes.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<KeyRecord>) -> Result<(), String>,
    ) -> Result<(), String> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| self.problem(error))?;
        }
        let lock = self.beside(".lock");
        let lock = File::options().create(true).append(true).mode(0o600).open(lock);
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
        let _lock = lock.map_err(|error| self.problem(error))?;
        let mut records = self.read()?;
        change(&mut records)?;
        self.replace(&written(&records)).map_err(|error| self.problem(error))
    }

    /// Replaces the file in one step: a reader sees the old or the new one.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.beside(".new");
        let mut file =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn problem(&self, problem: impl std::fmt::Display) -> String {
        format!("cannot use {}: {problem}", self.path.display())
    }
}

/// Checks the name of a key: it becomes a part of the subject.
fn check_name(name: &str) -> Result<(), String> {
    let is_valid =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_valid) {
        return Err(format!(
            "invalid name `{name}`: expected 1 to {MAX_NAME} of a-z, 0-9, `-`, `_` and `.`"
        ));
    }
    Ok(())
}

impl KeyRecord {
    fn of_table(table: Table) -> Result<Self, String> {
        let Table { name, kind, sha256, created_at, expires_at } = table;
        check_name(&name)?;
        let invalid = |what: &str| format!("the {what} of the key `{name}` is not valid");
        let time = |text: &str| {
            humantime::parse_rfc3339(text).map(Timestamp::from).map_err(|_| invalid("time"))
        };
        Ok(Self {
            kind: parse_kind(&kind).ok_or_else(|| invalid("kind"))?,
            hash: KeyHash::parse(&sha256).ok_or_else(|| invalid("sha256"))?,
            created_at: time(&created_at)?,
            expires_at: expires_at.as_deref().map(time).transpose()?,
            name,
        })
    }
}

/// Returns the kind of this name.
pub(super) fn parse_kind(name: &str) -> Option<IdentityKind> {
    match name {
        "user" => Some(IdentityKind::User),
        "service" => Some(IdentityKind::Service),
        _ => None,
    }
}

const fn kind_name(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::User => "user",
        IdentityKind::Service => "service",
    }
}

fn written(records: &[KeyRecord]) -> String {
    let mut text = String::from("# API keys. `duologue keys` changes this file.\n");
    for KeyRecord { name, kind, hash, created_at, expires_at } in records {
        let (kind, hash, created_at) = (kind_name(*kind), hash.to_hex(), rfc3339(*created_at));
        // Writing to a `String` cannot fail. No value needs escapes.
        let _ = write!(
            text,
            "\n[[key]]\nname = \"{name}\"\nkind = \"{kind}\"\nsha256 = \"{hash}\"\ncreated_at = \"{created_at}\"\n"
        );
        if let Some(expires_at) = expires_at {
            let _ = writeln!(text, "expires_at = \"{}\"", rfc3339(*expires_at));
        }
    }
    text
}

fn rfc3339(time: Timestamp) -> String {
    humantime::format_rfc3339_millis(SystemTime::from(time)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, KeyFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(&folder.path().join("new/keys.toml"));
        (folder, file)
    }

    #[test]
    fn keys_are_read_as_they_were_written_and_the_file_holds_no_secret() {
        let (_folder, file) = file();
        assert_eq!(file.read(), Ok(Vec::new()));
        let soon = Timestamp::from_millis(1_900_000_000_000);
        let key = file.add("web", IdentityKind::Service, Some(soon)).unwrap();
        file.add("ada", IdentityKind::User, None).unwrap();
        let records = file.read().unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].hash, records[0].expires_at), (key.hash(), Some(soon)));
        assert_eq!((records[1].kind, records[1].expires_at), (IdentityKind::User, None));
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(!text.contains(key.expose()) && !text.contains(&key.expose()[3..]));
        file.remove("web").unwrap();
        assert_eq!(file.read().unwrap(), records[1..]);
    }

    #[test]
    fn names_are_unique_and_of_a_few_characters() {
        let (_folder, file) = file();
        file.add("web", IdentityKind::User, None).unwrap();
        assert!(file.add("web", IdentityKind::Service, None).is_err_and(|it| it.contains("`web`")));
        for wrong in ["", "a b", "a/b", "A", "é", "a\"b", "a\n", &"a".repeat(65)] {
            assert!(file.add(wrong, IdentityKind::User, None).is_err(), "{wrong:?}");
        }
        assert!(file.remove("other").is_err());
        assert_eq!(file.read().unwrap().len(), 1);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_name_and_the_line() {
        let (_folder, file) = file();
        file.add("web", IdentityKind::User, None).unwrap();
        let right = fs::read_to_string(&file.path).unwrap();
        for (from, to, problem) in [
            ("[[key]]", "[[keys]]", "line 3"),
            ("\"user\"", "\"admin\"", "the kind of the key `web`"),
            ("sha256 = \"", "sha256 = \"x", "the sha256 of the key `web`"),
            ("created_at = \"", "created_at = \"x", "the time of the key `web`"),
            ("name = \"web\"", "name = \"a b\"", "invalid name"),
            ("name = ", "name ", "line 4"),
        ] {
            fs::write(&file.path, right.replace(from, to)).unwrap();
            let line = file.read().unwrap_err();
            assert!(line.contains(problem) && line.contains("keys.toml"), "{line}");
        }
        fs::write(&file.path, format!("{right}{right}")).unwrap();
        assert!(file.read().is_err_and(|line| line.contains("stands twice")));
    }
}
