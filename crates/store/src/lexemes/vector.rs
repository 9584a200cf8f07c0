//! A `tsvector` on its way to PostgreSQL.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};

use super::Forms;

/// The most places of a lexeme, the greatest place, and the most bytes that a `tsvector` takes
/// (PostgreSQL, "Limitations" of text search). What is over is left out.
const PLACES: usize = 255;
const LAST_PLACE: usize = 16_383;
const BYTES: usize = 1 << 19;

/// The lexemes of a text as its words come, each with its place; 0 for a second form of a word, which
/// weighs as one occurrence.
#[derive(Debug, Default)]
pub(super) struct Occurrences(Vec<(Arc<str>, u16)>);

impl Occurrences {
    /// Adds the forms of the word at a place, counted from 0.
    pub(super) fn add(&mut self, forms: &Forms, place: usize) {
        let place = u16::try_from((place + 1).min(LAST_PLACE)).unwrap_or(u16::MAX);
        self.0.push((Arc::clone(&forms.folded), place));
        if let Some(accented) = &forms.accented {
            self.0.push((Arc::clone(accented), 0));
        }
    }

    /// The form of PostgreSQL's tsvectorrecv: count, then for each lexeme in the order of their bytes
    /// the lexeme, a zero byte, and its places.
    pub(super) fn encode(mut self) -> TextVector {
        self.0.sort_unstable();
        let mut out = BytesMut::with_capacity(4 + 12 * self.0.len());
        out.put_u32(0);
        let mut count = 0_u32;
        for lexeme in self.0.chunk_by(|a, b| a.0 == b.0) {
            let text = lexeme[0].0.as_bytes();
            // What PostgreSQL keeps of each beside its bytes and places.
            if out.len() + text.len() + 2 * lexeme.len() + 8 > BYTES {
                break;
            }
            count += 1;
            out.put_slice(text);
            out.put_u8(0);
            let places = out.len();
            out.put_u16(0);
            let mut last = 0;
            for (_, place) in lexeme.iter().filter(|(_, place)| *place > 0) {
                if *place != last && out.len() < places + 2 + 2 * PLACES {
                    out.put_u16(*place);
                }
                last = *place;
            }
            let written = u16::try_from((out.len() - places - 2) / 2).unwrap_or(0);
            out[places..places + 2].copy_from_slice(&written.to_be_bytes());
        }
        out[..4].copy_from_slice(&count.to_be_bytes());
        TextVector(out.freeze())
    }
}

/// The lexemes of a text with their places, in PostgreSQL's binary form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextVector(Bytes);

impl ToSql for TextVector {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TS_VECTOR
    }

    to_sql_checked!();
}
