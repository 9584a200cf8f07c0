//! The settings of the recognition of text.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How text in pictures and on scanned pages is recognised. It is, where the tesseract library is
/// installed; elsewhere a document that is nothing but pictures fails as `needs_ocr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether text is recognised.
    pub enabled: bool,
    /// The languages to look for, by tesseract's names. Those without trained data are left out.
    pub languages: Vec<String>,
    /// Pixels to an inch at which pages of a PDF are drawn.
    pub dpi: u32,
    /// How long a page may take, in seconds, of the clock and of the processor.
    pub page_seconds: u64,
    /// How long the pages of a document may take together, in seconds. What is left then is named as missing.
    pub document_seconds: u64,
    /// The most pages of a document.
    pub max_pages: u32,
    /// The most pixels of a picture. Pages of a PDF are drawn smaller instead.
    pub max_pixels: u64,
    /// The most memory a process that recognises text may map, in bytes.
    pub memory_bytes: u64,
    /// The tesseract library; the system's `libtesseract.so.5` when nothing is set.
    pub library: Option<PathBuf>,
    /// The directory of the trained data; the library's own when nothing is set.
    pub data: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            languages: vec!["por".to_owned(), "eng".to_owned()],
            dpi: 300,
            page_seconds: 120,
            document_seconds: 900,
            max_pages: 500,
            max_pixels: 50_000_000,
            memory_bytes: 1 << 30,
            library: None,
            data: None,
        }
    }
}
