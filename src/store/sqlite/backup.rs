//! A copy of the file, of one moment, while a gateway may write to it.
//!
//! By SQLite's own backup, under a read transaction: without one it begins anew with every
//! write of somebody else's, and never ends under load. Not `VACUUM INTO`, which sorts the
//! whole file anew and cannot say how far it is.

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

use super::{
    file::SqliteFile,
    lock::FileLock,
    schema::{self, OpenError},
};

/// Pages that are copied between two reports.
const STEP: i32 = 1024;

/// What a backup holds.
#[derive(Clone, Copy, Debug)]
pub struct BackupSummary {
    /// Sessions in it.
    pub sessions: u64,
    /// Its length, in bytes.
    pub size: u64,
}

impl SqliteFile {
    /// Copies the file, as it is at this moment, to another, readable by its owner alone. It
    /// is there under its name when it is whole and on disk, and not before. `report` is
    /// told pages: copied ones and all.
    ///
    /// # Errors
    /// One sentence for the operator: there is such a file already and `replace` is not
    /// set, it is no regular file or one of this one's own, a gateway runs on it, it cannot
    /// be written, or this one cannot be read.
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
        // Some of them may be changes that would be taken for the copy's own.
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

    /// One of the files that a gateway has on this one, there or not, which the copy or what
    /// is removed with it would take away.
    fn in_the_way_of(&self, to: &Path) -> Option<PathBuf> {
        // SQLite puts its files beside the file that a link leads to.
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
            // It is synced as a whole, and thrown away if anything fails before.
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

/// A store's file and all that lies beside it.
fn family(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|suffix| schema::beside(path, suffix))
}

/// Whether two names lead to one file, or would if it were there.
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

/// A file that is not whole yet; gone when dropped.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn make(to: &Path) -> io::Result<Self> {
        let path = schema::beside(to, &format!(".{}.partial", std::process::id()));
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path })
    }

    /// Gives it its name, once all of it is on disk; its length.
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
            // Unlike a renaming, it replaces nothing that has come meanwhile. Not every file
            // system knows a second name for a file.
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
        // Gone already if all went well.
        for suffix in ["", "-journal"] {
            drop(fs::remove_file(schema::beside(&self.path, suffix)));
        }
    }
}
