//! The child that recognises text: pictures go in, tables of words come out.

use std::{io, time::Duration};

use super::streams::Streams;
use crate::{
    ocr::Tesseract,
    wire::{Job, Picture, Ready, RecognizerSettings, Tag},
};

/// The engine, which one thread uses.
pub(super) struct Loaded(Result<Tesseract, String>);

// SAFETY: the engine belongs to nobody else, and is used by the thread that gets it only.
#[allow(unsafe_code)]
unsafe impl Send for Loaded {}

pub(super) fn load(settings: &RecognizerSettings) -> Loaded {
    Loaded(Tesseract::load(settings))
}

pub(super) fn serve(settings: &RecognizerSettings, loaded: Loaded) -> io::Result<()> {
    let mut streams = Streams::open();
    let tesseract = match loaded.0 {
        Ok(tesseract) => tesseract,
        Err(error) => {
            streams.json(Tag::Ready, &Ready { recognizer_error: Some(error), ..Ready::default() })?;
            return streams.flush();
        }
    };
    let languages = tesseract.languages().to_vec();
    streams.json(Tag::Ready, &Ready { languages, ..Ready::default() })?;
    streams.flush()?;
    let mut file = Vec::new();
    while let Some(job) = streams.header::<Job>()? {
        riacho_confine::allow_cpu(riacho_confine::cpu_used() + Duration::from_secs(settings.cpu_seconds));
        let answer = match job.picture {
            Picture::Page { .. } => {
                // The file of a document before is of no use any more.
                file = Vec::new();
                let pixels = streams.bytes(job.size, settings.max_pixels.saturating_mul(2))?;
                tesseract.words(job.picture, &pixels)
            }
            Picture::Original { .. } => {
                if job.size > 0 {
                    file = streams.bytes(job.size, settings.max_file_bytes)?;
                }
                tesseract.words(job.picture, &file)
            }
        };
        match answer {
            Ok(words) => streams.frame(Tag::Text, &words)?,
            Err(failure) => streams.json(Tag::Failure, &failure)?,
        }
        streams.flush()?;
    }
    Ok(())
}
