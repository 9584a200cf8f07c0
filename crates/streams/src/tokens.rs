//! Token buckets that all gateways share.

use std::time::Duration;

use riacho_domain::TenantId;

use crate::{Error, Streams};

/// How long a bucket is waited for. A request is not held up for its limit.
const PATIENCE: Duration = Duration::from_millis(250);

/// A rate: a bucket that holds some tokens and gets one each while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two tokens.
    pub every: Duration,
    /// How many tokens the bucket holds, at least 1.
    pub burst: u32,
}

impl Streams {
    /// Takes a token of the tenant's bucket `what`. Answers how long it takes until there is one, where there
    /// is none; nothing is taken then.
    ///
    /// # Errors
    /// When Redis is away. The caller decides whether that refuses anything.
    pub async fn take_token(
        &self,
        tenant: &TenantId,
        what: &str,
        rate: Rate,
    ) -> Result<Option<Duration>, Error> {
        let every = i64::try_from(rate.every.as_micros().max(1)).unwrap_or(i64::MAX);
        let args = vec![every.into(), i64::from(rate.burst.max(1)).into()];
        let conn = self.conn().with_timeout(PATIENCE);
        let keys = [self.keys().bucket(tenant, what)];
        let wait = self.scripts().token.run(&conn, &keys, args).await?.as_i64();
        match wait.and_then(|micros| u64::try_from(micros).ok()) {
            Some(0) => Ok(None),
            Some(micros) => Ok(Some(Duration::from_micros(micros))),
            None => Err(Error::Reply("token answer")),
        }
    }
}
