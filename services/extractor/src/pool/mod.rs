//! Parser processes: kept warm, watched, killed when they overrun, and replaced. Those that recognise
//! text in pictures stand behind them.

mod clock;
mod parser;
mod process;
mod recognition;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use riacho_confine::Spawner;
use riacho_domain::{Lane, ReasonCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    error::Error,
    extracted::{Extracted, Failure, Missing},
    ocr,
    parse::{Limits, Rendering},
    wire::{ParserSettings, RecognizerSettings, Role, SUBCOMMAND, Settings},
};
use parser::{Ended, Parser, Task};
use recognition::{Recognition, Recognizers};

/// How many pages of a document may end their parser: it is parsed again without each of them.
const MOST_SKIPPED: usize = 3;

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
    /// How long a document may take, in seconds, of the clock and of the processor. A single page never takes longer.
    pub timeout_seconds: u64,
    /// How much longer for each page of a PDF, in milliseconds.
    pub page_timeout_ms: u64,
    /// How long a document may take at the most, in seconds: however many pages it has, and however often it is parsed
    /// because a page ended its parser. The time in which text in pictures is recognised comes on top.
    pub document_seconds: u64,
    /// The most memory a parser process may map, in bytes.
    pub memory_bytes: u64,
    /// The PDFium library. Without one, PDF files fail as `unsupported`.
    #[serde(skip)]
    pub pdfium_library: Option<PathBuf>,
    /// What a document may cost.
    pub limits: Limits,
    /// Recognition of text in pictures.
    #[serde(skip)]
    pub ocr: ocr::Config,
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
            document_seconds: 1_200,
            memory_bytes: 1 << 30,
            pdfium_library: None,
            limits: Limits::default(),
            ocr: ocr::Config::default(),
            command: Vec::new(),
        }
    }
}

impl Config {
    /// How long a document takes at the most, recognition of its text included.
    #[must_use]
    pub fn most_time(&self) -> Duration {
        Duration::from_secs(self.document_seconds.saturating_add(self.ocr.document_seconds))
    }

    /// How many parser processes run at once.
    #[must_use]
    pub fn process_count(&self) -> usize {
        match self.processes {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            count => count,
        }
    }

    /// What a parser is told.
    fn parser(&self) -> serde_json::Result<String> {
        let rendering = Rendering { dpi: self.ocr.dpi, max_pixels: self.ocr.max_pixels };
        let role = Role::Parser(ParserSettings {
            limits: self.limits.clone(),
            cpu_seconds: self.timeout_seconds,
            page_cpu_ms: self.page_timeout_ms,
            pdfium_library: self.pdfium_library.clone(),
            rendering: self.ocr.enabled.then_some(rendering),
        });
        let (parent, memory_bytes) = (std::process::id(), self.memory_bytes);
        serde_json::to_string(&Settings { parent, memory_bytes, role })
    }

    /// What a recogniser is told; nothing where recognition is switched off.
    fn recognizer(&self) -> serde_json::Result<Option<String>> {
        if !self.ocr.enabled {
            return Ok(None);
        }
        let role = Role::Recognizer(RecognizerSettings {
            library: self.ocr.library.clone(),
            data: self.ocr.data.clone(),
            languages: self.ocr.languages.clone(),
            cpu_seconds: self.ocr.page_seconds,
            max_file_bytes: self.limits.max_file_bytes,
            max_pixels: self.ocr.max_pixels,
        });
        let (parent, memory_bytes) = (std::process::id(), self.ocr.memory_bytes);
        serde_json::to_string(&Settings { parent, memory_bytes, role }).map(Some)
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
    idle: Mutex<Vec<Parser>>,
    /// What a parser is told.
    settings: String,
    recognizers: Recognizers,
    spawner: Spawner,
}

impl Pool {
    /// Makes a pool; processes start when they are needed. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the running program has no path, or the thread that starts processes cannot be started.
    pub fn new(config: Config) -> Result<Self, Error> {
        let settings = config.parser().map_err(|error| Error::Spawn(error.into()))?;
        let recognizer = config.recognizer().map_err(|error| Error::Spawn(error.into()))?;
        let inner = Inner {
            slots: Semaphore::new(config.process_count()),
            kept: Semaphore::new(config.interactive_processes),
            idle: Mutex::default(),
            settings,
            recognizers: Recognizers::new(recognizer),
            spawner: Spawner::start(config.command.clone(), SUBCOMMAND).map_err(Error::Spawn)?,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts all processes now, so that the first documents need not wait for them.
    ///
    /// # Errors
    ///
    /// When a process cannot be started.
    pub async fn warm(&self) -> Result<(), Error> {
        let running = self.idle().len();
        for _ in running..self.inner.config.process_count() + self.inner.config.interactive_processes {
            let parser = self.inner.start().await?;
            let mut idle = self.idle();
            if let Some(error) = parser.pdfium_error().filter(|_| idle.is_empty()) {
                tracing::warn!(error, "PDFium cannot be loaded: PDF files will fail as unsupported");
            }
            idle.push(parser);
        }
        Ok(())
    }

    /// Why no text in pictures is recognised, if so.
    ///
    /// # Errors
    ///
    /// When a process cannot be started.
    pub async fn recognition_refusal(&self) -> Result<Option<String>, Error> {
        self.inner.recognizers.refusal(&self.inner.spawner).await
    }

    /// Extracts the text of a file of a document that is in `lane`. `on_page` hears of pages done and pages in all.
    ///
    /// A page that ends its parser is left out and named in the outline, where others have text.
    /// Dropping the future ends the processes that work on it.
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
        let inner = &*self.inner;
        let recognition = Recognition::new(&inner.recognizers, &inner.spawner, &inner.config);
        let left = Duration::from_secs(inner.config.document_seconds);
        let mut task = Task { filename, bytes: &bytes, skip: Vec::new(), left, recognition };
        let (mut again, mut skipped) = (true, 0);
        loop {
            let mut parser = match self.alive() {
                Some(parser) => parser,
                None => inner.start().await?,
            };
            let ended = match parser.parse(&mut task, &inner.config, &mut on_page).await {
                Ok(answer) => {
                    self.keep(parser, &answer);
                    return answer.map_err(Error::Document);
                }
                Err(ended) => ended,
            };
            if let Some(error) = task.recognition.lost.take() {
                return Err(error);
            }
            match ended {
                // Somebody killed it, perhaps the kernel for lack of memory: not the document's fault
                // the first time.
                Ended::ByOthers(_) if std::mem::take(&mut again) => {}
                Ended::ByOthers(signal) => return Err(Error::Interrupted(signal)),
                Ended::ByDocument(failure, Some(page))
                    if page.of > 1 && skipped < MOST_SKIPPED && !task.left.is_zero() =>
                {
                    skipped += 1;
                    Missing::add(&mut task.skip, page.number, failure);
                }
                Ended::ByDocument(failure, _) => return Err(Error::Document(failure)),
            }
        }
    }

    /// Keeps a parser for the next document, unless it is worn out or about to leave.
    fn keep(&self, mut parser: Parser, answer: &Result<Extracted, Failure>) {
        let crashed = answer.as_ref().is_err_and(|f| f.reason == ReasonCode::ParserCrashed);
        if !crashed && parser.served() < self.inner.config.documents_per_process && parser.is_alive() {
            self.idle().push(parser);
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
    fn alive(&self) -> Option<Parser> {
        let mut idle = self.idle();
        std::iter::from_fn(|| idle.pop()).find_map(|mut parser| parser.is_alive().then_some(parser))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Parser>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    async fn start(&self) -> Result<Parser, Error> {
        Parser::start(&self.spawner, &self.settings).await
    }
}

/// The time that may pass until the next page is begun, or the document is done.
fn step_limit(config: &Config) -> Duration {
    Duration::from_secs(config.timeout_seconds)
}

/// The time that a document of so many pages may take when it is parsed once.
fn time_limit(config: &Config, pages: u32) -> Duration {
    Duration::from_secs(config.timeout_seconds)
        + Duration::from_millis(config.page_timeout_ms.saturating_mul(u64::from(pages)))
}
