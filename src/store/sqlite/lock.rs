//! The lock that keeps a second gateway off a database file.
//!
//! SQLite would admit one, and two gateways that each believe to be alone would answer every
//! turn twice. The lock is taken on the database file itself and not on a file beside it, so
//! that it holds under every name of the file: a symbolic link, a hard link, a bind mount.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

/// An exclusive `flock` on a database file. The operating system releases it when the process
/// ends, however it ends.
///
/// SQLite uses POSIX locks on the same file. Closing any descriptor of the file drops all POSIX
/// locks of the process, so the descriptor of this lock must be opened before the first
/// connection and closed after the last.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl FileLock {
    /// Locks the file, creating it if it is absent. It is readable by its owner alone, since it
    /// will hold conversations; SQLite gives its other files the same mode.
    ///
    /// # Errors
    /// One sentence for the operator: another gateway holds the lock, the file has several
    /// names, or it cannot be opened.
    pub(super) fn acquire(path: &Path) -> Result<Self, String> {
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|error| error.to_string())?;
            let lock = Self::try_lock(file)?;
            if lock.is_at(path) {
                check_names(&lock.0.metadata().map_err(|error| error.to_string())?)?;
                return Ok(lock);
            }
            // The file was replaced between the open and the lock: lock the new one.
        }
    }

    /// Locks an existing file for as long as it is being replaced.
    ///
    /// # Errors
    /// One sentence for the operator: a gateway holds the lock, or the file cannot be opened.
    pub(super) fn acquire_existing(path: &Path) -> Result<Self, String> {
        Self::try_lock(File::open(path).map_err(|error| error.to_string())?)
    }

    fn try_lock(file: File) -> Result<Self, String> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err("another gateway has it open".into()),
            Err(TryLockError::Error(error)) => return Err(error.to_string()),
        }
        Ok(Self(file))
    }

    fn is_at(&self, path: &Path) -> bool {
        let inode = |file: io::Result<Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
        inode(self.0.metadata()).is_some_and(|own| Some(own) == inode(fs::metadata(path)))
    }

    /// Releases the lock and keeps the descriptor open, for connections that still read.
    pub(super) fn release(&self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "failed to unlock the database file");
        }
    }
}

/// Refuses a file with several names. SQLite names its other files after the name that the file
/// was opened by, and would not find the changes that were made under another name.
///
/// # Errors
/// One sentence for the operator.
pub(super) fn check_names(file: &Metadata) -> Result<(), String> {
    match file.nlink() {
        0 | 1 => Ok(()),
        names => Err(format!(
            "it has {names} names (hard links), and changes made under one name are lost under \
             another; remove all names but one, or copy it with `duologue backup`"
        )),
    }
}
