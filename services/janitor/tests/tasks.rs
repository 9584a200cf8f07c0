//! Each task on real servers: what it does, that it does it once, and what it leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::Utc;
use riacho_domain::{DocumentId, Lane, ReasonCode, ReleaseId, RunId, StageName, State, UploadId};
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_objects::Key;
use riacho_proto::{Message, v1};
use riacho_stage::{Context, Event, Failure, Outcome, Runner, Stage};
use riacho_store::{Body, ListLetters, Role};
use riacho_testkit::{Deployment, eventually};
use tokio_util::sync::CancellationToken;

/// A janitor that waits for nothing.
fn janitor(deployment: &Deployment) -> Janitor {
    let config = Config {
        stale_releasing_seconds: 0,
        original_retention_seconds: Some(0),
        purge_grace_seconds: 0,
        orphan_age_seconds: 0,
        batch: 7,
        ..Config::default()
    };
    janitor_with(deployment, config)
}

fn janitor_with(deployment: &Deployment, config: Config) -> Janitor {
    let core = deployment.core().unwrap();
    Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap())
}

async fn counts(janitor: &Janitor, task: TaskName) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(task, false).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

async fn dry(janitor: &Janitor, task: TaskName) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(task, true).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

async fn waiting(deployment: &Deployment, filename: &str) -> DocumentId {
    let content = Bytes::from(format!("content of {filename}"));
    let mut accept = deployment.stored(filename, &content).await.unwrap();
    accept.hold = true;
    let accepted = deployment.store.accept(&accept).await.unwrap();
    assert_eq!(accepted.state, State::Waiting);
    accepted.document
}

async fn on_the_stream(deployment: &Deployment) -> u64 {
    deployment.streams.figures(StageName::Extract, &[0]).await.unwrap().backlog
}

#[tokio::test]
async fn waiting_documents_are_released_once_even_with_two_leaders() {
    let deployment = Deployment::start().await.unwrap();
    let mut documents = Vec::new();
    for n in 0..40 {
        documents.push(waiting(&deployment, &format!("{n}.txt")).await);
    }
    let janitor = janitor_with(&deployment, Config { release_batch: 7, ..Config::default() });
    assert_eq!(dry(&janitor, TaskName::Release).await, BTreeMap::from([("waiting", 40)]));
    let both =
        tokio::join!(janitor.run_task(TaskName::Release, false), janitor.run_task(TaskName::Release, false));
    let released = |counts: &BTreeMap<&str, u64>| counts.get("released").copied().unwrap_or(0);
    assert_eq!(released(&both.0.unwrap().counts) + released(&both.1.unwrap().counts), 40);
    assert_eq!(on_the_stream(&deployment).await, 40);
    for document in documents {
        deployment.reaches(document, State::Extracting).await;
    }
    assert_eq!(counts(&janitor, TaskName::Release).await, BTreeMap::new());
}

#[tokio::test]
async fn a_release_that_may_not_have_arrived_is_sent_again_with_the_same_id() {
    let deployment = Deployment::start().await.unwrap();
    let accepted = deployment.accept("lost.txt", "the gateway died before it sent this").await.unwrap();
    let plan = accepted.release.unwrap();
    // Sent, but not written down: the gateway died in between.
    let half = deployment.accept("half.txt", "the gateway died after it sent this").await.unwrap();
    let half_plan = half.release.unwrap();
    let meta = riacho_stage::codec::ReleaseMeta {
        tenant: half_plan.tenant.clone(),
        document: half_plan.document,
        version: half_plan.version,
        release: half_plan.release,
        lane: half_plan.lane,
        traceparent: String::new(),
    };
    let envelope = riacho_stage::codec::encode_release(&meta, Default::default());
    deployment
        .streams
        .release(half_plan.partition, half_plan.lane, &envelope, half_plan.release)
        .await
        .unwrap();
    let janitor = janitor(&deployment);
    assert_eq!(dry(&janitor, TaskName::Release).await, BTreeMap::from([("stale", 2)]));
    assert_eq!(counts(&janitor, TaskName::Release).await, BTreeMap::from([("sent_again", 2)]));
    assert_eq!(on_the_stream(&deployment).await, 2);
    let again = deployment.streams.release(plan.partition, plan.lane, b"same", plan.release).await.unwrap();
    assert_eq!(again, riacho_streams::ReleaseOutcome::AlreadyThere);
    deployment.reaches(accepted.document, State::Extracting).await;
    deployment.reaches(half.document, State::Extracting).await;
}

#[tokio::test]
async fn documents_stay_waiting_while_redis_is_away() {
    let deployment = Deployment::start().await.unwrap();
    let document = waiting(&deployment, "patient.txt").await;
    let janitor = janitor(&deployment);
    deployment.redis().stop();
    assert!(janitor.run_task(TaskName::Release, false).await.unwrap_err().is_retryable());
    deployment.reaches(document, State::Waiting).await;
    deployment.redis().start();
    eventually(|| async { janitor.run_task(TaskName::Release, false).await }).await;
    deployment.reaches(document, State::Extracting).await;
}

#[tokio::test]
async fn caps_keep_the_rest_waiting() {
    let deployment = Deployment::start().await.unwrap();
    for n in 0..9 {
        waiting(&deployment, &format!("{n}.txt")).await;
    }
    let janitor = janitor_with(&deployment, Config { in_flight: Some(4), ..Config::default() });
    let first = BTreeMap::from([("released", 4), ("kept_waiting", 5)]);
    assert_eq!(counts(&janitor, TaskName::Release).await, first);
    assert_eq!(counts(&janitor, TaskName::Release).await, BTreeMap::from([("kept_waiting", 9 - 4)]));
    assert_eq!(on_the_stream(&deployment).await, 4);
}

/// Gives every event up.
struct GiveUp;

impl Stage for GiveUp {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, _: Event, _: &Context) -> Result<Outcome, Failure> {
        Err(Failure::permanent(ReasonCode::Internal, "given up\0 by the test"))
    }
}

/// Puts documents onto the stream and gives their entries up.
async fn with_dead_letters(deployment: &Deployment, filenames: &[&str]) -> Vec<DocumentId> {
    let mut documents = Vec::new();
    for filename in filenames {
        documents.push(deployment.submit(filename, format!("content of {filename}")).await.unwrap().document);
    }
    let core = deployment.core().unwrap();
    let stop = CancellationToken::new();
    let runner = Runner::new(deployment.streams.clone(), deployment.objects.clone(), core.stage);
    let stopped = stop.clone();
    let running = tokio::spawn(async move { runner.run_stage(Arc::new(GiveUp), stopped).await });
    let expected = filenames.len() as u64;
    eventually(|| async {
        deployment.streams.dead_letter_count(0).await.is_ok_and(|count| count == expected)
    })
    .await;
    stop.cancel();
    running.await.unwrap().unwrap();
    documents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_move_to_postgresql_and_fail_their_documents() {
    let deployment = Deployment::start().await.unwrap();
    let documents = with_dead_letters(&deployment, &["a.txt", "b.txt"]).await;
    deployment.store.cancel(&deployment.tenant, documents[1]).await.unwrap();
    let janitor = janitor(&deployment);
    assert_eq!(dry(&janitor, TaskName::DeadLetters).await, BTreeMap::from([("waiting", 2)]));
    assert_eq!(deployment.janitor.open_dead_letters().await.unwrap(), 0);
    assert_eq!(counts(&janitor, TaskName::DeadLetters).await, BTreeMap::from([("moved", 2)]));
    assert_eq!(deployment.janitor.open_dead_letters().await.unwrap(), 2);
    assert_eq!(deployment.streams.dead_letter_count(0).await.unwrap(), 0);
    let status = deployment.reaches(documents[0], State::Failed).await;
    assert_eq!(status.error.unwrap().code, "internal");
    // The release of a cancelled document is not current any more.
    deployment.reaches(documents[1], State::Cancelled).await;
    let letters =
        deployment.janitor.dead_letters(Some(&deployment.tenant), &ListLetters::default()).await.unwrap();
    assert_eq!(letters.items.len(), 2);
    let discard = "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded' WHERE id =";
    deployment.sql(&format!("{discard} '{}'", letters.items[0].id));
    assert_eq!(deployment.janitor.open_dead_letters().await.unwrap(), 1);
    assert!(
        letters.items.iter().all(|letter| letter.message.contains("given up") && letter.stage == "extract")
    );
    let (_, original) = deployment.janitor.dead_letter(None, letters.items[0].id).await.unwrap().unwrap();
    let envelope = v1::Envelope::decode(original.as_slice()).unwrap();
    assert!(documents.iter().any(|document| document.to_string() == envelope.document));
    assert_eq!(counts(&janitor, TaskName::DeadLetters).await, BTreeMap::new());
}

#[tokio::test]
async fn uploads_that_never_came_expire() {
    let deployment = Deployment::start().await.unwrap();
    let mut accept = deployment.stored("never.txt", &Bytes::from_static(b"x")).await.unwrap();
    accept.body = Body::Awaited { expires_at: Utc::now() - chrono::Duration::hours(1) };
    let late = deployment.store.accept(&accept).await.unwrap();
    let mut accept = deployment.stored("soon.txt", &Bytes::from_static(b"y")).await.unwrap();
    accept.body = Body::Awaited { expires_at: Utc::now() + chrono::Duration::hours(1) };
    let early = deployment.store.accept(&accept).await.unwrap();
    let janitor = janitor_with(&deployment, Config { original_retention_seconds: None, ..Config::default() });
    assert_eq!(dry(&janitor, TaskName::ExpireUploads).await, BTreeMap::from([("uploads", 1)]));
    assert_eq!(counts(&janitor, TaskName::ExpireUploads).await, BTreeMap::from([("uploads", 1)]));
    deployment.reaches(late.document, State::Expired).await;
    deployment.reaches(early.document, State::AwaitingUpload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn originals_past_their_retention_go_and_their_rows_say_so() {
    let deployment = Deployment::start().await.unwrap();
    let documents = with_dead_letters(&deployment, &["done.txt"]).await;
    let janitor = janitor(&deployment);
    let in_flight = deployment.submit("in-flight.txt", "needed still").await.unwrap();
    janitor.run_task(TaskName::DeadLetters, false).await.unwrap();
    let original =
        deployment.store.original(&deployment.tenant, documents[0], Some(1)).await.unwrap().unwrap();
    assert_eq!(counts(&janitor, TaskName::ExpireUploads).await, BTreeMap::from([("originals", 1)]));
    let key = Key::parse(&original.object_key).unwrap();
    assert!(!deployment.objects.exists(&key).await.unwrap());
    let original =
        deployment.store.original(&deployment.tenant, documents[0], Some(1)).await.unwrap().unwrap();
    assert!(original.purged_at.is_some());
    let needed =
        deployment.store.original(&deployment.tenant, in_flight.document, Some(1)).await.unwrap().unwrap();
    assert!(deployment.objects.exists(&Key::parse(&needed.object_key).unwrap()).await.unwrap());
}

#[tokio::test]
async fn documents_past_their_time_to_live_expire() {
    let deployment = Deployment::start().await.unwrap();
    let mut accept = deployment.stored("brief.txt", &Bytes::from_static(b"brief")).await.unwrap();
    accept.ttl = Some(Duration::ZERO);
    deployment.store.accept(&accept).await.unwrap();
    let long = deployment.accept("long.txt", "long").await.unwrap();
    let janitor = janitor(&deployment);
    assert_eq!(dry(&janitor, TaskName::ExpireDocuments).await, BTreeMap::from([("documents", 1)]));
    assert_eq!(counts(&janitor, TaskName::ExpireDocuments).await, BTreeMap::from([("documents", 1)]));
    deployment.reaches(long.document, State::Releasing).await;
}

#[tokio::test]
async fn documents_past_their_deadline_fail() {
    let deployment = Deployment::start().await.unwrap();
    let late = deployment.submit("late.txt", "late").await.unwrap();
    let early = deployment.submit("early.txt", "early").await.unwrap();
    deployment.sql(&format!(
        "UPDATE document_versions SET deadline = now() - interval '1 second' WHERE document_id = '{}'",
        late.document
    ));
    let janitor = janitor(&deployment);
    assert_eq!(dry(&janitor, TaskName::Deadline).await, BTreeMap::from([("documents", 1)]));
    assert_eq!(counts(&janitor, TaskName::Deadline).await, BTreeMap::from([("documents", 1)]));
    let status = deployment.reaches(late.document, State::Failed).await;
    assert_eq!(status.error.unwrap().code, "deadline_exceeded");
    deployment.reaches(early.document, State::Extracting).await;
}

#[tokio::test]
async fn objects_without_a_row_go_and_no_others() {
    let deployment = Deployment::start().await.unwrap();
    let (tenant, objects) = (&deployment.tenant, &deployment.objects);
    let janitor = janitor(&deployment);
    // The store becomes the deployment's own while it is empty.
    assert_eq!(counts(&janitor, TaskName::Orphans).await, BTreeMap::new());
    let kept = deployment.accept("kept.txt", "kept").await.unwrap();
    let known_text = Key::text(tenant, kept.document, 1, RunId::new());
    let producer = Key::producer(tenant, "import/1.txt").unwrap();
    let stray = [
        Key::original(tenant, UploadId::new()),
        Key::attachment(tenant, kept.document, UploadId::new()),
        Key::text(tenant, DocumentId::new(), 1, RunId::new()),
        Key::text(tenant, kept.document, 2, RunId::new()),
        Key::claim(tenant, DocumentId::new(), 1, RunId::new(), "e1").unwrap(),
    ];
    for key in stray.iter().chain([&known_text, &producer]) {
        objects.put(key, Bytes::from_static(b"bytes")).await.unwrap();
    }
    let expected =
        BTreeMap::from([("attachments", 1), ("bytes", 25), ("claims", 1), ("originals", 1), ("texts", 2)]);
    assert_eq!(dry(&janitor, TaskName::Orphans).await, expected);
    let young = janitor_with(&deployment, Config::default());
    assert_eq!(
        counts(&young, TaskName::Orphans).await,
        BTreeMap::new(),
        "an object of today may get its row yet"
    );
    assert_eq!(counts(&janitor, TaskName::Orphans).await, expected);
    for key in &stray {
        assert!(!objects.exists(key).await.unwrap(), "{key}");
    }
    let original = deployment.store.original(tenant, kept.document, Some(1)).await.unwrap().unwrap();
    for key in [&known_text, &producer, &Key::parse(&original.object_key).unwrap()] {
        assert!(objects.exists(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn a_deleted_document_is_purged_to_the_last_object() {
    let deployment = Deployment::start().await.unwrap();
    let (tenant, objects) = (&deployment.tenant, &deployment.objects);
    let gone = deployment.accept("gone.txt", "gone").await.unwrap().document;
    let kept = deployment.accept("kept.txt", "kept").await.unwrap().document;
    for document in [gone, kept] {
        objects
            .put(&Key::text(tenant, document, 1, RunId::new()), Bytes::from_static(b"text"))
            .await
            .unwrap();
        let claim = Key::claim(tenant, document, 1, RunId::new(), "e").unwrap();
        objects.put(&claim, Bytes::from_static(b"claim")).await.unwrap();
        // A file that was attached to it, whose document was not accepted any more.
        let attached = Key::attachment(tenant, document, UploadId::new());
        objects.put(&attached, Bytes::from_static(b"attached")).await.unwrap();
    }
    assert!(deployment.store.delete_document(tenant, gone).await.unwrap());
    let janitor = janitor(&deployment);
    let expected = BTreeMap::from([("documents", 1), ("objects", 4)]);
    assert_eq!(dry(&janitor, TaskName::Purge).await, BTreeMap::from([("documents", 1)]));
    assert_eq!(counts(&janitor, TaskName::Purge).await, expected);
    let left: Vec<String> = futures::TryStreamExt::try_collect::<Vec<_>>(objects.list_all())
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.key.to_string())
        .collect();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(deployment.sql(&format!("SELECT FROM documents WHERE id = '{gone}'")).len(), 0);
    assert_eq!(deployment.sql(&format!("SELECT FROM receipts WHERE document_id = '{gone}'")).len(), 1);
    assert_eq!(counts(&janitor, TaskName::Purge).await, BTreeMap::new());
    deployment.reaches(kept, State::Releasing).await;
}

#[tokio::test]
async fn a_file_that_is_in_no_collection_is_no_orphan_and_ends_with_its_retention() {
    let deployment = Deployment::start().await.unwrap();
    let file = deployment.file("not attached", None).await.unwrap();
    let key = Key::parse(&file.object_key).unwrap();
    let orphan = Key::original(&deployment.tenant, UploadId::new());
    deployment.objects.put(&orphan, Bytes::from_static(b"nobody's")).await.unwrap();
    let keeping = janitor_with(
        &deployment,
        Config { orphan_age_seconds: 0, original_retention_seconds: None, ..Config::default() },
    );
    assert_eq!(counts(&keeping, TaskName::Orphans).await["originals"], 1);
    assert_eq!(counts(&keeping, TaskName::ExpireUploads).await, BTreeMap::new());
    assert!(
        deployment.objects.exists(&key).await.unwrap() && !deployment.objects.exists(&orphan).await.unwrap()
    );

    let janitor = janitor(&deployment);
    assert_eq!(counts(&janitor, TaskName::ExpireUploads).await, BTreeMap::from([("files", 1)]));
    assert!(deployment.objects.exists(&key).await.unwrap(), "the purge removes it");
    assert_eq!(dry(&janitor, TaskName::Purge).await, BTreeMap::from([("files", 1)]));
    assert_eq!(counts(&janitor, TaskName::Purge).await, BTreeMap::from([("files", 1), ("objects", 1)]));
    assert!(!deployment.objects.exists(&key).await.unwrap());
    let receipt = format!("SELECT objects FROM receipts WHERE file_id = '{}'", file.id);
    assert_eq!(deployment.sql(&receipt), [[Some("1".to_owned())]]);
    assert_eq!(counts(&janitor, TaskName::Purge).await, BTreeMap::new());
}

#[tokio::test]
async fn what_is_made_of_a_file_is_purged_without_its_object_until_the_file_is_deleted() {
    let deployment = Deployment::start().await.unwrap();
    let (store, tenant) = (&deployment.store, &deployment.tenant);
    let file = deployment.file("attached twice", None).await.unwrap();
    let key = Key::parse(&file.object_key).unwrap();
    let mut documents = Vec::new();
    for name in ["a", "b"] {
        let collection = store.create_collection(tenant, name).await.unwrap();
        let body = Body::Stored { size: file.size, sha256: file.sha256 };
        let mut accept = riacho_store::Accept::new(tenant.clone(), "file.txt", file.object_key.clone(), body);
        accept.collection = Some(name.to_owned());
        accept.external_id = Some(format!("{name}/file"));
        accept.made_of = Some(riacho_store::MadeOf { file: file.id, collection: collection.id });
        documents.push(store.accept(&accept).await.unwrap().document);
    }
    let janitor = janitor(&deployment);
    assert!(store.delete_document(tenant, documents[0]).await.unwrap());
    assert_eq!(counts(&janitor, TaskName::Purge).await["documents"], 1);
    assert!(deployment.objects.exists(&key).await.unwrap());
    // Neither the retention of originals nor that of unused files takes what is in use.
    store.cancel(tenant, documents[1]).await.unwrap();
    assert_eq!(counts(&janitor, TaskName::ExpireUploads).await, BTreeMap::new());
    assert!(deployment.objects.exists(&key).await.unwrap());

    assert!(store.delete_file(tenant, file.id).await.unwrap());
    assert!(store.status(tenant, documents[1]).await.unwrap().is_none());
    let purged = counts(&janitor, TaskName::Purge).await;
    assert_eq!((purged["documents"], purged["files"], purged["objects"]), (1, 1, 1), "{purged:?}");
    assert!(!deployment.objects.exists(&key).await.unwrap());
    assert_eq!(deployment.sql("SELECT FROM receipts").len(), 3);
}

#[tokio::test]
async fn health_shows_what_waits_and_what_stands_on_the_streams() {
    let deployment = Deployment::start().await.unwrap();
    waiting(&deployment, "waits.txt").await;
    let mut accept = deployment.stored("bulk.txt", &Bytes::from_static(b"bulk")).await.unwrap();
    accept.lane = Lane::Bulk;
    let plan = deployment.store.accept(&accept).await.unwrap().release.unwrap();
    deployment.release(&plan).await.unwrap();
    let resources = deployment.resources(Role::Janitor).unwrap();
    let janitor = Janitor::new(Config::default(), &deployment.core().unwrap(), &resources);
    assert_eq!(counts(&janitor, TaskName::Health).await, BTreeMap::from([("extract", 1), ("waiting", 1)]));
    let shown = resources.metrics.render();
    // A state without a version is told of, too: what it said before would stand for ever.
    assert!(shown.contains("riacho_documents_in_flight{state=\"embedding\"} 0"), "{shown}");
    // The waiting document belongs to the first stage's backlog.
    assert!(shown.contains("riacho_stage_backlog{stage=\"extract\"} 2"), "{shown}");
}

#[tokio::test]
async fn every_task_runs_on_an_empty_deployment() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    // A canary needs a pipeline, and a backup a command.
    let runs = |task: &&TaskName| !matches!(task, TaskName::Canary | TaskName::Backup);
    for task in TaskName::ALL.iter().filter(runs) {
        for dry_run in [true, false] {
            let summary = janitor.run_task(*task, dry_run).await.unwrap();
            assert!(summary.counts.values().all(|count| *count == 0), "{summary}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_are_gone_are_deleted_and_running_ones_stay() {
    let deployment = Deployment::start().await.unwrap();
    with_dead_letters(&deployment, &["left-a-consumer.txt"]).await;
    let runner =
        Runner::new(deployment.streams.clone(), deployment.objects.clone(), deployment.core().unwrap().stage);
    let alive = runner.consumer().to_owned();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let running = tokio::spawn(async move { runner.run_stage(Arc::new(GiveUp), stopped).await });
    deployment.submit("seen.txt", "read by the running one").await.unwrap();
    eventually(|| async { deployment.streams.dead_letter_count(0).await.is_ok_and(|count| count == 2) })
        .await;
    let janitor = janitor(&deployment);
    let left = async || deployment.streams.consumers(0, StageName::Extract).await.unwrap();
    let begun = Instant::now();
    // On a busy machine a janitor may see too little of the beats to say of anybody that it is gone.
    while left().await != std::slice::from_ref(&alive) {
        assert!(begun.elapsed() < Duration::from_secs(120), "{alive} is to stay alone: {:?}", left().await);
        janitor.run_task(TaskName::Consumers, false).await.unwrap();
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_partition_that_is_drained_goes_and_one_with_work_stays() {
    let deployment = Deployment::start().await.unwrap();
    let store = &deployment.janitor;
    store.set_partitions(8).await.unwrap();
    let mut used = BTreeSet::new();
    while used.is_empty() || used.iter().all(|partition| *partition == 0) {
        let name = format!("{}.txt", used.len());
        let plan =
            deployment.submit(&name, format!("text {name} {:?}", ReleaseId::new())).await.unwrap().release;
        used.insert(plan.unwrap().partition);
    }
    used.insert(0);
    store.set_partitions(1).await.unwrap();
    let janitor = janitor(&deployment);
    let housekeep = async || {
        janitor.run_task(TaskName::Housekeep, false).await.unwrap();
        store.partitions().await.unwrap().iter().map(|found| found.partition).collect::<BTreeSet<_>>()
    };
    assert_eq!(housekeep().await, used, "those with a release in flight stay");
    // Their documents end; what is on the streams is still to be read away.
    deployment
        .sql("UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()");
    assert_eq!(housekeep().await, used, "those with entries stay");
    for partition in &used {
        deployment.redis().command(&[
            "DEL",
            &deployment.streams.keys().work(*partition, StageName::Extract, Lane::Interactive),
        ]);
    }
    assert_eq!(housekeep().await, BTreeSet::from([0]), "one that takes releases stays");
}
