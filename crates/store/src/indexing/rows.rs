//! Chunks as columns, the form in which many rows are sent in one statement. COPY would be the other
//! way, and PostgreSQL refuses it under row-level security.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use riacho_proto::v1::Chunk;
use uuid::Uuid;

use super::IndexItem;
use crate::{
    language::configuration,
    lexemes::{Language, TextVector},
    read::{signed, signed_size},
};

/// Stands between headings on their way to the database, which cannot take arrays of unequal arrays.
const SEPARATOR: char = '\u{1f}';

/// A text search vector holds at most 1 MiB; a chunk is far smaller.
const TEXT_BYTES: usize = 512 * 1024;

/// Rows of chunks and vectors, column by column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) documents: Vec<Uuid>,
    pub(super) versions: Vec<i32>,
    pub(super) runs: Vec<Uuid>,
    pub(super) ordinals: Vec<i32>,
    pub(super) texts: Vec<&'a str>,
    pub(super) byte_starts: Vec<i64>,
    pub(super) byte_ends: Vec<i64>,
    pub(super) char_starts: Vec<i64>,
    pub(super) char_ends: Vec<i64>,
    pub(super) first_pages: Vec<i32>,
    pub(super) last_pages: Vec<i32>,
    pub(super) headings: Vec<String>,
    pub(super) table_headers: Vec<Option<&'a str>>,
    pub(super) tokens: Vec<i32>,
    pub(super) hashes: Vec<&'a [u8]>,
    pub(super) configs: Vec<&'static str>,
    pub(super) lexemes: Vec<TextVector>,
    pub(super) vectors: Vec<HalfVector<'a>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(items: &[&'a IndexItem]) -> Self {
        let mut columns = Self::default();
        for item in items {
            let config = configuration(&item.language);
            for embedded in &item.chunks {
                if let Some(chunk) = &embedded.chunk {
                    columns.push(item, chunk, config, &embedded.vector_f16);
                }
            }
        }
        columns
    }

    fn push(&mut self, item: &IndexItem, chunk: &'a Chunk, config: &'static str, vector: &'a [u8]) {
        self.documents.push(item.release.document.0);
        self.versions.push(signed(item.release.version));
        self.runs.push(item.run.0);
        self.ordinals.push(signed(chunk.ordinal));
        self.texts.push(&chunk.text);
        self.byte_starts.push(signed_size(chunk.byte_start));
        self.byte_ends.push(signed_size(chunk.byte_end));
        self.char_starts.push(signed_size(chunk.char_start));
        self.char_ends.push(signed_size(chunk.char_end));
        self.first_pages.push(signed(chunk.page_first));
        self.last_pages.push(signed(chunk.page_last));
        self.headings.push(joined(&chunk.heading_path));
        let table_header = Some(chunk.table_header.as_str());
        self.table_headers.push(table_header.filter(|header| !header.is_empty()));
        self.tokens.push(signed(chunk.token_count));
        self.hashes.push(&chunk.content_hash);
        self.configs.push(config);
        self.lexemes.push(Language::of(config).vector(&with_context(chunk)));
        self.vectors.push(HalfVector(vector));
    }
}

/// What a chunk is found by: its text, the headings above it, and the header row of a table that it goes on with.
fn with_context(chunk: &Chunk) -> Cow<'_, str> {
    let header = Some(&chunk.table_header).filter(|header| !header.is_empty());
    let context = chunk.heading_path.iter().chain(header);
    let mut all: String = context.flat_map(|line| [line.as_str(), "\n"]).collect();
    if all.is_empty() {
        return Cow::Borrowed(&chunk.text);
    }
    all.push_str(&chunk.text);
    Cow::Owned(all)
}

fn joined(headings: &[String]) -> String {
    headings.iter().map(|heading| heading.replace(SEPARATOR, " ")).collect::<Vec<_>>().join("\u{1f}")
}

/// Says what of an item can never be written.
pub(super) fn check(item: &IndexItem, dimensions: Option<u32>) -> Result<(), String> {
    let Some(dimensions) = dimensions else {
        return Err(format!("there is no embedding space {}", item.space));
    };
    for embedded in &item.chunks {
        let Some(chunk) = &embedded.chunk else {
            return Err("a vector came without its chunk".into());
        };
        check_chunk(chunk).map_err(|what| format!("chunk {} {what}", chunk.ordinal))?;
        check_vector(&embedded.vector_f16, dimensions)
            .map_err(|what| format!("the vector of chunk {} {what}", chunk.ordinal))?;
    }
    Ok(())
}

fn check_chunk(chunk: &Chunk) -> Result<(), &'static str> {
    let context = || chunk.heading_path.iter().chain([&chunk.table_header]);
    if chunk.text.len() + context().map(String::len).sum::<usize>() > TEXT_BYTES {
        return Err("is over 512 KiB");
    }
    if chunk.text.contains('\0') || context().any(|line| line.contains('\0')) {
        return Err("contains the character U+0000");
    }
    if i32::try_from(chunk.ordinal).is_err() {
        return Err("has an ordinal that is too large");
    }
    Ok(())
}

fn check_vector(vector: &[u8], dimensions: u32) -> Result<(), String> {
    if vector.len() as u64 != u64::from(dimensions) * 2 {
        return Err(format!("has {} values, its space has {dimensions}", vector.len() / 2));
    }
    // An exponent of all ones is an infinity or no number.
    let finite = vector.chunks_exact(2).all(|pair| u16::from_le_bytes([pair[0], pair[1]]) & 0x7c00 != 0x7c00);
    if finite { Ok(()) } else { Err("has a value that is not finite".into()) }
}

/// A vector of binary16 values in little endian, as events carry it. On its way to `halfvec` only the
/// bytes are swapped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HalfVector<'a>(pub(crate) &'a [u8]);

impl ToSql for HalfVector<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u16(u16::try_from(self.0.len() / 2)?);
        out.put_u16(0);
        for pair in self.0.chunks_exact(2) {
            out.put_u16(u16::from_le_bytes([pair[0], pair[1]]));
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        // The type belongs to an extension: its number differs from database to database.
        ty.name() == "halfvec"
    }

    to_sql_checked!();
}

/// A vector as it was stored, in the form of events.
pub(crate) struct StoredVector(pub(crate) Vec<u8>);

impl<'a> FromSql<'a> for StoredVector {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let values = raw.get(4..).ok_or("a vector without its dimensions")?;
        Ok(Self(values.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]).collect()))
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "halfvec"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_wrong_length_or_not_finite_are_refused() {
        let bytes = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
        };
        assert!(check_vector(&bytes(&[1.0, 0.5]), 2).is_ok());
        assert!(check_vector(&bytes(&[1.0]), 2).is_err());
        assert!(check_vector(&bytes(&[1.0, f32::NAN]), 2).is_err());
        assert!(check_vector(&bytes(&[1.0, f32::INFINITY]), 2).is_err());
    }

    #[test]
    fn headings_survive_the_way() {
        assert_eq!(joined(&["A".into(), "B\u{1f}C".into()]), "A\u{1f}B C");
    }
}
