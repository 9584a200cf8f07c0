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

/// A part of a list in the order of its ids, which are in the order of time: what comes after one of them, before one, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The oldest first.
    pub ascending: bool,
    /// Only what comes after this one.
    pub after: Option<Uuid>,
    /// Only what comes before this one. Without `after`: what comes right before it.
    pub before: Option<Uuid>,
    /// The most items, at least 1.
    pub limit: u32,
}

/// The items of a [`Window`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    /// The items in the order that was asked for.
    pub items: Vec<T>,
    /// Whether there are more in the direction that was read.
    pub has_more: bool,
}

impl Window {
    /// The lower and the upper bound of the ids, both exclusive.
    pub(crate) fn bounds(&self) -> (Option<Uuid>, Option<Uuid>) {
        if self.ascending { (self.after, self.before) } else { (self.before, self.after) }
    }

    /// Which of two statements reads the rows: the one in ascending order, or the other.
    pub(crate) fn choose<'a>(&self, ascending: &'a str, descending: &'a str) -> &'a str {
        if self.ascending == self.is_backwards() { descending } else { ascending }
    }

    /// One more than the limit, to see whether there are more.
    pub(crate) fn rows(&self) -> i64 {
        i64::from(self.limit.max(1)) + 1
    }

    pub(crate) fn cut<T>(&self, mut items: Vec<T>) -> Part<T> {
        let limit = self.limit.max(1) as usize;
        let has_more = items.len() > limit;
        items.truncate(limit);
        if self.is_backwards() {
            items.reverse();
        }
        Part { items, has_more }
    }

    /// What is right before a place is read from there, and turned round.
    const fn is_backwards(&self) -> bool {
        self.before.is_some() && self.after.is_none()
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
    fn a_window_reads_from_the_place_that_it_is_at() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(9));
        let window = |ascending, after, before| Window { ascending, after, before, limit: 2 };
        // (window, bounds, read in ascending order, what comes of the rows 1, 2, 3 as they are read)
        for (window, bounds, ascending, cut) in [
            (window(true, Some(a), None), (Some(a), None), true, [1, 2]),
            (window(false, Some(b), None), (None, Some(b)), false, [1, 2]),
            (window(true, None, Some(b)), (None, Some(b)), false, [2, 1]),
            (window(false, None, Some(a)), (Some(a), None), true, [2, 1]),
            (window(true, Some(a), Some(b)), (Some(a), Some(b)), true, [1, 2]),
        ] {
            assert_eq!((window.bounds(), window.choose("a", "d") == "a"), (bounds, ascending), "{window:?}");
            let part = window.cut(vec![1, 2, 3]);
            assert_eq!((part.items.as_slice(), part.has_more), (cut.as_slice(), true), "{window:?}");
            assert!(!window.cut(vec![1, 2]).has_more);
        }
    }

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
