//! The census on real servers: what Redis lost is released again, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use riacho_domain::{DocumentId, Lane, ReasonCode, StageName, State};
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_store::{Lost, Role};
use riacho_testkit::Deployment;

fn janitor(deployment: &Deployment) -> Janitor {
    let core = deployment.core().unwrap();
    let config = Config { lost_per_second: 100_000, ..Config::default() };
    Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap())
}

async fn census(janitor: &Janitor) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(TaskName::Census, false).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

async fn submitted(deployment: &Deployment, count: usize) -> Vec<DocumentId> {
    let mut documents = Vec::new();
    for n in 0..count {
        let text = format!("document {n} of those that are lost");
        documents.push(deployment.submit(&format!("{n}.txt"), text).await.unwrap().document);
    }
    documents
}

async fn on_the_stream(deployment: &Deployment) -> u64 {
    deployment.streams.figures(StageName::Extract, &[0]).await.unwrap().backlog
}

fn releases(deployment: &Deployment) -> BTreeSet<String> {
    let rows = deployment.sql("SELECT release_id FROM document_versions");
    rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
}

/// Losses and stalls of all versions.
fn counted(deployment: &Deployment) -> (i64, i64) {
    let rows = deployment.sql("SELECT sum(losses), sum(stalls) FROM document_versions");
    let number = |at: usize| rows[0][at].as_ref().unwrap().parse().unwrap();
    (number(0), number(1))
}

/// Makes everything look as if it had been in its state for long.
fn let_time_pass(deployment: &Deployment) {
    deployment.sql("UPDATE document_versions SET state_changed_at = now() - interval '2 hours'");
}

#[tokio::test]
async fn what_a_flushed_redis_lost_is_released_again() {
    let deployment = Deployment::start().await.unwrap();
    let documents = submitted(&deployment, 25).await;
    let before = releases(&deployment);
    let janitor = janitor(&deployment);
    assert_eq!(census(&janitor).await, BTreeMap::from([("compared", 25)]), "nothing is lost yet");
    deployment.redis().command(&["FLUSHALL"]);
    assert_eq!(
        census(&janitor).await,
        BTreeMap::from([("compared", 25), ("lost", 25), ("released", 25)]),
        "the flush is noticed by the epoch that is gone"
    );
    assert_eq!(on_the_stream(&deployment).await, 25);
    assert!(before.is_disjoint(&releases(&deployment)), "what is left of the old releases is fenced");
    for document in documents {
        assert_eq!(deployment.reaches(document, State::Extracting).await.losses, 1);
    }
    assert_eq!(census(&janitor).await, BTreeMap::new());
    assert_eq!(on_the_stream(&deployment).await, 25);
}

#[tokio::test]
async fn what_was_lost_keeps_its_places_under_the_cap_and_gives_them_free_at_its_end() {
    let deployment = Deployment::start().await.unwrap();
    let core = deployment.core().unwrap();
    let config = Config { lost_per_second: 100_000, in_flight: Some(3), ..Config::default() };
    let janitor = Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap());
    let documents = submitted(&deployment, 3).await;
    let release = async || {
        let mut counts = janitor.run_task(TaskName::Release, false).await.unwrap().counts;
        counts.retain(|_, count| *count > 0);
        counts
    };
    let mut late = deployment.stored("late.txt", &"waits for a place".into()).await.unwrap();
    late.hold = true;
    let late = deployment.store.accept(&late).await.unwrap();
    census(&janitor).await;
    deployment.redis().command(&["FLUSHALL"]);
    assert_eq!(release().await, BTreeMap::from([("kept_waiting", 1)]), "what was lost is owed first");
    assert_eq!(census(&janitor).await["released"], 3);
    assert_eq!(release().await, BTreeMap::from([("kept_waiting", 1)]));
    assert_eq!(on_the_stream(&deployment).await, 3);
    deployment.store.cancel(&deployment.tenant, documents[0]).await.unwrap();
    assert_eq!(release().await, BTreeMap::from([("released", 1)]));
    deployment.reaches(late.document, State::Extracting).await;
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_noticed_and_nothing_else_is_released() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 5).await;
    let mut accept = deployment.stored("bulk.txt", &"in another lane".into()).await.unwrap();
    accept.lane = Lane::Bulk;
    let bulk = deployment.store.accept(&accept).await.unwrap();
    deployment.release(&bulk.release.unwrap()).await.unwrap();
    let janitor = janitor(&deployment);
    census(&janitor).await;
    let key = deployment.streams.keys().work(0, StageName::Extract, Lane::Interactive);
    assert_eq!(deployment.redis().command(&["DEL", &key]).int(), 1);
    // A new document brings the stream back before anyone looks.
    deployment.submit("later.txt", "after the loss").await.unwrap();
    assert_eq!(
        census(&janitor).await,
        BTreeMap::from([("compared", 7), ("lost", 5), ("released", 5)]),
        "neither the other lane nor the new document is touched"
    );
    assert_eq!(on_the_stream(&deployment).await, 7);
    assert_eq!(counted(&deployment), (5, 0));
}

#[tokio::test]
async fn a_partition_that_cannot_be_looked_at_keeps_no_other_waiting() {
    let deployment = Deployment::start().await.unwrap();
    deployment.sql("INSERT INTO topology VALUES (1, 'active')");
    submitted(&deployment, 20).await;
    let janitor = janitor(&deployment);
    census(&janitor).await;
    let keys = deployment.streams.keys();
    let work = keys.work(1, StageName::Extract, Lane::Interactive);
    let length = || deployment.redis().command(&["XLEN", &work]).int();
    let before = length();
    assert!(before > 0, "none of twenty is in the second partition");
    // Of a wrong type, so that every look at the first partition fails.
    deployment.redis().command(&["DEL", &keys.epoch(0)]);
    deployment.redis().command(&["RPUSH", &keys.epoch(0), "no epoch"]);
    for key in [&work, &keys.epoch(1)] {
        deployment.redis().command(&["DEL", key]);
    }
    janitor.run_task(TaskName::Census, false).await.expect_err("the first partition cannot be looked at");
    assert_eq!(length(), before, "what the second one lost is there again");
}

#[tokio::test]
async fn a_stream_that_was_deleted_and_filled_again_is_noticed_by_its_group() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 3).await;
    let janitor = janitor(&deployment);
    let reader = deployment.streams.reader(0, StageName::Extract, "a-worker").await.unwrap();
    census(&janitor).await;
    let key = deployment.streams.keys().work(0, StageName::Extract, Lane::Interactive);
    deployment.redis().command(&["DEL", &key]);
    // More are added than before, so that the count of entries does not tell.
    for n in 0..5 {
        deployment.submit(&format!("later-{n}.txt"), format!("after the loss {n}")).await.unwrap();
    }
    reader.make_groups().await.unwrap();
    assert_eq!(census(&janitor).await, BTreeMap::from([("compared", 8), ("lost", 3), ("released", 3)]));
    assert_eq!(counted(&deployment), (3, 0));
}

#[tokio::test]
async fn a_redis_that_comes_back_without_its_data_loses_no_document() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 8).await;
    let janitor = janitor(&deployment);
    census(&janitor).await;
    // What a crash without an append-only file leaves: a new server without data.
    deployment.redis().command(&["FLUSHALL"]);
    deployment.redis().kill9();
    assert!(janitor.run_task(TaskName::Census, false).await.unwrap_err().is_retryable());
    deployment.redis().start();
    let counts = riacho_testkit::eventually(|| async {
        janitor.run_task(TaskName::Census, false).await.map_err(|error| error.to_string())
    });
    assert_eq!(counts.await.counts.get("released"), Some(&8));
    assert_eq!(on_the_stream(&deployment).await, 8);
}

#[tokio::test]
async fn a_restarted_redis_with_its_data_releases_nothing_again() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 8).await;
    let before = releases(&deployment);
    let janitor = janitor(&deployment);
    census(&janitor).await;
    deployment.redis().stop();
    deployment.redis().start();
    let counts = riacho_testkit::eventually(|| async {
        janitor.run_task(TaskName::Census, false).await.map_err(|error| error.to_string())
    });
    let mut counts = counts.await.counts;
    counts.retain(|_, count| *count > 0);
    assert_eq!(counts, BTreeMap::from([("compared", 8)]), "a new run id asks for a census, which finds all");
    assert_eq!(releases(&deployment), before);
}

#[tokio::test]
async fn a_long_stall_releases_nothing_again() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 12).await;
    let before = releases(&deployment);
    let_time_pass(&deployment);
    let config = Config { census_after_seconds: 1, ..Config::default() };
    let core = deployment.core().unwrap();
    let janitor = Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap());
    // The start, and then looks by age, each of which finds everything in its place.
    let looks = Cell::new(0);
    riacho_testkit::eventually(|| async {
        let found = census(&janitor).await == BTreeMap::from([("compared", 12)]);
        looks.set(looks.get() + u32::from(found));
        (looks.get() >= 3).then_some(()).ok_or("less than three looks")
    })
    .await;
    assert_eq!(releases(&deployment), before);
    assert_eq!((on_the_stream(&deployment).await, counted(&deployment)), (12, (0, 0)));
}

/// Loses the only document's release so many times, and says how often it was released again and how often failed.
async fn lose(deployment: &Deployment, document: DocumentId, times: usize, how: Lost) -> (usize, u64) {
    let (mut released, mut failed) = (0, 0);
    for _ in 0..times {
        let rows = deployment.sql("SELECT release_id FROM document_versions");
        let release = riacho_store::Release {
            tenant: deployment.tenant.clone(),
            document,
            version: 1,
            release: rows[0][0].as_ref().unwrap().parse().unwrap(),
        };
        let again = deployment.janitor.release_lost(&[release], how).await.unwrap();
        released += again.plans.len();
        failed += again.failed.len() as u64;
        for plan in &again.plans {
            deployment.release(plan).await.unwrap();
        }
    }
    (released, failed)
}

#[tokio::test]
async fn what_is_nowhere_without_a_known_loss_stalls_and_fails_after_three() {
    let deployment = Deployment::start().await.unwrap();
    let document = submitted(&deployment, 1).await[0];
    assert_eq!(lose(&deployment, document, 3, Lost::Stall).await, (3, 0));
    assert_eq!(lose(&deployment, document, 1, Lost::Stall).await, (0, 1));
    let error = deployment.reaches(document, State::Failed).await.error.unwrap();
    assert_eq!(error.code, ReasonCode::Stalled.as_str());
    assert!(error.message.contains("3 more times"), "{}", error.message);
}

#[tokio::test]
async fn a_document_that_is_lost_more_than_twenty_times_fails_and_says_so() {
    let deployment = Deployment::start().await.unwrap();
    let document = submitted(&deployment, 1).await[0];
    assert_eq!(lose(&deployment, document, 20, Lost::Loss).await, (20, 0));
    assert_eq!(lose(&deployment, document, 1, Lost::Loss).await, (0, 1));
    let error = deployment.reaches(document, State::Failed).await.error.unwrap();
    assert!(error.message.contains("lost on its way 20 times"), "{}", error.message);
}

#[tokio::test]
async fn a_release_that_ended_or_was_superseded_meanwhile_is_not_released_again() {
    let deployment = Deployment::start().await.unwrap();
    let documents = submitted(&deployment, 2).await;
    let in_flight = deployment.janitor.in_flight(0, 10).await.unwrap();
    assert_eq!(in_flight.len(), 2);
    deployment.store.cancel(&deployment.tenant, documents[0]).await.unwrap();
    let lost: Vec<_> = in_flight.into_iter().map(|release| release.release).collect();
    let first = deployment.janitor.release_lost(&lost, Lost::Loss).await.unwrap();
    assert_eq!(first.plans.len(), 1, "the cancelled one stays cancelled");
    // The other leader had the same list.
    let second = deployment.janitor.release_lost(&lost, Lost::Loss).await.unwrap();
    assert_eq!((second.plans.len(), second.failed.len()), (0, 0));
    assert_eq!(counted(&deployment), (1, 0));
}

#[tokio::test]
async fn what_stands_among_the_dead_letters_or_waits_for_a_retry_is_not_lost() {
    use riacho_streams::{Action, Settlement, Target};
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 3).await;
    let (streams, consumer) = (&deployment.streams, "a-worker");
    let mut reader = streams.reader(0, StageName::Extract, consumer).await.unwrap();
    let entries = reader.read_any(10, std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!((entries.len(), reader.reconnected()), (3, false));
    let settlements = [
        Settlement::of(&entries[0], "", Action::Done(vec![(Target::Dead, entries[0].body.clone())])),
        Settlement::of(&entries[1], "", Action::Retry(riacho_domain::DelayClass::OneHour, 1)),
    ];
    streams.handoff(0, StageName::Extract, consumer, &settlements).await.unwrap();
    assert_eq!(census(&janitor(&deployment)).await, BTreeMap::from([("compared", 3)]));
}

#[tokio::test]
async fn a_dry_run_of_the_census_counts_and_changes_nothing() {
    let deployment = Deployment::start().await.unwrap();
    submitted(&deployment, 4).await;
    deployment.redis().command(&["FLUSHALL"]);
    let before = releases(&deployment);
    let mut counts = janitor(&deployment).run_task(TaskName::Census, true).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    assert_eq!(counts, BTreeMap::from([("compared", 4), ("lost", 4)]));
    assert_eq!((releases(&deployment), on_the_stream(&deployment).await), (before, 0));
}
