//! The rate limits of a provider, and what is said about them between a replica and what all replicas share.
//!
//! The arithmetic of `burst` and `tokens_a_request` stands in `limit.lua` of crates/streams too.

use std::time::Duration;

/// The part of a window's limit that may go out at once after a quiet time.
const BURST: f64 = 0.1;

/// The part of a window's tokens that one request takes at most, unless requests are scarce.
const A_REQUEST: f64 = 1.0 / 60.0;

/// How many requests and tokens a provider takes in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderLimit {
    /// The window; a minute for every provider that is known.
    pub window: Duration,
    /// Requests in a window; none where they are not limited, or not known to be.
    pub requests: Option<u32>,
    /// Tokens in a window, in the same way.
    pub tokens: Option<u32>,
}

impl ProviderLimit {
    /// This limit, lowered to what the provider says of itself. What is not limited here is then as the provider says.
    #[must_use]
    pub fn lowered_to(self, requests: Option<u32>, tokens: Option<u32>) -> ProviderLimit {
        let lower = |mine: Option<u32>, said: Option<u32>| match (mine, said.filter(|said| *said > 0)) {
            (Some(mine), Some(said)) => Some(mine.min(said)),
            (mine, said) => mine.or(said),
        };
        let (requests, tokens) = (lower(self.requests, requests), lower(self.tokens, tokens));
        ProviderLimit { requests, tokens, ..self }
    }

    /// How many requests and tokens may go out at once, at least one request.
    #[must_use]
    pub fn burst(&self) -> (f64, f64) {
        let requests = (self.requests.map_or(0.0, f64::from) * BURST).max(1.0);
        let tokens = self.tokens.map_or(0.0, f64::from);
        (requests, (tokens * BURST).max(self.tokens_for_each_request()).max(1.0).min(tokens))
    }

    /// The most tokens of one request, so that both limits can be used up and no request has to wait for a full
    /// bucket; none where tokens are not limited.
    #[must_use]
    pub fn tokens_a_request(&self) -> Option<usize> {
        let tokens = f64::from(self.tokens?);
        let wanted = (tokens * A_REQUEST).max(self.tokens_for_each_request()).min(self.burst().1);
        Some((wanted as usize).max(1))
    }

    /// How long so many requests with so many tokens together take at the rate.
    #[must_use]
    pub fn time_of(&self, requests: u32, tokens: u64) -> Duration {
        let part = |used: f64, of: Option<u32>| of.map_or(0.0, |of| used / f64::from(of.max(1)));
        let windows = part(f64::from(requests), self.requests).max(part(tokens as f64, self.tokens));
        self.window.mul_f64(windows.min(1e6))
    }

    /// Twice the tokens that each request has to carry for the tokens to be used up: texts do not fill requests evenly,
    /// and are guessed to be longer than they are.
    fn tokens_for_each_request(&self) -> f64 {
        match (self.requests, self.tokens) {
            (Some(requests), Some(tokens)) if requests > 0 => 2.0 * f64::from(tokens) / f64::from(requests),
            _ => 0.0,
        }
    }
}

/// What a replica asks for: a turn for one request, and the time for those that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnAsked {
    /// The tokens of the request, as far as is known before.
    pub tokens: u64,
    /// How many requests follow, which nobody else's come between.
    pub requests_after: u32,
    /// Their tokens together.
    pub tokens_after: u64,
    /// A turn that is further away is not taken.
    pub patience: Duration,
    /// Somebody waits for the answer: the turn comes before those of others, within bounds.
    pub is_urgent: bool,
    /// The turn that the replica holds, whose time has come; 0 where it holds none.
    pub held: u64,
    /// [`Turn::shift`] of the last answer about that turn.
    pub shift: u64,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whether the turn was taken. It is not where it is further away than the patience.
    pub is_taken: bool,
    /// When it comes. Who waits asks again then, and names the turn: a pause of the provider may have ended it, and urgent
    /// turns may have put it off.
    pub wait: Duration,
    /// Names it. All turns between two pauses have the same name, and an answer with the name that was asked with says
    /// that the turn is still the same.
    pub name: u64,
    /// By how many microseconds urgent turns have put off all others so far.
    pub shift: u64,
    /// How many replicas used the limit lately.
    pub replicas: u32,
    /// The limit as it is known by all.
    pub limit: ProviderLimit,
}

/// What the provider's answer tells about its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSeen {
    /// Requests in a window.
    pub requests: Option<u32>,
    /// Tokens in a window.
    pub tokens: Option<u32>,
    /// How many requests are left at the moment.
    pub requests_left: Option<u32>,
    /// How many tokens are left at the moment.
    pub tokens_left: Option<u32>,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnUsed {
    /// Its name.
    pub name: u64,
    /// The tokens that were asked for.
    pub tokens: u64,
    /// The tokens that it took beyond those, or fewer.
    pub more_tokens: i64,
    /// Requests that are not sent after all.
    pub requests_back: u32,
    /// Whether it was an urgent one.
    pub is_urgent: bool,
    /// What the provider said.
    pub seen: LimitSeen,
    /// Nobody sends anything for so long: the provider asked for it.
    pub pause: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, tokens: u32) -> ProviderLimit {
        let some = |number: u32| Some(number).filter(|number| *number > 0);
        ProviderLimit { window: Duration::from_secs(60), requests: some(requests), tokens: some(tokens) }
    }

    #[test]
    fn requests_carry_enough_tokens_to_use_both_limits_up() {
        assert_eq!(limit(60, 100_000).tokens_a_request(), Some(3_333));
        assert_eq!(limit(3_000, 1_000_000).tokens_a_request(), Some(16_666), "a request a second for each");
        assert_eq!(limit(3, 10_000).tokens_a_request(), Some(6_666), "few requests are large");
        assert_eq!(limit(1, 10_000).tokens_a_request(), Some(10_000), "but not over the limit");
        assert_eq!(limit(0, 600).tokens_a_request(), Some(10));
        assert_eq!(limit(60, 0).tokens_a_request(), None);
    }

    #[test]
    fn requests_take_the_time_of_the_scarcer_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(limit(60, 100_000).time_of(3, 50_000), seconds(30));
        assert_eq!(limit(60, 100_000).time_of(40, 50_000), seconds(40));
        assert_eq!(limit(0, 0).time_of(40, 50_000), Duration::ZERO);
    }

    #[test]
    fn a_burst_holds_a_whole_request() {
        for limit in [limit(60, 100_000), limit(3, 10_000), limit(1, 10), limit(0, 600), limit(10_000, 1)] {
            let (requests, tokens) = limit.burst();
            assert!(
                requests >= 1.0 && tokens >= limit.tokens_a_request().map_or(0.0, |n| n as f64),
                "{limit:?}"
            );
            assert!(tokens <= f64::from(limit.tokens.unwrap_or(0)), "{limit:?}");
        }
    }

    #[test]
    fn a_provider_lowers_a_limit_and_never_raises_it() {
        assert_eq!(limit(60, 100).lowered_to(Some(30), Some(900)), limit(30, 100));
        assert_eq!(limit(0, 0).lowered_to(Some(30), None), limit(30, 0));
        assert_eq!(limit(60, 0).lowered_to(Some(0), Some(0)), limit(60, 0), "nothing is no limit");
    }
}
