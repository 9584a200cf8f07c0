//! Answers that are kept for a while for whoever asks the same again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use riacho_domain::TenantId;

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

    /// Keeps an answer of a tenant for `lifetime`, if it is within the budget. Answers whether it is kept.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn keep_answer(
        &self,
        key: &str,
        tenant: &TenantId,
        answer: Bytes,
        lifetime: Duration,
        budget: &AnswerBudget,
    ) -> Result<bool, Error> {
        let conn = self.conn().with_timeout(PATIENCE);
        let key = self.keys().answer(key);
        let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
        // By the budget's while and not by the answer's: an answer that is true for a second opens no other budget.
        let window = millis(budget.window);
        let spent = self.keys().answers_bytes(since_epoch() / window);
        let args = vec![
            tenant.as_str().into(),
            number((answer.len() + key.len()) as u64),
            number(budget.bytes),
            number(budget.tenant_bytes),
            window.into(),
        ];
        let counted = self.scripts().keep.run(&conn, &[spent], args).await?;
        if counted.as_i64().ok_or(Error::Reply("bytes kept"))? == 0 {
            return Ok(false);
        }
        let args = vec![key.as_str().into(), Value::Bytes(answer), "PX".into(), millis(lifetime).into()];
        conn.call("SET", Some(&key), args).await?;
        Ok(true)
    }
}

/// How much is kept. What comes in a while is bounded, so what is kept needs at most twice as much, where no answer is
/// kept for longer than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerBudget {
    /// The while.
    pub window: Duration,
    /// The most bytes of all tenants in it.
    pub bytes: u64,
    /// The most bytes of each.
    pub tenant_bytes: u64,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis().max(1)).unwrap_or(i64::MAX)
}

/// Milliseconds; a clock that is wrong moves the while that is counted, and no more.
fn since_epoch() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
