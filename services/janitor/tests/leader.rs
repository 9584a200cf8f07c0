//! Leadership: one janitor works on a schedule, and another takes over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use riacho_domain::State;
use riacho_janitor::Config;
use riacho_service::Resources;
use riacho_store::Role;
use riacho_testkit::{Deployment, Proxy, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn start(deployment: &Deployment, config: Config) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let stop = CancellationToken::new();
    let core = deployment.core().unwrap();
    let resources = deployment.resources(Role::Janitor).unwrap();
    let stopped = stop.clone();
    (stop, tokio::spawn(async move { riacho_janitor::run(config, &core, resources, stopped).await }))
}

/// What a janitor works with, its database behind a proxy.
async fn behind_a_proxy(deployment: &Deployment) -> (Proxy, Resources) {
    let database = deployment.database_config();
    let proxy = Proxy::before(database.url.expose()).unwrap();
    let through = riacho_store::Config { url: proxy.url().into(), ..database };
    let mut resources = deployment.resources(Role::Janitor).unwrap();
    resources.store = riacho_store::Store::connect(&through, Role::Janitor).await.unwrap();
    (proxy, resources)
}

async fn holder(deployment: &Deployment) -> Option<(String, String)> {
    let rows =
        deployment.sql("SELECT holder, token FROM leases WHERE name = 'janitor' AND expires_at > now()");
    rows.into_iter().next().and_then(|row| Some((row[0].clone()?, row[1].clone()?)))
}

async fn hold(deployment: &Deployment, filename: &str) -> riacho_domain::DocumentId {
    let mut accept = deployment.stored(filename, &filename.to_owned().into()).await.unwrap();
    accept.hold = true;
    deployment.store.accept(&accept).await.unwrap().document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_janitor_takes_over_where_the_first_stops() {
    let deployment = Deployment::start().await.unwrap();
    let config = Config { lease_seconds: 3, ..Config::default() };
    let (first_stop, first) = start(&deployment, config.clone());
    let (leader, _) = eventually(|| holder(&deployment)).await;
    let (second_stop, second) = start(&deployment, config);
    let document = hold(&deployment, "one.txt").await;
    deployment.reaches(document, State::Extracting).await;
    assert_eq!(holder(&deployment).await.unwrap().0, leader, "one leads while it is there");
    first_stop.cancel();
    first.await.unwrap().unwrap();
    eventually(|| async { holder(&deployment).await.filter(|(now, _)| *now != leader) }).await;
    let document = hold(&deployment, "two.txt").await;
    deployment.reaches(document, State::Extracting).await;
    second_stop.cancel();
    second.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_lease_leads_again_only_with_a_new_token() {
    let deployment = Deployment::start().await.unwrap();
    let (stop, janitor) = start(&deployment, Config { lease_seconds: 3, ..Config::default() });
    let (_, token) = eventually(|| holder(&deployment)).await;
    // Another one holds it for a moment, as after a stop of the whole machine.
    deployment.sql(
        "UPDATE leases SET holder = 'other', token = token + 1, expires_at = now() + interval '1 second'",
    );
    let again = eventually(|| async { holder(&deployment).await.filter(|(name, _)| name != "other") }).await;
    assert!(again.1.parse::<i64>().unwrap() >= token.parse::<i64>().unwrap() + 2);
    let document = hold(&deployment, "again.txt").await;
    deployment.reaches(document, State::Extracting).await;
    stop.cancel();
    janitor.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_connection_is_half_open_is_replaced_when_its_lease_is_over() {
    let deployment = Deployment::start().await.unwrap();
    let (proxy, resources) = behind_a_proxy(&deployment).await;
    let config = Config { lease_seconds: 3, ..Config::default() };
    let core = deployment.core().unwrap();
    let first_config = config.clone();
    let first = tokio::spawn(async move {
        riacho_janitor::run(first_config, &core, resources, CancellationToken::new()).await
    });
    let (leader, _) = eventually(|| holder(&deployment)).await;
    // Nothing comes through any more, and nothing is closed.
    proxy.blackhole();
    let (stop, second) = start(&deployment, config);
    eventually(|| async { holder(&deployment).await.filter(|(now, _)| *now != leader) }).await;
    let document = hold(&deployment, "after.txt").await;
    deployment.reaches(document, State::Extracting).await;
    stop.cancel();
    second.await.unwrap().unwrap();
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_janitor_that_is_cut_off_in_a_transaction_holds_up_nobody_for_long() {
    let deployment = Deployment::start().await.unwrap();
    let (proxy, resources) = behind_a_proxy(&deployment).await;
    // What it sends next takes so long that it can be cut off before.
    proxy.delay(Duration::from_secs(1));
    let core = deployment.core().unwrap();
    let first = tokio::spawn(async move {
        riacho_janitor::run(Config::default(), &core, resources, CancellationToken::new()).await
    });
    // One that has written, and so has locks, and whose next statement is not on its way yet. Other tests plan tasks on the same
    // server.
    let open =
        "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xid IS NOT NULL
                AND datname = current_database() AND query LIKE '-- store::schedules::plan_tasks%INSERT%'";
    let row = eventually(|| async { deployment.sql(open).into_iter().next() }).await;
    proxy.blackhole();
    let (stop, second) = start(&deployment, Config { lease_seconds: 3, ..Config::default() });
    let pid = row[0].as_deref().unwrap();
    let held_up = format!("SELECT pid FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))");
    eventually(|| async { deployment.sql(&held_up).into_iter().next() }).await;
    let document = hold(&deployment, "after.txt").await;
    deployment.reaches(document, State::Extracting).await;
    stop.cancel();
    second.await.unwrap().unwrap();
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_time_passed_while_nobody_led_is_made_up_for_once() {
    let deployment = Deployment::start().await.unwrap();
    // Two that run but once a year.
    let mut config = Config { lease_seconds: 3, ..Config::default() };
    for schedule in [&mut config.schedules.summary, &mut config.schedules.orphans] {
        "0 0 1 1 *".clone_into(schedule);
    }
    let runs = |task: &str| {
        let rows = deployment.sql(&format!("SELECT runs FROM schedules WHERE task = '{task}'"));
        rows.first().map_or(0, |row| row[0].as_deref().unwrap().parse::<u64>().unwrap())
    };
    let planned = || async {
        let rows = deployment.sql("SELECT FROM schedules WHERE expression = '0 0 1 1 *'");
        (rows.len() == 2).then_some(())
    };
    // The first start ever: nothing is overdue.
    let (stop, janitor) = start(&deployment, config.clone());
    eventually(planned).await;
    stop.cancel();
    janitor.await.unwrap().unwrap();
    assert_eq!((runs("summary"), runs("orphans")), (0, 0));
    // One has been known for long and never ran, one ran long ago.
    deployment.sql("UPDATE schedules SET known_since = now() - interval '2 years' WHERE task = 'summary'");
    deployment.sql("UPDATE schedules SET last_started = now() - interval '3 years' WHERE task = 'orphans'");
    let (stop, janitor) = start(&deployment, config.clone());
    eventually(|| async { (runs("summary") == 1 && runs("orphans") == 1).then_some(()) }).await;
    stop.cancel();
    janitor.await.unwrap().unwrap();
    // Who leads next makes up only for what is overdue again.
    deployment.sql("UPDATE schedules SET last_started = now() - interval '3 years' WHERE task = 'orphans'");
    let (stop, janitor) = start(&deployment, config.clone());
    eventually(|| async { (runs("orphans") == 2).then_some(()) }).await;
    stop.cancel();
    janitor.await.unwrap().unwrap();
    assert_eq!((runs("summary"), runs("orphans")), (1, 2));
    // A run that began and ended with its janitor is not begun again by each one that leads after it.
    deployment.sql("UPDATE schedules SET last_started = now() - interval '3 years'");
    deployment.janitor.task_begins("orphans").await.unwrap();
    let (stop, janitor) = start(&deployment, config);
    eventually(|| async { (runs("summary") == 2).then_some(()) }).await;
    stop.cancel();
    janitor.await.unwrap().unwrap();
    assert_eq!((runs("summary"), runs("orphans")), (2, 2));
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_is_an_error_at_the_start() {
    let deployment = Deployment::start().await.unwrap();
    let mut config = Config::default();
    config.schedules.purge = "whenever".to_owned();
    let (_, janitor) = start(&deployment, config);
    let error = format!("{:#}", janitor.await.unwrap().unwrap_err());
    assert!(error.contains("purge") && error.contains("whenever"), "{error}");
}
