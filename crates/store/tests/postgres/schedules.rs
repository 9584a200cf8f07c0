//! The janitor's tasks as operators see them, and runs that they ask for.

use std::time::Duration;

use riacho_store::{Day, Error, PlannedTask, RunState, TaskRun};
use serde_json::{Value, json};

use crate::database::{Database, database, upload};

fn run<'a>(is_ok: bool, did_something: bool, summary: &'a Value, runs: u64) -> TaskRun<'a> {
    TaskRun { task: "purge", is_ok, did_something, took: Duration::from_millis(1_500), summary, runs }
}

async fn plan(db: &Database, tasks: &[&str]) {
    let planned = |task| PlannedTask {
        task,
        describes: "removes",
        expression: Some("*/5 * * * *"),
        time_zone: "Europe/Lisbon",
    };
    let tasks: Vec<_> = tasks.iter().map(|task| planned(*task)).collect();
    db.janitor.plan_tasks(&tasks).await.unwrap();
}

#[tokio::test]
async fn a_task_keeps_how_it_went_last_when_it_last_went_well_and_when_it_last_did_something() {
    let db = database().await;
    let (did, nothing) = (json!({"documents": 1}), json!({}));
    db.janitor.task_finished(&run(true, true, &did, 1)).await.unwrap();
    db.janitor.task_finished(&run(true, false, &nothing, 9)).await.unwrap();
    let idle = db.store.schedules().await.unwrap().remove(0);
    db.janitor.task_finished(&run(false, false, &json!({"error": "away"}), 1)).await.unwrap();
    let failed = db.store.schedules().await.unwrap().remove(0);
    assert_eq!((idle.runs, idle.failures, failed.runs, failed.failures), (10, 0, 11, 1));
    assert_eq!((idle.last_summary, idle.last_work_summary), (Some(nothing), Some(did.clone())));
    assert_eq!(failed.last_outcome.as_deref(), Some("failed"));
    assert_eq!((failed.last_success, failed.last_work_summary), (idle.last_success, Some(did)));
    assert!(failed.last_success.unwrap() < failed.last_finished.unwrap());
    let took = failed.last_finished.unwrap() - failed.last_started.unwrap();
    assert_eq!((took.num_milliseconds(), failed.last_seconds), (1_500, Some(1.5)));
}

#[tokio::test]
async fn a_task_that_is_not_planned_any_more_keeps_its_history_and_cannot_be_asked_for() {
    let db = database().await;
    plan(&db, &["old", "purge"]).await;
    db.janitor.task_finished(&TaskRun { task: "old", ..run(true, false, &json!({}), 3) }).await.unwrap();
    plan(&db, &["purge"]).await;
    let schedules = db.store.schedules().await.unwrap();
    let known = schedules.iter().map(|s| (s.task.as_str(), s.describes.as_deref(), s.runs));
    assert_eq!(known.collect::<Vec<_>>(), [("old", None, 3), ("purge", Some("removes"), 0)]);
    assert_eq!(schedules[1].time_zone, "Europe/Lisbon");
    assert!(matches!(db.store.request_run("old", false, "k").await, Err(Error::NotFound("task"))));
}

#[tokio::test]
async fn a_run_that_is_asked_for_is_taken_up_once_and_answers_what_it_did() {
    let db = database().await;
    plan(&db, &["purge"]).await;
    let asked = db.store.request_run("purge", true, "0123456789abcdef").await.unwrap();
    assert_eq!((asked.state, asked.dry_run), (RunState::Queued, true));
    let (one, two) = tokio::join!(db.janitor.take_run(), db.janitor.take_run());
    let taken: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
    assert_eq!(
        taken.iter().map(|run| (run.id, run.state)).collect::<Vec<_>>(),
        [(asked.id, RunState::Running)]
    );
    let summary = json!({"documents": 2});
    db.janitor.run_finished(asked.id, true, Duration::from_secs(2), &summary).await.unwrap();
    let done = db.store.requested_run(asked.id).await.unwrap().unwrap();
    assert_eq!((done.state, done.seconds, done.summary), (RunState::Ok, Some(2.0), Some(summary)));
    assert_eq!(db.janitor.abandon_runs().await.unwrap(), 0);
    // The services ask, and no more.
    assert!(db.store.take_run().await.is_err());
}

#[tokio::test]
async fn runs_that_nobody_takes_up_expire_and_those_of_a_janitor_that_went_away_fail() {
    let db = database().await;
    plan(&db, &["purge"]).await;
    let late = db.store.request_run("purge", false, "k").await.unwrap();
    let _ = db.raw.run("UPDATE janitor_runs SET requested_at = now() - interval '11 minutes'");
    let left = db.store.request_run("purge", false, "k").await.unwrap();
    assert_eq!(db.janitor.take_run().await.unwrap().map(|run| run.id), Some(left.id));
    assert_eq!(db.janitor.take_run().await.unwrap(), None);
    assert_eq!(db.janitor.abandon_runs().await.unwrap(), 1);
    let states = [
        db.store.requested_run(late.id).await.unwrap().unwrap().state,
        db.store.requested_run(left.id).await.unwrap().unwrap().state,
    ];
    assert_eq!(states, [RunState::Expired, RunState::Failed]);
    // It was only away, and tells how its run ended after all. What was told is not told again.
    for (is_ok, state) in [(true, RunState::Ok), (false, RunState::Ok)] {
        db.janitor.run_finished(left.id, is_ok, Duration::from_secs(1), &json!({})).await.unwrap();
        assert_eq!(db.store.requested_run(left.id).await.unwrap().unwrap().state, state);
    }
    let _ = db.raw.run("UPDATE janitor_runs SET requested_at = now() - interval '31 days'");
    assert_eq!(db.janitor.housekeep_due().await.unwrap(), 2);
    assert_eq!(db.janitor.housekeep().await.unwrap(), 2);
}

#[tokio::test]
async fn a_day_counts_what_came_and_what_became_of_it_by_tenant() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one", "two"]).await;
    let broken = db.store.accept(&upload(&db.acme, "broken")).await.unwrap();
    let release = Database::release_of(&broken);
    db.store.fail(&release, riacho_domain::ReasonCode::Corrupt, "no").await.unwrap();
    db.store.delete_document(&db.acme, broken.document).await.unwrap();
    db.store.accept(&upload(&db.other, "on its way")).await.unwrap();
    let now = chrono::Utc::now();
    let day = Day { from: now - chrono::Duration::hours(24), to: now + chrono::Duration::minutes(1) };
    let days = db.janitor.day(day).await.unwrap();
    assert_eq!(days.iter().map(|day| day.tenant.as_str()).collect::<Vec<_>>(), ["acme", "other"]);
    let acme = &days[0];
    assert_eq!((acme.accepted, acme.ready, acme.chunks), (2, 1, 2));
    assert_eq!((acme.failed, acme.deleted, acme.unfinished), (1, 1, 0));
    assert!(acme.median_seconds.is_some_and(|seconds| seconds >= 0.0) && acme.bytes > 0);
    assert_eq!((days[1].accepted, days[1].unfinished, days[1].median_seconds), (1, 1, None));
    // A day before it has nothing but what is unfinished still.
    let before = Day { from: day.from - chrono::Duration::hours(24), to: day.from };
    let days = db.janitor.day(before).await.unwrap();
    assert_eq!(days.iter().map(|d| (d.accepted, d.unfinished)).collect::<Vec<_>>(), [(0, 1)]);
}
