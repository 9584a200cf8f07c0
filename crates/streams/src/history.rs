//! What the figures were: samples of a while, each taken once whoever takes them.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Error, Streams,
    client::Value,
    entry::{FIELD, id_millis, pairs},
    inspect::server_millis,
};

impl Streams {
    /// The time since 1970 by the clock of the Redis that keeps the samples.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn time(&self) -> Result<Duration, Error> {
        server_millis(&self.conn(), Some(&self.keys().history())).await.map(Duration::from_millis)
    }

    /// Adds the sample of a moment, and forgets all but the last `keep`. False: there is one of this moment or of a later
    /// one. Whoever takes samples at the same round moments therefore takes each once.
    ///
    /// # Errors
    /// When Redis is away or has no room.
    pub async fn add_sample(&self, at_millis: u64, sample: Bytes, keep: u32) -> Result<bool, Error> {
        let key = self.keys().history();
        let args = vec![
            key.as_str().into(),
            "MAXLEN".into(),
            i64::from(keep).into(),
            format!("{at_millis}-0").into(),
            FIELD.into(),
            Value::Bytes(sample),
        ];
        match self.conn().call("XADD", Some(&key), args).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(text)) if text.contains("equal or smaller") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The samples since a moment, the oldest first, each with its moment in milliseconds.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn samples(&self, since_millis: u64) -> Result<Vec<(u64, Bytes)>, Error> {
        let key = self.keys().history();
        let args = vec![key.as_str().into(), since_millis.to_string().into(), "+".into()];
        let entries = pairs(self.conn().call("XRANGE", Some(&key), args).await?)?;
        Ok(entries.into_iter().map(|(id, sample, _)| (id_millis(&id), sample)).collect())
    }
}
