//! The file: opening it, its settings, its schema and its migrations.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{durability::Durability, lock::FileLock, wal};
use crate::store::OpenError;

/// "DUO1", in the header of the file (SQLite file format, section 1.3.17).
const APPLICATION_ID: i32 = 0x4455_4f31;

/// "DUOL": the files of gateways before messages had parts. They have versions of their own and
/// are not migrated. Another id tells them apart, whatever their version.
const OLD_APPLICATION_ID: i32 = 0x4455_4f4c;

/// Each migration brings a file from the version of its index to the next (`user_version`).
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// In older versions, resetting a WAL could corrupt the file.
const OLDEST_LIBRARY: i32 = 3_051_003;

/// Longest time that a writer waits for another one: an operator command, a `VACUUM`.
const BUSY: Duration = Duration::from_secs(30);

/// The file, opened by its one writer.
pub(super) struct OpenedFile {
    pub(super) connection: Connection,
    /// Declared after the connection, so that it is closed after it. Readers share it.
    pub(super) lock: Arc<FileLock>,
}

/// Opens the file for its one writer.
pub(super) fn open(path: &Path, durability: Durability) -> Result<OpenedFile, OpenError> {
    let problem = |problem: &dyn fmt::Display| OpenError::new(path, problem);
    let version = rusqlite::version_number();
    if version < OLDEST_LIBRARY {
        return Err(problem(&format!(
            "the SQLite library is {version}, older than {OLDEST_LIBRARY}"
        )));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder).map_err(|error| problem(&error))?;
    }
    // Checked before the lock, which creates an absent file, and again under the lock.
    wal::check(&real_path(path)).map_err(|error| problem(&error))?;
    let lock = Arc::new(FileLock::acquire(path).map_err(|error| problem(&error))?);
    // SQLite derives the names of its other files from this name.
    let path = &real_path(path);
    wal::check(path).map_err(|error| problem(&error))?;
    let mut connection = Connection::open(path).map_err(|error| problem(&explain(&error)))?;
    prepare(&mut connection, durability).map_err(|error| problem(&error))?;
    Ok(OpenedFile { connection, lock })
}

/// Creates the folder if it does not exist, and syncs its parents: they hold the names of new
/// folders. SQLite syncs the folder of the file itself.
fn make_folder(folder: &Path) -> io::Result<()> {
    let is_named = |folder: &&Path| !folder.as_os_str().is_empty();
    let missing = folder.ancestors().filter(is_named).take_while(|folder| !folder.exists());
    let missing: Vec<_> = missing.collect();
    fs::create_dir_all(folder)?;
    for made in missing {
        let above = made.parent().filter(is_named).unwrap_or(Path::new("."));
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// Resolves symbolic links, as SQLite does.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the name of a file beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens the file for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("PRAGMA query_only = ON;")?;
        rusqlite::Result::Ok(connection)
    };
    open().map_err(|error| OpenError::new(path, explain(&error)))
}

/// Opens the file of a stopped or running gateway for changes.
pub(super) fn open_beside(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
        rusqlite::Result::Ok(connection)
    };
    open().map_err(|error| OpenError::new(path, explain(&error)))
}

/// Refuses a file of another version. A command does not migrate a file that a gateway may be
/// using.
pub(super) fn check_version(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let version = recognise(connection).map_err(|problem| OpenError::new(path, problem))?;
    match version {
        0 => Err(OpenError::new(path, "it is empty")),
        older if older < MIGRATIONS.len() => Err(OpenError::new(
            path,
            "it is of an older version; the gateway migrates it on the next start",
        )),
        _ => Ok(()),
    }
}

/// Returns a number that changes when another connection has written to the file.
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

fn prepare(connection: &mut Connection, durability: Durability) -> Result<(), String> {
    let known = |error: rusqlite::Error| explain(&error);
    connection.busy_timeout(BUSY).map_err(known)?;
    let version = recognise(connection)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Relaxed => "NORMAL",
    };
    connection
        .execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {synchronous};
             PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 67108864;"
        ))
        .map_err(known)?;
    migrate(connection, version).map_err(known)?;
    check_length(connection)
}

/// Checks the length of the file. SQLite notices a truncated file only when it reads a missing
/// page. The WAL is written back first: before that, the file may be shorter.
fn check_length(connection: &Connection) -> Result<(), String> {
    let number =
        |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    let expected = || {
        if !write_back(connection)? {
            return Ok(0);
        }
        rusqlite::Result::Ok(u64::from(number("page_count")?) * u64::from(number("page_size")?))
    };
    let expected = expected().map_err(|error| explain(&error))?;
    let path = connection.path().unwrap_or_default();
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length < expected {
        return Err(format!("it is damaged: {length} bytes long where {expected} are expected"));
    }
    Ok(())
}

/// Writes the WAL back into the file. Returns false if a reader of an older snapshot (a backup, an
/// export) prevented a part of it. Does not wait for readers.
pub(super) fn write_back(connection: &Connection) -> rusqlite::Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(1);
    connection.busy_timeout(PATIENCE)?;
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let all = connection.query_row(sql, [], |row| row.get::<_, i64>(0).map(|busy| busy == 0));
    connection.busy_timeout(BUSY)?;
    all
}

/// Returns the version of the file. Fails if the file is neither a store nor empty.
fn recognise(connection: &Connection) -> Result<usize, String> {
    let number =
        |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let read = || {
        let tables = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        rusqlite::Result::Ok((number("application_id")?, number("user_version")?, tables))
    };
    let (application, version, tables) = read().map_err(|error| explain(&error))?;
    if application == OLD_APPLICATION_ID {
        return Err(format!(
            "it is of an earlier version (schema {version}), whose messages have no parts: export \
             it with that version's `duologue sessions export`, and import that into a new file"
        ));
    }
    if application != APPLICATION_ID && (application, version, tables) != (0, 0, 0) {
        return Err("it is a database of something else".into());
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(format!(
            "its version is {version}; this gateway knows {} and older",
            MIGRATIONS.len()
        ));
    }
    Ok(version)
}

fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(
            None,
            "user_version",
            i32::try_from(index + 1).unwrap_or(i32::MAX),
        )?;
        transaction.commit()?;
    }
    Ok(())
}

/// Explains an error of the library to an operator.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it open".into()
        }
        Some(ErrorCode::NotADatabase) => "it is no SQLite database, or a damaged one".into(),
        Some(ErrorCode::DatabaseCorrupt) => "it is damaged".into(),
        Some(ErrorCode::ReadOnly) => "it cannot be written".into(),
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened; does the folder exist, and may it be written?".into()
        }
        Some(ErrorCode::DiskFull) => "the disk is full".into(),
        _ => error.to_string(),
    }
}
