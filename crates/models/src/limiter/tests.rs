#![allow(clippy::unwrap_used)]
use tokio::sync::Notify;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// What rounding may do.
const MOMENT: Duration = Duration::from_millis(1);

fn limiter(config: Config) -> Limiter {
    Limiter::new(&Config { limit_wait_ms: 50, ..config }, "model", "sk-secret")
}

/// A request that nothing follows.
async fn admit(limiter: &Limiter, guessed: usize, is_urgent: bool) -> Result<Permit, Error> {
    limiter.admit(guessed, is_urgent, &mut Series::default()).await
}

/// Checks that a request is refused, and would not have waited longer than so long after `start`.
async fn is_refused(limiter: &Limiter, tokens: usize, start: Instant, expected: Duration) {
    let wait = admit(limiter, tokens, false).await.unwrap_err().retry_after().unwrap();
    let least = expected.saturating_sub(start.elapsed());
    assert!(least <= wait + MOMENT && wait <= expected + MOMENT, "{wait:?} of {expected:?}");
}

/// Limits that others share: what each call was asked, and what is answered as long as there is something.
#[derive(Debug, Default)]
struct Others {
    answers: Mutex<Vec<Option<Turn>>>,
    asked: Mutex<Vec<TurnAsked>>,
    told: Mutex<Vec<TurnUsed>>,
    interrupt: Notify,
}

impl SharedLimit for Others {
    fn take<'a>(
        &'a self,
        _: &'a str,
        _: &'a ProviderLimit,
        asked: &'a TurnAsked,
    ) -> BoxFuture<'a, Option<Turn>> {
        self.asked.lock().unwrap().push(*asked);
        Box::pin(async { self.answers.lock().unwrap().pop().flatten() })
    }

    fn settle<'a>(
        &'a self,
        _: &'a str,
        _: &'a ProviderLimit,
        used: &'a TurnUsed,
    ) -> BoxFuture<'a, Option<Turn>> {
        self.told.lock().unwrap().push(*used);
        Box::pin(async { Some(turn(0, 9)) })
    }

    fn wait<'a>(&'a self, _: &'a str, _: &'a ProviderLimit, _: u64) -> BoxFuture<'a, Option<Duration>> {
        Box::pin(async { Some(SECOND) })
    }

    fn interrupted(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.interrupt.notified())
    }
}

/// A turn after so many milliseconds that 4 replicas share at 60 requests a minute.
fn turn(wait_ms: u64, name: u64) -> Turn {
    let limit = ProviderLimit { window: SECOND * 60, requests: Some(60), tokens: None };
    Turn { is_taken: true, wait: Duration::from_millis(wait_ms), name, shift: 0, replicas: 4, limit }
}

fn shared(answers: impl IntoIterator<Item = Option<Turn>>, patience_ms: u64) -> (Limiter, Arc<Others>) {
    let others = Arc::new(Others::default());
    others.answers.lock().unwrap().extend(answers);
    others.answers.lock().unwrap().reverse();
    let limiter = Limiter::new(&Config { limit_wait_ms: patience_ms, ..Config::default() }, "model", "");
    limiter.share(others.clone());
    (limiter, others)
}

#[tokio::test]
async fn a_pause_of_the_provider_stops_the_next_request() {
    let limiter = limiter(Config::default());
    let permit = admit(&limiter, 1, false).await.unwrap();
    let start = Instant::now();
    limiter.settle(permit, None, LimitSeen::default(), Some(Some(SECOND * 300))).await;
    limiter
        .settle(Permit { name: 0, guessed: 1, tokens: 1 }, None, LimitSeen::default(), Some(Some(SECOND)))
        .await;
    is_refused(&limiter, 1, start, SECOND * 300).await;
    assert!(admit(&limiter, 1, true).await.is_err(), "nobody is too urgent for it");
    assert!(limiter.wait().await.unwrap() > SECOND * 200);
}

#[tokio::test]
async fn a_short_pause_is_waited_for() {
    let limiter = limiter(Config::default());
    let pause = Some(Some(Duration::from_millis(10)));
    limiter.settle(Permit { name: 0, guessed: 1, tokens: 1 }, None, LimitSeen::default(), pause).await;
    let start = Instant::now();
    let _ = admit(&limiter, 1, false).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(10));
}

#[tokio::test]
async fn requests_and_tokens_each_have_their_limit() {
    let start = Instant::now();
    let by_requests = limiter(Config { requests_per_minute: Some(20), ..Config::default() });
    for _ in 0..2 {
        takes(&by_requests, 1).await;
    }
    is_refused(&by_requests, 1, start, SECOND * 3).await;

    let start = Instant::now();
    let by_tokens = limiter(Config { tokens_per_minute: Some(10_000), ..Config::default() });
    takes(&by_tokens, 900).await;
    is_refused(&by_tokens, 1_100, start, SECOND * 6).await;
    takes(&by_tokens, 100).await;
}

async fn takes(limiter: &Limiter, tokens: usize) {
    let _ = admit(limiter, tokens, false).await.unwrap();
}

#[tokio::test]
async fn a_request_over_the_whole_limit_goes_out_once_it_is_saved_up() {
    let config = Config {
        limit_window_ms: 100,
        tokens_per_minute: Some(60),
        limit_wait_ms: 60_000,
        ..Config::default()
    };
    let limiter = Limiter::new(&config, "model", "");
    let start = Instant::now();
    takes(&limiter, 120).await;
    assert!(start.elapsed() >= Duration::from_millis(190), "two windows, less what the full bucket had");
}

#[tokio::test]
async fn tokens_that_were_not_needed_are_there_for_the_next() {
    let limiter = limiter(Config { tokens_per_minute: Some(60), ..Config::default() });
    let start = Instant::now();
    let permit = admit(&limiter, 6, false).await.unwrap();
    limiter.settle(permit, Some(2), LimitSeen::default(), None).await;
    takes(&limiter, 4).await;
    is_refused(&limiter, 6, start, SECOND * 6).await;
}

#[tokio::test]
async fn limits_that_are_not_configured_are_learned_from_the_provider() {
    let limiter = limiter(Config::default());
    assert_eq!(limiter.tokens_a_request(), None);
    let permit = admit(&limiter, 1, false).await.unwrap();
    let seen = LimitSeen { requests: Some(60), tokens: Some(100_000), ..LimitSeen::default() };
    limiter.settle(permit, None, seen, None).await;
    assert_eq!(limiter.tokens_a_request(), Some(3_333));
    let none_left = LimitSeen { tokens_left: Some(0), ..LimitSeen::default() };
    let permit = admit(&limiter, 1, false).await.unwrap();
    let start = Instant::now();
    limiter.settle(permit, None, none_left, None).await;
    is_refused(&limiter, 10_000, start, SECOND * 6).await;
}

#[tokio::test]
async fn guesses_follow_what_the_provider_counts() {
    let limiter = limiter(Config {
        requests_per_minute: Some(60),
        tokens_per_minute: Some(60_000),
        ..Config::default()
    });
    assert_eq!(limiter.tokens_a_request(), Some(2_000));
    for counted in [50, 50, 50, 50, 50, 50, 5] {
        let guessed = if counted == 50 { 100 } else { 1 };
        let permit = admit(&limiter, guessed, true).await.unwrap();
        limiter.settle(permit, Some(counted), LimitSeen::default(), None).await;
    }
    let most = limiter.tokens_a_request().unwrap();
    assert!((3_300..4_000).contains(&most), "nearly twice as many by the guess: {most}");
    assert!((55..60).contains(&admit(&limiter, 100, true).await.unwrap().tokens));
}

#[tokio::test]
async fn a_turn_that_a_pause_ended_is_asked_for_again() {
    let (limiter, others) = shared([Some(turn(30, 1)), Some(turn(20, 2)), Some(turn(0, 2))], 1_000);
    let start = Instant::now();
    let permit = admit(&limiter, 5, false).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50) && permit.name == 2);
    limiter.settle(permit, Some(3), LimitSeen::default(), None).await;
    let told = others.told.lock().unwrap().clone();
    assert_eq!(told, [TurnUsed { name: 2, tokens: 5, more_tokens: -2, ..TurnUsed::default() }]);
    assert_eq!(limiter.wait().await, Some(SECOND));
}

#[tokio::test]
async fn a_series_takes_its_turns_together_and_gives_back_what_it_does_not_need() {
    let (limiter, others) = shared([Some(turn(0, 1)), Some(turn(0, 1)), Some(turn(0, 2))], 60_000);
    let mut series = Series::default();
    for (requests, tokens) in [(3, 30), (2, 20), (1, 10)] {
        series.expect(requests, tokens);
        let permit = limiter.admit(10, false, &mut series).await.unwrap();
        limiter.settle(permit, Some(10), LimitSeen::default(), None).await;
    }
    let asked = others.asked.lock().unwrap().clone();
    assert_eq!((asked[0].tokens, asked[0].requests_after, asked[0].tokens_after), (10, 3, 30));
    assert_eq!(asked.iter().map(|asked| asked.held).collect::<Vec<_>>(), [0, 1, 1]);
    // The third turn was another one: a pause had ended those of the first.
    limiter.end(&mut series).await;
    let back = TurnUsed { name: 2, more_tokens: -10, requests_back: 1, ..TurnUsed::default() };
    assert_eq!(others.told.lock().unwrap().last(), Some(&back));
}

#[tokio::test]
async fn a_series_is_not_begun_that_would_not_be_done_in_time() {
    let config = Config { requests_per_minute: Some(60), limit_wait_ms: 60_000, ..Config::default() };
    let limiter = Limiter::new(&config, "model", "");
    for _ in 0..6 {
        takes(&limiter, 1).await;
    }
    let mut series = Series::until(Some(std::time::Instant::now() + SECOND * 30));
    series.expect(40, 0);
    assert!(limiter.admit(1, false, &mut series).await.is_err());
    series.expect(10, 0);
    let _ = limiter.admit(1, false, &mut series).await.unwrap();
}

#[tokio::test]
async fn an_interruption_ends_the_wait_and_gives_the_turn_back() {
    let (limiter, others) = shared([Some(turn(30_000, 1))], 60_000);
    others.interrupt.notify_one();
    assert_eq!(admit(&limiter, 5, false).await.unwrap_err(), Error::Interrupted);
    assert!(matches!(
        others.told.lock().unwrap()[..],
        [TurnUsed { name: 1, more_tokens: -5, requests_back: 1, .. }]
    ));
}

#[tokio::test]
async fn a_turn_that_nobody_waits_for_any_more_is_given_back() {
    let (limiter, others) = shared([Some(turn(30_000, 1))], 60_000);
    tokio::time::timeout(Duration::from_millis(20), admit(&limiter, 5, true)).await.unwrap_err();
    while others.told.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let back =
        TurnUsed { name: 1, more_tokens: -5, requests_back: 1, is_urgent: true, ..TurnUsed::default() };
    assert_eq!(others.told.lock().unwrap()[..], [back]);
}

#[tokio::test]
async fn a_turn_is_asked_for_that_leaves_time_for_the_request() {
    let (limiter, others) = shared([Some(turn(0, 1)), Some(turn(0, 1)), Some(turn(0, 1))], 60_000);
    let soon = || Series::until(Some(std::time::Instant::now() + SECOND));
    let _ = limiter.admit(1, true, &mut soon()).await.unwrap();
    let _ = limiter.admit(1, false, &mut soon()).await.unwrap();
    let _ = limiter.admit(1, false, &mut soon().pressing()).await.unwrap();
    let asked = others.asked.lock().unwrap().clone();
    assert!(asked[0].patience <= SECOND / 2, "{:?}", asked[0]);
    assert!(asked[1].patience > SECOND / 2 && asked[1].patience <= SECOND, "{:?}", asked[1]);
    assert!(asked[2].patience.is_zero() && asked[2].is_urgent && !asked[1].is_urgent, "{:?}", asked[2]);
}

#[tokio::test]
async fn who_holds_a_turn_that_urgent_ones_put_off_waits_for_longer() {
    let later = Turn { shift: 20_000, ..turn(20, 1) };
    let (limiter, others) =
        shared([Some(turn(30, 1)), Some(later), Some(Turn { wait: Duration::ZERO, ..later })], 1_000);
    let start = Instant::now();
    let permit = admit(&limiter, 5, false).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50) && permit.name == 1);
    let asked = others.asked.lock().unwrap().clone();
    let seen: Vec<_> = asked.iter().map(|asked| (asked.held, asked.shift)).collect();
    assert_eq!(seen, [(0, 0), (1, 0), (1, 20_000)]);
}

#[tokio::test]
async fn one_that_is_alone_bounds_urgent_requests_too() {
    let limiter = limiter(Config { requests_per_minute: Some(60), ..Config::default() });
    for _ in 0..6 {
        takes(&limiter, 1).await;
    }
    // A bucket that holds a tenth of the window, at half of the rate.
    for _ in 0..3 {
        let _ = admit(&limiter, 1, true).await.unwrap();
    }
    let wait = admit(&limiter, 1, true).await.unwrap_err().retry_after().unwrap();
    assert!(wait > SECOND && wait <= SECOND * 2, "{wait:?}");
}

#[test]
fn urgent_turns_of_one_that_is_alone_put_off_those_that_are_given() {
    let now = Instant::now();
    let told = ProviderLimit { window: SECOND * 60, requests: Some(60), tokens: None };
    let mut own = Own::new(told, now);
    let asked = |held, shift, is_urgent| TurnAsked {
        tokens: 1,
        requests_after: 0,
        tokens_after: 0,
        patience: SECOND * 60,
        is_urgent,
        held,
        shift,
    };
    for _ in 0..6 {
        assert!(own.take(&asked(0, 0, false), now).wait.is_zero());
    }
    let given = own.take(&asked(0, 0, false), now);
    assert!(own.take(&asked(0, 0, true), now).wait.is_zero());
    let later = own.take(&asked(0, 0, false), now);
    let near = |wait: Duration, seconds: u32| wait.abs_diff(SECOND * seconds) < MOMENT;
    assert!(near(given.wait, 1) && near(later.wait, 3), "{:?} {:?}", given.wait, later.wait);
    let put_off = own.take(&asked(given.name, given.shift, false), now);
    assert!(near(put_off.wait, 1), "{put_off:?}");
    assert!(own.take(&asked(given.name, put_off.shift, false), now).wait.is_zero());
    assert!(own.take(&asked(later.name, later.shift, false), now).wait.is_zero(), "it came after");
}

#[tokio::test]
async fn while_nobody_answers_a_replica_keeps_to_its_part() {
    let (limiter, others) = shared([Some(turn(0, 1)), None], 100);
    takes(&limiter, 1).await;
    // From here on alone: one request at once, and then a fourth of 60 in a minute.
    let start = Instant::now();
    takes(&limiter, 1).await;
    is_refused(&limiter, 1, start, SECOND * 4).await;
    tokio::time::sleep(SECOND.saturating_sub(start.elapsed()) + MOMENT).await;
    others.answers.lock().unwrap().push(Some(turn(0, 1)));
    takes(&limiter, 1).await;
    assert!(others.answers.lock().unwrap().is_empty(), "the others were asked again");
}

#[test]
fn a_bucket_is_named_after_its_account_and_never_tells_the_key() {
    let name =
        |config: Config, model: &str, key: &str| Limiter::new(&config, model, key).buckets.name.clone();
    let config = || Config { provider: crate::Provider::Openai, ..Config::default() };
    let one = name(config(), "small", "sk-secret");
    assert!(one.starts_with("openai/small:") && !one.contains("secret"), "{one}");
    assert_eq!(one, name(config(), "small", "sk-secret"));
    let others = [
        name(config(), "large", "sk-secret"),
        name(config(), "small", "sk-other"),
        name(Config { base_url: Some("http://localhost:1/v1".to_owned()), ..config() }, "small", "sk-secret"),
    ];
    assert!(!others.contains(&one));
}
