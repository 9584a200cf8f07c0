//! Dead letters on their way to PostgreSQL.

use bytes::Bytes;

use crate::{Error, Streams, client::Value, entry};

/// A dead letter that waits to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEntry {
    /// Its id on the dead-letter stream.
    pub stream_id: String,
    /// An encoded Envelope with a DeadLetter.
    pub envelope: Bytes,
}

impl Streams {
    /// The oldest dead letters of a partition.
    pub async fn dead_letters(&self, partition: u16, count: usize) -> Result<Vec<DeadEntry>, Error> {
        let key = self.keys().dead(partition);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let args = vec![key.as_str().into(), "-".into(), "+".into(), "COUNT".into(), count.into()];
        let reply = self.conn().call("XRANGE", Some(&key), args).await?;
        let pairs = entry::pairs(reply)?;
        Ok(pairs.into_iter().map(|(stream_id, envelope, _)| DeadEntry { stream_id, envelope }).collect())
    }

    /// Removes dead letters that were moved; says how many were there.
    pub async fn remove_dead(&self, partition: u16, stream_ids: &[String]) -> Result<u64, Error> {
        if stream_ids.is_empty() {
            return Ok(0);
        }
        let keys = [self.keys().dead(partition), self.keys().sizes(partition)];
        let args = stream_ids.iter().map(|id| Value::from(id.as_str())).collect();
        let removed = self.scripts().remove_dead.run(&self.conn(), &keys, args).await?;
        removed.as_u64().ok_or(Error::Reply("count"))
    }
}
