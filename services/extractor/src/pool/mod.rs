//! Parser processes: kept warm, watched, killed when they overrun, and replaced.

mod clock;
mod process;
mod spawner;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use riacho_domain::{Lane, ReasonCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    error::Error,
    extracted::Extracted,
    parse::Limits,
    wire::{SUBCOMMAND, Settings},
};
use process::{Ended, Process};
use spawner::Spawner;

/// How documents are parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many parser processes run at once; 0 is one for each processor.
    pub processes: usize,
    /// How many more run for interactive documents while others have taken all.
    pub interactive_processes: usize,
    /// After how many documents a parser process is replaced by a fresh one.
    pub documents_per_process: u32,
    /// How long a document may take, in seconds, of the clock and of the processor.
    pub timeout_seconds: u64,
    /// How much longer for each page of a PDF, in milliseconds.
    pub page_timeout_ms: u64,
    /// The most memory a parser process may map, in bytes.
    pub memory_bytes: u64,
    /// The PDFium library. Without one, PDF files fail as `unsupported`.
    #[serde(skip)]
    pub pdfium_library: Option<PathBuf>,
    /// What a document may cost.
    pub limits: Limits,
    /// The command that is run as a parser process; the running program when empty.
    #[serde(skip)]
    pub command: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            processes: 0,
            interactive_processes: 1,
            documents_per_process: 500,
            timeout_seconds: 60,
            page_timeout_ms: 500,
            memory_bytes: 1 << 30,
            pdfium_library: None,
            limits: Limits::default(),
            command: Vec::new(),
        }
    }
}

impl Config {
    /// How many parser processes run at once.
    #[must_use]
    pub fn process_count(&self) -> usize {
        match self.processes {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            count => count,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            parent: std::process::id(),
            limits: self.limits.clone(),
            memory_bytes: self.memory_bytes,
            cpu_seconds: self.timeout_seconds,
            page_cpu_ms: self.page_timeout_ms,
            pdfium_library: self.pdfium_library.clone(),
        }
    }
}

/// A pool of parser processes. Clones share it; dropping the last ends the processes.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    slots: Semaphore,
    /// For an interactive document while others have taken all slots.
    kept: Semaphore,
    idle: Mutex<Vec<Process>>,
    spawner: Spawner,
}

impl Pool {
    /// Makes a pool; processes start when they are needed. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the running program has no path, or the thread that starts processes cannot be started.
    pub fn new(config: Config) -> Result<Self, Error> {
        let command = match config.command.as_slice() {
            [] => vec![own_program().map_err(Error::Spawn)?],
            command => command.to_vec(),
        };
        let settings =
            serde_json::to_string(&config.settings()).map_err(|error| Error::Spawn(error.into()))?;
        let spawner = Spawner::start(command, [SUBCOMMAND.to_owned(), settings]).map_err(Error::Spawn)?;
        let slots = Semaphore::new(config.process_count());
        let kept = Semaphore::new(config.interactive_processes);
        Ok(Self { inner: Arc::new(Inner { config, slots, kept, idle: Mutex::default(), spawner }) })
    }

    /// Starts all processes now, so that the first documents need not wait for them.
    ///
    /// # Errors
    ///
    /// When a process cannot be started.
    pub async fn warm(&self) -> Result<(), Error> {
        let running = self.idle().len();
        for _ in running..self.inner.config.process_count() + self.inner.config.interactive_processes {
            let process = Process::start(&self.inner.spawner, &self.inner.config).await?;
            let mut idle = self.idle();
            if let Some(error) = process.pdfium_error().filter(|_| idle.is_empty()) {
                tracing::warn!(error, "PDFium cannot be loaded: PDF files will fail as unsupported");
            }
            idle.push(process);
        }
        Ok(())
    }

    /// Extracts the text of a file of a document that is in `lane`. `on_page` hears of pages done and pages in all, now and then.
    ///
    /// Dropping the future ends the process that works on it.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] with a typed reason, or what went wrong around it.
    pub async fn parse(
        &self,
        lane: Lane,
        filename: &str,
        bytes: Bytes,
        mut on_page: impl FnMut(u32, u32) + Send,
    ) -> Result<Extracted, Error> {
        let _slot = self.slot(lane).await?;
        let mut again = true;
        loop {
            let mut process = match self.alive() {
                Some(process) => process,
                None => Process::start(&self.inner.spawner, &self.inner.config).await?,
            };
            let result = process.parse(filename, &bytes, &self.inner.config, &mut on_page).await;
            match result {
                Ok(answer) => {
                    // After a crash inside, the process is about to leave.
                    let crashed = answer.as_ref().is_err_and(|f| f.reason == ReasonCode::ParserCrashed);
                    if !crashed
                        && process.served() < self.inner.config.documents_per_process
                        && process.is_alive()
                    {
                        self.idle().push(process);
                    }
                    return answer.map_err(Error::Document);
                }
                Err(Ended::ByDocument(failure)) => return Err(Error::Document(failure)),
                // Somebody killed it, perhaps the kernel for lack of memory: not the document's fault
                // the first time.
                Err(Ended::ByOthers(_)) if std::mem::take(&mut again) => {}
                Err(Ended::ByOthers(signal)) => return Err(Error::Interrupted(signal)),
            }
        }
    }

    async fn slot(&self, lane: Lane) -> Result<SemaphorePermit<'_>, Error> {
        let (slots, kept) = (&self.inner.slots, &self.inner.kept);
        let slot = match lane {
            Lane::Interactive => tokio::select! {
                biased;
                slot = slots.acquire() => slot,
                slot = kept.acquire() => slot,
            },
            Lane::Bulk | Lane::Background => slots.acquire().await,
        };
        slot.map_err(|_| Error::Interrupted(0))
    }

    /// An idle process. One that was killed meanwhile is no trouble of the next document.
    fn alive(&self) -> Option<Process> {
        let mut idle = self.idle();
        std::iter::from_fn(|| idle.pop()).find_map(|mut process| process.is_alive().then_some(process))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time that a document of so many pages may take.
fn time_limit(config: &Config, pages: u32) -> Duration {
    Duration::from_secs(config.timeout_seconds)
        + Duration::from_millis(config.page_timeout_ms.saturating_mul(u64::from(pages)))
}

/// The running program itself, even where its file was replaced by another version meanwhile.
#[cfg(target_os = "linux")]
fn own_program() -> std::io::Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

#[cfg(not(target_os = "linux"))]
fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
