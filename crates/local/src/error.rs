//! What can go wrong with a private server, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a private server could not be found, started or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program or file of the runtime is in none of the places that are searched.
    #[error(
        "{what} not found (looked in {looked}); `make setup` brings it, or name its directory in RIACHO_RUNTIME_DIR"
    )]
    Missing {
        /// The file that is missing.
        what: String,
        /// The places that were searched.
        looked: String,
    },
    /// Another major version of PostgreSQL wrote the data directory.
    #[error("{} was written by PostgreSQL {found}, and this is PostgreSQL {supported}: dump it with version {found} and load it into a new data directory", dir.display())]
    DataVersion {
        /// The cluster's directory.
        dir: PathBuf,
        /// The major version that wrote it.
        found: String,
        /// The major version that is at hand.
        supported: u32,
    },
    /// Another process runs its servers on the data directory.
    #[error("the data directory {} is in use by process {owner}; stop that first or choose another directory", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds the lock, as it wrote itself down.
        owner: String,
    },
    /// Another program listens on a port that was asked for.
    #[error("port {port} for {server} is taken by another program; choose another port")]
    PortTaken {
        /// The server that wanted the port.
        server: &'static str,
        /// The port.
        port: u16,
    },
    /// The file system of the data directory has no room left.
    #[error("the disk of {} is full: {free_mib} MiB free, at least {needed_mib} MiB are needed", path.display())]
    DiskFull {
        /// A path on the file system.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What has to be free.
        needed_mib: u64,
    },
    /// PostgreSQL refuses to run as root, and there is no account to run it under.
    #[error("PostgreSQL refuses to run as root, and {0}")]
    Account(String),
    /// The account that PostgreSQL runs under cannot reach its program.
    #[error("PostgreSQL runs as {account} here and cannot reach {}: {} is closed to other accounts; run `make setup` again or `chmod o+x` it", path.display(), closed.display())]
    Unreachable {
        /// The account.
        account: String,
        /// What it has to reach.
        path: PathBuf,
        /// The directory that stops it.
        closed: PathBuf,
    },
    /// A directory belongs to somebody else.
    #[error("{} belongs to the user with id {owner}, not to this one; run as that user or choose another data directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// A server ended, or never started.
    #[error("{server} ended: {reason} (its log: {})", log.display())]
    Ended {
        /// The server.
        server: &'static str,
        /// The last thing it said.
        reason: String,
        /// Its log file.
        log: PathBuf,
    },
    /// A server runs but does not answer.
    #[error("{server} did not answer within {seconds} s (its log: {})", log.display())]
    Timeout {
        /// The server.
        server: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// Its log file.
        log: PathBuf,
    },
    /// A server answered a statement of this crate with an error.
    #[error("{server} refused: {message}")]
    Refused {
        /// The server.
        server: &'static str,
        /// The server's own words.
        message: String,
    },
    /// The operating system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether the same call can succeed later without anybody changing anything in this process.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Error::InUse { .. } | Error::PortTaken { .. } | Error::DiskFull { .. } | Error::Timeout { .. }
        )
    }

    /// Makes an adapter for `map_err` that adds what was tried and on which file.
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { what, path: path.to_owned(), source }
    }
}
