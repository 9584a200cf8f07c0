//! Dead letters on their way to PostgreSQL.

use bytes::Bytes;
use riacho_domain::StageName;

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
        let key = self.keys().dead(partition);
        self.remove(partition, &key, None, stream_ids).await
    }

    /// Removes entries of a stream, whoever holds them, with their bytes; says how many were there.
    pub(crate) async fn remove(
        &self,
        partition: u16,
        key: &str,
        group: Option<StageName>,
        ids: &[String],
    ) -> Result<u64, Error> {
        if ids.is_empty() {
            return Ok(0);
        }
        let keys = [key.to_owned(), self.keys().sizes(partition)];
        let group = group.map_or("", StageName::as_str);
        let args = std::iter::once(group).chain(ids.iter().map(String::as_str)).map(Value::from).collect();
        let removed = self.scripts().remove.run(&self.conn(), &keys, args).await?;
        removed.as_u64().ok_or(Error::Reply("count"))
    }
}
