//! Child processes that meet foreign bytes: how a parent starts them, and what a child takes from itself
//! before it reads the first byte.
//!
//! A child is the same binary with a hidden argument. It has no environment, no file but its standard
//! streams, no network, and limits on memory and CPU time. What the two say to each other is theirs.

mod end;
mod limits;
mod spawner;

use std::{io, path::PathBuf};

pub use end::{End, child_main};
pub use limits::{allow_cpu, cpu_used, limit};
pub use spawner::{Input, Spawner};

/// The status of a child that ran out of memory.
const OUT_OF_MEMORY_STATUS: i32 = 86;

/// Foreign files nest deeply, and the parsers of some formats recurse.
const STACK_BYTES: usize = 128 << 20;

/// Closes the last door, and works on a thread with a stack that is deep enough. [`limit`] comes first, and
/// what needs files (loading a library) between the two.
///
/// # Errors
///
/// When the process cannot be confined, the work panicked, or what the work says.
pub fn behind_closed_doors(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    limits::close_doors()
        .map_err(|error| io::Error::other(format!("the filter of system calls cannot be set: {error}")))?;
    // A panic's words may quote the document; the parent learns of it by the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?;
    worker.join().map_err(|_| io::Error::other("the child panicked"))?
}

/// The running program itself, even where its file was replaced by another version meanwhile.
///
/// # Errors
///
/// When it has no path.
pub fn own_program() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok(PathBuf::from("/proc/self/exe")),
        false => std::env::current_exe(),
    }
}
