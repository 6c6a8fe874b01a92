//! A copy of the file as of one moment, while a gateway may write to it.
//!
//! Uses SQLite's backup API under a read transaction. Without the transaction a backup restarts at
//! every write of another connection, and never ends under load. `VACUUM INTO` would sort the whole
//! file and report no progress.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{file::SqliteFile, lock::FileLock, schema};
use crate::store::OpenError;

/// Pages that are copied between two reports.
const STEP: i32 = 1024;

/// The content of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupSummary {
    /// Number of sessions.
    pub sessions: u64,
    /// Size in bytes.
    pub size: u64,
}

impl SqliteFile {
    /// Copies the file to `to`, as of this moment. Only the owner can read the copy. It appears
    /// under its name once it is complete and on disk. `report` receives the number of copied pages
    /// and of all pages.
    ///
    /// # Errors
    /// One sentence for the operator: `to` exists and `replace` is false, `to` is not a regular
    /// file, belongs to this file, is in use by a gateway or cannot be written, or this file cannot
    /// be read.
    pub fn back_up(
        &self,
        to: &Path,
        replace: bool,
        report: impl Fn(u64, u64),
    ) -> Result<BackupSummary, OpenError> {
        // Held until the target is replaced.
        let _lock = self.check_target(to, replace)?;
        let partial = Partial::make(to).map_err(|error| OpenError::new(to, error))?;
        let sessions = self.copy(&partial.path, report)?;
        let size = partial.finish(to, replace).map_err(|error| OpenError::new(to, error))?;
        Ok(BackupSummary { sessions, size })
    }

    fn check_target(&self, to: &Path, replace: bool) -> Result<Option<FileLock>, OpenError> {
        let refuse = |problem: &str| Err(OpenError::new(to, problem));
        if is_same(to, &self.path) {
            return refuse("it is the file itself");
        }
        if let Some(own) = self.in_the_way_of(to) {
            return refuse(&format!(
                "it would replace {}, which belongs to the file",
                own.display()
            ));
        }
        // A WAL that lies there would be taken for that of the copy.
        if !family(to).iter().any(|path| path.exists()) {
            return Ok(None);
        }
        if fs::metadata(to).is_ok_and(|there| !there.is_file()) {
            return refuse("it is no regular file");
        }
        if !replace {
            return refuse("it exists already; --force replaces it");
        }
        if !to.exists() {
            return Ok(None);
        }
        // A file must not be replaced under a gateway that runs on it.
        match FileLock::acquire_existing(to) {
            Ok(lock) => Ok(Some(lock)),
            Err(problem) => refuse(&problem),
        }
    }

    /// Returns the file of this store that the copy, or a removal that comes with it, would
    /// destroy.
    fn in_the_way_of(&self, to: &Path) -> Option<PathBuf> {
        // SQLite creates its other files beside the target of a symbolic link.
        let real = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let own = [family(&self.path), family(&real)].concat();
        let taken = family(to);
        own.into_iter().find(|own| taken.iter().any(|taken| is_same(taken, own)))
    }

    fn copy(&self, to: &Path, report: impl Fn(u64, u64)) -> Result<u64, OpenError> {
        let moment = self.moment().map_err(|error| self.open_error(&error))?;
        let sessions = self.count().map_err(|error| self.open_error(&error))?;
        let copy = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut target = Connection::open_with_flags(to, flags)?;
            // The copy is synced as a whole, and removed if anything fails before.
            target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;")?;
            let backup = Backup::new(&moment, &mut target)?;
            loop {
                let step = backup.step(STEP)?;
                let progress = backup.progress();
                let pages = |count: i32| u64::try_from(count).unwrap_or(0);
                let (all, left) = (pages(progress.pagecount), pages(progress.remaining));
                report(all.saturating_sub(left), all);
                if step == StepResult::Done {
                    return rusqlite::Result::Ok(());
                }
            }
        };
        copy().map_err(|error| OpenError::new(to, schema::explain(&error)))?;
        Ok(sessions)
    }
}

/// Returns the database file and the files that SQLite creates beside it.
fn family(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|suffix| schema::beside(path, suffix))
}

/// Returns true if two names lead to one file, or would if it existed.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let name =
        |path: &Path| Some((fs::canonicalize(folder(path)).ok()?, path.file_name()?.to_owned()));
    file(one).is_some_and(|one| Some(one) == file(other))
        || name(one).is_some_and(|one| Some(one) == name(other))
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// An incomplete file. Removed when dropped.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn make(to: &Path) -> io::Result<Self> {
        let path = schema::beside(to, &format!(".{}.partial", std::process::id()));
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path })
    }

    /// Syncs the file and gives it its name. Returns its size in bytes.
    fn finish(&self, to: &Path, replace: bool) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        file.sync_all()?;
        if replace {
            for suffix in ["-wal", "-shm", "-journal"] {
                match fs::remove_file(schema::beside(to, suffix)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, to)?;
        } else {
            // Unlike a rename, a hard link does not replace a file that was created meanwhile. Not
            // every file system supports hard links.
            match fs::hard_link(&self.path, to) {
                Ok(()) => fs::remove_file(&self.path)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) => fs::rename(&self.path, to)?,
            }
        }
        File::open(folder(to))?.sync_all()?;
        Ok(file.metadata()?.len())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a success the file is gone already.
        for suffix in ["", "-journal"] {
            drop(fs::remove_file(schema::beside(&self.path, suffix)));
        }
    }
}
