//! What the tests of the servers share: small clients, processes, and waiting.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use riacho_local::{Options, Runtime, Servers};
use tempfile::{TempDir, tempdir};

/// Options that start quickly.
pub(crate) fn options() -> Options {
    let small = [("shared_buffers", "16MB"), ("fsync", "off")];
    let settings = small.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options { postgres_settings: settings.to_vec(), ..Options::default() }
}

/// An empty directory, in memory if there is plenty: a disk that a compiler keeps busy takes seconds for initdb.
pub(crate) fn empty_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(memory)
        .map_or(0, |found| found.blocks_available() * found.fragment_size());
    if room > 2 << 30 { tempfile::tempdir_in(memory).unwrap() } else { tempdir().unwrap() }
}

/// A data directory in which both servers have run before: a copy of one that is made once for each test program,
/// because initdb takes most of the time of a first start.
pub(crate) fn data_dir() -> TempDir {
    static PREPARED: OnceLock<PathBuf> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        remove_stale(base);
        let dir = base.join(format!("prepared-{}", std::process::id()));
        let made = empty_dir();
        drop(Servers::start_blocking(made.path(), &options()).unwrap());
        copy(made.path(), &dir);
        dir
    });
    let dir = empty_dir();
    copy(prepared, dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Removes what test programs that have ended had prepared.
fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).unwrap().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("prepared-")?.parse().ok());
        if pid.is_some_and(|pid| !runs(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The answer of redis-server to one inline command, with line ends as spaces.
pub(crate) fn redis(socket: &Path, command: &str) -> String {
    ask_redis(socket, command).unwrap()
}

/// The same, of a redis-server that may be away.
pub(crate) fn ask_redis(socket: &Path, command: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.replace("\r\n", " ").trim_end_matches(" +OK ").to_owned())
}

/// The answer of PostgreSQL to a statement, or its error.
pub(crate) fn sql(url: &str, statement: &str) -> Result<String, String> {
    let psql = Runtime::find().postgres_bin().unwrap().join("psql");
    let output = Command::new(psql).args(["-XAtq", "-d", url, "-c", statement]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Waits until a condition holds, for ten seconds at most.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process runs; one that only waits for its parent to look at its end does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Another process that runs the servers of a data directory.
pub(crate) struct Owner {
    pub(crate) process: Child,
    pub(crate) status: serde_json::Value,
}

impl Owner {
    pub(crate) fn start(program: &Path, dir: &Path, prepare: impl FnOnce(&mut Command)) -> Owner {
        let mut command = Command::new(program);
        command.arg(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        prepare(&mut command);
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let status =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("the owner did not start: {line:?}"));
        Owner { process, status }
    }

    /// The process ids of redis-server and PostgreSQL.
    pub(crate) fn servers(&self) -> [u32; 2] {
        let pid = |server: &str| self.status["status"][server]["pid"].as_u64().unwrap();
        [pid("redis"), pid("postgres")].map(|pid| u32::try_from(pid).unwrap())
    }

    pub(crate) fn redis_socket(&self) -> PathBuf {
        self.status["status"]["redis"]["socket"].as_str().unwrap().into()
    }

    pub(crate) fn database_url(&self) -> &str {
        self.status["database_url"].as_str().unwrap()
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program of another owner.
pub(crate) fn owner_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_riacho-local"))
}
