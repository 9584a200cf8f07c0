//! A parser's process: a document goes in, its text comes out, or the reason of its end.

use std::time::Duration;

use bytes::Bytes;
use riacho_confine::Spawner;
use riacho_domain::ReasonCode;

use super::{
    Config,
    clock::Clock,
    process::{Broken, Death, Process},
    recognition::Recognition,
    step_limit, time_limit,
};
use crate::{
    error::Error,
    extracted::{Attachment, Extracted, Failure, Missing, Outline},
    wire::{Attached, MAX_JSON_BYTES, Picture, Ready, Recognized, Request, Tag},
};

/// A document on its way through a parser.
pub(super) struct Task<'a> {
    pub(super) filename: &'a str,
    pub(super) bytes: &'a Bytes,
    /// Pages that are left out.
    pub(super) skip: Vec<Missing>,
    /// How long it may still take, however often it is parsed.
    pub(super) left: Duration,
    pub(super) recognition: Recognition<'a>,
}

/// Why a process ended in the middle of a document.
pub(super) enum Ended {
    /// The document did it, on this page where it has pages.
    ByDocument(Failure, Option<Page>),
    /// A signal from outside did it.
    ByOthers(i32),
}

/// A page that is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) number: u32,
    pub(super) of: u32,
    /// How much of the document's time had passed when it was begun.
    begun: Duration,
}

/// A running parser.
pub(super) struct Parser {
    process: Process,
    served: u32,
    ready: Ready,
    page: Option<Page>,
    spent: Duration,
}

impl Parser {
    /// Starts a parser that is told `settings`.
    pub(super) async fn start(spawner: &Spawner, settings: &str) -> Result<Self, Error> {
        let (process, ready) = Process::start(spawner, settings).await?;
        crate::metrics::parser_started();
        Ok(Self { process, served: 0, ready, page: None, spent: Duration::ZERO })
    }

    /// Why it cannot read PDF files, although a library was named.
    pub(super) fn pdfium_error(&self) -> Option<&str> {
        self.ready.pdfium_error.as_deref()
    }

    pub(super) fn served(&self) -> u32 {
        self.served
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.process.is_alive()
    }

    pub(super) async fn parse(
        &mut self,
        task: &mut Task<'_>,
        config: &Config,
        on_page: &mut (impl FnMut(u32, u32) + Send),
    ) -> Result<Result<Extracted, Failure>, Ended> {
        if task.bytes.len() as u64 > config.limits.max_file_bytes {
            let message = format!(
                "the file has {} bytes; at most {} are taken",
                task.bytes.len(),
                config.limits.max_file_bytes
            );
            return Ok(Err(Failure::new(ReasonCode::TooLarge, message)));
        }
        self.served += 1;
        self.page = None;
        match self.converse(task, config, on_page).await {
            Ok(answer) => Ok(answer),
            Err(broken) => Err(match self.process.autopsy(broken).await {
                Death::ByOthers(signal) => Ended::ByOthers(signal),
                death => Ended::ByDocument(failure(death, config), self.culprit(death, config)),
            }),
        }
    }

    /// The page that ended the process. Time that many pages took together is the fault of none.
    fn culprit(&self, death: Death, config: &Config) -> Option<Page> {
        self.page.filter(|page| {
            let took = self.spent.saturating_sub(page.begun);
            death != Death::Time || took >= step_limit(config) || took * 2 > self.spent
        })
    }

    async fn converse(
        &mut self,
        task: &mut Task<'_>,
        config: &Config,
        on_page: &mut (impl FnMut(u32, u32) + Send),
    ) -> Result<Result<Extracted, Failure>, Broken> {
        let mut clock = Clock::new(time_limit(config, 0).min(task.left));
        let answer = self.answer(task, config, &mut clock, on_page).await;
        self.spent = clock.spent();
        task.left = task.left.saturating_sub(self.spent);
        answer
    }

    async fn answer(
        &mut self,
        task: &mut Task<'_>,
        config: &Config,
        clock: &mut Clock,
        on_page: &mut (impl FnMut(u32, u32) + Send),
    ) -> Result<Result<Extracted, Failure>, Broken> {
        let request = Request {
            filename: task.filename.to_owned(),
            size: task.bytes.len() as u64,
            skip: task.skip.clone(),
        };
        clock.within(self.process.send(&request, task.bytes)).await.ok_or(Broken::Time)??;
        let (mut text, mut attachments) = (None, Attachments::default());
        loop {
            match self.frame(clock, task.bytes.len(), config).await? {
                (Tag::Progress, payload) => {
                    let (done, of) = progress(&payload, config).ok_or(Broken::Rules)?;
                    self.page = (done < of).then_some(Page { number: done + 1, of, begun: clock.spent() });
                    let next = clock.spent() + step_limit(config);
                    clock.set_limit(time_limit(config, of).min(next).min(task.left));
                    on_page(done, of);
                }
                (Tag::Picture, payload) => {
                    let picture: Picture = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    self.recognize(picture, task, clock, config).await?;
                }
                (Tag::Attachment, payload) => {
                    let attached: Attached = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    let (Tag::Bytes, bytes) = self.frame(clock, task.bytes.len(), config).await? else {
                        return Err(Broken::Rules);
                    };
                    attachments.add(attached, bytes, task.bytes.len(), config).ok_or(Broken::Rules)?;
                }
                (Tag::Text, payload) => text = Some(String::from_utf8(payload).map_err(|_| Broken::Rules)?),
                (Tag::Outline, payload) => {
                    let outline: Outline = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    let attachments = attachments.files;
                    let text = text.ok_or(Broken::Rules)?;
                    let mut extracted = Extracted { text, outline, attachments, unreadable: None };
                    for missing in &mut extracted.outline.missing {
                        missing.failure = readable(&missing.failure);
                    }
                    return if extracted.is_sound() { Ok(Ok(extracted)) } else { Err(Broken::Rules) };
                }
                (Tag::Failure, payload) => {
                    let failure: Failure = serde_json::from_slice(&payload).map_err(|_| Broken::Rules)?;
                    let (failure, attachments) = (readable(&failure), attachments.files);
                    let has_more = !attachments.is_empty();
                    return Ok(if has_more {
                        Ok(Extracted::unreadable(failure, attachments))
                    } else {
                        Err(failure)
                    });
                }
                (Tag::Ready | Tag::Pixels | Tag::Bytes, _) => return Err(Broken::Rules),
            }
        }
    }

    /// Has the words in a picture found by another process. The parser waits meanwhile, so its time does
    /// not pass.
    async fn recognize(
        &mut self,
        picture: Picture,
        task: &mut Task<'_>,
        clock: &mut Clock,
        config: &Config,
    ) -> Result<(), Broken> {
        let pixels = match picture {
            Picture::Original { .. } => None,
            Picture::Page { .. } => match self.frame(clock, task.bytes.len(), config).await? {
                (Tag::Pixels, pixels) => Some(pixels),
                _ => return Err(Broken::Rules),
            },
        };
        let page = self.page.map_or(0, |page| page.number);
        let answer = task.recognition.words(page, picture, pixels.as_deref(), task.bytes).await;
        drop(pixels);
        if task.recognition.lost.is_some() {
            return Err(Broken::Rules);
        }
        let (header, words) = match answer {
            Ok(words) => (Recognized::Words { size: words.len() as u64 }, words),
            Err(unread) => (Recognized::Not(unread), Vec::new()),
        };
        clock.within(self.process.send(&header, &words)).await.ok_or(Broken::Time)?.map_err(Broken::from)
    }

    /// The next frame, of the parser of a file of so many bytes.
    async fn frame(
        &mut self,
        clock: &mut Clock,
        size: usize,
        config: &Config,
    ) -> Result<(Tag, Vec<u8>), Broken> {
        let most = |tag| match tag {
            Tag::Progress => 8,
            Tag::Text => config.limits.max_text_bytes,
            // Rows are filled up to whole words.
            Tag::Pixels => config.ocr.max_pixels.saturating_mul(2),
            Tag::Bytes => config.limits.max_attachments_bytes.min(size as u64),
            Tag::Ready | Tag::Outline | Tag::Failure | Tag::Picture | Tag::Attachment => {
                u64::from(MAX_JSON_BYTES)
            }
        };
        clock.within(self.process.frame(most)).await.ok_or(Broken::Time)?
    }
}

/// The attachments of a document, as they come.
#[derive(Default)]
struct Attachments {
    files: Vec<Attachment>,
    bytes: u64,
}

impl Attachments {
    /// Keeps one; nothing where there are more than a document of so many bytes may have.
    fn add(&mut self, attached: Attached, bytes: Vec<u8>, size: usize, config: &Config) -> Option<()> {
        self.bytes += bytes.len() as u64;
        let limits = &config.limits;
        let fits = self.bytes <= limits.max_attachments_bytes.min(size as u64)
            && self.files.len() < limits.max_attachments as usize;
        let filename = one_line(&attached.filename).chars().take(200).collect();
        fits.then(|| self.files.push(Attachment { filename, bytes }))
    }
}

/// Pages done and pages in all, as a parser says before each page.
fn progress(payload: &[u8], config: &Config) -> Option<(u32, u32)> {
    let [done, total] = payload.as_chunks::<4>().0 else { return None };
    let (done, total) = (u32::from_le_bytes(*done), u32::from_le_bytes(*total));
    (total <= config.limits.max_pages && done <= total).then_some((done, total))
}

fn failure(death: Death, config: &Config) -> Failure {
    match death {
        Death::Time => Failure::new(
            ReasonCode::Timeout,
            "the parser did not finish in the time that it may take".to_owned(),
        ),
        Death::Memory => Failure::new(
            ReasonCode::Memory,
            format!("the parser needed more than the {} bytes of memory it may have", config.memory_bytes),
        ),
        Death::Rules => Failure::new(ReasonCode::ParserCrashed, "the parser broke off its answer"),
        Death::Crash | Death::ByOthers(_) => {
            Failure::new(ReasonCode::ParserCrashed, "the parser crashed on the file")
        }
    }
}

/// A failure's message goes to people and into a row; the child may say anything.
pub(super) fn readable(failure: &Failure) -> Failure {
    Failure::new(failure.reason, one_line(&failure.message))
}

pub(super) fn one_line(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(500).collect()
}
