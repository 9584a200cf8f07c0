//! Cursors: opaque texts that say after which row a page begins.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::Error;

/// Part of a longer list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items of this part.
    pub items: Vec<T>,
    /// What to ask the next part with; none at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Cuts a list that was read with one item more than the limit.
    pub(crate) fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = if more { items.last().map(cursor) } else { None };
        Self { items, next_cursor }
    }
}

/// A place in a list that is ordered by time and id.
pub(crate) fn encode_time(time: DateTime<Utc>, id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}", time.timestamp_micros()))
}

pub(crate) fn decode_time(cursor: &str) -> Result<(DateTime<Utc>, Uuid), Error> {
    let text = decode(cursor)?;
    let (micros, id) = text.split_once('.').ok_or_else(invalid)?;
    let time = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or_else(invalid)?;
    Ok((time, id.parse().map_err(|_| invalid())?))
}

/// A place in a version's chunks. A page of another version or run would not continue the list.
pub(crate) fn encode_chunk(version: u32, run: Uuid, ordinal: i32) -> String {
    URL_SAFE_NO_PAD.encode(format!("{version}.{run}.{ordinal}"))
}

pub(crate) fn decode_chunk(cursor: &str) -> Result<(i32, Uuid, i32), Error> {
    let text = decode(cursor)?;
    let mut parts = text.splitn(3, '.');
    let mut next = || parts.next().ok_or_else(invalid);
    let (version, run, ordinal) = (next()?, next()?, next()?);
    Ok((
        version.parse().map_err(|_| invalid())?,
        run.parse().map_err(|_| invalid())?,
        ordinal.parse().map_err(|_| invalid())?,
    ))
}

fn decode(cursor: &str) -> Result<String, Error> {
    if cursor.len() > 200 {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
    String::from_utf8(bytes).map_err(|_| invalid())
}

fn invalid() -> Error {
    Error::Invalid("the cursor is not one that a page was answered with".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cursors_round_trip_and_foreign_texts_are_refused() {
        let (time, id) = (DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), Uuid::now_v7());
        assert_eq!(decode_time(&encode_time(time, id)).unwrap(), (time, id));
        assert_eq!(decode_chunk(&encode_chunk(3, id, 41)).unwrap(), (3, id, 41));
        for bad in ["", "%%%", "YWJj", "MS4y", &"a".repeat(500)] {
            assert!(decode_time(bad).is_err() && decode_chunk(bad).is_err(), "{bad}");
        }
    }
}
