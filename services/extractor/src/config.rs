//! The extractor's settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ocr, pool};

/// How originals become text and chunks. Section `extractor` of the configuration.
///
/// How a document is cut stands in the document version itself; see the gateway's section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The PDFium library, `libpdfium.so`. Without one, PDF files fail as `unsupported`. The
    /// runtime directory's is taken when nothing is set.
    pub pdfium: Option<PathBuf>,
    /// The parser processes and their limits.
    pub parser: pool::Config,
    /// Recognition of text in pictures.
    pub ocr: ocr::Config,
    /// How many documents are worked on at once; 0 is two for each parser process, so that one is
    /// read or stored while another is parsed. More only crowd out the other stages of a small machine.
    pub concurrency: usize,
    /// The most bytes of originals and of files attached to them in memory at once; each original counts twice, as its
    /// attachments may have as many bytes again. Documents that would exceed it wait, so that large ones are worked on
    /// one after the other; one that is larger by itself is worked on alone. A quarter as much besides is for
    /// interactive documents.
    pub originals_bytes: u64,
    /// The most chunks of an event for the embedder.
    pub batch_chunks: usize,
    /// The most text of an event for the embedder, in bytes.
    pub batch_bytes: usize,
    /// How many events of a document travel in its own lane; the rest go to the next lower one, so
    /// that a giant does not block its lane.
    pub urgent_batches: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pdfium: None,
            parser: pool::Config::default(),
            ocr: ocr::Config::default(),
            concurrency: 0,
            originals_bytes: 256 << 20,
            batch_chunks: 64,
            batch_bytes: 128 << 10,
            urgent_batches: 4,
        }
    }
}

impl Config {
    /// How many documents are worked on at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        match self.concurrency {
            0 => 2 * self.parser.process_count(),
            count => count,
        }
    }

    /// The settings of the pool, the library and the recognition of text included.
    #[must_use]
    pub fn pool(&self) -> pool::Config {
        let pdfium_library = self.pdfium.clone().or_else(|| self.parser.pdfium_library.clone());
        pool::Config { pdfium_library, ocr: self.ocr.clone(), ..self.parser.clone() }
    }
}
