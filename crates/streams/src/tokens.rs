//! Token buckets: of tenants, which all gateways share, and of lanes, which all consumers share.

use std::time::Duration;

use riacho_domain::{Lane, StageName, TenantId};

use crate::{
    Error, Streams,
    client::{Value, list},
};

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

/// What a bucket answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// How long it takes until there is one; none: one was taken.
    pub wait: Option<Duration>,
    /// How many are left.
    pub left: u32,
    /// How long it takes until there is the next one.
    pub next: Duration,
}

/// How many tokens are taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// As many. One of them has to be there; the others are owed where they are not, and what comes next waits for them.
    pub count: u32,
    /// So many may be owed; what is beyond that is let off.
    pub most_owed: u32,
}

impl Taken {
    /// One, and nothing is ever owed.
    pub const ONE: Taken = Taken { count: 1, most_owed: 0 };
}

impl Streams {
    /// Takes tokens of the tenant's bucket `what`, if there is one.
    ///
    /// # Errors
    /// When Redis is away. The caller decides whether that refuses anything.
    pub async fn take_tokens(
        &self,
        tenant: &TenantId,
        what: &str,
        rate: Rate,
        taken: Taken,
    ) -> Result<Token, Error> {
        self.change_bucket(tenant, what, rate, taken.count.max(1).into(), taken.most_owed).await
    }

    /// Gives a token back that was taken of the tenant's bucket `what`.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn give_token_back(&self, tenant: &TenantId, what: &str, rate: Rate) -> Result<(), Error> {
        self.change_bucket(tenant, what, rate, -1, 0).await.map(drop)
    }

    async fn change_bucket(
        &self,
        tenant: &TenantId,
        what: &str,
        rate: Rate,
        taken: i64,
        most_owed: u32,
    ) -> Result<Token, Error> {
        let every = i64::try_from(rate.every.as_micros().max(1)).unwrap_or(i64::MAX);
        let args = [every, rate.burst.max(1).into(), taken, most_owed.into()].map(Value::from).to_vec();
        let conn = self.conn().with_timeout(PATIENCE);
        let keys = [self.keys().bucket(tenant, what)];
        let answer = list(self.scripts().token.run(&conn, &keys, args).await?);
        let number = |at: usize| answer.get(at).and_then(Value::as_u64).ok_or(Error::Reply("token answer"));
        let wait = Some(number(0)?).filter(|micros| *micros > 0).map(Duration::from_micros);
        let left = u32::try_from(number(1)?).unwrap_or(u32::MAX);
        Ok(Token { wait, left, next: Duration::from_micros(number(2)?) })
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
