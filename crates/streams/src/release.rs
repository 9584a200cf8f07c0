//! Putting a release onto the first stage's stream.

use riacho_domain::{Lane, ReleaseId, StageName};

use crate::{Error, Streams, client::Value};

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// It stands on the stream now.
    Added,
    /// It was added before; nothing changed.
    AlreadyThere,
    /// The stream is at its cap; nothing changed.
    Full,
}

impl Streams {
    /// Puts a release onto the extractor's stream. Sending the same release again adds nothing.
    pub async fn release(
        &self,
        partition: u16,
        lane: Lane,
        envelope: &[u8],
        release: ReleaseId,
    ) -> Result<ReleaseOutcome, Error> {
        let keys = self.keys();
        let keys = [
            keys.work(partition, StageName::Extract, lane),
            keys.release_marker(partition, release),
            keys.sizes(partition),
        ];
        let config = self.config();
        let args = vec![
            Value::Bytes(bytes::Bytes::copy_from_slice(envelope)),
            i64::try_from(config.stream_max_bytes).unwrap_or(i64::MAX).into(),
            i64::try_from(config.release_marker_seconds.max(1)).unwrap_or(i64::MAX).into(),
        ];
        match self.scripts().release.run(&self.conn(), &keys, args).await?.as_i64() {
            Some(1) => Ok(ReleaseOutcome::Added),
            Some(0) => Ok(ReleaseOutcome::AlreadyThere),
            Some(2) => Ok(ReleaseOutcome::Full),
            _ => Err(Error::Reply("release answer")),
        }
    }
}
