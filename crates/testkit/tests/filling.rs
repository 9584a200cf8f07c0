//! Embedding spaces are filled while a model is slow, fails, or is at its limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use riacho_domain::State;
use riacho_janitor::{Config as JanitorConfig, Janitor, TaskName};
use riacho_models::{Config as ModelsConfig, Kind, Provider, embed_some, load};
use riacho_service::CoreConfig;
use riacho_store::{Missing, Role, Space, ensure_space};
use riacho_testkit::{
    Deployment, Pipeline, Shape,
    openai::{Answer, OpenAi, RateLimit},
    within,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A provider that is configured as a further model.
struct Next {
    name: &'static str,
    provider: OpenAi,
    section: ModelsConfig,
}

impl Next {
    async fn configure(core: &mut CoreConfig, name: &'static str, change: ModelsConfig) -> Next {
        let provider = OpenAi::start(16).await.unwrap();
        let section = ModelsConfig {
            provider: Provider::Openai,
            model: name.to_owned(),
            dimensions: Some(16),
            base_url: Some(provider.base_url()),
            api_key: Some(provider.api_key().into()),
            ..change
        };
        core.models.spaces.insert(name.to_owned(), section.clone());
        Next { name, provider, section }
    }

    async fn space(&self, deployment: &Deployment) -> Space {
        let model = format!("openai/{}@16", self.name);
        ensure_space(&deployment.database_config(), &model, 16).await.unwrap()
    }
}

/// Documents of some lines each, which are ready in the live space when this returns.
async fn documents(deployment: &Deployment, core: &CoreConfig, count: usize, lines: usize) {
    let shape = Shape { has_janitor: false, ..Shape::default() };
    let pipeline = Pipeline::start_with(deployment, core, &shape).unwrap();
    let mut accepted = Vec::new();
    for document in 0..count {
        let text: String = (0..lines)
            .map(|n| format!("Gauge {document} told in line {n} how high the river stood.\n"))
            .collect();
        accepted.push(deployment.submit(&format!("gauge{document}.txt"), text).await.unwrap().document);
    }
    for document in accepted {
        deployment.reaches(document, State::Ready).await;
    }
    pipeline.stop().await.unwrap();
}

async fn is_complete(deployment: &Deployment, space: &Space) {
    within(PATIENCE, || async {
        let spaces = deployment.janitor.spaces().await.unwrap();
        let space = spaces.into_iter().find(|one| one.id == space.id).unwrap();
        let missing = deployment.janitor.missing(None).await.unwrap().remove(&space.id).unwrap_or_default();
        let is_complete = space.is_seeded && missing == Missing::default();
        if is_complete { Ok(()) } else { Err(format!("{space:?} {missing:?}")) }
    })
    .await;
}

fn janitor(deployment: &Deployment, core: &CoreConfig) -> Janitor {
    Janitor::new(JanitorConfig::default(), core, &deployment.resources(Role::Janitor).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_model_keeps_no_other_space_from_being_filled() {
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    documents(&deployment, &core, 2, 6).await;
    let patient = ModelsConfig { timeout_ms: 600_000, ..ModelsConfig::default() };
    let slow = Next::configure(&mut core, "slow", patient).await;
    let fast = Next::configure(&mut core, "fast", ModelsConfig::default()).await;
    slow.provider.always(Answer::Slow(PATIENCE * 4));
    slow.space(&deployment).await;
    let janitor = janitor(&deployment, &core);
    let filling = tokio::spawn(async move { janitor.run_task(TaskName::Fill, false).await });
    slow.provider.wait_for_requests(1).await;
    // The other one is made while the slow one is waited for.
    is_complete(&deployment, &fast.space(&deployment).await).await;
    assert!(!filling.is_finished());
    filling.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_embedded_before_a_failure_is_written_and_not_asked_for_again() {
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    documents(&deployment, &core, 1, 8).await;
    let next = Next::configure(&mut core, "next", ModelsConfig::default()).await;
    let space = next.space(&deployment).await;
    // Known texts, to check and to compare; all lines at once, which are halved; the second half fails while known texts do
    // not.
    next.provider.script([
        Answer::Normal,
        Answer::Normal,
        Answer::Status(400),
        Answer::Normal,
        Answer::Status(500),
        Answer::Normal,
    ]);
    let janitor = janitor(&deployment, &core);
    janitor.run_task(TaskName::Fill, false).await.unwrap();
    let missing = deployment.janitor.missing(None).await.unwrap()[&space.id];
    assert_eq!((missing.chunks, missing.refused), (4, 0), "the first half is there");
    within(PATIENCE, || async {
        janitor.run_task(TaskName::Fill, false).await.unwrap();
        deployment.janitor.missing(None).await.unwrap().is_empty()
    })
    .await;
    let asked = |line: usize| {
        let mark = format!("in line {line} ");
        next.provider.texts().iter().filter(|text| text.contains(&mark)).count()
    };
    assert_eq!((0..8).map(asked).collect::<Vec<_>>(), [2, 2, 2, 2, 3, 3, 3, 3]);
}

/// Behind the batches of an embedder for each of so many others, all at the limit of one account.
const OTHERS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_space_is_filled_behind_a_backlog_at_its_providers_limit() {
    const LIMIT: RateLimit = RateLimit { requests: 60, tokens: 10_000, window: Duration::from_secs(4) };
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    documents(&deployment, &core, 2, 6).await;
    let limited = ModelsConfig {
        limit_window_ms: u64::try_from(LIMIT.window.as_millis()).unwrap(),
        requests_per_minute: Some(LIMIT.requests),
        tokens_per_minute: Some(LIMIT.tokens),
        ..ModelsConfig::default()
    };
    let next = Next::configure(&mut core, "next", limited).await;
    next.provider.limit(LIMIT);
    let space = next.space(&deployment).await;
    deployment.janitor.switch_space(space.id, true).await.unwrap();

    // Documents that come: their turns are given for seconds ahead, and there are always more.
    let (stop, resources) = (CancellationToken::new(), deployment.resources(Role::Stage).unwrap());
    let mut others = JoinSet::new();
    for other in 0..OTHERS {
        let model = load(&next.section).unwrap();
        resources.share_limits(&*model, &stop);
        others.spawn(async move {
            let text = (0..150).map(|word| format!("w{other}x{word}")).collect::<Vec<_>>().join(" ");
            loop {
                let _ = embed_some(&*model, std::slice::from_ref(&text), Kind::Passage, None).await;
            }
        });
    }
    let model = load(&next.section).unwrap();
    resources.share_limits(&*model, &stop);
    within(PATIENCE, || async {
        let wait = model.limited_for().await.unwrap_or_default();
        if wait > Duration::from_secs(2) { Ok(()) } else { Err(wait) }
    })
    .await;
    let janitor = janitor(&deployment, &core);
    let filling = tokio::spawn(async move {
        loop {
            janitor.run_task(TaskName::Fill, false).await.unwrap();
        }
    });
    is_complete(&deployment, &space).await;
    let wait = model.limited_for().await.unwrap_or_default();
    assert!(wait > Duration::from_secs(1), "the backlog was there all the time: {wait:?}");
    filling.abort();
    others.shutdown().await;
}
