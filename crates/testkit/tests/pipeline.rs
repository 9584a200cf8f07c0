//! Documents through the real runner on real servers: a small extractor, the real embedder and
//! indexer, and the real janitor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use riacho_domain::{DocumentId, StageName, State};
use riacho_embedder::Config as EmbedderConfig;
use riacho_janitor::{Janitor, TaskName};
use riacho_local::Runtime;
use riacho_models::{Kind, Provider};
use riacho_objects::Key;
use riacho_service::CoreConfig;
use riacho_store::{Mode, Role, SearchRequest, Target, ensure_space};
use riacho_testkit::{
    Deployment, Pipeline, Shape, eventually,
    openai::{Answer, OpenAi},
};
use tokio_util::sync::CancellationToken;

fn lines(count: usize, mark: &str) -> String {
    (0..count).map(|n| format!("Line {n} of {mark} tells how high the river stood.\n")).collect()
}

/// Nothing stands on any stream, and nothing became a dead letter.
async fn all_streams_are_empty(deployment: &Deployment) {
    for stage in StageName::ALL {
        eventually(|| async {
            let figures = deployment.streams.figures(stage, &[0]).await.map_err(|error| error.to_string())?;
            let is_empty = figures.backlog == 0 && figures.pending == 0 && figures.conservation_error == 0;
            if is_empty { Ok(()) } else { Err(format!("{stage}: {figures:?}")) }
        })
        .await;
    }
    assert_eq!(deployment.streams.dead_letter_count(0).await.unwrap(), 0);
}

/// The pipeline has started, and its model was verified.
async fn is_working(deployment: &Deployment) {
    let accepted = deployment.submit("first.txt", lines(1, "the first one")).await.unwrap();
    deployment.reaches(accepted.document, State::Ready).await;
}

/// Every ordinal once, as many as the version has.
async fn has_all_chunks(deployment: &Deployment, document: DocumentId, expected: usize) {
    let page = deployment.store.chunks(&deployment.tenant, document, None, 1000).await.unwrap().unwrap();
    let ordinals: Vec<usize> = page.chunks.iter().map(|chunk| chunk.ordinal as usize).collect();
    assert_eq!(ordinals, (0..expected).collect::<Vec<_>>());
}

/// Tells the deployment's embedder to use a provider, and starts the deployment with its space.
async fn with_provider(provider: &OpenAi) -> (Deployment, CoreConfig) {
    let deployment = Deployment::with_space("openai/test-embedding@16", 16).await.unwrap();
    let mut core = deployment.core().unwrap();
    core.models.provider = Provider::Openai;
    core.models.model = "test-embedding".to_owned();
    core.models.dimensions = Some(16);
    core.models.base_url = Some(provider.base_url());
    core.models.api_key = Some(provider.api_key().into());
    // Two failures that count condemn.
    core.stage.max_attempts = 2;
    (deployment, core)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_become_ready_with_every_chunk_once() {
    let deployment = Deployment::start().await.unwrap();
    let pipeline = Pipeline::start(&deployment, &deployment.core().unwrap()).unwrap();
    let mut documents = Vec::new();
    for n in 1..=12 {
        let accepted =
            deployment.submit(&format!("{n}.txt"), lines(n * 7, &format!("gauge{n}"))).await.unwrap();
        documents.push((accepted.document, n * 7));
    }
    for (document, expected) in documents {
        let status = deployment.reaches(document, State::Ready).await;
        assert_eq!(status.live_version, Some(1));
        assert_eq!(
            status.progress.chunks_total,
            status.progress.chunks_total.filter(|n| *n as usize == expected)
        );
        has_all_chunks(&deployment, document, expected).await;
    }
    let request = SearchRequest {
        mode: Mode::Keyword,
        top_k: 5,
        ..SearchRequest::new(deployment.tenant.clone(), "gauge7".to_owned())
    };
    let hits = deployment.store.search(&request).await.unwrap();
    assert!(!hits.is_empty() && hits.iter().all(|hit| hit.filename == "7.txt"), "{hits:?}");
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_version_is_purged_and_the_live_one_stays() {
    let deployment = Deployment::start().await.unwrap();
    let core = deployment.core().unwrap();
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    let first = deployment.submit("notes.txt", lines(20, "the old gauge")).await.unwrap();
    let document = first.document;
    deployment.reaches(document, State::Ready).await;
    let old = deployment.store.text_of(&deployment.tenant, document, None).await.unwrap().unwrap();
    let mut accept = deployment.stored("notes.txt", &lines(30, "the new gauge").into()).await.unwrap();
    accept.target = Target::NewVersionOf(document);
    let second = deployment.store.accept(&accept).await.unwrap();
    deployment.release(&second.release.unwrap()).await.unwrap();
    eventually(|| async {
        let status = deployment.store.status(&deployment.tenant, document).await.unwrap().unwrap();
        status.live_version == Some(2)
    })
    .await;
    pipeline.stop().await.unwrap();
    let config = riacho_janitor::Config { purge_grace_seconds: 0, batch: 7, ..Default::default() };
    let janitor = Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap());
    let purged = janitor.run_task(TaskName::Purge, false).await.unwrap().counts;
    assert_eq!((purged["chunks"], purged["vectors"], purged["versions"], purged["objects"]), (20, 20, 1, 1));
    let text = Key::text(&deployment.tenant, document, 1, old.run);
    assert!(!deployment.objects.exists(&text).await.unwrap());
    has_all_chunks(&deployment, document, 30).await;
    assert!(janitor.run_task(TaskName::Purge, false).await.unwrap().counts.values().all(|count| *count == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_a_cancelled_document_is_dropped() {
    let deployment = Deployment::start().await.unwrap();
    let accepted = deployment.submit("cancelled.txt", lines(30, "nothing")).await.unwrap();
    deployment.store.cancel(&deployment.tenant, accepted.document).await.unwrap();
    let other = deployment.submit("other.txt", lines(30, "something")).await.unwrap();
    let pipeline = Pipeline::start(&deployment, &deployment.core().unwrap()).unwrap();
    deployment.reaches(other.document, State::Ready).await;
    all_streams_are_empty(&deployment).await;
    deployment.reaches(accepted.document, State::Cancelled).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_document_ends_as_failed() {
    let deployment = Deployment::start().await.unwrap();
    let pipeline = Pipeline::start(&deployment, &deployment.core().unwrap()).unwrap();
    let accepted = deployment.submit("blank.txt", "\n \n").await.unwrap();
    let status = deployment.reaches(accepted.document, State::Failed).await;
    assert_eq!(status.error.unwrap().code, "empty");
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_the_provider_refuses_fails_its_own_document_only() {
    let provider = OpenAi::start(16).await.unwrap();
    provider.refuse_texts_with("forbidden");
    let (deployment, core) = with_provider(&provider).await;
    let bad = deployment.submit("bad.txt", format!("{}forbidden words\n", lines(5, "bad"))).await.unwrap();
    let good = deployment.submit("good.txt", lines(5, "good")).await.unwrap();
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    deployment.reaches(good.document, State::Ready).await;
    let status = deployment.reaches(bad.document, State::Failed).await;
    assert_eq!(status.error.unwrap().code, "provider_refused");
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_or_failing_provider_costs_time_and_no_document() {
    let provider = OpenAi::start(16).await.unwrap();
    let (deployment, core) = with_provider(&provider).await;
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    is_working(&deployment).await;
    let limited = Answer::RateLimited { retry_after_seconds: 1 };
    provider.script([limited.clone(), Answer::Status(500), Answer::Status(500), limited]);
    let accepted = deployment.submit("patient.txt", lines(40, "patience")).await.unwrap();
    deployment.reaches(accepted.document, State::Ready).await;
    has_all_chunks(&deployment, accepted.document, 40).await;
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stops_working_condemns_nothing() {
    let provider = OpenAi::start(16).await.unwrap();
    let (deployment, core) = with_provider(&provider).await;
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    is_working(&deployment).await;
    provider.always(Answer::Status(401));
    let before = provider.requests();
    // One event: each request is another run of it, and the second one that counts would condemn it.
    let accepted = deployment.submit("key.txt", lines(5, "the key")).await.unwrap();
    eventually(|| async { provider.requests() >= before + 3 }).await;
    provider.normal();
    deployment.reaches(accepted.document, State::Ready).await;
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_embedded_by_a_sentence_transformer_into_a_space_of_its_own() {
    let directory = Runtime::find().model_dir("all-minilm-l6-v2").unwrap();
    let mut models = riacho_models::Config::default();
    models.local.directory = Some(directory);
    let model = riacho_models::load(&models).unwrap();
    let deployment = Deployment::with_space(model.id(), 384).await.unwrap();
    let core = CoreConfig { models, ..deployment.core().unwrap() };
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    let accepted = deployment.submit("gauge.txt", lines(40, "the gauge")).await.unwrap();
    let boat = "The boat leaves the landing stage at six in the morning.";
    let other = deployment.submit("boat.txt", boat).await.unwrap();
    deployment.reaches(accepted.document, State::Ready).await;
    deployment.reaches(other.document, State::Ready).await;
    has_all_chunks(&deployment, accepted.document, 40).await;
    let query = "when does a ship depart".to_owned();
    let mut embedded = model.embed(vec![query.clone()], Kind::Query).await.unwrap();
    let request = SearchRequest {
        mode: Mode::Vector,
        vector: embedded.vectors.pop(),
        ..SearchRequest::new(deployment.tenant.clone(), query)
    };
    let hits = deployment.store.search(&request).await.unwrap();
    assert_eq!(hits[0].document, other.document, "{hits:?}");
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_two_spaces_are_embedded_each_with_its_model_and_wait_for_no_other() {
    let provider = OpenAi::start(16).await.unwrap();
    let deployment = Deployment::start().await.unwrap();
    let next = ensure_space(&deployment.database_config(), "openai/next@16", 16).await.unwrap();
    let make_live = |space: u32| {
        deployment.sql(&format!(
            "UPDATE embedding_spaces SET state = 'building' WHERE state = 'live';
             UPDATE embedding_spaces SET state = 'live' WHERE id = {space}"
        ));
    };
    let mut core = deployment.core().unwrap();
    let further = riacho_models::Config {
        provider: Provider::Openai,
        model: "next".to_owned(),
        dimensions: Some(16),
        base_url: Some(provider.base_url()),
        api_key: Some(provider.api_key().into()),
        ..riacho_models::Config::default()
    };
    core.models.spaces.insert("next".to_owned(), further);
    let pipeline = Pipeline::start(&deployment, &core).unwrap();
    is_working(&deployment).await;
    assert_eq!(provider.requests(), 0, "nothing needs the further model yet");

    provider.always(Answer::Status(500));
    make_live(next.id);
    let waits = deployment.submit("next.txt", lines(9, "the next one")).await.unwrap();
    provider.wait_for_requests(1).await;
    make_live(deployment.space.id);
    let present = deployment.submit("present.txt", lines(9, "the present one")).await.unwrap();
    deployment.reaches(present.document, State::Ready).await;
    let state = deployment.store.status(&deployment.tenant, waits.document).await.unwrap().unwrap().state;
    assert!(state.is_in_flight(), "{state}");
    provider.normal();
    deployment.reaches(waits.document, State::Ready).await;
    for (space, accepted) in [(deployment.space.id, present), (next.id, waits)] {
        // Only of this document: the space that is not live may be filled with those of the other meanwhile.
        let id = accepted.document;
        let rows =
            deployment.sql(&format!("SELECT count(*) FROM vectors_{space} WHERE document_id = '{id}'"));
        assert_eq!(rows[0][0].as_deref(), Some("9"), "vectors of space {space}");
    }
    all_streams_are_empty(&deployment).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_one_model_do_not_wait_for_the_limit_of_another() {
    let provider = OpenAi::start(16).await.unwrap();
    let deployment = Deployment::start().await.unwrap();
    let next = ensure_space(&deployment.database_config(), "openai/next@16", 16).await.unwrap();
    let mut core = deployment.core().unwrap();
    // One request in ten minutes, which is the first with known texts. The turn of the next batch is as far away.
    let further = riacho_models::Config {
        provider: Provider::Openai,
        model: "next".to_owned(),
        dimensions: Some(16),
        base_url: Some(provider.base_url()),
        api_key: Some(provider.api_key().into()),
        requests_per_minute: Some(1),
        limit_window_ms: 600_000,
        limit_wait_ms: 7_200_000,
        ..riacho_models::Config::default()
    };
    core.models.spaces.insert("next".to_owned(), further);
    let mut shape = Shape::default();
    shape.embedder.time_limit_seconds = 36_000;
    let pipeline = Pipeline::start_with(&deployment, &core, &shape).unwrap();
    is_working(&deployment).await;
    deployment.janitor.switch_space(next.id, true).await.unwrap();
    // More batches than are embedded at once, of events that come before those of the other model and between them.
    let mut waits = Vec::new();
    for number in 0..4 {
        let text = lines(8 * 80, "the next one");
        waits.push(deployment.submit(&format!("next{number}.txt"), text).await.unwrap());
    }
    provider.wait_for_requests(1).await;
    deployment.janitor.switch_space(deployment.space.id, true).await.unwrap();
    for number in 0..3 {
        let text = lines(9, "the present one");
        let present = deployment.submit(&format!("present{number}.txt"), text).await.unwrap();
        deployment.reaches(present.document, State::Ready).await;
    }
    for document in waits {
        let status = deployment.store.status(&deployment.tenant, document.document).await.unwrap().unwrap();
        assert!(status.state.is_in_flight(), "{status:?}");
    }
    // Known texts, and as an urgent request once more: which model it is. The others wait for their turn.
    assert!(provider.requests() <= 2, "{} requests", provider.requests());
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedder_with_another_model_of_the_same_name_does_not_start() {
    let deployment = Deployment::with_space("openai/test@16", 16).await.unwrap();
    let [first, second] = [OpenAi::start(16).await.unwrap(), OpenAi::start(16).await.unwrap()];
    second.mean_words();
    let at = |provider: &OpenAi| CoreConfig {
        models: riacho_models::Config {
            provider: Provider::Openai,
            model: "test".to_owned(),
            dimensions: Some(16),
            base_url: Some(provider.base_url()),
            api_key: Some(provider.api_key().into()),
            ..riacho_models::Config::default()
        },
        ..deployment.core().unwrap()
    };
    let pipeline = Pipeline::start(&deployment, &at(&first)).unwrap();
    let accepted = deployment.submit("gauge.txt", lines(3, "the gauge")).await.unwrap();
    deployment.reaches(accepted.document, State::Ready).await;
    pipeline.stop().await.unwrap();
    let (stop, core) = (CancellationToken::new(), at(&second));
    let resources = deployment.resources(Role::Stage).unwrap();
    let started = riacho_embedder::run(EmbedderConfig::default(), &core, resources, stop);
    let error = tokio::time::timeout(Duration::from_secs(60), started).await.unwrap().unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("another model of the same name") && error.contains("models.id"), "{error}");
    // The one that it was made with goes on.
    let pipeline = Pipeline::start(&deployment, &at(&first)).unwrap();
    let accepted = deployment.submit("other.txt", lines(3, "the other")).await.unwrap();
    deployment.reaches(accepted.document, State::Ready).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedder_whose_model_fits_no_space_does_not_start() {
    let deployment = Deployment::with_space("another-model", 8).await.unwrap();
    let stop = CancellationToken::new();
    let resources = deployment.resources(Role::Stage).unwrap();
    let core = deployment.core().unwrap();
    let error = tokio::time::timeout(
        Duration::from_secs(30),
        riacho_embedder::run(EmbedderConfig::default(), &core, resources, stop),
    );
    let error = error.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("another-model with 8 dimensions") && error.contains("wordllama"), "{error}");
}
