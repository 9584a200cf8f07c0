//! The files of a PostgreSQL cluster: made by initdb, copied, checked.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{FAREWELL, OWNER};
use crate::account::{self, Account};
use crate::process::{self, Process};
use crate::runtime::{POSTGRES_MAJOR, Runtime};
use crate::{Error, Result};

const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// What a cluster is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Checksums, and everything on the disk before it counts as made.
    Kept,
    /// As small and quick as it gets.
    Scratch,
}

/// Makes a cluster in `dir` unless there is one. It appears whole or not at all.
pub(crate) fn make_cluster(runtime: &Runtime, dir: &Path, log: &Path, durability: Durability) -> Result<()> {
    if dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    let account = account::for_cluster(dir)?;
    let fresh = with_suffix(dir, ".new");
    remove_tree(&fresh)?;
    make_private(&fresh, account.as_ref())?;
    run_initdb(runtime, &fresh, log, durability, account)?;
    // An empty directory of that name may be there; rename replaces it.
    fs::rename(&fresh, dir).map_err(Error::io("make", dir))
}

fn run_initdb(
    runtime: &Runtime,
    dir: &Path,
    log_path: &Path,
    durability: Durability,
    account: Option<Account>,
) -> Result<()> {
    let program = runtime.postgres_bin()?.join("initdb");
    if let Some(account) = &account {
        account.check_reach(&program)?;
    }
    let (log, log_start) = process::open_log(log_path)?;
    let errors = log.try_clone().map_err(Error::io("open", log_path))?;
    let mut command = command(&program, dir, account.is_some());
    // The built-in provider sorts by code point and knows upper and lower case of all of Unicode, on every system.
    command.args(["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]);
    // Whoever reaches the socket, in a directory of mode 0700, is the owner; on a port a password is asked.
    command.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--no-instructions"]);
    command.arg(format!("--username={OWNER}"));
    if durability == Durability::Scratch {
        command.args(["--no-sync", "--no-data-checksums", "--wal-segsize=1"]);
    }
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = super::spawn(command, account, Signal::SIGTERM, &program)?;
    let mut initdb = Process::new("initdb", log_path, log_start, child, FAREWELL);
    if initdb.wait_for_end(INITDB_LIMIT)?.success() {
        return Ok(());
    }
    // Makes an error of the end and of the last words in the log.
    initdb.check()
}

/// A command on a cluster, with no environment that could lead it elsewhere.
///
/// An account that root stepped down to may not be able to walk to the directory, only to stand in it.
pub(super) fn command(program: &Path, dir: &Path, steps_down: bool) -> Command {
    let mut command = Command::new(program);
    let data = if steps_down { Path::new("/proc/self/cwd") } else { dir };
    command.arg("-D").arg(data).current_dir(dir);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Refuses a cluster of another major version.
pub(super) fn check_version(dir: &Path) -> Result<()> {
    let path = dir.join("PG_VERSION");
    let found = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    if found.trim() == POSTGRES_MAJOR.to_string() {
        return Ok(());
    }
    Err(Error::DataVersion { dir: dir.to_owned(), found: found.trim().to_owned(), supported: POSTGRES_MAJOR })
}

/// A command-line argument by which the server of this very directory is known, wherever it was moved.
pub(super) fn marker(dir: &Path) -> Result<String> {
    let found = fs::metadata(dir).map_err(Error::io("read", dir))?;
    Ok(format!("cluster_name=riacho-{:x}-{:x}", found.dev(), found.ino()))
}

/// Removes the sockets of a server that was killed, with the lock files beside them.
///
/// PostgreSQL would refuse to start while any process has the number that stands in a lock file.
pub(super) fn remove_sockets(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Copies a stopped cluster, for the account that will run it.
pub(crate) fn copy_cluster(from: &Path, to: &Path) -> Result<()> {
    let account = account::for_cluster(to)?;
    make_private(to, account.as_ref())?;
    copy_tree(from, to, account.as_ref())
}

fn copy_tree(from: &Path, to: &Path, account: Option<&Account>) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::io("read", &source))?;
        if kind.is_dir() {
            make_private(&target, account)?;
            copy_tree(&source, &target, account)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
            give(&target, account)?;
        }
    }
    Ok(())
}

fn make_private(dir: &Path, account: Option<&Account>) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::io("make", dir)(error)),
        _ => {}
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(Error::io("protect", dir))?;
    give(dir, account)
}

fn give(path: &Path, account: Option<&Account>) -> Result<()> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw())).map_err(Error::io("hand over", path))
}

pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
