//! Leadership by a lease in the database, and the loops of the tasks while it lasts.
//!
//! The lease only saves double work. It is counted on the database's clock; here it ends early
//! rather than late, because its time is counted from before the call that got it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use riacho_store::{Lease, Schedule, Store};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Janitor, TaskName, metrics::names, requests, schedule::Timetable, tasks, trouble::Trouble};

/// The lease's name in the database.
const LEASE: &str = "janitor";

/// The longest sleep until a turn: a sleep does not count the time of a suspended machine, nor a clock that was set.
const LOOK: Duration = Duration::from_secs(60);

/// Runs until `stop`, leading whenever the lease is free.
pub(crate) async fn run(janitor: Janitor, timetable: Timetable, stop: CancellationToken) {
    let timetable = Arc::new(timetable);
    let trouble = Trouble::default();
    let for_everybody = loops(&janitor, &timetable, &trouble, &stop, &[], TaskName::is_for_everybody);
    let holder = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
    while !stop.is_cancelled() {
        let asked = Instant::now();
        match janitor.store.acquire_lease(LEASE, &holder, janitor.config.lease()).await {
            Ok(Some(lease)) => {
                trouble.is_over("the janitor's lease");
                lead(&janitor, &timetable, &trouble, lease, asked, &stop).await;
            }
            Ok(None) => trouble.is_over("the janitor's lease"),
            Err(error) => trouble.is("the janitor's lease", true, &error.into()),
        }
        // Others look at about the same time; the one whose turn comes first gets it.
        sleep(janitor.config.lease().mul_f64(rand::random_range(0.1..0.2)), &stop).await;
    }
    for_everybody.join_all().await;
}

/// Runs the scheduled tasks while the lease can be renewed.
async fn lead(
    janitor: &Janitor,
    timetable: &Arc<Timetable>,
    trouble: &Trouble,
    lease: Lease,
    asked: Instant,
    stop: &CancellationToken,
) {
    // Before the tasks are planned, which writes the rows anew.
    let known = match janitor.store.schedules().await {
        Ok(known) => known,
        Err(error) => return trouble.is("the janitor's schedules", true, &error.into()),
    };
    trouble.is_over("the janitor's schedules");
    tracing::info!(lease = lease.token, "leading the janitors");
    metrics::gauge!(names::LEADER).set(1.0);
    let leading = stop.child_token();
    let mut running = loops(janitor, timetable, trouble, &leading, &known, |task| !task.is_for_everybody());
    running.spawn(requests::serve(janitor.clone(), Arc::clone(timetable), leading.clone()));
    running.spawn(tasks::take_over_if_empty(janitor.clone()));
    let last = keep(&janitor.store, lease, janitor.config.lease(), asked, &leading).await;
    leading.cancel();
    metrics::gauge!(names::LEADER).set(0.0);
    running.join_all().await;
    if let Some(lease) = last {
        // Without this another janitor waits until the lease is over, no longer.
        if let Err(error) = janitor.store.release_lease(&lease).await {
            tracing::debug!(%error, "the lease was not given back");
        }
    }
    tracing::info!("not leading the janitors any more");
}

/// Renews the lease until `stop`, then returns it; none when it was lost.
async fn keep(
    store: &Store,
    mut lease: Lease,
    ttl: Duration,
    asked: Instant,
    stop: &CancellationToken,
) -> Option<Lease> {
    let mut ends = asked + ttl;
    loop {
        sleep(ttl / 5, stop).await;
        if stop.is_cancelled() {
            return Some(lease);
        }
        let asked = Instant::now();
        let renewed = tokio::time::timeout_at(ends, store.renew_lease(&lease, ttl)).await;
        match renewed {
            Ok(Ok(Some(renewed))) => (lease, ends) = (renewed, asked + ttl),
            Ok(Ok(None)) => return None,
            Ok(Err(_)) if Instant::now() < ends => {}
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

/// A loop for each task that has a schedule and is wanted. `known` is how the tasks went before.
fn loops(
    janitor: &Janitor,
    timetable: &Arc<Timetable>,
    trouble: &Trouble,
    stop: &CancellationToken,
    known: &[Schedule],
    wanted: impl Fn(TaskName) -> bool,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for task in timetable.tasks().filter(|task| wanted(*task)) {
        let since = timetable.since(task, known, Utc::now());
        let timetable = Arc::clone(timetable);
        running.spawn(repeat(janitor.clone(), timetable, trouble.clone(), (task, since), stop.clone()));
    }
    running
}

/// Runs one task at its times, one run after the other. The first turn is the one after `since`, which may have passed.
async fn repeat(
    janitor: Janitor,
    timetable: Arc<Timetable>,
    trouble: Trouble,
    (task, since): (TaskName, DateTime<Utc>),
    stop: CancellationToken,
) {
    let mut wakeups = None;
    if !task.is_frequent() {
        turn(&timetable, task, since, &stop).await;
    }
    while !stop.is_cancelled() {
        if task == TaskName::Release && wakeups.is_none() {
            // Without notices the schedule alone serves, so a failure here needs no word of its own.
            wakeups = janitor.store.listen().await.ok();
        }
        if !task.is_frequent()
            && let Err(error) = janitor.store.task_begins(task.as_str()).await
        {
            tracing::debug!(task = task.as_str(), %error, "the beginning of a run was not noted");
        }
        let heeds_notices = match janitor.run_until(task, false, stop.clone()).await {
            Ok(summary) => {
                trouble.is_over(task.as_str());
                if !task.is_frequent() {
                    tracing::info!(task = task.as_str(), summary = %summary, "task done");
                }
                // What was put back because a stream is full gives notice, too; and while the caps keep documents
                // waiting, each upload of their tenant would.
                let count = |what| summary.counts.get(what).copied().unwrap_or(0);
                count("put_back") == 0 && count(tasks::KEPT_WAITING) == 0
            }
            Err(error) => {
                trouble.is(task.as_str(), task.is_frequent(), &error);
                false
            }
        };
        let notice = async {
            match wakeups.as_mut().filter(|_| heeds_notices) {
                Some(wakeups) => wakeups.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = turn(&timetable, task, Utc::now(), &stop) => {}
            notice = notice => if notice.is_none() { wakeups = None },
        }
    }
}

/// Waits for the first turn of a task after `since`, by the clock on the wall; returns at `stop`, too. Cancel safe.
async fn turn(timetable: &Timetable, task: TaskName, since: DateTime<Utc>, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match timetable.wait(task, since, Utc::now()) {
            Some(Duration::ZERO) => return,
            // Where none comes any more, until the janitor stops.
            wait => sleep(wait.map_or(LOOK, |wait| wait.min(LOOK)), stop).await,
        }
    }
}

pub(crate) async fn sleep(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
