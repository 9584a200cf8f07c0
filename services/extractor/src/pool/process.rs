//! A child process: how it is started, spoken to, and how the reason of its end is found.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    error::Error,
    wire::{MAX_JSON_BYTES, Ready, Tag},
};
use riacho_confine::{End, Input, Spawner};

/// How much of the process's last words is kept.
const LAST_WORDS_BYTES: usize = 4096;
/// How long a process may take to become ready: a busy machine loads libraries slowly.
const START: Duration = Duration::from_secs(30);
/// How long a process that closed its streams has to be gone.
const GRACE: Duration = Duration::from_secs(2);
/// Up to so many bytes travel with their header: one call, one wake-up of the child.
const TOGETHER_BYTES: usize = 64 << 10;

/// What went wrong in a conversation.
pub(super) enum Broken {
    /// The stream ended or failed.
    Stream,
    /// The time is up.
    Time,
    /// The answer breaks the rules.
    Rules,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken::Stream
    }
}

/// Why a process is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// It took too long.
    Time,
    /// It needed more memory than it may have.
    Memory,
    /// It crashed.
    Crash,
    /// Its answer broke the rules.
    Rules,
    /// A signal from outside ended it.
    ByOthers(i32),
}

/// A running child. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    last_words: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Process {
    /// Starts a process that is told `settings`, and waits until it is confined and ready.
    pub(super) async fn start(spawner: &Spawner, settings: &str) -> Result<(Self, Ready), Error> {
        let mut child = spawner.spawn(settings, Input::Piped).await.map_err(Error::Spawn)?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = streams else {
            return Err(Error::Spawn(io::ErrorKind::BrokenPipe.into()));
        };
        let last_words = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn(listen(errors, Arc::clone(&last_words)));
        let output = BufReader::with_capacity(64 << 10, output);
        let mut process = Self { child, input, output, last_words, listener };
        match timeout(START, process.frame(|_| u64::from(MAX_JSON_BYTES))).await {
            Ok(Ok((Tag::Ready, payload))) => {
                let ready = serde_json::from_slice(&payload).map_err(|error| Error::Spawn(error.into()))?;
                Ok((process, ready))
            }
            _ => Err(Error::Spawn(process.refusal().await)),
        }
    }

    /// Why the process did not become ready, in its own words.
    async fn refusal(&mut self) -> io::Error {
        let words = self.last_words().await.trim().to_owned();
        io::Error::other(if words.is_empty() { "it did not become ready".to_owned() } else { words })
    }

    /// What it said before it was gone.
    async fn last_words(&mut self) -> String {
        let _ = timeout(GRACE, &mut self.listener).await;
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).into_owned()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a header and the bytes that it announces.
    pub(super) async fn send(&mut self, header: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
        let header = serde_json::to_vec(header)?;
        let length = u32::try_from(header.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = length.to_le_bytes().to_vec();
        message.extend(header);
        if bytes.len() <= TOGETHER_BYTES {
            message.extend_from_slice(bytes);
            return self.input.write_all(&message).await;
        }
        self.input.write_all(&message).await?;
        self.input.write_all(bytes).await
    }

    /// The next frame. `most` says how long the payload of each kind may be.
    pub(super) async fn frame(&mut self, most: impl Fn(Tag) -> u64) -> Result<(Tag, Vec<u8>), Broken> {
        let tag = Tag::of(self.output.read_u8().await?).ok_or(Broken::Rules)?;
        let length = self.output.read_u32_le().await?;
        if u64::from(length) > most(tag) {
            return Err(Broken::Rules);
        }
        let mut payload = vec![0; length as usize];
        self.output.read_exact(&mut payload).await?;
        Ok((tag, payload))
    }

    /// Ends the process and finds out why it was to end.
    pub(super) async fn autopsy(&mut self, broken: Broken) -> Death {
        let status = match broken {
            Broken::Stream => timeout(GRACE, self.child.wait()).await.ok().and_then(Result::ok),
            Broken::Time | Broken::Rules => None,
        };
        if status.is_none() {
            // It has closed its streams, hangs, or lies.
            let _ = self.child.start_kill();
        }
        match (broken, status) {
            (Broken::Time, _) => Death::Time,
            (Broken::Stream, Some(status)) => match End::of(status, self.last_words()).await {
                End::Time => Death::Time,
                End::Memory => Death::Memory,
                End::ByOthers(signal) => Death::ByOthers(signal),
                End::Crash => Death::Crash,
            },
            _ => Death::Rules,
        }
    }
}

/// Keeps the last words of a process; they are looked at, not logged, since they may quote a document.
async fn listen(mut errors: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = errors.read(&mut buffer).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&buffer[..read]);
        let excess = words.len().saturating_sub(LAST_WORDS_BYTES);
        words.drain(..excess);
    }
}
