//! Answers that are kept for a while for whoever asks the same again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::{Error, Streams, client::Value};

/// How long a kept answer is waited for. Making it anew takes little longer.
const PATIENCE: Duration = Duration::from_millis(50);

impl Streams {
    /// The answer that is kept under a key, if there is one.
    ///
    /// # Errors
    /// When Redis is away. Nothing needs it to be there.
    pub async fn kept_answer(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let key = self.keys().answer(key);
        let reply =
            self.conn().with_timeout(PATIENCE).call("GET", Some(&key), vec![key.as_str().into()]).await?;
        match reply {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::String(text) => Ok(Some(text.into_inner())),
            _ => Err(Error::Reply("kept answer")),
        }
    }

    /// Keeps an answer for `lifetime`, unless answers of `budget` bytes came in this while already: what is kept needs at
    /// most twice as much. Answers whether it is kept.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn keep_answer(
        &self,
        key: &str,
        answer: Bytes,
        lifetime: Duration,
        budget: u64,
    ) -> Result<bool, Error> {
        let conn = self.conn().with_timeout(PATIENCE);
        let millis = i64::try_from(lifetime.as_millis().max(1)).unwrap_or(i64::MAX);
        let (key, spent) = (self.keys().answer(key), self.keys().answers_bytes(since_epoch() / millis));
        let size = i64::try_from(answer.len() + key.len()).unwrap_or(i64::MAX);
        let args = vec![spent.as_str().into(), size.into()];
        let sum =
            conn.call("INCRBY", Some(&spent), args).await?.as_i64().ok_or(Error::Reply("bytes kept"))?;
        conn.call("PEXPIRE", Some(&spent), vec![spent.as_str().into(), millis.into()]).await?;
        if u64::try_from(sum).unwrap_or(0) > budget {
            return Ok(false);
        }
        let args = vec![key.as_str().into(), Value::Bytes(answer), "PX".into(), millis.into()];
        conn.call("SET", Some(&key), args).await?;
        Ok(true)
    }
}

/// Milliseconds; a clock that is wrong moves the while that is counted, and no more.
fn since_epoch() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
