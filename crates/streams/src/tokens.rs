//! Token buckets: of tenants, which all gateways share, and of lanes, which all consumers share.

use std::time::Duration;

use riacho_domain::{Lane, StageName, TenantId};

use crate::{
    Error, Streams,
    client::{Value, list},
};

/// How long a bucket is waited for. A request is not held up for its limit.
const PATIENCE: Duration = Duration::from_millis(250);

/// How many tokens a bucket may lack after [`Streams::charge`]; what is owed beyond that is let off.
pub const MAX_LACKING: u32 = 2_000;

/// A rate: a bucket that holds some tokens and gets one each while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two tokens.
    pub every: Duration,
    /// How many tokens the bucket holds, at least 1.
    pub burst: u32,
}

/// What a bucket answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// How long it takes until there is one; none: one was taken.
    pub wait: Option<Duration>,
    /// How many are left.
    pub left: u32,
}

impl Streams {
    /// Takes a token of the tenant's bucket `what`, if there is one.
    ///
    /// # Errors
    /// When Redis is away. The caller decides whether that refuses anything.
    pub async fn take_token(&self, tenant: &TenantId, what: &str, rate: Rate) -> Result<Token, Error> {
        self.bucket(tenant, what, rate, 0).await
    }

    /// Takes tokens that a request owes after it was let in with one, whether they are there or not: what comes next waits
    /// until all are made up for, at most [`MAX_LACKING`] of them.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn charge(&self, tenant: &TenantId, what: &str, rate: Rate, owed: u32) -> Result<Token, Error> {
        self.bucket(tenant, what, rate, owed).await
    }

    async fn bucket(&self, tenant: &TenantId, what: &str, rate: Rate, owed: u32) -> Result<Token, Error> {
        let every = i64::try_from(rate.every.as_micros().max(1)).unwrap_or(i64::MAX);
        let numbers = [rate.burst.max(1), owed, MAX_LACKING].map(i64::from);
        let args = std::iter::once(every).chain(numbers).map(Value::from).collect();
        let conn = self.conn().with_timeout(PATIENCE);
        let keys = [self.keys().bucket(tenant, what)];
        let answer = list(self.scripts().token.run(&conn, &keys, args).await?);
        let number = |at: usize| answer.get(at).and_then(Value::as_u64).ok_or(Error::Reply("token answer"));
        let wait = Some(number(0)?).filter(|micros| *micros > 0).map(Duration::from_micros);
        Ok(Token { wait, left: u32::try_from(number(1)?).unwrap_or(u32::MAX) })
    }

    /// Pays for `taken` events of a lane's rate, and answers how many more may begin now. What several
    /// consumers read at once may overdraw it; then nothing begins until that is made up for.
    pub async fn pace(&self, stage: StageName, lane: Lane, rate: Rate, taken: usize) -> Result<usize, Error> {
        let every = i64::try_from(rate.every.as_micros().max(1)).unwrap_or(i64::MAX);
        let taken = i64::try_from(taken).unwrap_or(i64::MAX);
        let args = vec![every.into(), i64::from(rate.burst.max(1)).into(), taken.into()];
        let keys = [self.keys().pace(stage, lane)];
        let tokens = self.scripts().pace.run(&self.conn(), &keys, args).await?.as_i64();
        tokens.and_then(|tokens| usize::try_from(tokens).ok()).ok_or(Error::Reply("pace answer"))
    }
}
