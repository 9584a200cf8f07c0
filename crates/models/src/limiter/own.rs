//! The part of the limits that a replica keeps to by itself.
//!
//! The algorithm of `limit.lua` in crates/streams, on buckets of this process.

use std::time::Duration;

use riacho_domain::{ProviderLimit, Turn, TurnAsked, TurnUsed};
use tokio::time::Instant;

/// How far the tokens that a provider counts may be from a guess by bytes.
const RATIOS: [f64; 2] = [0.25, 4.0];

/// Guesses of fewer tokens teach nothing.
const TELLING: f64 = 20.0;

/// For how long the shared limits are not asked after they did not answer.
const AWAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Own {
    told: ProviderLimit,
    /// The limit as it was known last.
    known: ProviderLimit,
    /// How many replicas shared it last.
    replicas: u32,
    /// When the bucket of requests would be full again.
    requests_at: Instant,
    tokens_at: Instant,
    /// When the bucket of urgent turns would be full again.
    urgent_at: Instant,
    /// By how many seconds urgent turns have put off all others.
    shifted: f64,
    paused_until: Instant,
    /// Names all turns between two pauses. Those of shared limits are far higher.
    name: u64,
    /// Nobody else is asked before.
    alone_until: Option<Instant>,
    /// The tokens that the provider counts, of late, for each that is guessed.
    ratio: f64,
}

/// A limit in seconds: what one takes, and how many go out at once.
#[derive(Clone, Copy)]
struct Bucket {
    every: f64,
    burst: f64,
}

impl Bucket {
    /// In how many seconds it has so many, where it would be full in `full` seconds.
    fn has(self, full: f64, many: f64) -> f64 {
        full + (many - self.burst) * self.every
    }

    /// In how many seconds it would be full, so many taken in `start` seconds.
    fn taken(self, full: f64, many: f64, start: f64) -> Duration {
        let saving = (many - self.burst).max(0.0) * self.every;
        Duration::from_secs_f64((full.max(start - saving) + many * self.every).clamp(0.0, 1e6))
    }
}

impl Own {
    pub(super) fn new(told: ProviderLimit, now: Instant) -> Self {
        Self {
            told,
            known: told,
            replicas: 1,
            requests_at: now,
            tokens_at: now,
            urgent_at: now,
            shifted: 0.0,
            paused_until: now,
            name: 1,
            alone_until: None,
            ratio: 1.0,
        }
    }

    pub(super) fn limit(&self) -> ProviderLimit {
        self.known
    }

    /// What the provider will probably count for so many tokens that are guessed.
    pub(super) fn counted(&self, guessed: usize) -> u64 {
        (guessed as f64 * self.ratio).ceil() as u64
    }

    /// The most tokens of one request, as they are guessed; none where tokens are not limited.
    pub(super) fn tokens_a_request(&self) -> Option<usize> {
        Some(((self.known.tokens_a_request()? as f64 / self.ratio) as usize).max(1))
    }

    /// The provider counted so many tokens for a guess.
    pub(super) fn compare(&mut self, guessed: usize, counted: u64) {
        if guessed as f64 >= TELLING {
            self.ratio += (counted as f64 / guessed as f64 - self.ratio) / 4.0;
            self.ratio = self.ratio.clamp(RATIOS[0], RATIOS[1]);
        }
    }

    /// Takes a turn, as far as this replica alone may.
    pub(super) fn take(&mut self, asked: &TurnAsked, now: Instant) -> Turn {
        if asked.held == self.name {
            let seen = if asked.is_urgent { self.shift() } else { asked.shift };
            return self.turn(true, Duration::from_micros(self.shift().saturating_sub(seen)));
        }
        let usual = self.start(asked.tokens, now);
        let early =
            asked.is_urgent.then(|| self.urgent_start(asked.tokens, now)).filter(|early| *early < usual);
        let start = early.unwrap_or(usual);
        let wait = Duration::from_secs_f64(start);
        if start > asked.patience.as_secs_f64() {
            return self.turn(false, wait);
        }
        let [requests, tokens] = self.buckets();
        let after = |many: f64, bucket: Bucket| Duration::from_secs_f64((many * bucket.every).min(1e6));
        let (requests_after, tokens_after) = (f64::from(asked.requests_after), asked.tokens_after as f64);
        self.requests_at = now
            + requests.taken(seconds(self.requests_at, now), 1.0, start)
            + after(requests_after, requests);
        self.tokens_at = now
            + tokens.taken(seconds(self.tokens_at, now), asked.tokens as f64, start)
            + after(tokens_after, tokens);
        if let Some(early) = early {
            let cost = self.urgent_cost(1.0, asked.tokens as f64);
            self.urgent_at = now + Duration::from_secs_f64(seconds(self.urgent_at, now).max(early) + cost);
            self.shifted += (self.start(asked.tokens, now) - usual).max(0.0);
        }
        self.turn(true, wait)
    }

    fn turn(&self, is_taken: bool, wait: Duration) -> Turn {
        let (name, shift, replicas) = (self.name, self.shift(), self.replicas);
        Turn { is_taken, wait, name, shift, replicas, limit: self.known }
    }

    /// The shift in microseconds.
    fn shift(&self) -> u64 {
        (self.shifted * 1e6) as u64
    }

    /// How long a request would wait that came now.
    pub(super) fn wait(&self, tokens: u64, now: Instant) -> Duration {
        Duration::from_secs_f64(self.start(tokens, now))
    }

    pub(super) fn settle(&mut self, used: &TurnUsed, now: Instant) {
        let seen = used.seen;
        if seen.requests.is_some() || seen.tokens.is_some() {
            self.known = self
                .told
                .lowered_to(seen.requests.or(self.known.requests), seen.tokens.or(self.known.tokens));
        }
        let [requests, tokens] = self.buckets();
        if used.name == self.name {
            self.tokens_at = moved(self.tokens_at, used.more_tokens as f64 * tokens.every, now);
            self.requests_at = moved(self.requests_at, -f64::from(used.requests_back) * requests.every, now);
            if used.is_urgent && used.requests_back > 0 {
                let cost = self.urgent_cost(f64::from(used.requests_back), -used.more_tokens.min(0) as f64);
                self.urgent_at = moved(self.urgent_at, -cost, now);
            }
        }
        let at_most = |at: Instant, bucket: Bucket, left: Option<u32>| match left {
            Some(left) => at.max(moved(now, (bucket.burst - f64::from(left)) * bucket.every, now)),
            None => at,
        };
        self.requests_at = at_most(self.requests_at, requests, seen.requests_left);
        self.tokens_at = at_most(self.tokens_at, tokens, seen.tokens_left);
        if let Some(till) = used.pause.map(|pause| now + pause).filter(|till| *till > self.paused_until) {
            self.paused_until = till;
            self.name += 1;
            self.begin_at(till);
        }
    }

    /// Keeps what the answer of all replicas tells.
    pub(super) fn learn(&mut self, turn: &Turn) {
        self.alone_until = None;
        self.known = turn.limit;
        self.replicas = turn.replicas.max(1);
    }

    /// There was no answer: this replica keeps to its part for a moment, with nothing saved up.
    pub(super) fn be_alone(&mut self, now: Instant) {
        if self.alone_until.replace(now + AWAY).is_none() {
            self.begin_at(now);
        }
    }

    /// Whether it is too soon to ask all replicas again.
    pub(super) fn is_alone(&self, now: Instant) -> bool {
        self.alone_until.is_some_and(|until| now < until)
    }

    /// At that time one request can go out.
    fn begin_at(&mut self, at: Instant) {
        let [requests, tokens] = self.buckets();
        let whole = self.known.tokens_a_request().unwrap_or_default() as f64;
        self.requests_at = moved(at, (requests.burst - 1.0) * requests.every, at);
        self.tokens_at = moved(at, (tokens.burst - whole) * tokens.every, at);
        self.urgent_at = at;
    }

    /// In how many seconds a request may go out.
    fn start(&self, tokens: u64, now: Instant) -> f64 {
        let paused = seconds(self.paused_until, now);
        let [of_requests, of_tokens] = self.buckets();
        let requests = of_requests.has(seconds(self.requests_at, now), 1.0);
        let tokens = of_tokens.has(seconds(self.tokens_at, now), tokens as f64);
        paused.max(requests).max(tokens).clamp(0.0, 1e6)
    }

    /// In how many seconds an urgent one may, before those whose turns are given already.
    fn urgent_start(&self, tokens: u64, now: Instant) -> f64 {
        let cost = self.urgent_cost(1.0, tokens as f64);
        let holds = (self.known.window.as_secs_f64() / 10.0).max(cost);
        let early = seconds(self.urgent_at, now) + cost - holds;
        seconds(self.paused_until, now).max(early).clamp(0.0, 1e6)
    }

    /// The seconds that requests take of a bucket with half of the window's time, which holds a tenth of it.
    fn urgent_cost(&self, requests: f64, tokens: f64) -> f64 {
        let [of_requests, of_tokens] = self.buckets();
        2.0 * (requests * of_requests.every).max(tokens * of_tokens.every)
    }

    fn buckets(&self) -> [Bucket; 2] {
        let parts = f64::from(self.replicas);
        let (requests, tokens) = self.known.burst();
        let whole = self.known.tokens_a_request().unwrap_or_default() as f64;
        let every = |limit: Option<u32>| {
            limit.map_or(0.0, |limit| self.known.window.as_secs_f64() * parts / f64::from(limit.max(1)))
        };
        [
            Bucket { every: every(self.known.requests), burst: (requests / parts).max(1.0) },
            Bucket { every: every(self.known.tokens), burst: (tokens / parts).max(whole) },
        ]
    }
}

fn seconds(at: Instant, now: Instant) -> f64 {
    at.saturating_duration_since(now).as_secs_f64()
}

/// So many seconds later, or before; not before `floor`.
fn moved(at: Instant, by: f64, floor: Instant) -> Instant {
    let by_at_most = Duration::from_secs_f64(by.abs().min(1e6));
    let to = if by < 0.0 { at.checked_sub(by_at_most) } else { at.checked_add(by_at_most) };
    to.unwrap_or(floor).max(floor)
}
