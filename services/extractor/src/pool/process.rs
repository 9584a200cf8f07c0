//! One parser process: a document goes in, an answer comes out, or the reason of its end.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use riacho_domain::ReasonCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    task::JoinHandle,
    time::timeout,
};

use super::{Config, Spawner, clock::Clock, time_limit};
use crate::{
    error::Error,
    extracted::{Extracted, Failure, Outline},
    wire::{MAX_JSON_BYTES, OUT_OF_MEMORY_STATUS, Ready, Request, Tag},
};

/// How much of the process's last words is kept.
const LAST_WORDS_BYTES: usize = 4096;
/// How long a process may take to become ready: a busy machine loads libraries slowly.
const START: Duration = Duration::from_secs(30);
/// How long a process that closed its streams has to be gone.
const GRACE: Duration = Duration::from_secs(2);

/// Why a process ended in the middle of a document.
pub(super) enum Ended {
    /// The document did it.
    ByDocument(Failure),
    /// A signal from outside did it.
    ByOthers(i32),
}

/// A running parser process. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    last_words: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
    served: u32,
    ready: Ready,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What went wrong in a conversation.
enum Broken {
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

impl Process {
    /// Starts a process and waits until it is confined and ready.
    pub(super) async fn start(spawner: &Spawner, config: &Config) -> Result<Self, Error> {
        let mut child = spawner.spawn().await.map_err(Error::Spawn)?;
        crate::metrics::parser_started();
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = streams else {
            return Err(Error::Spawn(io::ErrorKind::BrokenPipe.into()));
        };
        let last_words = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn(listen(errors, Arc::clone(&last_words)));
        let output = BufReader::with_capacity(64 << 10, output);
        let ready = Ready::default();
        let mut process = Self { child, input, output, last_words, listener, served: 0, ready };
        match timeout(START, process.frame(config)).await {
            Ok(Ok((Tag::Ready, payload))) => {
                process.ready =
                    serde_json::from_slice(&payload).map_err(|error| Error::Spawn(error.into()))?;
                Ok(process)
            }
            _ => Err(Error::Spawn(process.refusal().await)),
        }
    }

    /// Why the process did not become ready, in its own words.
    async fn refusal(&mut self) -> io::Error {
        let _ = timeout(GRACE, &mut self.listener).await;
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        io::Error::other(if words.is_empty() { "it did not become ready".to_owned() } else { words })
    }

    /// Why it cannot read PDF files, although a library was named.
    pub(super) fn pdfium_error(&self) -> Option<&str> {
        self.ready.pdfium_error.as_deref()
    }

    pub(super) fn served(&self) -> u32 {
        self.served
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) async fn parse(
        &mut self,
        filename: &str,
        bytes: &Bytes,
        config: &Config,
        on_page: &mut (impl FnMut(u32, u32) + Send),
    ) -> Result<Result<Extracted, Failure>, Ended> {
        if bytes.len() as u64 > config.limits.max_file_bytes {
            let message = format!(
                "the file has {} bytes; at most {} are taken",
                bytes.len(),
                config.limits.max_file_bytes
            );
            return Ok(Err(Failure::new(ReasonCode::TooLarge, message)));
        }
        self.served += 1;
        match self.converse(filename, bytes, config, on_page).await {
            Ok(answer) => Ok(answer),
            Err(broken) => Err(self.autopsy(broken, config).await),
        }
    }

    async fn converse(
        &mut self,
        filename: &str,
        bytes: &Bytes,
        config: &Config,
        on_page: &mut (impl FnMut(u32, u32) + Send),
    ) -> Result<Result<Extracted, Failure>, Broken> {
        let mut clock = Clock::new(time_limit(config, 0));
        clock.within(self.send(filename, bytes)).await.ok_or(Broken::Time)??;
        let mut text = None;
        loop {
            match clock.within(self.frame(config)).await.ok_or(Broken::Time)?? {
                (Tag::Progress, payload) => {
                    let numbers = payload.as_chunks::<4>().0;
                    let [done, total] = numbers else { return Err(Broken::Rules) };
                    let (done, total) = (u32::from_le_bytes(*done), u32::from_le_bytes(*total));
                    if total > config.limits.max_pages || done > total {
                        return Err(Broken::Rules);
                    }
                    clock.set_limit(time_limit(config, total));
                    on_page(done, total);
                }
                (Tag::Ready, _) => return Err(Broken::Rules),
                (Tag::Text, payload) => text = Some(String::from_utf8(payload).map_err(|_| Broken::Rules)?),
                (Tag::Outline, payload) => {
                    let outline: Outline = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    let extracted = Extracted { text: text.ok_or(Broken::Rules)?, outline };
                    return if extracted.is_sound() { Ok(Ok(extracted)) } else { Err(Broken::Rules) };
                }
                (Tag::Failure, payload) => {
                    let failure: Failure = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    return Ok(Err(readable(&failure)));
                }
            }
        }
    }

    async fn send(&mut self, filename: &str, bytes: &Bytes) -> io::Result<()> {
        let request = Request { filename: filename.to_owned(), size: bytes.len() as u64 };
        let header = serde_json::to_vec(&request)?;
        let length = u32::try_from(header.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = length.to_le_bytes().to_vec();
        message.extend(header);
        // A small file travels with its header: one call, one wake-up of the child.
        if bytes.len() <= 64 << 10 {
            message.extend_from_slice(bytes);
            return self.input.write_all(&message).await;
        }
        self.input.write_all(&message).await?;
        self.input.write_all(bytes).await
    }

    async fn frame(&mut self, config: &Config) -> Result<(Tag, Vec<u8>), Broken> {
        let tag = Tag::of(self.output.read_u8().await?).ok_or(Broken::Rules)?;
        let length = self.output.read_u32_le().await?;
        let most = match tag {
            Tag::Progress => 8,
            Tag::Text => config.limits.max_text_bytes,
            Tag::Ready | Tag::Outline | Tag::Failure => u64::from(MAX_JSON_BYTES),
        };
        if u64::from(length) > most {
            return Err(Broken::Rules);
        }
        let mut payload = vec![0; length as usize];
        self.output.read_exact(&mut payload).await?;
        Ok((tag, payload))
    }

    /// Ends the process and finds out why it was to end.
    async fn autopsy(&mut self, broken: Broken, config: &Config) -> Ended {
        let failure = |reason, message: String| Ended::ByDocument(Failure::new(reason, message));
        let status = match broken {
            Broken::Stream => timeout(GRACE, self.child.wait()).await.ok().and_then(Result::ok),
            Broken::Time | Broken::Rules => None,
        };
        if status.is_none() {
            // It has closed its streams, hangs, or lies.
            let _ = self.child.start_kill();
        }
        match (broken, status) {
            (Broken::Time, _) => failure(ReasonCode::Timeout, timeout_message(config)),
            (Broken::Stream, Some(status)) => match status.signal() {
                Some(libc::SIGXCPU) => failure(ReasonCode::Timeout, timeout_message(config)),
                Some(signal @ (libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => {
                    Ended::ByOthers(signal)
                }
                _ if self.lacked_memory(status).await => failure(
                    ReasonCode::Memory,
                    format!(
                        "the parser needed more than the {} bytes of memory it may have",
                        config.memory_bytes
                    ),
                ),
                _ => failure(ReasonCode::ParserCrashed, "the parser crashed on the file".to_owned()),
            },
            _ => failure(ReasonCode::ParserCrashed, "the parser broke off its answer".to_owned()),
        }
    }

    async fn lacked_memory(&mut self, status: ExitStatus) -> bool {
        let _ = timeout(GRACE, &mut self.listener).await;
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        status.code() == Some(OUT_OF_MEMORY_STATUS)
            || String::from_utf8_lossy(&words).contains("memory allocation of")
    }
}

fn timeout_message(config: &Config) -> String {
    format!("the parser did not finish within {} s", config.timeout_seconds)
}

/// A failure's message goes to people and into a row; the child may say anything.
fn readable(failure: &Failure) -> Failure {
    let message = failure.message.chars().filter(|c| !c.is_control()).take(500).collect::<String>();
    Failure::new(failure.reason, message)
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
