//! Leadership by a lease in the database, and the loops of the tasks while it lasts.
//!
//! The lease only saves double work. It is counted on the database's clock; here it ends early
//! rather than late, because its time is counted from before the call that got it.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use riacho_store::{Lease, Store};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Janitor, TaskName, metrics::names, requests, schedule::Timetable, tasks, trouble::Trouble};

/// The lease's name in the database.
const LEASE: &str = "janitor";

/// How long a schedule that has no next turn sleeps.
const NEVER: Duration = Duration::from_secs(3600);

/// Runs until `stop`, leading whenever the lease is free.
pub(crate) async fn run(janitor: Janitor, timetable: Timetable, stop: CancellationToken) {
    let timetable = Arc::new(timetable);
    let trouble = Trouble::default();
    let for_everybody = loops(&janitor, &timetable, &trouble, &stop, TaskName::is_for_everybody);
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
    tracing::info!(lease = lease.token, "leading the janitors");
    metrics::gauge!(names::LEADER).set(1.0);
    let leading = stop.child_token();
    let mut running = loops(janitor, timetable, trouble, &leading, |task| !task.is_for_everybody());
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

/// A loop for each task that has a schedule and is wanted.
fn loops(
    janitor: &Janitor,
    timetable: &Arc<Timetable>,
    trouble: &Trouble,
    stop: &CancellationToken,
    wanted: impl Fn(TaskName) -> bool,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for task in timetable.tasks().filter(|task| wanted(*task)) {
        let timetable = Arc::clone(timetable);
        running.spawn(repeat(janitor.clone(), timetable, trouble.clone(), task, stop.clone()));
    }
    running
}

/// Runs one task at its times, one run after the other.
async fn repeat(
    janitor: Janitor,
    timetable: Arc<Timetable>,
    trouble: Trouble,
    task: TaskName,
    stop: CancellationToken,
) {
    let mut wakeups = None;
    if !task.is_frequent() {
        sleep(timetable.wait(task, Utc::now()).unwrap_or(NEVER), &stop).await;
    }
    while !stop.is_cancelled() {
        if task == TaskName::Release && wakeups.is_none() {
            // Without notices the schedule alone serves, so a failure here needs no word of its own.
            wakeups = janitor.store.listen().await.ok();
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
        let wait = timetable.wait(task, Utc::now()).unwrap_or(NEVER);
        let notice = async {
            match wakeups.as_mut().filter(|_| heeds_notices) {
                Some(wakeups) => wakeups.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(wait, &stop) => {}
            notice = notice => if notice.is_none() { wakeups = None },
        }
    }
}

pub(crate) async fn sleep(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
