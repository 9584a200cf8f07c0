//! Keeps requests under a provider's limits, and still while the provider asked for silence.
//!
//! All replicas that share a key share the limits, through what implements [`SharedLimit`]. While that is away, and where
//! there is nothing like it, a replica keeps to its own part of them (`own`).

mod own;
mod series;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use metrics::{counter, histogram};
use riacho_domain::{LimitSeen, ProviderLimit, Turn, TurnAsked, TurnUsed};
use tokio::time::{Instant, sleep_until};

use crate::{Config, Error, metrics::names};
use own::Own;
use series::Held;
pub use series::Series;

/// What a provider that answers 429 without a time is given.
const PAUSE_WHEN_UNTOLD: Duration = Duration::from_secs(5);

/// The longest silence that a provider's answer can impose.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long a request waits at most whose answer somebody waits for.
const URGENT_PATIENCE: Duration = Duration::from_secs(2);

/// A request that waits less does not ask again whether its turn has come.
const SHORT: Duration = Duration::from_millis(5);

/// Limits that all replicas share. An answer of none says that they cannot be asked at the moment.
pub trait SharedLimit: Send + Sync + fmt::Debug {
    /// Asks for a turn at the limits `bucket`.
    fn take<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        asked: &'a TurnAsked,
    ) -> BoxFuture<'a, Option<Turn>>;

    /// Says what became of a turn, and what the provider said.
    fn settle<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        used: &'a TurnUsed,
    ) -> BoxFuture<'a, Option<Turn>>;

    /// How long a request of so many tokens would wait that came now.
    fn wait<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        tokens: u64,
    ) -> BoxFuture<'a, Option<Duration>>;

    /// Comes when this process should wait for nothing, because it stops or needs a quiet moment.
    fn interrupted(&self) -> BoxFuture<'_, ()>;
}

/// The limits of one provider, model and key, and how long a request waits for them.
#[derive(Debug)]
pub(crate) struct Limiter {
    buckets: Arc<Buckets>,
    patience: Duration,
}

/// The buckets of the limits: this process's, and those that it shares.
#[derive(Debug)]
struct Buckets {
    provider: &'static str,
    /// Provider, model, and a hash of address and key.
    name: String,
    /// As configured.
    told: ProviderLimit,
    shared: OnceLock<Arc<dyn SharedLimit>>,
    own: Mutex<Own>,
}

/// The leave to send one request. It is settled with what became of it; where nobody knows, it counts as used, as the
/// provider counts what was sent.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    name: u64,
    /// As they are guessed, and as the provider will probably count them.
    guessed: usize,
    tokens: u64,
}

impl Limiter {
    /// The limits of the configuration for a model, where `key` is what the provider is sent.
    pub(crate) fn new(config: &Config, model: &str, key: &str) -> Self {
        let some = |limit: Option<u32>| limit.filter(|limit| *limit > 0);
        let told = ProviderLimit {
            window: Duration::from_millis(config.limit_window_ms.max(1)),
            requests: some(config.requests_per_minute),
            tokens: some(config.tokens_per_minute),
        };
        let provider = config.provider.as_str();
        let account = account(config.base_url.as_deref().unwrap_or_default(), key);
        let buckets = Buckets {
            provider,
            name: format!("{provider}/{model}:{account}"),
            told,
            shared: OnceLock::new(),
            own: Mutex::new(Own::new(told, Instant::now())),
        };
        Self { buckets: Arc::new(buckets), patience: Duration::from_millis(config.limit_wait_ms) }
    }

    /// Shares the limits from now on. The first call counts.
    pub(crate) fn share(&self, limits: Arc<dyn SharedLimit>) {
        let _ = self.buckets.shared.set(limits);
    }

    /// The most tokens of one request, as they are guessed and as far as the limits are known; none where tokens are not
    /// limited.
    pub(crate) fn tokens_a_request(&self) -> Option<usize> {
        self.buckets.own().tokens_a_request()
    }

    /// Waits until a request with so many guessed tokens may go out, the next one of a series. An urgent one, whose answer
    /// somebody waits for, goes before others and waits for two seconds at most, and half of the time that there is.
    ///
    /// Dropping the future gives back what was taken.
    ///
    /// # Errors
    /// `TurnTooFar` where it takes longer than the configured patience, or the series would not be done in its time;
    /// `Interrupted` where the process should wait no longer. The series has no turns any more then.
    pub(crate) async fn admit(
        &self,
        guessed: usize,
        is_urgent: bool,
        series: &mut Series,
    ) -> Result<Permit, Error> {
        let (start, is_urgent) = (Instant::now(), is_urgent || series.is_pressing);
        let [tokens, tokens_after] =
            [guessed, series.tokens_after].map(|guessed| self.buckets.own().counted(guessed));
        let takes = self.buckets.own().limit().time_of(series.requests_after, tokens_after);
        let most = if is_urgent { self.patience.min(URGENT_PATIENCE) } else { self.patience };
        let patience = series.patience(most, takes, is_urgent, start);
        loop {
            let (held, shift, comes_at) = series.next().unwrap_or((0, 0, start));
            if !self.buckets.sleep_until(comes_at).await {
                self.end(series).await;
                return Err(Error::Interrupted);
            }
            let asked = TurnAsked {
                tokens,
                requests_after: series.requests_after,
                tokens_after,
                patience: patience.saturating_sub(start.elapsed()),
                is_urgent,
                held,
                shift,
            };
            let (turn, taken) = self.take(asked).await?;
            match taken {
                Some(taken) => series.hold(taken),
                None if turn.is_taken => series.put_off(&turn),
                None => {
                    // A pause has ended what was held.
                    series.drop_rest();
                    return Err(Error::TurnTooFar { wait: turn.wait });
                }
            }
            if turn.wait < SHORT {
                histogram!(names::LIMITER_WAIT_SECONDS, "provider" => self.buckets.provider)
                    .record(start.elapsed().as_secs_f64());
                let (name, tokens) = series.take(tokens, Instant::now()).unwrap_or((turn.name, tokens));
                return Ok(Permit { name, guessed, tokens });
            }
        }
    }

    /// Asks for a turn; a new one is given back unless it is used. By itself, so that one is not lost whose answer comes when
    /// nobody waits any more.
    async fn take(&self, asked: TurnAsked) -> Result<(Turn, Option<Held>), Error> {
        let buckets = Arc::clone(&self.buckets);
        let taking = tokio::spawn(async move {
            let turn = buckets.take(&asked).await;
            let is_new = turn.is_taken && turn.name != asked.held;
            (turn, is_new.then(|| Held::new(buckets, turn, &asked)))
        });
        // It ends early with the runtime only.
        taking.await.map_err(|_| Error::Interrupted)
    }

    /// Gives back the time of a series that it does not need.
    pub(crate) async fn end(&self, series: &mut Series) {
        if let Some(used) = series.drop_rest() {
            self.buckets.tell(used).await;
        }
    }

    /// Says what became of a request: the tokens that it took, as far as the provider counted them, what the provider said
    /// of its limits, and for how long it asked for silence, where it did.
    pub(crate) async fn settle(
        &self,
        permit: Permit,
        tokens: Option<u64>,
        seen: LimitSeen,
        pause: Option<Option<Duration>>,
    ) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if let Some(tokens) = tokens {
            self.buckets.own().compare(permit.guessed, tokens);
        }
        let more_tokens = tokens.map_or(0, |took| signed(took).saturating_sub(signed(permit.tokens)));
        let pause = pause.map(|asked| asked.unwrap_or(PAUSE_WHEN_UNTOLD).min(LONGEST_PAUSE));
        let used = TurnUsed {
            name: permit.name,
            tokens: permit.tokens,
            more_tokens,
            seen,
            pause,
            ..TurnUsed::default()
        };
        self.buckets.tell(used).await;
    }

    /// How long a request that came now would wait; none where it would not, or nobody knows.
    pub(crate) async fn wait(&self) -> Option<Duration> {
        let buckets = &self.buckets;
        let tokens = self.tokens_a_request().map_or(0, |guessed| buckets.own().counted(guessed));
        let wait = match buckets.shared.get() {
            Some(limits) => limits.wait(&buckets.name, &buckets.told, tokens).await?,
            None => buckets.own().wait(tokens, Instant::now()),
        };
        Some(wait).filter(|wait| !wait.is_zero())
    }
}

impl Buckets {
    async fn take(&self, asked: &TurnAsked) -> Turn {
        let turn = match self.shared() {
            Some(limits) => self.learned(limits.take(&self.name, &self.told, asked).await),
            None => None,
        };
        let by = if turn.is_some() { "shared" } else { "own" };
        if asked.held == 0 {
            counter!(names::LIMITER_TURNS, "provider" => self.provider, "by" => by).increment(1);
        }
        turn.unwrap_or_else(|| self.own().take(asked, Instant::now()))
    }

    async fn tell(&self, used: TurnUsed) {
        self.own().settle(&used, Instant::now());
        if let Some(limits) = self.shared() {
            self.learned(limits.settle(&self.name, &self.told, &used).await);
        }
    }

    /// What limits are shared by, unless that was just away.
    fn shared(&self) -> Option<&Arc<dyn SharedLimit>> {
        self.shared.get().filter(|_| !self.own().is_alone(Instant::now()))
    }

    /// Keeps what an answer of all replicas tells, and that there was none.
    fn learned(&self, turn: Option<Turn>) -> Option<Turn> {
        match &turn {
            Some(turn) => self.own().learn(turn),
            None => self.own().be_alone(Instant::now()),
        }
        turn
    }

    /// Sleeps until then; false when the process should not wait any more.
    async fn sleep_until(&self, at: Instant) -> bool {
        if at <= Instant::now() {
            return true;
        }
        let Some(limits) = self.shared.get() else {
            sleep_until(at).await;
            return true;
        };
        tokio::select! {
            () = limits.interrupted() => false,
            () = sleep_until(at) => true,
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is limited, without telling the key: an address and a key under which the provider counts.
fn account(address: &str, key: &str) -> String {
    let mut hash = blake3::Hasher::new_derive_key("riacho 2026-11 the account of a provider's limits");
    hash.update(address.as_bytes()).update(&[0]).update(key.as_bytes());
    hash.finalize().to_hex().chars().take(16).collect()
}

#[cfg(test)]
mod tests;
