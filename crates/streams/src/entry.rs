//! Stream entries, and how they are read out of Redis' replies.

use bytes::Bytes;
use riacho_domain::Lane;

use crate::{
    Error,
    client::{Value, list},
};

/// The one field of an entry: the encoded envelope.
pub(crate) const FIELD: &str = "e";

/// An entry that this consumer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The lane it stands in.
    pub lane: Lane,
    /// Its id on the stream.
    pub id: String,
    /// How often it was delivered, this delivery included.
    pub deliveries: u32,
    /// The encoded envelope. Where the entry has no field `e`: all its fields, for a dead letter.
    pub body: Bytes,
    /// Whether it had the field `e`.
    pub is_event: bool,
}

impl Entry {
    /// When it was added, in milliseconds since the epoch, by the server's clock.
    #[must_use]
    pub fn added_ms(&self) -> u64 {
        id_millis(&self.id)
    }
}

/// The time in an entry id.
pub(crate) fn id_millis(id: &str) -> u64 {
    id_parts(id).0
}

/// The time in an entry id, and the number within its millisecond.
pub(crate) fn id_parts(id: &str) -> (u64, u64) {
    let (millis, sequence) = id.split_once('-').unwrap_or((id, ""));
    (millis.parse().unwrap_or(0), sequence.parse().unwrap_or(0))
}

/// Reads the fields of an entry: the envelope, and whether there was one.
pub(crate) fn body(fields: Value) -> (Bytes, bool) {
    let mut fields = list(fields).into_iter();
    let mut all = Vec::new();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let value = value.into_bytes().unwrap_or_default();
        if name.as_bytes() == Some(FIELD.as_bytes()) {
            return (value, true);
        }
        for part in [name.as_bytes().unwrap_or_default(), b"=", &value, b"\n"] {
            all.extend_from_slice(part);
        }
    }
    (Bytes::from(all), false)
}

/// Reads an array of `[id, fields]`, as XRANGE and each stream of a read answer.
pub(crate) fn pairs(reply: Value) -> Result<Vec<(String, Bytes, bool)>, Error> {
    list(reply).into_iter().map(pair).collect()
}

fn pair(entry: Value) -> Result<(String, Bytes, bool), Error> {
    let mut parts = list(entry).into_iter();
    let id = parts.next().and_then(Value::into_string).ok_or(Error::Reply("entry id"))?;
    let (body, is_event) = parts.next().map_or((Bytes::new(), false), body);
    Ok((id, body, is_event))
}

/// Reads an array of `[lane index from 1, id, delivery count, fields]`, as our scripts answer.
pub(crate) fn taken(reply: Value, lanes: &[Lane]) -> Result<Vec<Entry>, Error> {
    list(reply).into_iter().map(|entry| taken_one(entry, lanes)).collect()
}

fn taken_one(entry: Value, lanes: &[Lane]) -> Result<Entry, Error> {
    let mut parts = list(entry).into_iter();
    let mut next = || parts.next().ok_or(Error::Reply("taken entry"));
    let index = next()?.as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
    let lane = *lanes.get(index.wrapping_sub(1)).ok_or(Error::Reply("stream index"))?;
    let id = next()?.into_string().ok_or(Error::Reply("entry id"))?;
    let deliveries = next()?.as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(u32::MAX);
    let (body, is_event) = body(next()?);
    Ok(Entry { lane, id, deliveries, body, is_event })
}
