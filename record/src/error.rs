//! What can go wrong with the files of a run, in sentences that name the file.

use std::{io, path::PathBuf};

/// An error over the files of a run.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The operating system said no.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried, as in "write".
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// There is something where a new run should go.
    #[error("{} exists already; go on with it by `launcher resume {}`, or choose another --run", .0.display(), .0.display())]
    Exists(PathBuf),
    /// There is something where a new run should go, and it is no run.
    #[error("{} exists already and is not a run; choose another --run", .0.display())]
    InTheWay(PathBuf),
    /// Not the directory of a run.
    #[error("{} is not a run: it has no {missing}", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
        /// The first file that should be there.
        missing: &'static str,
    },
    /// A file that does not read as what it should be.
    #[error("{} is damaged or of another version: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that was written whole and is another now.
    #[error("{} was changed or damaged after it was written: its BLAKE3 is {found}, state.json says {expected}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The beginning of its hash.
        found: String,
        /// The beginning of the hash it was written with.
        expected: String,
    },
    /// A checkpoint that belongs elsewhere.
    #[error("{} is of run {found}, this is run {expected}", path.display())]
    OtherRun {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The run it is of.
        found: String,
        /// The run it was found in.
        expected: String,
    },
    /// The configuration does not hold.
    #[error("{}: {error}", path.display())]
    Config {
        /// run.toml.
        path: PathBuf,
        /// What is wrong with it.
        error: began::config::ConfigError,
    },
    /// Another coordinator holds the run.
    #[error("{} is in use by {holder}; only one coordinator can drive a run", path.display())]
    Locked {
        /// The run.
        path: PathBuf,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// The journal.
    #[error("journal {}: {error}", path.display())]
    Journal {
        /// run.db.
        path: PathBuf,
        /// SQLite's words.
        error: rusqlite::Error,
    },
}

impl RecordError {
    /// For `map_err`: an I/O error with what was tried on which file.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }

    /// Whether the journal is damaged, rather than not there, in use, or of another version.
    #[must_use]
    pub fn journal_damaged(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Self::Journal { error, .. } = self else { return false };
        matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn disk_full(&self) -> bool {
        match self {
            Self::Io { error, .. } => error.kind() == io::ErrorKind::StorageFull,
            Self::Journal { error, .. } => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}
