//! The limits of providers, which all replicas share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use riacho_domain::{LimitSeen, ProviderLimit, Turn, TurnAsked, TurnUsed};
use support::Server;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const BUCKET: &str = "openai/test:0123";

fn limit(requests: u32, tokens: u32) -> ProviderLimit {
    let some = |number: u32| Some(number).filter(|number| *number > 0);
    ProviderLimit { window: MINUTE, requests: some(requests), tokens: some(tokens) }
}

fn asked(tokens: u64) -> TurnAsked {
    TurnAsked {
        tokens,
        requests_after: 0,
        tokens_after: 0,
        patience: MINUTE * 60,
        is_urgent: false,
        held: 0,
        shift: 0,
    }
}

/// A server, and when it was asked first: waits are compared with what is left of them by then.
struct Provider {
    server: Server,
    start: Instant,
    limit: ProviderLimit,
}

impl Provider {
    async fn new(limit: ProviderLimit) -> Provider {
        Provider { server: Server::start().await, start: Instant::now(), limit }
    }

    async fn ask(&self, asked: TurnAsked) -> Turn {
        self.server.streams.take_turn(BUCKET, "one", &self.limit, &asked).await.unwrap()
    }

    async fn settle(&self, used: TurnUsed) -> Turn {
        self.server.streams.settle_turn(BUCKET, "one", &self.limit, &used).await.unwrap()
    }

    async fn wait(&self, tokens: u64) -> Duration {
        self.server.streams.turn_wait(BUCKET, &self.limit, tokens).await.unwrap()
    }

    /// A wait that was so long when the first one was asked for, apart from the time since.
    fn is(&self, wait: Duration, expected: Duration) {
        let least = expected.saturating_sub(self.start.elapsed() + Duration::from_millis(1));
        assert!(least <= wait && wait <= expected + Duration::from_millis(1), "{wait:?} of {expected:?}");
    }
}

#[tokio::test]
async fn turns_of_all_replicas_come_in_the_order_in_which_they_were_asked_for() {
    let provider = Provider::new(limit(60, 0)).await;
    for _ in 0..6 {
        assert_eq!(provider.ask(asked(1)).await.wait, Duration::ZERO, "a tenth of the window at once");
    }
    for turn in 1..=8 {
        let replica = format!("replica {turn}");
        let answer =
            provider.server.streams.take_turn(BUCKET, &replica, &provider.limit, &asked(1)).await.unwrap();
        provider.is(answer.wait, SECOND * turn);
        assert_eq!(answer.replicas, turn + 1, "with the one that had the first six");
    }
    let impatient = TurnAsked { patience: SECOND, ..asked(1) };
    let refused = provider.ask(impatient).await;
    assert!(!refused.is_taken);
    provider.is(refused.wait, SECOND * 9);
    provider.is(provider.wait(1).await, SECOND * 9);
    provider.is(provider.ask(asked(1)).await.wait, SECOND * 9);
}

#[tokio::test]
async fn a_request_takes_its_tokens_too_and_waits_for_the_scarcer_of_both() {
    let provider = Provider::new(limit(60, 60_000)).await;
    provider.is(provider.ask(asked(6_000)).await.wait, Duration::ZERO);
    provider.is(provider.ask(asked(3_000)).await.wait, SECOND * 3);
    // Six requests were free, and the last turn is in three seconds.
    provider.is(provider.ask(asked(0)).await.wait, SECOND * 3);
    // More than the bucket ever holds is saved up for.
    provider.is(provider.ask(asked(20_000)).await.wait, SECOND * 23);
    provider.is(provider.ask(asked(1_000)).await.wait, SECOND * 24);
}

#[tokio::test]
async fn tokens_that_were_not_needed_and_turns_that_were_not_used_are_given_to_the_next() {
    let provider = Provider::new(limit(0, 60_000)).await;
    let turn = provider.ask(asked(6_000)).await;
    let used = TurnUsed { name: turn.name, tokens: 6_000, more_tokens: -2_000, ..TurnUsed::default() };
    provider.settle(used).await;
    provider.is(provider.wait(2_000).await, Duration::ZERO);
    provider.is(provider.wait(3_000).await, SECOND);
    provider.settle(TurnUsed { more_tokens: 2_000, ..used }).await;
    provider.is(provider.wait(3_000).await, SECOND * 3);
    let waiting = provider.ask(asked(3_000)).await;
    let back = TurnUsed { more_tokens: -3_000, requests_back: 1, ..TurnUsed::default() };
    provider.settle(TurnUsed { name: waiting.name, ..back }).await;
    provider.is(provider.wait(3_000).await, SECOND * 3);
    // A turn of another name, from before a pause or a loss of the data, changes nothing.
    provider.settle(TurnUsed { name: 7, ..back }).await;
    provider.is(provider.wait(3_000).await, SECOND * 3);
}

#[tokio::test]
async fn requests_that_follow_are_not_held_up_by_those_of_others() {
    let provider = Provider::new(limit(60, 60_000)).await;
    let series = TurnAsked { requests_after: 2, tokens_after: 24_000, ..asked(6_000) };
    assert_eq!(provider.ask(series).await.wait, Duration::ZERO);
    provider.is(provider.wait(6_000).await, SECOND * 30);
    let few = TurnAsked { requests_after: 59, tokens_after: 0, ..asked(0) };
    let turn = provider.ask(few).await;
    provider.is(turn.wait, SECOND * 24);
    provider.is(provider.wait(0).await, SECOND * 79);
    // What does not follow after all is there for the next.
    provider.settle(TurnUsed { name: turn.name, requests_back: 59, ..TurnUsed::default() }).await;
    provider.is(provider.wait(6_000).await, SECOND * 30);
}

#[tokio::test]
async fn a_pause_ends_all_turns_and_who_waited_asks_for_another() {
    let provider = Provider::new(limit(60, 60_000)).await;
    for _ in 0..6 {
        provider.ask(asked(500)).await;
    }
    let waiting = provider.ask(asked(500)).await;
    let come = provider.ask(TurnAsked { held: waiting.name, ..asked(500) }).await;
    assert!(come.is_taken && come.wait.is_zero(), "its time has come, and nothing was in the way");
    let refused =
        TurnUsed { name: waiting.name, tokens: 500, pause: Some(SECOND * 20), ..TurnUsed::default() };
    provider.settle(refused).await;
    let first = provider.ask(TurnAsked { held: waiting.name, ..asked(500) }).await;
    assert!(first.name != waiting.name);
    provider.is(first.wait, SECOND * 20);
    provider.is(provider.ask(asked(500)).await.wait, SECOND * 21);
    let urgent = provider.ask(TurnAsked { is_urgent: true, ..asked(1) }).await;
    provider.is(urgent.wait, SECOND * 20);
    // Another answer of the same moment asks for less: nothing new.
    provider.settle(TurnUsed { pause: Some(SECOND), ..refused }).await;
    let same = provider.ask(TurnAsked { held: first.name, ..asked(500) }).await;
    // The urgent one put it off.
    assert_eq!((same.name, same.wait), (first.name, SECOND));
}

#[tokio::test]
async fn what_the_provider_says_lowers_the_limit_and_never_raises_it() {
    let provider = Provider::new(limit(60, 0)).await;
    let says = |requests, tokens| LimitSeen {
        requests: Some(requests),
        tokens: Some(tokens),
        ..LimitSeen::default()
    };
    let seen = async |seen| provider.settle(TurnUsed { seen, ..TurnUsed::default() }).await.limit;
    assert_eq!(seen(says(6_000, 600)).await, limit(60, 600), "tokens were not limited here");
    assert_eq!(seen(says(30, 6_000)).await, limit(30, 6_000));
    assert_eq!(provider.ask(asked(1)).await.limit, limit(30, 6_000), "everybody knows");
    assert_eq!(
        seen(LimitSeen::default()).await,
        limit(30, 6_000),
        "an answer without headers changes nothing"
    );
}

#[tokio::test]
async fn what_the_provider_has_left_is_not_exceeded() {
    let provider = Provider::new(limit(60, 60_000)).await;
    let left = |requests, tokens| TurnUsed {
        seen: LimitSeen { requests_left: Some(requests), tokens_left: Some(tokens), ..LimitSeen::default() },
        ..TurnUsed::default()
    };
    provider.settle(left(50, 50_000)).await;
    assert_eq!(provider.wait(6_000).await, Duration::ZERO, "more than a burst");
    provider.settle(left(1, 50_000)).await;
    provider.is(provider.ask(asked(1)).await.wait, Duration::ZERO);
    provider.is(provider.wait(1).await, SECOND);
    provider.settle(left(1, 0)).await;
    provider.is(provider.wait(5_000).await, SECOND * 5);
}

#[tokio::test]
async fn urgent_turns_come_first_and_within_bounds() {
    let provider = Provider::new(limit(60, 0)).await;
    for _ in 0..36 {
        provider.ask(asked(1)).await;
    }
    provider.is(provider.wait(1).await, SECOND * 31);
    let urgent = TurnAsked { is_urgent: true, ..asked(1) };
    for _ in 0..3 {
        assert_eq!(provider.ask(urgent).await.wait, Duration::ZERO);
    }
    provider.is(provider.wait(1).await, SECOND * 34);
    // From here on half of the rate, so that those who hold turns are not refused by the provider.
    provider.is(provider.ask(urgent).await.wait, SECOND * 2);
    provider.is(provider.ask(urgent).await.wait, SECOND * 4);
}

#[tokio::test]
async fn urgent_turns_put_off_those_that_are_given_so_that_all_keep_to_the_limit() {
    // One every ten seconds, and an urgent one every twenty.
    let provider = Provider::new(limit(6, 0)).await;
    provider.ask(asked(1)).await;
    let given = provider.ask(asked(1)).await;
    let urgent = TurnAsked { is_urgent: true, patience: SECOND, ..asked(1) };
    let taken = provider.ask(urgent).await;
    assert!(taken.is_taken && taken.wait.is_zero());
    let later = provider.ask(asked(1)).await;
    provider.is(given.wait, SECOND * 10);
    provider.is(later.wait, SECOND * 30);
    let held = |turn: Turn| TurnAsked { held: turn.name, shift: turn.shift, ..asked(1) };
    let put_off = provider.ask(held(given)).await;
    assert_eq!((put_off.is_taken, put_off.name, put_off.wait), (true, given.name, SECOND * 10));
    assert!(provider.ask(held(put_off)).await.wait.is_zero());
    assert!(provider.ask(held(later)).await.wait.is_zero(), "it came after");
    // Nobody puts an urgent one off, and one that is not sent after all is there for the next.
    assert!(provider.ask(TurnAsked { is_urgent: true, ..held(taken) }).await.wait.is_zero());
    assert!(!provider.ask(urgent).await.is_taken);
    let back = TurnUsed { name: taken.name, requests_back: 1, is_urgent: true, ..TurnUsed::default() };
    provider.settle(back).await;
    assert!(provider.ask(urgent).await.is_taken);
    assert!(!provider.ask(urgent).await.is_taken);
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_nobody_waiting() {
    let provider = Provider::new(limit(60, 0)).await;
    for _ in 0..8 {
        provider.ask(asked(1)).await;
    }
    let key = format!("riacho:{{limit:{BUCKET}}}");
    for field in ["now", "requests_at", "tokens_at", "urgent_at", "paused_until"] {
        provider.server.raw(&["HINCRBY", key.as_str(), field, "3600000000"]);
    }
    provider.is(provider.wait(1).await, SECOND * 3);
}

#[tokio::test]
async fn nothing_of_a_limit_stays_for_ever() {
    let provider = Provider::new(limit(60, 100)).await;
    provider.ask(asked(1)).await;
    let streams = &provider.server.streams;
    let names: BTreeSet<u64> = [
        provider.ask(asked(1)).await,
        streams.take_turn("other", "one", &provider.limit, &asked(1)).await.unwrap(),
    ]
    .map(|turn| turn.name)
    .into();
    assert_eq!(names.len(), 2, "another bucket has turns of its own");
    for key in [format!("riacho:{{limit:{BUCKET}}}"), format!("riacho:{{limit:{BUCKET}}}:replicas")] {
        let left: i64 = provider.server.raw(&["PTTL", key.as_str()]).int();
        assert!((1..=7_200_000).contains(&left), "{key}: {left}");
    }
}
