//! Bytes to text with structure, one file a format.
//!
//! Everything here runs in a child process (see `child`), because foreign bytes meet foreign
//! parsers: what hangs, crashes or grows there ends the child and no more.

mod container;
mod csv;
mod epub;
mod html;
mod mail;
pub(crate) mod markdown;
mod office;
mod opendocument;
mod outlook;
mod pdf;
mod pdf_layout;
mod rtf;

use riacho_domain::{DEFAULT_MAX_FILE_BYTES, ReasonCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use pdf::Pdfium;

use crate::{
    detect::{self, FileType, TextType},
    encoding,
    extracted::{Extracted, Failure, Outline},
    language,
};

/// What a document may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest file that is parsed, in bytes. The gateway may not take larger ones: see
    /// `gateway.max_upload_bytes`.
    pub max_file_bytes: u64,
    /// The longest text that is kept, in bytes; a document with more fails as `too_large`.
    pub max_text_bytes: u64,
    /// The most that a packed file (DOCX, EPUB and so on) may unpack to, in bytes.
    pub max_unpacked_bytes: u64,
    /// The most that a packed file may grow by unpacking, as a multiple of its size. Files that
    /// unpack to less than 16 MiB are not held to it.
    pub max_unpacked_ratio: u64,
    /// The most entries of a packed file.
    pub max_packed_entries: u64,
    /// The most pages of a PDF.
    pub max_pages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            max_text_bytes: 64 << 20,
            max_unpacked_bytes: 512 << 20,
            max_unpacked_ratio: 200,
            max_packed_entries: 20_000,
            max_pages: 20_000,
        }
    }
}

/// The text of a document on its way: what the parsers return.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) text: String,
    pub(crate) outline: Outline,
}

impl Parsed {
    /// Markdown, whose headings are found by their marks.
    pub(crate) fn markdown(text: String) -> Self {
        let headings = markdown::headings(&text);
        Self { text, outline: Outline { headings, ..Outline::default() } }
    }

    /// Text without marks.
    pub(crate) fn plain(text: String) -> Self {
        Self { text, outline: Outline::default() }
    }
}

/// Tells where a long parse is: pages done, pages in all.
pub type Progress<'a> = &'a mut dyn FnMut(u32, u32);

/// Extracts the text of a file. The name is used only to tell kinds of text apart.
///
/// # Errors
///
/// A typed reason, when the file has no text that can be had.
pub fn parse(
    bytes: Vec<u8>,
    filename: &str,
    limits: &Limits,
    pdfium: Option<&Pdfium>,
    progress: Progress<'_>,
) -> Result<Extracted, Failure> {
    if bytes.len() as u64 > limits.max_file_bytes {
        return Err(Failure::new(
            ReasonCode::TooLarge,
            format!("the file has {} bytes; at most {} are taken", bytes.len(), limits.max_file_bytes),
        ));
    }
    let (file_type, media_type) = detect::file_type(&bytes);
    let mut parsed = match file_type {
        FileType::Empty => return Err(Failure::new(ReasonCode::Empty, "the file is empty")),
        FileType::Text => parse_text(&bytes, filename, limits)?,
        FileType::Pdf => {
            let pdfium = pdfium.ok_or_else(|| {
                Failure::new(
                    ReasonCode::Unsupported,
                    "PDF files cannot be read: the PDFium library is not installed",
                )
            })?;
            pdf::parse(pdfium, &bytes, limits, progress)?
        }
        FileType::Docx | FileType::Pptx | FileType::Xlsx | FileType::Doc | FileType::Ppt | FileType::Xls => {
            office::parse(bytes, file_type, limits)?
        }
        FileType::OpenDocument(_) => opendocument::parse(&bytes, limits)?,
        FileType::Epub => epub::parse(&bytes, limits)?,
        FileType::Rtf => rtf::parse(&bytes)?,
        FileType::Msg => outlook::parse(&bytes, limits)?,
        FileType::EncryptedOffice => {
            return Err(Failure::new(ReasonCode::Encrypted, "the file is protected with a password"));
        }
        FileType::Image => {
            return Err(Failure::new(
                ReasonCode::NeedsOcr,
                "the file is a picture, and recognition of text is off",
            ));
        }
        FileType::Other(what) => {
            return Err(Failure::new(ReasonCode::Unsupported, format!("the file is {what} ({media_type})")));
        }
    };
    if parsed.outline.detected_type.is_empty() {
        parsed.outline.detected_type = media_type;
    }
    finish(parsed, limits)
}

fn parse_text(bytes: &[u8], filename: &str, limits: &Limits) -> Result<Parsed, Failure> {
    let decoded = encoding::decode(bytes, html::declared_encoding(bytes).as_deref())
        .ok_or_else(|| Failure::new(ReasonCode::Unsupported, "the file is binary data of an unknown kind"))?;
    let kind = detect::text_type(&decoded, filename);
    let name = decoded.encoding;
    let mut parsed = match kind {
        // A message names the encodings of its parts itself, so it is read from the bytes.
        TextType::Eml if name.starts_with("UTF-16") || name.starts_with("UTF-32") => {
            mail::parse(decoded.text.as_bytes(), limits)?
        }
        TextType::Eml => mail::parse(bytes, limits)?,
        TextType::Html => html::parse(&decoded.text)?,
        TextType::Csv(delimiter) => csv::parse(&decoded.text, delimiter),
        TextType::Markdown => Parsed::markdown(encoding::clean(decoded.text)),
        TextType::Xml | TextType::Json | TextType::Plain => Parsed::plain(encoding::clean(decoded.text)),
    };
    parsed.outline.detected_type = kind.media_type().to_owned();
    parsed.outline.encoding = Some(name.to_owned());
    Ok(parsed)
}

/// The checks and additions that every format gets.
fn finish(mut parsed: Parsed, limits: &Limits) -> Result<Extracted, Failure> {
    if parsed.text.len() as u64 > limits.max_text_bytes {
        return Err(text_too_large(limits));
    }
    if !parsed.text.contains(|c: char| !c.is_whitespace()) {
        return Err(Failure::new(ReasonCode::Empty, "the file has no text"));
    }
    let title = parsed.outline.title.take().map(|title| one_line(&title));
    parsed.outline.title = title.filter(|title| !title.is_empty());
    if parsed.outline.language.is_none() {
        parsed.outline.language = language::detect(&parsed.text);
    }
    Ok(Extracted { text: parsed.text, outline: parsed.outline })
}

/// A title or a name: words with one space between them, and not without end.
fn one_line(text: &str) -> String {
    let clean = encoding::clean(text.to_owned());
    clean.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn text_too_large(limits: &Limits) -> Failure {
    Failure::new(
        ReasonCode::TooLarge,
        format!("the text is longer than the {} bytes that are kept", limits.max_text_bytes),
    )
}
