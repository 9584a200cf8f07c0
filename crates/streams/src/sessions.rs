//! Sessions of people who signed in: a few bytes each, which end when they are not used, and so many of each API key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::{Error, Streams, client::Value};

/// A session that begins.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The hash of its secret.
    pub hash: &'a str,
    /// What is kept of it.
    pub content: Bytes,
    /// The public part of the key that it stands for.
    pub api_key: &'a str,
    /// It ends when it was not used for so long.
    pub idle: Duration,
    /// It ends after so long in any case.
    pub longest: Duration,
}

impl Streams {
    /// Keeps a session under the hash of its secret, and ends the oldest of its key, of which `at_most` are kept.
    ///
    /// # Errors
    /// When Redis is away or has no room.
    pub async fn begin_session(&self, session: NewSession<'_>, at_most: u32) -> Result<(), Error> {
        let NewSession { hash, content, api_key, idle, longest } = session;
        // Noted first: a session that is not noted could not be found to be ended.
        let of_key = self.keys().sessions_of(api_key);
        let now = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let (conn, name) = (self.conn(), || Value::from(of_key.as_str()));
        let earliest = now.saturating_sub(millis(longest));
        conn.call("ZREMRANGEBYSCORE", Some(&of_key), vec![name(), "-inf".into(), earliest.into()]).await?;
        conn.call("ZADD", Some(&of_key), vec![name(), now.into(), hash.into()]).await?;
        conn.call("PEXPIRE", Some(&of_key), vec![name(), millis(longest).into()]).await?;
        let last = -1 - i64::from(at_most.max(1));
        let ended = conn.call("ZRANGE", Some(&of_key), vec![name(), 0.into(), last.into()]).await?;
        for hash in texts(ended) {
            self.end_session(&hash, api_key).await?;
        }
        let key = self.keys().session(hash);
        let args = vec![key.as_str().into(), Value::Bytes(content), "PX".into(), millis(idle).into()];
        conn.call("SET", Some(&key), args).await?;
        // Another one that began meanwhile may have ended this one before it was there.
        match conn.call("ZSCORE", Some(&of_key), vec![name(), hash.into()]).await? {
            Value::Null => self.end_session(hash, api_key).await,
            _ => Ok(()),
        }
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

    /// Ends a session of an API key.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn end_session(&self, hash: &str, api_key: &str) -> Result<(), Error> {
        let (key, of_key) = (self.keys().session(hash), self.keys().sessions_of(api_key));
        self.conn().call("DEL", Some(&key), vec![key.as_str().into()]).await?;
        self.conn().call("ZREM", Some(&of_key), vec![of_key.as_str().into(), hash.into()]).await.map(drop)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis().max(1)).unwrap_or(i64::MAX)
}

fn texts(reply: Value) -> Vec<String> {
    let Value::Array(members) = reply else { return Vec::new() };
    members.into_iter().filter_map(|member| member.into_string()).collect()
}
