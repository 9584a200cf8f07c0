//! Eight embedders on one provider's limit: documents through the real runner on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{sync::Arc, time::Duration};

use riacho_domain::State;
use riacho_models::{Config as ModelsConfig, Kind, Provider, load};
use riacho_service::{CoreConfig, Metrics};
use riacho_stage::Runner;
use riacho_store::Role;
use riacho_testkit::{
    Deployment, LineExtractor, eventually,
    openai::{Asked, OpenAi, RateLimit},
    within,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const REPLICAS: usize = 8;

/// 60 requests a minute and 100,000 tokens are too slow for a test: a fifteenth of the minute, and a tenth of the tokens.
const LIMIT: RateLimit = RateLimit { requests: 60, tokens: 10_000, window: Duration::from_secs(4) };

/// The windows that are measured, after the first one.
const WINDOWS: usize = 4;

/// How long they may take on a busy machine.
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

/// All stages and the janitor, with eight embedders, until they are stopped.
fn start(
    deployment: &Deployment,
    core: &CoreConfig,
    stop: &CancellationToken,
) -> JoinSet<anyhow::Result<()>> {
    let mut tasks = JoinSet::new();
    let resources = deployment.resources(Role::Stage).unwrap();
    let runner = Runner::new(deployment.streams.clone(), deployment.objects.clone(), core.stage.clone());
    let extractor = Arc::new(LineExtractor {
        store: deployment.stages.clone(),
        objects: deployment.objects.clone(),
        lines_per_batch: 8,
    });
    let stopped = stop.clone();
    tasks.spawn(async move { Ok(runner.run_stage(extractor, stopped).await?) });
    for _ in 0..REPLICAS {
        let (core, resources, stop) = (core.clone(), resources.clone(), stop.clone());
        tasks.spawn(async move { riacho_embedder::run(Default::default(), &core, resources, stop).await });
    }
    let (used, stopped) = (core.clone(), stop.clone());
    tasks.spawn(async move { riacho_indexer::run(Default::default(), &used, resources, stopped).await });
    let (used, stopped) = (core.clone(), stop.clone());
    let resources = deployment.resources(Role::Janitor).unwrap();
    tasks.spawn(async move { riacho_janitor::run(Default::default(), &used, resources, stopped).await });
    tasks
}

fn lines(document: usize) -> String {
    let line = |number: usize| {
        let words: Vec<String> =
            (0..WORDS_IN_A_LINE).map(|word| format!("w{document}x{number}x{word}")).collect();
        words.join(" ") + "\n"
    };
    (0..LINES).map(line).collect()
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
    let enough = (WINDOWS + 2) * LIMIT.tokens as usize;
    let mut documents = Vec::new();
    for number in 0..enough.div_ceil(LINES * WORDS_IN_A_LINE) {
        let accepted = deployment.submit(&format!("{number}.txt"), lines(number)).await.unwrap();
        documents.push(accepted.document);
    }
    let stop = CancellationToken::new();
    let mut tasks = start(&deployment, &core, &stop);
    let wanted = (WINDOWS + 1) * LIMIT.tokens as usize;
    within(PATIENCE, || async {
        let taken = tokens(&provider.asked());
        if taken >= wanted { Ok(()) } else { Err(format!("{taken} of {wanted} tokens")) }
    })
    .await;
    let asked = provider.asked();
    for document in &documents {
        deployment.reaches(*document, State::Ready).await;
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }

    // The first window begins with what the buckets hold.
    let mut shares = used(&asked).split_off(1);
    println!("of the limit, in each window: {shares:.3?}; {} requests", asked.len());
    shares.sort_by(f64::total_cmp);
    // What the machine does beside this makes some windows longer.
    assert!(shares[shares.len() / 2] >= 0.9, "{shares:?}");
    let refused = asked.iter().filter(|request| request.is_refused).count();
    assert!(refused * 50 <= asked.len(), "{refused} of {} requests were refused", asked.len());
    assert_eq!(deployment.streams.dead_letter_count(0).await.unwrap(), 0);
    // Every event ran once: nothing was put off, handed back or delivered again.
    let metrics = Metrics::install().unwrap().render();
    let embed = |line: &&str| line.contains("stage=\"embed\"");
    let again = metrics.lines().filter(|line| line.starts_with("riacho_redeliveries_total")).find(embed);
    assert_eq!(again, None);
    let ended: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("riacho_events_processed_total"))
        .filter(embed)
        .collect();
    assert!(ended.len() == 1 && ended[0].contains("outcome=\"emitted\""), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_replica_embeds_within_its_part_and_shares_again_afterwards() {
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
