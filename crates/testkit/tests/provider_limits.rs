//! Eight embedders on one provider's limit: documents through the real runner on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use riacho_domain::State;
use riacho_embedder::Config as EmbedderConfig;
use riacho_models::{Config as ModelsConfig, Kind, Provider, load};
use riacho_service::{CoreConfig, Metrics};
use riacho_store::Role;
use riacho_testkit::{
    Deployment, Pipeline, Shape, eventually,
    openai::{Asked, OpenAi, RateLimit},
    within,
};
use tokio::{sync::Mutex, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Those that look at the metrics of the process, one after the other.
static ONE: Mutex<()> = Mutex::const_new(());

const REPLICAS: usize = 8;

/// 60 requests a minute and 100,000 tokens are too slow for a test: a fifteenth of the minute, and a tenth of the tokens.
const LIMIT: RateLimit = RateLimit { requests: 60, tokens: 10_000, window: Duration::from_secs(4) };

/// The windows that are looked at at least.
const WINDOWS: usize = 4;

/// How long all of it may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

const WORDS_IN_A_LINE: usize = 25;
const LINES: usize = 100;

fn models(provider: &OpenAi) -> ModelsConfig {
    ModelsConfig {
        provider: Provider::Openai,
        model: "test-embedding".to_owned(),
        dimensions: Some(16),
        base_url: Some(provider.base_url()),
        api_key: Some(provider.api_key().into()),
        limit_window_ms: u64::try_from(LIMIT.window.as_millis()).unwrap(),
        ..ModelsConfig::default()
    }
}

/// With eight embedders.
fn start(
    deployment: &Deployment,
    core: &CoreConfig,
    lines_per_batch: usize,
    embedder: EmbedderConfig,
) -> Pipeline {
    let shape = Shape { lines_per_batch, embedders: REPLICAS, embedder, has_janitor: true };
    Pipeline::start_with(deployment, core, &shape).unwrap()
}

fn lines(document: usize, count: usize) -> String {
    let line = |number: usize| {
        let words: Vec<String> =
            (0..WORDS_IN_A_LINE).map(|word| format!("w{document}x{number}x{word}")).collect();
        words.join(" ") + "\n"
    };
    (0..count).map(line).collect()
}

fn tokens(asked: &[Asked]) -> usize {
    asked.iter().filter(|request| !request.is_refused).map(|request| request.tokens).sum()
}

/// How much of the limit was used in each window, of requests or tokens, whichever is more. A window is what was asked for
/// while so many tokens were taken: it is as long as the provider's own where nothing is left unused.
fn used(asked: &[Asked]) -> Vec<f64> {
    let mut windows = Vec::new();
    let mut rest = asked;
    while tokens(rest) >= LIMIT.tokens as usize {
        let mut taken = 0;
        let end = rest.iter().position(|request| {
            taken += if request.is_refused { 0 } else { request.tokens };
            taken >= LIMIT.tokens as usize
        });
        let (window, after) = rest.split_at(end.unwrap());
        let Some(next) = after.first() else { break };
        let took = (next.at - window[0].at).as_secs_f64() / LIMIT.window.as_secs_f64();
        let requests = window.iter().filter(|request| !request.is_refused).count();
        let share = (tokens(window) as f64 / f64::from(LIMIT.tokens))
            .max(requests as f64 / f64::from(LIMIT.requests));
        windows.push(share / took);
        rest = after;
    }
    windows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_replicas_use_the_limit_that_they_share_and_no_document_fails_for_it() {
    let _one = ONE.lock().await;
    let before = runs_again();
    let provider = OpenAi::start(16).await.unwrap();
    provider.limit(LIMIT);
    let deployment = Deployment::with_space("openai/test-embedding@16", 16).await.unwrap();
    let mut core = deployment.core().unwrap();
    core.models = ModelsConfig {
        requests_per_minute: Some(LIMIT.requests),
        tokens_per_minute: Some(LIMIT.tokens),
        ..models(&provider)
    };
    // A machine that stands still for seconds makes nobody dead here: that would be an attempt.
    core.stage.dead_after_ms = 120_000;
    let per_window = (LIMIT.tokens as usize).div_ceil(LINES * WORDS_IN_A_LINE);
    let pipeline = start(&deployment, &core, 8, EmbedderConfig::default());
    let (mut documents, begin) = (Vec::new(), Instant::now());
    loop {
        // Two windows ahead of what the provider gives.
        let taken = tokens(&provider.asked()) / LIMIT.tokens as usize;
        while documents.len() < (taken + 3) * per_window {
            let number = documents.len();
            let accepted = deployment.submit(&format!("{number}.txt"), lines(number, LINES)).await.unwrap();
            documents.push(accepted.document);
        }
        let asked = provider.asked();
        // The first window begins with what the buckets hold. Two that follow each other need what the provider gives in them, of which
        // a bucket that filled before them is a small part. What the machine does beside this makes some windows longer.
        let shares = used(&asked);
        let are_full = shares.iter().skip(1).zip(shares.iter().skip(2)).any(|(one, two)| one + two >= 1.8);
        if shares.len() > WINDOWS && are_full {
            println!("of the limit, in each window: {shares:.3?}; {} requests", asked.len());
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "never was the limit used in two windows: {shares:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for document in &documents {
        deployment.reaches(*document, State::Ready).await;
    }
    pipeline.stop().await.unwrap();
    // A busy machine brings some requests together late. Eight who did not share the limit would be refused most of the time.
    let asked = provider.asked();
    let refused = asked.iter().filter(|request| request.is_refused).count();
    assert!(refused * 5 <= asked.len(), "{refused} of {} requests were refused", asked.len());
    assert_eq!(deployment.streams.dead_letter_count(0).await.unwrap(), 0);
    // The events of refused requests are put off, and no others.
    if refused == 0 {
        assert_eq!(
            runs_again(),
            before,
            "every event ran once: nothing was put off, handed back or delivered again"
        );
    }
}

/// The lines of the metrics that tell of events which did not run to their end at once.
fn runs_again() -> Vec<String> {
    let metrics = Metrics::install().unwrap().render();
    let of_embed = metrics.lines().filter(|line| line.contains("stage=\"embed\""));
    let again = of_embed.filter(|line| {
        let ended =
            line.starts_with("riacho_events_processed_total") && !line.contains("outcome=\"emitted\"");
        ended || line.starts_with("riacho_redeliveries_total")
    });
    let mut again: Vec<String> = again.map(str::to_owned).collect();
    // The recorder has no order.
    again.sort_unstable();
    again
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_of_eight_replicas_are_embedded_one_after_the_other_each_in_its_time() {
    const LINES_IN_A_BATCH: usize = 128;
    const DOCUMENTS: usize = 8;
    let _one = ONE.lock().await;
    let provider = OpenAi::start(16).await.unwrap();
    provider.limit(LIMIT);
    let deployment = Deployment::with_space("openai/test-embedding@16", 16).await.unwrap();
    let mut core = deployment.core().unwrap();
    core.models =
        ModelsConfig { requests_per_minute: Some(60), tokens_per_minute: Some(10_000), ..models(&provider) };
    core.stage.dead_after_ms = 120_000;
    // Two runs that take too long condemn.
    core.stage.max_attempts = 2;
    // Alone an event takes a second and a half. If all that are begun shared the limit, each would take half a minute.
    let embedder = EmbedderConfig { time_limit_seconds: 20, ..EmbedderConfig::default() };
    let mut documents = Vec::new();
    for number in 0..DOCUMENTS {
        let text = lines(number, LINES_IN_A_BATCH * 2);
        documents.push(deployment.submit(&format!("{number}.txt"), text).await.unwrap().document);
    }
    let pipeline = start(&deployment, &core, LINES_IN_A_BATCH, embedder);
    within(PATIENCE, || async {
        let mut ready = 0;
        for document in &documents {
            let status = deployment.store.status(&deployment.tenant, *document).await.unwrap().unwrap();
            assert!(status.state != State::Failed, "{status:?}");
            ready += usize::from(status.state == State::Ready);
        }
        if ready == DOCUMENTS { Ok(()) } else { Err(format!("{ready} are ready")) }
    })
    .await;
    pipeline.stop().await.unwrap();
    let texts = provider.texts();
    let distinct = texts.iter().collect::<std::collections::BTreeSet<_>>().len();
    println!("{} texts, {distinct} of them different", texts.len());
    assert!(texts.len() * 10 <= distinct * 13, "{} texts were asked for, {distinct} different", texts.len());
    assert_eq!(deployment.streams.dead_letter_count(0).await.unwrap(), 0);
}

/// Documents whose turns are given for many seconds ahead, and those who search meanwhile.
const WAITING: usize = 200;
const SEARCHING: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_documents_together_keep_to_the_limit() {
    let _one = ONE.lock().await;
    let provider = OpenAi::start(16).await.unwrap();
    // It only counts: the limit is the configured one.
    provider.limit(RateLimit { requests: 1_000_000, tokens: 1_000_000_000, window: LIMIT.window });
    let deployment = Deployment::with_space("openai/test-embedding@16", 16).await.unwrap();
    let config = ModelsConfig {
        requests_per_minute: Some(LIMIT.requests),
        tokens_per_minute: Some(LIMIT.tokens),
        ..models(&provider)
    };
    let (stop, resources) = (CancellationToken::new(), deployment.resources(Role::Stage).unwrap());
    // Making them takes long, in which nobody should be served.
    let replicas: Vec<_> = (0..WAITING + SEARCHING).map(|_| load(&config).unwrap()).collect();
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for (number, model) in replicas.into_iter().enumerate() {
        resources.share_limits(&*model, &stop);
        let (kind, words) = if number < WAITING { (Kind::Passage, 80) } else { (Kind::Query, 3) };
        let text = (0..words).map(|word| format!("w{number}x{word}")).collect::<Vec<_>>().join(" ");
        tasks.spawn(async move {
            loop {
                if model.embed(vec![text.clone()], kind).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    within(PATIENCE, || async {
        let seen = provider.asked().len();
        if seen >= WINDOWS * LIMIT.requests as usize { Ok(()) } else { Err(seen) }
    })
    .await;
    tasks.shutdown().await;
    // At no moment more than since the start, with what both buckets hold at once.
    let asked = provider.asked();
    for (count, request) in (1_u32..).zip(&asked) {
        let windows = (request.at - start).as_secs_f64() / LIMIT.window.as_secs_f64();
        let most = f64::from(LIMIT.requests) * (windows + 0.15) + 1.0;
        assert!(f64::from(count) <= most, "{count} requests after {windows:.2} windows");
    }
    let queries = asked.iter().filter(|request| request.tokens == 3).count();
    println!("{queries} of {} requests were queries", asked.len());
    assert!(queries * 5 >= asked.len(), "queries come first: {queries} of {}", asked.len());
    assert!(queries * 3 <= asked.len() * 2, "and leave documents theirs: {queries} of {}", asked.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_replica_embeds_within_its_part_and_shares_again_afterwards() {
    let _one = ONE.lock().await;
    let provider = OpenAi::start(16).await.unwrap();
    let deployment = Deployment::with_space("openai/test-embedding@16", 16).await.unwrap();
    let config = ModelsConfig {
        requests_per_minute: Some(60),
        limit_window_ms: 60_000,
        limit_wait_ms: 0,
        ..models(&provider)
    };
    let stop = CancellationToken::new();
    let resources = deployment.resources(Role::Stage).unwrap();
    let replicas: Vec<_> = (0..4).map(|_| load(&config).unwrap()).collect();
    let embed = async |replica: usize| {
        replicas[replica].embed(vec!["a text".to_owned()], Kind::Passage).await.map(drop)
    };
    for (at, replica) in replicas.iter().enumerate() {
        resources.share_limits(&**replica, &stop);
        embed(at).await.unwrap();
    }
    embed(0).await.unwrap();
    deployment.redis().stop();
    embed(0).await.expect("one that is alone begins with a request");
    let wait = embed(0).await.unwrap_err().retry_after().unwrap();
    assert!(
        wait > Duration::from_secs(3) && wait <= Duration::from_secs(4),
        "a fourth of the rate: {wait:?}"
    );
    deployment.redis().start();
    eventually(|| async { resources.streams.ping().await.map(drop).map_err(|error| error.to_string()) })
        .await;
    // The buckets that all share are as Redis kept them, or full; in any case not those of one that is alone.
    eventually(|| async { embed(0).await }).await;
}
