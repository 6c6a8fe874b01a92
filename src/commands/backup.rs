//! The command `backup`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    failure::CommandFailure,
    print::{self, count},
};
use crate::store::SqliteFile;

/// Arguments of `backup`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Path of the copy
    file: PathBuf,

    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: &Arguments, path: &Path) -> Result<(), CommandFailure> {
    let file = SqliteFile::open(path)?;
    let bar = print::progress(0, "{wide_bar} {percent:>3} %  {eta} left");
    let copied = file.back_up(&arguments.file, arguments.force, |copied, all| {
        bar.set_length(all);
        bar.set_position(copied);
    })?;
    bar.finish_and_clear();
    let sessions = count(copied.sessions, "session");
    let size = bytesize::ByteSize(copied.size);
    print::report(&format!("{sessions}, {size}: {}", arguments.file.display()));
    Ok(())
}
