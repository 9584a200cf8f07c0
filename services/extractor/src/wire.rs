//! What a parser's child and its parent say to each other over the child's standard streams.
//!
//! The parent writes messages: a header in JSON behind its length, then the bytes that it announces. The
//! child answers in frames: a tag, a length and a payload. Lengths are 32 bits, little endian.
//!
//! A parser is sent a [`Request`] with a file. In the middle of its work it may ask for the words in a
//! picture, which another child finds, and is sent a [`Recognized`]. A recogniser is sent a [`Job`] for
//! each picture.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    extracted::{Failure, Missing},
    parse::{Limits, Rendering},
};

/// The argument that makes the binary a parser's child. [`Settings`] in JSON follow it.
pub const SUBCOMMAND: &str = "parse-child";

/// The longest header, or outline in JSON, that is read.
pub const MAX_JSON_BYTES: u32 = 64 << 20;

/// What a child is told at its start. Nothing secret: arguments can be seen by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The process that must be the child's parent; another one means that it is gone already.
    pub parent: u32,
    /// The most memory the child may map, in bytes.
    pub memory_bytes: u64,
    /// What the child is for.
    pub role: Role,
}

/// What a child is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Files to text.
    Parser(ParserSettings),
    /// Pictures to words.
    Recognizer(RecognizerSettings),
}

/// What a parser is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParserSettings {
    /// What a document may cost.
    pub limits: Limits,
    /// CPU seconds for a document.
    pub cpu_seconds: u64,
    /// CPU milliseconds for each page in addition.
    pub page_cpu_ms: u64,
    /// The PDFium library.
    pub pdfium_library: Option<PathBuf>,
    /// How pages are drawn whose words have to be recognised; nothing where that is switched off.
    pub rendering: Option<Rendering>,
}

/// What a recogniser is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecognizerSettings {
    /// The tesseract library; the system's when nothing is named.
    pub library: Option<PathBuf>,
    /// The directory of its trained data; the library's own when nothing is named.
    pub data: Option<PathBuf>,
    /// The languages to look for.
    pub languages: Vec<String>,
    /// CPU seconds for a picture.
    pub cpu_seconds: u64,
    /// The most bytes of a file with pictures.
    pub max_file_bytes: u64,
    /// The most pixels of a picture.
    pub max_pixels: u64,
}

/// The header of a file to be parsed; its bytes follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The file's name.
    pub filename: String,
    /// How many bytes follow.
    pub size: u64,
    /// Pages that an earlier process did not survive. They are left out.
    pub skip: Vec<Missing>,
}

/// The header of a file that was attached to the one that is parsed; its bytes follow in a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its name.
    pub filename: String,
}

/// A picture whose words are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picture {
    /// A picture of the file that is parsed, which may hold several.
    Original {
        /// Which one, from 0.
        frame: u32,
    },
    /// A page as it was drawn. Its pixels follow: a byte each, in rows of `stride` bytes.
    Page {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes in a row.
        stride: u32,
        /// Pixels to an inch.
        dpi: u32,
    },
}

/// The header of a picture for a recogniser; bytes follow: the pixels of a page, or the file that the
/// picture is in, unless it has that already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The picture.
    pub picture: Picture,
    /// How many bytes follow.
    pub size: u64,
}

/// The header of the answer to a parser that asked for the words in a picture; the words follow, as a
/// table of tesseract's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recognized {
    /// The words follow.
    Words {
        /// How many bytes they have.
        size: u64,
    },
    /// There are none.
    Not(Unread),
}

/// Why the words in a picture are not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The reason.
    pub failure: Failure,
    /// No other picture of the document is read either.
    pub all: bool,
}

/// The longest table of words that is read.
pub const MAX_WORDS_BYTES: u64 = 16 << 20;

/// What a child says when it is confined and ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ready {
    /// Why the PDFium library that was named could not be loaded.
    pub pdfium_error: Option<String>,
    /// Why a recogniser recognises nothing; it ends then.
    pub recognizer_error: Option<String>,
    /// The languages that a recogniser looks for.
    pub languages: Vec<String>,
}

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// [`Ready`] in JSON: the first frame of a child.
    Ready,
    /// Two 32-bit numbers: pages done, pages in all. Sent before each page is begun.
    Progress,
    /// A [`Picture`] in JSON whose words are wanted; the pixels of a page follow.
    Picture,
    /// The pixels of a page.
    Pixels,
    /// [`Attached`] in JSON; its bytes follow. All of these come before the text, or the failure.
    Attachment,
    /// The bytes of an attachment.
    Bytes,
    /// The text; the outline follows. Of a recogniser: the words.
    Text,
    /// The outline in JSON; the document is done.
    Outline,
    /// A failure in JSON; the document is done.
    Failure,
}

impl Tag {
    /// The byte that stands for the tag.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Tag::Ready => b'R',
            Tag::Progress => b'P',
            Tag::Picture => b'I',
            Tag::Pixels => b'X',
            Tag::Attachment => b'A',
            Tag::Bytes => b'B',
            Tag::Text => b'T',
            Tag::Outline => b'O',
            Tag::Failure => b'F',
        }
    }

    /// The tag of a byte.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Tag> {
        match byte {
            b'R' => Some(Tag::Ready),
            b'P' => Some(Tag::Progress),
            b'I' => Some(Tag::Picture),
            b'X' => Some(Tag::Pixels),
            b'A' => Some(Tag::Attachment),
            b'B' => Some(Tag::Bytes),
            b'T' => Some(Tag::Text),
            b'O' => Some(Tag::Outline),
            b'F' => Some(Tag::Failure),
            _ => None,
        }
    }
}
