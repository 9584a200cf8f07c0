//! What a parser's child and its parent say to each other over the child's standard streams.
//!
//! The parent writes requests: a header in JSON behind its length, then the file's bytes. The child
//! answers in frames: a tag, a length and a payload. Lengths are 32 bits, little endian.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::parse::Limits;

/// The argument that makes the binary a parser's child. [`Settings`] in JSON follow it.
pub const SUBCOMMAND: &str = "parse-child";

/// The status of a child that ran out of memory.
pub const OUT_OF_MEMORY_STATUS: i32 = 86;

/// The longest header, or outline in JSON, that is read.
pub const MAX_JSON_BYTES: u32 = 64 << 20;

/// What a child is told at its start. Nothing secret: arguments can be seen by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The process that must be the child's parent; another one means that it is gone already.
    pub parent: u32,
    /// What a document may cost.
    pub limits: Limits,
    /// The most memory the child may map, in bytes.
    pub memory_bytes: u64,
    /// CPU seconds for a document.
    pub cpu_seconds: u64,
    /// CPU milliseconds for each page in addition.
    pub page_cpu_ms: u64,
    /// The PDFium library.
    pub pdfium_library: Option<PathBuf>,
}

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The file's name.
    pub filename: String,
    /// How many bytes follow.
    pub size: u64,
}

/// What a child says when it is confined and ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ready {
    /// Why the PDFium library that was named could not be loaded.
    pub pdfium_error: Option<String>,
}

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// [`Ready`] in JSON: the first frame of a child.
    Ready,
    /// Two 32-bit numbers: pages done, pages in all.
    Progress,
    /// The text; the outline follows.
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
            b'T' => Some(Tag::Text),
            b'O' => Some(Tag::Outline),
            b'F' => Some(Tag::Failure),
            _ => None,
        }
    }
}
