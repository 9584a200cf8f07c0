//! Runs the backup command of the configuration in a folder of its own, and removes folders that are old.
//!
//! A folder counts as a backup once the command has ended well and all is on the disk: until then its name ends in `.partial`.
//! Of one that failed only what the command said is kept, so that a disk that was full has room for the next one.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use chrono::{DateTime, NaiveDateTime, Utc};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{fs, process::Child};

use crate::{Error, config::Backup, job::Job};

/// How a folder is named after its time, in UTC.
const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// Behind the name of a folder whose command has not ended well.
const PARTIAL: &str = "partial";
/// What the command prints.
const LOG: &str = "backup.log";
/// How much of its end an error tells.
const TOLD: usize = 1_000;
/// How long a command that is to end has for it.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let backup = &job.config().backup;
    let Some((program, arguments)) = backup.command.split_first() else {
        return Err(Error::NotConfigured("no backup is configured: `janitor.backup.command` is not set"));
    };
    let directory = backup.directory.as_deref();
    let directory = directory.ok_or(Error::NotConfigured("`janitor.backup.directory` is not set"))?;
    let now = Utc::now();
    if job.dry_run {
        job.add("backups", 1);
        job.add("removed", old(directory, backup, now).await?.len() as u64);
        return Ok(());
    }
    let name = now.format(STAMP).to_string();
    let (partial, whole) = (directory.join(format!("{name}.{PARTIAL}")), directory.join(&name));
    make_room(job, directory, backup, now).await?;
    fs::create_dir_all(&partial).await.map_err(|error| failed(&partial, &error))?;
    let ended = execute(job, program, arguments, &partial).await;
    if let Err(error) = ended {
        let said = said(&partial).await;
        if let Err(error) = clear(&partial).await {
            stays(&partial, &error);
        }
        return Err(Error::Failed(format!("{error}{said}")));
    }
    // What the command made stays where this fails, until a run as long after as a command may take.
    keep(directory, &partial, &whole).await?;
    let (files, bytes) = size(&whole).await.map_err(|error| failed(&whole, &error))?;
    job.add("backups", 1);
    job.add("files", files);
    job.add("bytes", bytes);
    for folder in old(directory, backup, Utc::now()).await? {
        fs::remove_dir_all(&folder).await.map_err(|error| failed(&folder, &error))?;
        job.add("removed", 1);
    }
    Ok(())
}

/// Removes what commands left that were cut off together with their janitor, all but what they said. This does not wait for a
/// backup that goes well: it may be what one lacks room for.
async fn make_room(
    job: &Job<'_>,
    directory: &Path,
    backup: &Backup,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let names = names(directory).await?;
    for name in given_up(&names, backup, now) {
        let folder = directory.join(name);
        if let Err(error) = clear(&folder).await {
            stays(&folder, &error);
        }
    }
    let old = too_old(names, backup, now);
    for name in old.iter().filter(|name| name.ends_with(PARTIAL)) {
        let folder = directory.join(name);
        match fs::remove_dir_all(&folder).await {
            Ok(()) => job.add("removed", 1),
            Err(error) => stays(&folder, &error),
        }
    }
    Ok(())
}

/// That something cannot be removed keeps no backup from being made.
fn stays(folder: &Path, error: &io::Error) {
    tracing::warn!(error = %failed(folder, error), "what a failed backup left cannot be removed");
}

/// Removes all that is in a folder but the log.
async fn clear(folder: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name() == LOG {
            continue;
        }
        if entry.file_type().await?.is_dir() {
            fs::remove_dir_all(entry.path()).await?;
        } else {
            fs::remove_file(entry.path()).await?;
        }
    }
    Ok(())
}

/// Gives a folder the name of a whole backup, once all that is in it is on the disk.
async fn keep(directory: &Path, partial: &Path, whole: &Path) -> Result<(), Error> {
    let (from, to, above) = (partial.to_owned(), whole.to_owned(), directory.to_owned());
    let kept = move || {
        sync(&from)?;
        std::fs::rename(&from, &to)?;
        std::fs::File::open(&above)?.sync_all()
    };
    let ended = tokio::task::spawn_blocking(kept).await;
    ended.map_err(io::Error::other).and_then(|kept| kept).map_err(|error| failed(whole, &error))
}

/// Writes the files and folders below a folder, and itself, to the disk, as far as this process may: the command can have made
/// files as somebody else.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            sync_one(&entry.path())?;
        }
    }
    sync_one(folder)
}

fn sync_one(path: &Path) -> io::Result<()> {
    match std::fs::File::open(path).and_then(|file| file.sync_all()) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) =>
        {
            tracing::warn!(error = %failed(path, &error), "a part of a backup is on the disk only when the system writes it");
            Ok(())
        }
        ended => ended,
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Failed(format!("{}: {error}", path.display()))
}

/// Runs the command to its end, for as long as it may take.
async fn execute(job: &Job<'_>, program: &str, arguments: &[String], folder: &Path) -> Result<(), Error> {
    let log = std::fs::File::create(folder.join(LOG)).map_err(|error| failed(folder, &error))?;
    let errors = log.try_clone().map_err(|error| failed(folder, &error))?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("RIACHO_BACKUP_DIR", folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // What it starts is ended with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::Failed(format!("the backup command {program:?} cannot be run: {error}")))?;
    let limit = Duration::from_secs(job.config().backup.time_limit_seconds);
    let ended = tokio::select! {
        ended = child.wait() => Ok(ended),
        () = tokio::time::sleep(limit) => Err(format!("was ended after {} s", limit.as_secs())),
        () = job.stopped() => Err("was ended, because the janitor stops".to_owned()),
    };
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Error::Failed(format!("the backup command ended with {}", told(status)))),
        Ok(Err(error)) => Err(Error::Failed(format!("the backup command cannot be waited for: {error}"))),
        Err(why) => {
            end(&mut child).await;
            Err(Error::Failed(format!("the backup command {why}")))
        }
    }
}

fn told(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// Ends the command with all that it started.
async fn end(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let signal = |signal| {
        // A group that is gone already needs no signal.
        let _ = group.map(|group| killpg(group, signal));
    };
    signal(Signal::SIGTERM);
    let _ = tokio::time::timeout(GRACE, child.wait()).await;
    signal(Signal::SIGKILL);
    let _ = child.wait().await;
}

/// The last words of the command.
async fn said(folder: &Path) -> String {
    let text = fs::read(folder.join(LOG)).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(TOLD)..]).into_owned();
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!("; it said: {text}") }
}

/// The files below a folder without the log, and their bytes.
async fn size(folder: &Path) -> io::Result<(u64, u64)> {
    let (mut folders, mut files, mut bytes) = (vec![folder.to_owned()], 0, 0);
    while let Some(folder) = folders.pop() {
        let mut entries = fs::read_dir(&folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let metadata = fs::symlink_metadata(entry.path()).await?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != LOG {
                files += 1;
                bytes += metadata.len();
            }
        }
    }
    Ok((files, bytes))
}

/// The folders that are older than backups are kept: of those that went well all but the newest, of others those whose
/// command cannot run any more. What is named otherwise is somebody else's.
async fn old(directory: &Path, backup: &Backup, now: DateTime<Utc>) -> Result<Vec<PathBuf>, Error> {
    let names = names(directory).await?;
    Ok(too_old(names, backup, now).into_iter().map(|name| directory.join(name)).collect())
}

async fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    let mut entries = match fs::read_dir(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(directory, &error))?,
    };
    while let Some(entry) = entries.next_entry().await.map_err(|error| failed(directory, &error))? {
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn stamp(name: &str) -> Option<DateTime<Utc>> {
    NaiveDateTime::parse_from_str(name, STAMP).ok().map(|time| time.and_utc())
}

/// When the command of a folder was begun that has not ended well.
fn begun(name: &str) -> Option<DateTime<Utc>> {
    stamp(name.strip_suffix(PARTIAL)?.strip_suffix('.')?)
}

/// The longest that a command runs.
fn longest(backup: &Backup) -> chrono::Duration {
    let limit = Duration::from_secs(backup.time_limit_seconds).saturating_add(2 * GRACE);
    chrono::Duration::seconds(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).min(i64::MAX / 2_000))
}

/// The folders of commands that have not ended well and cannot run any more.
fn given_up<'a>(names: &'a [String], backup: &Backup, now: DateTime<Utc>) -> Vec<&'a str> {
    let is_over = |name: &&str| begun(name).is_some_and(|time| time + longest(backup) < now);
    names.iter().map(String::as_str).filter(is_over).collect()
}

fn too_old(names: Vec<String>, backup: &Backup, now: DateTime<Utc>) -> Vec<String> {
    let kept = chrono::Duration::days(i64::from(backup.keep_days));
    let newest = names.iter().filter_map(|name| stamp(name)).max();
    let is_old = |name: &String| {
        stamp(name).is_some_and(|time| time + kept < now && Some(time) != newest)
            || begun(name).is_some_and(|time| time + longest(backup).max(kept) < now)
    };
    let mut old: Vec<String> = names.into_iter().filter(is_old).collect();
    old.sort();
    old
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_are_kept_for_their_days_and_the_newest_backup_for_ever() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (backup, now) = (Backup::default(), "2026-03-20T02:17:00Z".parse().unwrap());
        let all = names(&[
            "20260312T021700Z",
            "20260313T021700Z",
            "20260313T021659Z",
            "20260319T021700Z",
            "20260301T021700Z.partial",
            "20260319T021700Z.partial",
            "20250101",
            "notes.txt",
            "20260301T021700Z.tar",
        ]);
        assert_eq!(given_up(&all, &backup, now), ["20260301T021700Z.partial", "20260319T021700Z.partial"]);
        let old = too_old(all, &backup, now);
        assert_eq!(old, ["20260301T021700Z.partial", "20260312T021700Z", "20260313T021659Z"]);
        assert!(too_old(names(&["20250101T000000Z"]), &backup, now).is_empty(), "the only one stays");
    }
}
