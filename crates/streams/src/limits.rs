//! The limits of providers, which all replicas share.

use std::time::Duration;

use riacho_domain::{ProviderLimit, Turn, TurnAsked, TurnUsed};

use crate::{
    Error, Streams,
    client::{Value, list},
};

/// How long the answer is waited for: not longer than a request to a provider may well take. Without one the replica counts
/// for itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who only looks takes no turn, however near it is.
const NO_TURN: i64 = -1;

/// What the script is called with.
struct Call<'a> {
    operation: &'static str,
    replica: &'a str,
    turn: u64,
    tokens: u64,
    more: Vec<Value>,
}

impl Streams {
    /// Asks for a turn at the limits `bucket`; `replica` is a name that no other process has.
    ///
    /// # Errors
    /// When Redis is away. A turn may have been taken then, and is lost.
    pub async fn take_turn(
        &self,
        bucket: &str,
        replica: &str,
        limit: &ProviderLimit,
        asked: &TurnAsked,
    ) -> Result<Turn, Error> {
        let more = vec![
            micros(asked.patience).into(),
            i64::from(asked.is_urgent).into(),
            i64::from(asked.requests_after).into(),
            number(asked.tokens_after),
            number(asked.shift),
        ];
        let call = Call { operation: "ask", replica, turn: asked.held, tokens: asked.tokens, more };
        self.limit(bucket, limit, call).await
    }

    /// Says what became of a turn.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn settle_turn(
        &self,
        bucket: &str,
        replica: &str,
        limit: &ProviderLimit,
        used: &TurnUsed,
    ) -> Result<Turn, Error> {
        let said = |number: Option<u32>| Value::from(number.map_or(-1, i64::from));
        let more = vec![
            used.more_tokens.into(),
            i64::from(used.requests_back).into(),
            said(used.seen.requests),
            said(used.seen.tokens),
            said(used.seen.requests_left),
            said(used.seen.tokens_left),
            // A pause that is over at once still ends the turns.
            used.pause.map_or(0, |pause| micros(pause).max(1)).into(),
            i64::from(used.is_urgent).into(),
        ];
        let call = Call { operation: "settle", replica, turn: used.name, tokens: used.tokens, more };
        self.limit(bucket, limit, call).await
    }

    /// How long a request of so many tokens would wait that came now. Nothing is taken.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn turn_wait(
        &self,
        bucket: &str,
        limit: &ProviderLimit,
        tokens: u64,
    ) -> Result<Duration, Error> {
        let more = vec![NO_TURN.into(), 0.into(), 0.into(), 0.into(), 0.into()];
        let call = Call { operation: "ask", replica: "", turn: 0, tokens, more };
        Ok(self.limit(bucket, limit, call).await?.wait)
    }

    async fn limit(&self, bucket: &str, limit: &ProviderLimit, call: Call<'_>) -> Result<Turn, Error> {
        let limited = |number: Option<u32>| Value::from(number.map_or(0, i64::from));
        let mut args = vec![
            call.operation.into(),
            micros(limit.window).max(1).into(),
            limited(limit.requests),
            limited(limit.tokens),
            call.replica.into(),
            number(call.turn),
            number(call.tokens),
        ];
        args.extend(call.more);
        let keys = self.keys().provider_limit(bucket);
        let conn = self.conn().with_timeout(PATIENCE);
        read(self.scripts().limit.run(&conn, &keys, args).await?, limit.window)
            .ok_or(Error::Reply("answer about a provider's limit"))
    }
}

fn read(answer: Value, window: Duration) -> Option<Turn> {
    let numbers = list(answer).iter().map(|value| value.as_i64()).collect::<Option<Vec<_>>>()?;
    let [is_taken, wait, name, replicas, requests, tokens, shift] = numbers.try_into().ok()?;
    let limited = |number: i64| u32::try_from(number).ok().filter(|number| *number > 0);
    Some(Turn {
        is_taken: is_taken == 1,
        wait: Duration::from_micros(u64::try_from(wait).ok()?),
        name: u64::try_from(name).ok()?,
        shift: u64::try_from(shift).ok()?,
        replicas: u32::try_from(replicas).ok()?.max(1),
        limit: ProviderLimit { window, requests: limited(requests), tokens: limited(tokens) },
    })
}

fn number(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
