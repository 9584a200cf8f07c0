//! A `tsvector` on its way to PostgreSQL.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};

use super::Forms;

/// The most places of a lexeme, the greatest place, and the most lexemes' bytes that a `tsvector`
/// takes (PostgreSQL, "Limitations" of text search). What is over is left out.
const PLACES: usize = 255;
const LAST_PLACE: usize = 16_383;
const BYTES: usize = 1 << 20;

/// The lexemes of a text with their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TextVector {
    /// In the order of their bytes. Without places: a second form, which weighs as one occurrence.
    lexemes: BTreeMap<Box<str>, Vec<u16>>,
    bytes: usize,
}

impl TextVector {
    /// Adds the forms of the word at a place, counted from 0.
    pub(super) fn add(&mut self, forms: &Forms, place: usize) {
        let place = u16::try_from((place + 1).min(LAST_PLACE)).unwrap_or(u16::MAX);
        if let Some(places) = self.places(&forms.folded)
            && places.len() < PLACES
            && places.last() != Some(&place)
        {
            places.push(place);
        }
        if let Some(accented) = &forms.accented {
            self.places(accented);
        }
    }

    /// The places of a lexeme; none where there is no room for it.
    fn places(&mut self, lexeme: &str) -> Option<&mut Vec<u16>> {
        if !self.lexemes.contains_key(lexeme) {
            // What PostgreSQL keeps of each beside its bytes and places.
            self.bytes += lexeme.len() + 8;
            if self.bytes > BYTES / 2 {
                return None;
            }
            self.lexemes.insert(lexeme.into(), Vec::new());
        }
        self.lexemes.get_mut(lexeme)
    }
}

impl ToSql for TextVector {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The form of PostgreSQL's tsvectorrecv: count, then lexeme, zero byte, places.
        out.put_u32(u32::try_from(self.lexemes.len())?);
        for (lexeme, places) in &self.lexemes {
            out.put_slice(lexeme.as_bytes());
            out.put_u8(0);
            out.put_u16(u16::try_from(places.len())?);
            for place in places {
                out.put_u16(*place);
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TS_VECTOR
    }

    to_sql_checked!();
}
