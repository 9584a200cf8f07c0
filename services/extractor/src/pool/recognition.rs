//! Recognition of text in pictures, in processes of its own: a document's pictures go in one by one,
//! tables of words come out.
//!
//! A picture that ends its process, or takes too long, costs its own words only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use riacho_confine::Spawner;
use riacho_domain::ReasonCode;
use tokio::{sync::OnceCell, time::Instant};

use super::{
    Config,
    clock::Clock,
    parser::{one_line, readable},
    process::{Broken, Death, Process},
};
use crate::{
    error::Error,
    extracted::Failure,
    wire::{Job, MAX_JSON_BYTES, MAX_WORDS_BYTES, Picture, Tag, Unread},
};

/// How long a process without work is kept: it takes memory, and a part of a second to start.
const KEEP: Duration = Duration::from_secs(60);
/// After so many pictures in a row that ended their process the document gets no more of them.
const MOST_DEATHS: u32 = 3;

/// So many bytes of recognised words are kept for when a file is parsed again.
const MOST_KNOWN_BYTES: usize = 64 << 20;

/// A running recogniser.
struct Recognizer {
    process: Process,
    served: u32,
    /// It has the file of the document that is worked on.
    has_file: bool,
}

impl Recognizer {
    async fn words(&mut self, job: &Job, bytes: &[u8], limit: Duration) -> Result<Answer, Broken> {
        let mut clock = Clock::new(limit);
        clock.within(self.process.send(job, bytes)).await.ok_or(Broken::Time)??;
        let most = |tag| match tag {
            Tag::Text => MAX_WORDS_BYTES,
            Tag::Failure => u64::from(MAX_JSON_BYTES),
            _ => 0,
        };
        match clock.within(self.process.frame(most)).await.ok_or(Broken::Time)?? {
            (Tag::Text, words) => Ok(Ok(words)),
            (Tag::Failure, payload) => serde_json::from_slice(&payload).map(Err).map_err(|_| Broken::Rules),
            _ => Err(Broken::Rules),
        }
    }
}

type Answer = Result<Vec<u8>, Failure>;

/// The recognisers of a pool. They start when a picture comes.
pub(super) struct Recognizers {
    /// What a recogniser is told; nothing where recognition is switched off.
    settings: Option<String>,
    idle: Arc<Mutex<Vec<(Recognizer, Instant)>>>,
    /// Whether there are any, found out with the first.
    available: OnceCell<Result<(), String>>,
}

impl Recognizers {
    pub(super) fn new(settings: Option<String>) -> Self {
        Self { settings, idle: Arc::default(), available: OnceCell::new() }
    }

    /// Why no picture can be read, if so. Starts a recogniser the first time.
    ///
    /// # Errors
    ///
    /// When its process cannot be started, which says nothing about the next time.
    pub(super) async fn refusal(&self, spawner: &Spawner) -> Result<Option<String>, Error> {
        let Some(settings) = &self.settings else { return Ok(Some("recognition of text is off".to_owned())) };
        let found = self.available.get_or_try_init(|| async {
            Ok::<_, Error>(Self::start(spawner, settings).await?.map(|recognizer| self.give_back(recognizer)))
        });
        Ok(found.await?.as_ref().err().cloned())
    }

    /// A new process, or why there is no use in one.
    async fn start(spawner: &Spawner, settings: &str) -> Result<Result<Recognizer, String>, Error> {
        let (process, ready) = Process::start(spawner, settings).await?;
        if let Some(error) = ready.recognizer_error {
            return Ok(Err(format!("recognition of text is not available: {}", one_line(&error))));
        }
        crate::metrics::recognizer_started();
        tracing::debug!(languages = ?ready.languages, "a recogniser is ready");
        Ok(Ok(Recognizer { process, served: 0, has_file: false }))
    }

    async fn take(&self, spawner: &Spawner) -> Result<Recognizer, Stopped> {
        if let Some(why) = self.refusal(spawner).await.map_err(Stopped::Lost)? {
            return Err(Stopped::Unavailable(why));
        }
        if let Some(recognizer) = self.alive() {
            return Ok(recognizer);
        }
        let settings = self.settings.as_deref().unwrap_or_default();
        Self::start(spawner, settings).await.map_err(Stopped::Lost)?.map_err(Stopped::Unavailable)
    }

    fn alive(&self) -> Option<Recognizer> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop())
            .find_map(|(mut recognizer, _)| recognizer.process.is_alive().then_some(recognizer))
    }

    /// Keeps a recogniser for the next document, for a while.
    fn give_back(&self, mut recognizer: Recognizer) {
        recognizer.has_file = false;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((recognizer, Instant::now()));
        let idle = Arc::downgrade(&self.idle);
        tokio::spawn(async move {
            tokio::time::sleep(KEEP).await;
            let Some(idle) = idle.upgrade() else { return };
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(_, since)| since.elapsed() < KEEP);
        });
    }
}

/// Recognition for one document, within what a document may cost.
pub(super) struct Recognition<'a> {
    recognizers: &'a Recognizers,
    spawner: &'a Spawner,
    config: &'a Config,
    recognizer: Option<Recognizer>,
    pages: u32,
    spent: Duration,
    /// Pictures in a row that ended their process.
    deaths: u32,
    /// What is known of the pictures of pages, for when the file is parsed again because a later page ended its parser.
    known: HashMap<(u32, Picture), Result<Vec<u8>, Unread>>,
    known_bytes: usize,
    /// Why no process could be started. It is not the document's fault.
    pub(super) lost: Option<Error>,
}

impl Drop for Recognition<'_> {
    fn drop(&mut self) {
        if let Some(recognizer) = self.recognizer.take()
            && recognizer.served < self.config.documents_per_process
        {
            self.recognizers.give_back(recognizer);
        }
    }
}

impl<'a> Recognition<'a> {
    pub(super) fn new(recognizers: &'a Recognizers, spawner: &'a Spawner, config: &'a Config) -> Self {
        Self {
            recognizers,
            spawner,
            config,
            recognizer: None,
            pages: 0,
            spent: Duration::ZERO,
            deaths: 0,
            known: HashMap::new(),
            known_bytes: 0,
            lost: None,
        }
    }

    /// The words in a picture of a page: its `pixels`, or a picture that stands in the file. A page is recognised
    /// once, however often the file is parsed.
    pub(super) async fn words(
        &mut self,
        page: u32,
        picture: Picture,
        pixels: Option<&[u8]>,
        file: &Bytes,
    ) -> Result<Vec<u8>, Unread> {
        if let Some(known) = self.known.get(&(page, picture)) {
            return known.clone();
        }
        let answer = self.recognize(picture, pixels, file).await;
        let bytes = answer.as_ref().map_or(0, Vec::len);
        if self.lost.is_none() && self.known_bytes + bytes <= MOST_KNOWN_BYTES {
            self.known_bytes += bytes;
            self.known.insert((page, picture), answer.clone());
        }
        answer
    }

    async fn recognize(
        &mut self,
        picture: Picture,
        pixels: Option<&[u8]>,
        file: &Bytes,
    ) -> Result<Vec<u8>, Unread> {
        if let Some(failure) = self.over() {
            return Err(Unread { failure, all: true });
        }
        self.pages += 1;
        let begun = Instant::now();
        let mut answer = self.attempt(picture, pixels, file).await;
        // Somebody killed it: not the picture's fault the first time.
        if matches!(answer, Err(Stopped::Death(Death::ByOthers(_)))) {
            answer = self.attempt(picture, pixels, file).await;
        }
        let took = begun.elapsed();
        crate::metrics::recognized(took);
        // A process that stood still meanwhile is not charged for that.
        self.spent += took.min(self.page_limit());
        match answer {
            Ok(answer) => {
                self.deaths = 0;
                answer.map_err(|failure| Unread { failure: readable(&failure), all: false })
            }
            Err(Stopped::Unavailable(why)) => {
                Err(Unread { failure: Failure::new(ReasonCode::NeedsOcr, why), all: true })
            }
            Err(Stopped::Lost(error)) => {
                let failure = Failure::new(ReasonCode::Internal, error.to_string());
                self.lost = Some(error);
                Err(Unread { failure, all: true })
            }
            Err(Stopped::Death(death)) => {
                self.deaths += 1;
                let all = self.deaths >= MOST_DEATHS;
                Err(Unread { failure: self.failure(death), all })
            }
        }
    }

    async fn attempt(
        &mut self,
        picture: Picture,
        pixels: Option<&[u8]>,
        file: &Bytes,
    ) -> Result<Answer, Stopped> {
        let mut recognizer = match self.recognizer.take() {
            Some(recognizer) => recognizer,
            None => self.recognizers.take(self.spawner).await?,
        };
        let bytes = match pixels {
            Some(pixels) => pixels,
            None if recognizer.has_file => &[],
            None => file,
        };
        let job = Job { picture, size: bytes.len() as u64 };
        recognizer.served += 1;
        match recognizer.words(&job, bytes, self.page_limit()).await {
            Ok(answer) => {
                recognizer.has_file |= pixels.is_none();
                self.recognizer = Some(recognizer);
                Ok(answer)
            }
            Err(broken) => Err(Stopped::Death(recognizer.process.autopsy(broken).await)),
        }
    }

    fn page_limit(&self) -> Duration {
        Duration::from_secs(self.config.ocr.page_seconds)
    }

    /// Why the document gets no more, if so.
    fn over(&self) -> Option<Failure> {
        let ocr = &self.config.ocr;
        if self.pages >= ocr.max_pages {
            let message = format!("at most {} pages of a document are recognised", ocr.max_pages);
            return Some(Failure::new(ReasonCode::TooLarge, message));
        }
        (self.spent >= Duration::from_secs(ocr.document_seconds)).then(|| {
            let message =
                format!("recognition of the document's text took more than {} s", ocr.document_seconds);
            Failure::new(ReasonCode::Timeout, message)
        })
    }

    fn failure(&self, death: Death) -> Failure {
        let ocr = &self.config.ocr;
        match death {
            Death::Time => Failure::new(
                ReasonCode::Timeout,
                format!("recognition of the text took more than {} s", ocr.page_seconds),
            ),
            Death::Memory => Failure::new(
                ReasonCode::Memory,
                format!("recognition of the text needed more than {} bytes of memory", ocr.memory_bytes),
            ),
            Death::Crash | Death::Rules | Death::ByOthers(_) => {
                Failure::new(ReasonCode::ParserCrashed, "recognition of the text crashed")
            }
        }
    }
}

/// Why an attempt has no answer.
enum Stopped {
    /// There is no recogniser, and why.
    Unavailable(String),
    /// None could be started this time.
    Lost(Error),
    /// It ended.
    Death(Death),
}
