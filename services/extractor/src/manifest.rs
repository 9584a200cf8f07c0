//! The manifest of a run: all of its chunks but their text, as it is sealed into the version's row.
//!
//! Together with the stored text it gives the run's chunks again, byte for byte, whatever later
//! builds would cut.

use std::ops::Range;

use prost::Message;
use riacho_domain::content_hash;

use crate::chunk::Chunk;

/// The format of a run whose chunks have no table headers. A change of the fields below makes a new one, which this build
/// writes where it needs it and an older one refuses.
const FORMAT: u32 = 1;
/// The format of a run with table headers.
const WITH_TABLE_HEADERS: u32 = 2;

/// What cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no manifest.
    #[error("the sealed manifest cannot be decoded")]
    Undecodable,
    /// A newer build has written it.
    #[error("the sealed manifest is of format {0}, which this build does not know")]
    Format(u32),
    /// The stored text is not the one that was sealed.
    #[error("chunk {0} of the sealed manifest does not fit the stored text")]
    Mismatch(u32),
}

/// A run's chunks with what else they are embedded and indexed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The document's title, or its file name.
    pub title: String,
    /// The text's language, ISO 639-1, or empty.
    pub language: String,
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, PartialEq, Message)]
struct Sealed {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(string, tag = "3")]
    language: String,
    /// Heading paths, each once; chunks refer to them by index.
    #[prost(message, repeated, tag = "4")]
    paths: Vec<Path>,
    #[prost(message, repeated, tag = "5")]
    chunks: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(string, repeated, tag = "1")]
    headings: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, tag = "1")]
    byte_start: u64,
    #[prost(uint64, tag = "2")]
    byte_end: u64,
    #[prost(uint64, tag = "3")]
    char_start: u64,
    #[prost(uint64, tag = "4")]
    char_end: u64,
    #[prost(uint32, tag = "5")]
    page_first: u32,
    #[prost(uint32, tag = "6")]
    page_last: u32,
    #[prost(uint32, tag = "7")]
    path: u32,
    #[prost(uint32, tag = "8")]
    token_count: u32,
    #[prost(bytes = "vec", tag = "9")]
    content_hash: Vec<u8>,
    /// The bytes of the text that are its table header; both are 0 where it has none.
    #[prost(uint64, tag = "10")]
    header_start: u64,
    #[prost(uint64, tag = "11")]
    header_end: u64,
}

impl Manifest {
    /// The manifest as it is sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut paths: Vec<Path> = Vec::new();
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            // Chunks under one heading follow each other.
            if paths.last().is_none_or(|path| path.headings != chunk.heading_path) {
                paths.push(Path { headings: chunk.heading_path.clone() });
            }
            let header = chunk.table_header.clone().unwrap_or_default();
            chunks.push(Entry {
                byte_start: chunk.bytes.start as u64,
                byte_end: chunk.bytes.end as u64,
                char_start: chunk.chars.start as u64,
                char_end: chunk.chars.end as u64,
                page_first: chunk.pages.0,
                page_last: chunk.pages.1,
                path: u32::try_from(paths.len() - 1).unwrap_or(u32::MAX),
                token_count: chunk.token_count,
                content_hash: chunk.content_hash.to_vec(),
                header_start: header.start as u64,
                header_end: header.end as u64,
            });
        }
        let has_headers = self.chunks.iter().any(|chunk| chunk.table_header.is_some());
        let format = if has_headers { WITH_TABLE_HEADERS } else { FORMAT };
        Sealed { format, title: self.title.clone(), language: self.language.clone(), paths, chunks }
            .encode_to_vec()
    }

    /// The manifest that was sealed, checked against the stored text: every chunk is a slice of it
    /// and has the hash that it had.
    ///
    /// # Errors
    ///
    /// When the bytes are no manifest of a known format, or the text is another one.
    pub fn decode(bytes: &[u8], text: &str) -> Result<Self, ManifestError> {
        let sealed = Sealed::decode(bytes).map_err(|_| ManifestError::Undecodable)?;
        if ![FORMAT, WITH_TABLE_HEADERS].contains(&sealed.format) {
            return Err(ManifestError::Format(sealed.format));
        }
        let mut chunks = Vec::with_capacity(sealed.chunks.len());
        for (ordinal, entry) in (0..).zip(&sealed.chunks) {
            let chunk = entry.chunk(ordinal, &sealed.paths).ok_or(ManifestError::Undecodable)?;
            let slice =
                |bytes: &Range<usize>| text.get(bytes.clone()).ok_or(ManifestError::Mismatch(ordinal));
            let header = chunk.table_header.as_ref().map_or(Ok(""), slice)?;
            let hash = content_hash(&sealed.title, &chunk.heading_path, header, slice(&chunk.bytes)?);
            if hash != chunk.content_hash {
                return Err(ManifestError::Mismatch(ordinal));
            }
            chunks.push(chunk);
        }
        Ok(Self { title: sealed.title, language: sealed.language, chunks })
    }
}

impl Entry {
    fn chunk(&self, ordinal: u32, paths: &[Path]) -> Option<Chunk> {
        let at = |offset: u64| usize::try_from(offset).ok();
        let header = at(self.header_start)?..at(self.header_end)?;
        Some(Chunk {
            ordinal,
            bytes: at(self.byte_start)?..at(self.byte_end)?,
            chars: at(self.char_start)?..at(self.char_end)?,
            pages: (self.page_first, self.page_last),
            heading_path: paths.get(self.path as usize)?.headings.clone(),
            token_count: self.token_count,
            content_hash: self.content_hash.as_slice().try_into().ok()?,
            table_header: Some(header).filter(|header| !header.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        chunk::{Settings, cut},
        extracted::{Extracted, Outline},
        parse::markdown,
    };

    fn sealed() -> (String, Manifest) {
        sealed_with("")
    }

    fn sealed_with(table: &str) -> (String, Manifest) {
        let text = "# One\n\nThe água rises. ".to_owned()
            + &"It rains and rains on the hills. ".repeat(30)
            + "\n\n# Two\n\nEnd.\n\n"
            + table;
        let outline = Outline { headings: markdown::headings(&text), ..Outline::default() };
        let settings = Settings { max_tokens: 32, ..Settings::default() };
        let chunks =
            cut(&Extracted { text: text.clone(), outline, ..Extracted::default() }, "T", &settings).unwrap();
        (text, Manifest { title: "T".into(), language: "en".into(), chunks })
    }

    #[test]
    fn a_manifest_gives_the_chunks_again() {
        let (text, manifest) = sealed();
        assert!(manifest.chunks.len() > 3);
        assert_eq!(Manifest::decode(&manifest.encode(), &text).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_gives_the_headers_of_tables_again() {
        let table = "| dia | nível |\n|---|---|\n".to_owned() + &"| 1 | 2,5 |\n".repeat(40);
        let (text, manifest) = sealed_with(&table);
        let headers = manifest.chunks.iter().filter_map(|chunk| chunk.table_header.clone());
        let headers: Vec<_> = headers.map(|header| &text[header]).collect();
        assert!(
            headers.len() > 3 && headers.iter().all(|header| *header == "| dia | nível |"),
            "{headers:?}"
        );
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes, &text).unwrap(), manifest);
        assert_eq!(riacho_domain::sealed_title(&bytes), Some("T"));
        let other = text.replace("| dia |", "| mês |");
        assert!(matches!(Manifest::decode(&bytes, &other), Err(ManifestError::Mismatch(_))));
        // Builds that know no headers read what has none.
        assert_eq!((bytes[1], sealed().1.encode()[1]), (2, 1));
    }

    #[test]
    fn the_title_is_read_without_the_rest() {
        let (_, mut manifest) = sealed();
        for title in ["T", "", "Manual da estação", &"long ".repeat(100)] {
            title.clone_into(&mut manifest.title);
            assert_eq!(riacho_domain::sealed_title(&manifest.encode()), Some(title));
        }
    }

    #[test]
    fn another_text_is_refused() {
        let (text, manifest) = sealed();
        let bytes = manifest.encode();
        assert_eq!(
            Manifest::decode(&bytes, &text.replace("rains", "snows")),
            Err(ManifestError::Mismatch(0))
        );
        assert!(matches!(Manifest::decode(&bytes, &text[..40]), Err(ManifestError::Mismatch(_))));
        assert_eq!(Manifest::decode(b"\xff\xff", &text), Err(ManifestError::Undecodable));
        assert_eq!(Manifest::decode(&[0x08, 9], &text), Err(ManifestError::Format(9)));
    }
}
