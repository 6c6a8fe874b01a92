//! Why a store cannot be opened.

use std::{error, fmt, path::Path};

/// Why a store cannot be used: one sentence for the operator.
#[derive(Debug)]
pub struct OpenError {
    store: String,
    problem: String,
}

impl OpenError {
    /// Builds the sentence from the path of a file and the problem.
    pub(super) fn new(path: &Path, problem: impl fmt::Display) -> Self {
        Self::of_server(&path.display().to_string(), problem)
    }

    /// Builds the sentence from the address of a server, without a password, and the problem.
    pub(super) fn of_server(address: &str, problem: impl fmt::Display) -> Self {
        Self { store: address.to_owned(), problem: problem.to_string() }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use {}: {}", self.store, self.problem)
    }
}

impl error::Error for OpenError {}
