//! The child that parses: files go in, texts with their structure come out.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use riacho_domain::ReasonCode;

use super::streams::Streams;
use crate::{
    extracted::Failure,
    parse::{self, Outside, Pdfium, Tools},
    wire::{Attached, MAX_WORDS_BYTES, ParserSettings, Picture, Ready, Recognized, Request, Tag, Unread},
};

/// The libraries that were loaded.
pub(super) struct Libraries {
    pdfium: Option<Pdfium>,
    pdfium_error: Option<String>,
}

impl Libraries {
    pub(super) fn load(settings: &ParserSettings) -> Self {
        match settings.pdfium_library.as_deref().map(Pdfium::load) {
            Some(Ok(pdfium)) => Self { pdfium: Some(pdfium), pdfium_error: None },
            Some(Err(error)) => Self { pdfium: None, pdfium_error: Some(error) },
            None => Self { pdfium: None, pdfium_error: None },
        }
    }
}

pub(super) fn serve(settings: &ParserSettings, libraries: &Libraries) -> io::Result<()> {
    let mut streams = Streams::open();
    let pdfium_error = libraries.pdfium_error.clone();
    streams.json(Tag::Ready, &Ready { pdfium_error, ..Ready::default() })?;
    streams.flush()?;
    while let Some(request) = streams.header::<Request>()? {
        let bytes = streams.bytes(request.size, settings.limits.max_file_bytes)?;
        let begun = riacho_confine::cpu_used();
        riacho_confine::allow_cpu(begun + Duration::from_secs(settings.cpu_seconds));
        let mut outside = Parent { streams: &mut streams, settings, begun, pages: 0 };
        let tools = Tools {
            limits: &settings.limits,
            pdfium: libraries.pdfium.as_ref(),
            rendering: settings.rendering.as_ref(),
            skip: &request.skip,
        };
        let parse = || parse::parse(bytes, &request.filename, &tools, &mut outside);
        match catch_unwind(AssertUnwindSafe(parse)) {
            Ok(Ok(extracted)) => {
                for attachment in &extracted.attachments {
                    let filename = attachment.filename.clone();
                    streams.json(Tag::Attachment, &Attached { filename })?;
                    streams.frame(Tag::Bytes, &attachment.bytes)?;
                }
                match &extracted.unreadable {
                    Some(failure) => streams.json(Tag::Failure, failure)?,
                    None => {
                        streams.frame(Tag::Text, extracted.text.as_bytes())?;
                        streams.json(Tag::Outline, &extracted.outline)?;
                    }
                }
            }
            Ok(Err(failure)) => streams.json(Tag::Failure, &failure)?,
            Err(_) => {
                let failure = Failure::new(ReasonCode::ParserCrashed, "the parser crashed on the file");
                streams.json(Tag::Failure, &failure)?;
                // Nobody knows what a panic left behind.
                return streams.flush();
            }
        }
        streams.flush()?;
    }
    Ok(())
}

/// The parent, as a parser sees it.
struct Parent<'a> {
    streams: &'a mut Streams,
    settings: &'a ParserSettings,
    /// The CPU time that was used before this document.
    begun: Duration,
    pages: u32,
}

impl Outside for Parent<'_> {
    fn progress(&mut self, done: u32, total: u32) {
        if total != self.pages {
            self.pages = total;
            let pages = Duration::from_millis(self.settings.page_cpu_ms.saturating_mul(u64::from(total)));
            riacho_confine::allow_cpu(self.begun + Duration::from_secs(self.settings.cpu_seconds) + pages);
        }
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&done.to_le_bytes());
        payload[4..].copy_from_slice(&total.to_le_bytes());
        // It leaves at once: when this process ends, the parent knows which page it was. A parent that is
        // gone is noticed at the answer.
        let _ = self.streams.frame(Tag::Progress, &payload).and_then(|()| self.streams.flush());
    }

    fn words(&mut self, picture: Picture, pixels: &[u8]) -> Result<String, Unread> {
        self.ask(picture, pixels).unwrap_or_else(|error| {
            let message = format!("recognition of the text broke off: {error}");
            Err(Unread { failure: Failure::new(ReasonCode::Internal, message), all: true })
        })
    }
}

impl Parent<'_> {
    fn ask(&mut self, picture: Picture, pixels: &[u8]) -> io::Result<Result<String, Unread>> {
        self.streams.json(Tag::Picture, &picture)?;
        if matches!(picture, Picture::Page { .. }) {
            self.streams.frame(Tag::Pixels, pixels)?;
        }
        self.streams.flush()?;
        let answer = self.streams.header::<Recognized>()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match answer {
            Recognized::Words { size } => {
                let words = self.streams.bytes(size, MAX_WORDS_BYTES)?;
                Ok(Ok(String::from_utf8_lossy(&words).into_owned()))
            }
            Recognized::Not(unread) => Ok(Err(unread)),
        }
    }
}
