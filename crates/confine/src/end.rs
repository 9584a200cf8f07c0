//! The end of a child: what it says of itself, and what its parent makes of it.

use std::{
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use crate::OUT_OF_MEMORY_STATUS;

/// What Rust's allocator says last.
const NO_MEMORY: &str = "memory allocation of";

/// The whole life of a child. Call it first thing in `main`, before any thread is started.
#[must_use]
pub fn child_main(life: impl FnOnce() -> io::Result<()>) -> ExitCode {
    match life() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads the last words of a child that does not become ready.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a child is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It used up its CPU time.
    Time,
    /// It needed more memory than it may have.
    Memory,
    /// A signal from outside ended it.
    ByOthers(i32),
    /// It crashed.
    Crash,
}

impl End {
    /// Of the status that a child ended with, and its last words, which are asked for where the status does not tell.
    pub async fn of(status: ExitStatus, last_words: impl Future<Output = String>) -> End {
        match status.signal() {
            Some(libc::SIGXCPU) => End::Time,
            Some(signal @ (libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => {
                End::ByOthers(signal)
            }
            _ if status.code() == Some(OUT_OF_MEMORY_STATUS) => End::Memory,
            _ if last_words.await.contains(NO_MEMORY) => End::Memory,
            _ => End::Crash,
        }
    }
}
