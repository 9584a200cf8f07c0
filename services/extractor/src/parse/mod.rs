//! Bytes to text with structure, one file a format.
//!
//! Everything here runs in a child process (see `child`), because foreign bytes meet foreign
//! parsers: what hangs, crashes or grows there ends the child and no more.

mod attachments;
mod container;
mod csv;
mod epub;
mod html;
mod json;
mod mail;
pub(crate) mod markdown;
mod office;
mod opendocument;
mod outlook;
mod pdf;
mod pdf_columns;
mod pdf_layout;
mod pdf_pictures;
mod picture;
mod recognized;
mod rtf;
mod xml;

use riacho_domain::{DEFAULT_MAX_FILE_BYTES, ReasonCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use pdf::Pdfium;

use crate::{
    detect::{self, FileType, TextType},
    encoding,
    extracted::{Attachment, Extracted, Failure, Missing, Outline},
    language,
    wire::{Picture, Unread},
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
    /// The most files attached to a message that become documents of their own; the rest are only named in its text.
    pub max_attachments: u32,
    /// The most bytes of them together. They never have more than the message itself.
    pub max_attachments_bytes: u64,
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
            max_attachments: 50,
            max_attachments_bytes: 256 << 20,
        }
    }
}

/// The text of a document on its way: what the parsers return.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) text: String,
    pub(crate) outline: Outline,
    pub(crate) attachments: Vec<Attachment>,
    /// Why there are only attachments, where that is so.
    pub(crate) unreadable: Option<Failure>,
}

impl Parsed {
    /// Markdown, whose headings are found by their marks.
    pub(crate) fn markdown(text: String) -> Self {
        let headings = markdown::headings(&text);
        Self { text, outline: Outline { headings, ..Outline::default() }, ..Self::default() }
    }

    /// Text without marks.
    pub(crate) fn plain(text: String) -> Self {
        Self { text, ..Self::default() }
    }

    /// Lines that say something each, like those of a program or a record.
    pub(crate) fn lines(text: String) -> Self {
        Self { text, outline: Outline { by_lines: true, ..Outline::default() }, ..Self::default() }
    }
}

/// How pages are drawn whose words have to be recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendering {
    /// Pixels to an inch.
    pub dpi: u32,
    /// The most pixels of a picture.
    pub max_pixels: u64,
}

/// What a parser has to work with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// What a document may cost.
    pub limits: &'a Limits,
    /// The PDFium library.
    pub pdfium: Option<&'a Pdfium>,
    /// How pages are drawn for recognition; nothing where that is off.
    pub rendering: Option<&'a Rendering>,
    /// Pages to leave out, and why.
    pub skip: &'a [Missing],
}

/// What a parser asks of the world outside its process.
pub trait Outside {
    /// Tells where a long parse is, before each page: pages done, pages in all.
    fn progress(&mut self, done: u32, total: u32);

    /// The words in a picture, as tesseract's table. `pixels` are those of a page.
    ///
    /// # Errors
    ///
    /// Why they are not known.
    fn words(&mut self, picture: Picture, pixels: &[u8]) -> Result<String, Unread>;
}

/// Extracts the text of a file. The name is used only to tell kinds of text apart.
///
/// # Errors
///
/// A typed reason, when the file has no text that can be had.
pub fn parse(
    bytes: Vec<u8>,
    filename: &str,
    tools: &Tools<'_>,
    outside: &mut dyn Outside,
) -> Result<Extracted, Failure> {
    let limits = tools.limits;
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
        FileType::Pdf => pdf::parse(&bytes, tools, outside)?,
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
        FileType::Picture => picture::parse(&bytes, tools, outside)?,
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
    let mut kind = detect::text_type(&decoded.text, filename);
    let (name, confidence) = (decoded.encoding, decoded.confidence);
    let mut parsed = match kind {
        // A message names the encodings of its parts itself, so it is read from the bytes.
        TextType::Eml if name.starts_with("UTF-16") || name.starts_with("UTF-32") => {
            mail::parse(decoded.text.as_bytes(), bytes.len(), limits)?
        }
        TextType::Eml => mail::parse(bytes, bytes.len(), limits)?,
        TextType::Html => html::parse(&decoded.text)?,
        TextType::Csv(delimiter) => csv::parse(&decoded.text, delimiter),
        TextType::Markdown => Parsed::markdown(encoding::clean(decoded.text)),
        TextType::Json => match json::to_text(&decoded.text, limits.max_text_bytes) {
            Some(lines) => Parsed::lines(encoding::clean(lines)),
            None => {
                kind = TextType::Plain;
                Parsed::lines(encoding::clean(decoded.text))
            }
        },
        // What is not well-formed is searched as it stands.
        TextType::Xml => match xml::to_text(&decoded.text, limits.max_text_bytes) {
            Some((text, true)) => Parsed::lines(encoding::clean(text)),
            Some((text, false)) => Parsed::plain(encoding::clean(text)),
            None => Parsed::lines(encoding::clean(decoded.text)),
        },
        TextType::Code(_) => Parsed::lines(encoding::clean(decoded.text)),
        TextType::Plain => Parsed::plain(encoding::clean(decoded.text)),
    };
    parsed.outline.detected_type = kind.media_type().to_owned();
    parsed.outline.encoding = Some(name.to_owned());
    parsed.outline.encoding_confidence = Some(confidence);
    Ok(parsed)
}

/// The checks and additions that every format gets.
fn finish(mut parsed: Parsed, limits: &Limits) -> Result<Extracted, Failure> {
    let failure = if parsed.unreadable.is_some() {
        parsed.unreadable
    } else if parsed.text.len() as u64 > limits.max_text_bytes {
        Some(text_too_large(limits))
    } else if !parsed.text.contains(|c: char| !c.is_whitespace()) {
        Some(Failure::new(ReasonCode::Empty, "the file has no text"))
    } else {
        None
    };
    if let Some(failure) = failure {
        let attachments = parsed.attachments;
        return if attachments.is_empty() {
            Err(failure)
        } else {
            Ok(Extracted::unreadable(failure, attachments))
        };
    }
    let title = parsed.outline.title.take().map(|title| one_line(&title));
    parsed.outline.title = title.filter(|title| !title.is_empty());
    if parsed.outline.language.is_none() {
        parsed.outline.language = language::detect(&parsed.text);
    }
    let Parsed { text, outline, attachments, .. } = parsed;
    Ok(Extracted { text, outline, attachments, unreadable: None })
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
