//! Sessions of people who signed in: a few bytes each, which end when they are not used.

use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Streams, client::Value};

impl Streams {
    /// Keeps a session under the hash of its secret, until it was not used for `idle`.
    ///
    /// # Errors
    /// When Redis is away or has no room.
    pub async fn begin_session(&self, hash: &str, session: Bytes, idle: Duration) -> Result<(), Error> {
        let key = self.keys().session(hash);
        let args = vec![key.as_str().into(), Value::Bytes(session), "PX".into(), millis(idle).into()];
        self.conn().call("SET", Some(&key), args).await.map(drop)
    }

    /// A session that has not ended; it goes on for another `idle`.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn session(&self, hash: &str, idle: Duration) -> Result<Option<Bytes>, Error> {
        let key = self.keys().session(hash);
        let args = vec![key.as_str().into(), "PX".into(), millis(idle).into()];
        match self.conn().call("GETEX", Some(&key), args).await? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::String(text) => Ok(Some(text.into_inner())),
            _ => Err(Error::Reply("session")),
        }
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn end_session(&self, hash: &str) -> Result<(), Error> {
        let key = self.keys().session(hash);
        self.conn().call("DEL", Some(&key), vec![key.as_str().into()]).await.map(drop)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis().max(1)).unwrap_or(i64::MAX)
}
