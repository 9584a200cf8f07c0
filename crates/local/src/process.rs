//! A server as a child process: waiting until it answers, stopping it, finding what an earlier process left.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, Result};

const POLL: Duration = Duration::from_millis(3);
/// A log that has grown past this is set aside when its server starts.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// Signals to send one after the other, each with the time the server has to end after it.
pub(crate) type Farewell = &'static [(Signal, Duration)];

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) log: PathBuf,
    child: Child,
    /// Where the log ended before this start; what came earlier explains nothing about it.
    log_start: u64,
    farewell: Farewell,
}

impl Process {
    pub(crate) fn new(
        name: &'static str,
        log: &Path,
        log_start: u64,
        child: Child,
        farewell: Farewell,
    ) -> Self {
        Process { name, log: log.to_owned(), child, log_start, farewell }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `probe` answers, the server ends, or the time is up.
    pub(crate) fn wait_until<T>(
        &mut self,
        limit: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.check()?;
            if let Some(answer) = probe() {
                return Ok(answer);
            }
            if start.elapsed() > limit {
                return Err(Error::Timeout {
                    server: self.name,
                    seconds: limit.as_secs(),
                    log: self.log.clone(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the program has ended by itself.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::io("watch", &self.log))? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(Error::Timeout {
                    server: self.name,
                    seconds: limit.as_secs(),
                    log: self.log.clone(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Fails if the server has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait().map_err(Error::io("watch", &self.log))?;
        let Some(status) = ended else { return Ok(()) };
        let text = self.log_text();
        if text.contains("No space left on device") {
            return Err(disk_full(&self.log, 0));
        }
        let reason = last_words(&text).unwrap_or_else(|| status.to_string());
        Err(Error::Ended { server: self.name, reason, log: self.log.clone() })
    }

    /// What the server wrote since this start, the last part of it.
    pub(crate) fn log_text(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(16 * 1024))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// Asks the server to end, more firmly each time, until it has.
    pub(crate) fn stop(&mut self) {
        for (signal, patience) in self.farewell {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), *signal);
            if wait_while(*patience, || matches!(self.child.try_wait(), Ok(None))) {
                return;
            }
        }
        self.kill9();
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for a condition to end; answers whether it did in time.
fn wait_while(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while condition() {
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// The line that explains best why a server ended: its last error, else its last line.
fn last_words(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling = ["FATAL", "PANIC", "ERROR", "rror:", "Can't", "Could not", "Failed"];
    let found = lines.iter().rev().find(|line| telling.iter().any(|word| line.contains(word)));
    found.or(lines.last()).map(|line| line.chars().take(300).collect())
}

/// Opens the log of a server for appending; answers it with its length before this start.
pub(crate) fn open_log(path: &Path) -> Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("log.1")).map_err(Error::io("set aside", path))?;
    }
    let file = File::options().create(true).append(true).open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    Ok((file, length))
}

/// Makes sure that the file system of `path` has `needed` bytes free for this process.
pub(crate) fn check_space(path: &Path, needed: u64) -> Result<()> {
    match free_bytes(path) {
        Some(free) if free < needed => Err(disk_full(path, needed)),
        _ => Ok(()),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

fn disk_full(path: &Path, needed: u64) -> Error {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    Error::DiskFull {
        path: path.to_owned(),
        free_mib: mib(free_bytes(path).unwrap_or(0)),
        needed_mib: mib(needed).max(1),
    }
}

/// Whether the process runs; one that has ended and waits for its parent does not.
pub(crate) fn is_running(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return false;
    }
    // "pid (name) S ..": the name may hold anything, so look behind its last bracket.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z') || rest.starts_with('X'))
}

/// Stops a server that an earlier process started in `dir` and that outlived it, then removes its pid file.
///
/// `ours` decides by process id whether it really is that server: after a crash the number can belong to anybody.
pub(crate) fn stop_leftover(
    name: &'static str,
    pid_file: &Path,
    farewell: Farewell,
    ours: impl Fn(Pid) -> bool,
) -> Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else { return Ok(()) };
    let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).filter(|pid| *pid > 1);
    if let Some(pid) = pid.map(Pid::from_raw)
        && is_running(pid)
        && ours(pid)
    {
        tracing::info!(server = name, pid = pid.as_raw(), "stopping a server that an earlier process left");
        let mut gone = false;
        for (signal, patience) in farewell.iter().chain(&[(Signal::SIGKILL, Duration::from_secs(5))]) {
            let _ = kill(pid, *signal);
            // One that was suspended would not see the signal.
            let _ = kill(pid, Signal::SIGCONT);
            gone = wait_while(*patience, || is_running(pid));
            if gone {
                break;
            }
        }
        if !gone {
            let log = pid_file.to_owned();
            let reason = format!("process {pid} of an earlier run cannot be stopped");
            return Err(Error::Ended { server: name, reason, log });
        }
    }
    match fs::remove_file(pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", pid_file)(error))
        }
        _ => Ok(()),
    }
}

/// Whether the working directory of a process is `dir`. False where the system does not tell.
pub(crate) fn works_in(pid: Pid, dir: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let theirs = identity(Path::new(&format!("/proc/{pid}/cwd")));
    theirs.is_some() && theirs == identity(dir)
}

/// Whether the command line of a process holds `marker`. Unlike its directory, any account may read that.
pub(crate) fn has_argument(pid: Pid, marker: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    /// A process that writes `text` to its log and ends.
    fn ended_with(text: &str) -> (tempfile::TempDir, Process) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("server.log");
        fs::write(&log, "FATAL: of an earlier start\n").unwrap();
        let (file, log_start) = open_log(&log).unwrap();
        let child = Command::new("printf").args(["%s", text]).stdout(file).spawn().unwrap();
        (dir, Process::new("server", &log, log_start, child, &[]))
    }

    fn wait_in_vain(text: &str) -> Error {
        let (_dir, mut process) = ended_with(text);
        process.wait_until(Duration::from_secs(10), || None::<()>).unwrap_err()
    }

    #[test]
    fn a_server_that_ends_is_explained_by_its_last_error() {
        let error = wait_in_vain("LOG: starting\nFATAL: no such setting\nLOG: shut down\n");
        assert!(
            matches!(&error, Error::Ended { reason, .. } if reason == "FATAL: no such setting"),
            "{error}"
        );
    }

    #[test]
    fn a_server_that_says_nothing_is_explained_by_its_exit() {
        let error = wait_in_vain("");
        assert!(matches!(&error, Error::Ended { reason, .. } if reason == "exit status: 0"), "{error}");
    }

    #[test]
    fn a_server_that_finds_no_room_ends_as_a_full_disk() {
        let error = wait_in_vain("PANIC: could not write to file: No space left on device\n");
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    }

    #[test]
    fn a_log_that_has_grown_large_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("server.log");
        File::create(&log).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        let (_, log_start) = open_log(&log).unwrap();
        assert_eq!(log_start, 0);
        assert_eq!(fs::metadata(dir.path().join("server.log.1")).unwrap().len(), LOG_LIMIT + 1);
    }
}
