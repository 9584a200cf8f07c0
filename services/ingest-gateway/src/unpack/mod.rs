//! Archives of strangers, unpacked in a child process that can do nothing else.
//!
//! The archive is a file that the child reads; its files come back over the child's standard output, one
//! after the other. What the child says is checked: it may have been taken over.

mod child;
mod tar;
mod wire;
mod zip;

use std::{fs::File, io, path::PathBuf, time::Duration};

use bytes::Bytes;
use riacho_confine::{End, Input, Spawner};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, BufReader},
    process::{Child, ChildStderr, ChildStdout},
    time::timeout,
};

pub(crate) use self::wire::{Entry, Format, Limits, Skipped, Wrong};
use self::wire::{MAX_JSON_BYTES, MAX_NAME_BYTES, PIECE_BYTES, Settings, Tag};
pub use self::{child::child_main, wire::SUBCOMMAND};

/// How long a child may say nothing while it is listened to.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a child that closed its streams has to be gone.
const GRACE: Duration = Duration::from_secs(2);
/// CPU time of every archive, and how much of it is unpacked in a second at the least.
const CPU: (u64, u64) = (30, 8 << 20);
/// How much of a child's last words is read.
const LAST_WORDS_BYTES: u64 = 4096;

/// Starts the children.
#[derive(Debug)]
pub(crate) struct Unpacker {
    spawner: Spawner,
    memory_bytes: u64,
}

/// Why nothing more comes from a child.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// No child could be started.
    #[error("no process that unpacks could be started: {0}")]
    Start(String),
    /// It needed more memory than it may have.
    #[error("unpacking needs more memory than it may have")]
    Memory,
    /// It took too long.
    #[error("unpacking took too long")]
    Time,
    /// It crashed, or said what cannot be.
    #[error("unpacking crashed")]
    Crash,
    /// It was ended from outside.
    #[error("the process that unpacks was ended by signal {0}")]
    ByOthers(i32),
}

/// What a child says.
#[derive(Debug)]
pub(crate) enum Frame {
    Entry(Entry),
    Bytes(Bytes),
    End,
    Refused(Wrong),
    Failed(Wrong),
    Done,
}

impl Unpacker {
    /// Must be called inside a Tokio runtime.
    pub(crate) fn new(command: Vec<PathBuf>, memory_bytes: u64) -> io::Result<Self> {
        Ok(Self { spawner: Spawner::start(command, SUBCOMMAND)?, memory_bytes })
    }

    /// Begins to unpack an archive.
    pub(crate) async fn start(
        &self,
        archive: File,
        format: Format,
        limits: Limits,
    ) -> Result<Unpacking, Broken> {
        let settings = Settings {
            parent: std::process::id(),
            memory_bytes: self.memory_bytes,
            cpu_seconds: CPU.0 + limits.max_unpacked_bytes / CPU.1,
            format,
            limits,
        };
        let failed = |error: &dyn std::fmt::Display| Broken::Start(error.to_string());
        let settings = serde_json::to_string(&settings).map_err(|error| failed(&error))?;
        let started = self.spawner.spawn(&settings, Input::File(archive)).await;
        let mut child = started.map_err(|error| failed(&error))?;
        let (Some(output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&"it has no streams"));
        };
        let mut output = BufReader::with_capacity(2 * PIECE_BYTES, output);
        match timeout(SILENCE, frame(&mut output)).await {
            Ok(Ok((Tag::Ready, _))) => Ok(Unpacking { child, output, errors, told: Told::new(limits) }),
            Err(_) => Err(failed(&"it did not become ready")),
            Ok(_) => Err(failed(&last_words(&mut errors).await)),
        }
    }
}

/// A child at work. Dropping it kills it.
pub(crate) struct Unpacking {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: ChildStderr,
    told: Told,
}

impl Unpacking {
    /// What the child says next.
    pub(crate) async fn next(&mut self) -> Result<Frame, Broken> {
        let (tag, payload) = match timeout(SILENCE, frame(&mut self.output)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(Broken::Crash),
            Ok(Err(_)) => return Err(self.autopsy().await),
            Err(_) => return Err(Broken::Time),
        };
        match tag {
            Tag::Ready => Err(Broken::Crash),
            Tag::Entry => self.told.entry(json(&payload)?).map(Frame::Entry),
            Tag::Bytes => self.told.bytes(payload.into()).map(Frame::Bytes),
            Tag::End => Ok(Frame::End),
            Tag::Refused => Ok(Frame::Refused(json(&payload)?)),
            Tag::Failed => Ok(Frame::Failed(json(&payload)?)),
            Tag::Done => Ok(Frame::Done),
        }
    }

    /// Why the child is no more.
    async fn autopsy(&mut self) -> Broken {
        let Ok(Ok(status)) = timeout(GRACE, self.child.wait()).await else { return Broken::Crash };
        match End::of(status, last_words(&mut self.errors)).await {
            End::Time => Broken::Time,
            End::Memory => Broken::Memory,
            End::ByOthers(signal) => Broken::ByOthers(signal),
            End::Crash => Broken::Crash,
        }
    }
}

/// What a child told so far. It keeps its limits itself, but may have been taken over.
#[derive(Debug)]
struct Told {
    limits: Limits,
    last_entry: u64,
    of_file: u64,
    of_all: u64,
}

impl Told {
    fn new(limits: Limits) -> Self {
        Self { limits, last_entry: 0, of_file: 0, of_all: 0 }
    }

    fn entry(&mut self, entry: Entry) -> Result<Entry, Broken> {
        let is_next = entry.number > self.last_entry && entry.number <= self.limits.max_entries;
        if !is_next || entry.name.len() > MAX_NAME_BYTES {
            return Err(Broken::Crash);
        }
        (self.last_entry, self.of_file) = (entry.number, 0);
        Ok(entry)
    }

    fn bytes(&mut self, piece: Bytes) -> Result<Bytes, Broken> {
        self.of_file += piece.len() as u64;
        self.of_all += piece.len() as u64;
        let is_over =
            self.of_file > self.limits.max_file_bytes || self.of_all > self.limits.max_unpacked_bytes;
        // Without bytes it could go on for ever.
        if is_over || piece.is_empty() { Err(Broken::Crash) } else { Ok(piece) }
    }
}

/// What a child said before it was gone.
async fn last_words(errors: &mut ChildStderr) -> String {
    let mut words = Vec::new();
    let _ = timeout(GRACE, errors.take(LAST_WORDS_BYTES).read_to_end(&mut words)).await;
    String::from_utf8_lossy(&words).trim().to_owned()
}

async fn frame(output: &mut BufReader<ChildStdout>) -> io::Result<(Tag, Vec<u8>)> {
    let tag = Tag::of(output.read_u8().await?).ok_or(io::ErrorKind::InvalidData)?;
    let length = output.read_u32_le().await? as usize;
    let most = if tag == Tag::Bytes { PIECE_BYTES } else { MAX_JSON_BYTES };
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    output.read_exact(&mut payload).await?;
    Ok((tag, payload))
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(payload).map_err(|_| Broken::Crash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_tells_more_than_it_may_is_not_believed() {
        let limits = Limits { max_entries: 3, max_file_bytes: 10, max_unpacked_bytes: 15 };
        let entry =
            |number, length| Entry { number, name: "n".repeat(length), is_whole: true, skipped: None };
        let mut told = Told::new(limits);
        let piece = |length| Bytes::from(vec![0; length]);
        assert!(told.entry(entry(1, 5)).is_ok() && told.bytes(piece(10)).is_ok());
        assert!(told.bytes(piece(1)).is_err(), "of a file");
        assert!(told.entry(entry(1, 5)).is_err() && told.entry(entry(0, 5)).is_err(), "numbers rise");
        assert!(told.entry(entry(3, MAX_NAME_BYTES)).is_ok() && told.bytes(piece(0)).is_err());
        assert!(told.bytes(piece(9)).is_err(), "of all files");
        assert!(told.entry(entry(4, 5)).is_err() && Told::new(limits).entry(entry(1, 3_000)).is_err());
    }
}
