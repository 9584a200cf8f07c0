//! The directory of a test process's servers, which goes away when the process does, however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{AccessFlags, access};

use super::or_fail;
use crate::process::check_space;
use crate::{Error, Result};

/// Removes the directory once its standard input ends, which is when the process that holds the other end dies.
/// The servers die at the same moment and may still write for a little while.
const REMOVER: &str =
    r#"cat >/dev/null; n=0; until rm -rf "$1" 2>/dev/null || [ $n -ge 100 ]; do n=$((n+1)); sleep 0.1; done"#;

/// What a whole run of the tests stays far below.
const ROOM: u64 = 2 * 1024 * 1024 * 1024;

struct Scratch {
    dir: PathBuf,
    /// Never read: closing it, by exit or by crash, is the signal.
    _alive: Option<ChildStdin>,
}

/// A directory with a short path for the servers of this process.
pub(super) fn dir() -> &'static Path {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    &SCRATCH.get_or_init(|| or_fail("no directory for test servers", make())).dir
}

/// Memory if there is plenty: copying and dropping databases is five to ten times faster there than on a disk that
/// a compiler keeps busy. TMPDIR decides otherwise, unless it is too long a path for sockets.
fn parent() -> PathBuf {
    if std::env::var_os("TMPDIR").is_some_and(|dir| !dir.is_empty() && dir.len() <= 40) {
        return std::env::temp_dir();
    }
    let memory = Path::new("/dev/shm");
    let usable =
        memory.is_dir() && check_space(memory, ROOM).is_ok() && access(memory, AccessFlags::W_OK).is_ok();
    if usable { memory.to_owned() } else { PathBuf::from("/tmp") }
}

fn make() -> Result<Scratch> {
    let parent = parent();
    let made = tempfile::Builder::new()
        .prefix("riacho-test-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&parent);
    let dir = made.map_err(Error::io("make a directory in", &parent))?.keep();
    let mut remover = Command::new("/bin/sh");
    remover.args(["-c", REMOVER, "remover"]).arg(&dir).process_group(0);
    remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = remover.spawn().map_err(Error::io("start", Path::new("/bin/sh")))?;
    Ok(Scratch { dir, _alive: child.stdin.take() })
}
