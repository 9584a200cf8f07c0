//! Faults, each as it happens. A fault ends when what it broke could work again; from there on recovery counts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use riacho_testkit::Proxy;
use tokio::{task::block_in_place, time::sleep};

use crate::{
    cluster::{Cluster, REPLICAS, now},
    deadly,
    schedule::{Fault, Round, Service},
    workload::Workload,
};

/// A fault that was injected, on the clock of the database.
#[derive(Debug, Clone)]
pub(crate) struct Injected {
    pub(crate) round: usize,
    pub(crate) fault: Fault,
    pub(crate) began: f64,
    pub(crate) ended: f64,
    /// The only partition that it touched, where there is one.
    pub(crate) partition: Option<u16>,
    /// Entries that nobody can read, by what stands in them.
    pub(crate) poison: Vec<String>,
    /// What went otherwise than it should.
    pub(crate) complaints: Vec<String>,
}

impl Injected {
    pub(crate) const fn new(round: usize, fault: Fault, began: f64, ended: f64) -> Injected {
        Injected { round, fault, began, ended, partition: None, poison: Vec::new(), complaints: Vec::new() }
    }
}

/// How often answers are lost on the wire, and how many of them.
const LOSE_EVERY: Duration = Duration::from_millis(150);
const LOSE: u32 = 2;
/// How long a poison may take to become a dead letter.
const LETTER_LIMIT: Duration = Duration::from_secs(90);
/// How often connections are cut on the wire.
const CUT_EVERY: Duration = Duration::from_millis(100);

pub(crate) async fn inject(cluster: &Cluster, workload: &Workload, round: &Round, fault: Fault) -> Injected {
    let mut injected = Injected::new(round.number, fault, now(), 0.0);
    let pause = Duration::from_millis(round.millis);
    match fault {
        Fault::Kill(service, replica) => {
            cluster.kill(service, replica);
            injected.ended = now();
            sleep(pause).await;
            cluster.start_process(service, replica);
        }
        Fault::Pause(service, replica) => {
            cluster.signal(service, replica, Signal::SIGSTOP);
            sleep(pause).await;
            cluster.signal(service, replica, Signal::SIGCONT);
        }
        Fault::TwoLeaders { flush } => two_leaders(cluster, pause, flush, &mut injected).await,
        Fault::RollingRestart => injected.complaints = rolling_restart(cluster).await,
        Fault::Poison => poison(cluster, round.number, &mut injected).await,
        Fault::LoseReplies(wire) => lose_replies(cluster.wire(wire), pause).await,
        Fault::CutWire(wire) => harm(cluster.wire(wire), pause, |proxy| proxy.cut_every(CUT_EVERY)).await,
        Fault::Silence(wire) => harm(cluster.wire(wire), pause, Proxy::blackhole).await,
        Fault::KillParsers(replica) => deadly::kill_parsers(cluster, replica, pause).await,
        Fault::Deadly => injected.complaints.extend(deadly::run(cluster, workload, round.number).await.err()),
        fault => servers(cluster, fault, pause, &mut injected).await,
    }
    if injected.ended == 0.0 {
        injected.ended = now();
    }
    injected
}

async fn harm(wire: &Proxy, time: Duration, begin: impl FnOnce(&Proxy)) {
    begin(wire);
    sleep(time).await;
    wire.pass();
}

async fn lose_replies(wire: &Proxy, time: Duration) {
    for _ in 0..time.as_millis() / LOSE_EVERY.as_millis() + 1 {
        wire.lose_replies(LOSE);
        sleep(LOSE_EVERY).await;
    }
    wire.pass();
}

/// The faults of Redis and PostgreSQL.
async fn servers(cluster: &Cluster, fault: Fault, pause: Duration, injected: &mut Injected) {
    let (redis, postgres) = (&cluster.redis, &cluster.postgres);
    let done = match fault {
        Fault::Flush => cluster.redis(&["FLUSHALL"]).map(drop),
        Fault::DeleteStream(stage) => longest_stream(cluster, stage).and_then(|(partition, key)| {
            injected.partition = Some(partition);
            cluster.redis(&["DEL", &key]).map(drop)
        }),
        Fault::DestroyGroup(stage) => longest_stream(cluster, stage).and_then(|(partition, key)| {
            injected.partition = Some(partition);
            cluster.redis(&["XGROUP", "DESTROY", &key, STAGES[stage]]).map(drop)
        }),
        Fault::CutRedis => cluster.redis(&["CLIENT", "KILL", "TYPE", "normal"]).map(drop),
        Fault::CutPostgres => cluster.sql(CUT).map(drop),
        Fault::RestartRedis | Fault::KillRedis | Fault::EmptyRedis => {
            block_in_place(|| if fault == Fault::RestartRedis { redis.stop() } else { redis.kill9() });
            if fault == Fault::EmptyRedis {
                let data = redis.socket().with_file_name("appendonlydir");
                std::fs::remove_dir_all(data).unwrap();
            }
            sleep(pause).await;
            block_in_place(|| redis.start());
            Ok(())
        }
        Fault::RestartPostgres | Fault::KillPostgres => {
            block_in_place(|| if fault == Fault::KillPostgres { postgres.kill9() } else { postgres.stop() });
            sleep(pause).await;
            block_in_place(|| postgres.start());
            Ok(())
        }
        other => Err(format!("{other} is no fault of a server")),
    };
    injected.complaints.extend(done.err());
}

const STAGES: [&str; 3] = ["extract", "embed", "index"];
const LANES: [&str; 3] = ["interactive", "bulk", "background"];

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// The streams of a partition's stages.
pub(crate) fn streams(partition: u16) -> impl Iterator<Item = (String, &'static str)> {
    STAGES.iter().flat_map(move |stage| {
        LANES.iter().map(move |lane| (format!("riacho:{{{partition}}}:{stage}:{lane}"), *stage))
    })
}

/// The longest stream of a stage, with its partition.
fn longest_stream(cluster: &Cluster, stage: usize) -> Result<(u16, String), String> {
    let mut found = ((0, format!("riacho:{{0}}:{}:interactive", STAGES[stage])), 0);
    for partition in 0..cluster.partitions {
        for (key, _) in streams(partition).filter(|(_, of)| *of == STAGES[stage]) {
            let length = cluster.redis(&["XLEN", &key])?.int();
            if length > found.1 {
                found = ((partition, key), length);
            }
        }
    }
    Ok(found.0)
}

/// Lets the lease end as soon as somebody has it. Who led before still believes it until it asks again.
async fn two_leaders(cluster: &Cluster, time: Duration, flush: bool, injected: &mut Injected) {
    const STEPS: u32 = 12;
    for step in 0..STEPS {
        let ended = cluster.sql("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'janitor'");
        injected.complaints.extend(ended.err());
        if flush && step == STEPS / 2 {
            injected.complaints.extend(cluster.redis(&["FLUSHALL"]).err());
        }
        sleep(time / STEPS).await;
    }
}

/// Restarts half of the processes, then the other half, with other settings: for a while both are there.
async fn rolling_restart(cluster: &Cluster) -> Vec<String> {
    cluster.retune();
    let mut complaints = Vec::new();
    for replica in 0..REPLICAS {
        let stopping = Service::ALL.map(|service| cluster.stop(service, replica));
        complaints.extend(futures::future::join_all(stopping).await.into_iter().filter_map(Result::err));
        for service in Service::ALL {
            cluster.start_process(service, replica);
        }
        cluster.gateways_are_ready().await;
    }
    complaints
}

/// Bytes that are no envelope, one for each stage. Lasts until they are kept: nothing that loses data comes
/// meanwhile, so that each of them has to be.
async fn poison(cluster: &Cluster, round: usize, injected: &mut Injected) {
    for (at, stage) in STAGES.iter().enumerate() {
        let partition = (round + at) % usize::from(cluster.partitions);
        let key = format!("riacho:{{{partition}}}:{stage}:interactive");
        let bytes = format!("\u{7}poison of round {round} for {stage}");
        match cluster.redis(&["XADD", &key, "*", "e", &bytes]) {
            Ok(_) => injected.poison.push(bytes),
            Err(error) => injected.complaints.push(error),
        }
    }
    let begun = Instant::now();
    while !injected.poison.iter().all(|bytes| is_kept(cluster, bytes)) {
        if begun.elapsed() > LETTER_LIMIT {
            return injected.complaints.push(format!("a poison of round {round} became no dead letter"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether bytes stand among the dead letters in PostgreSQL.
fn is_kept(cluster: &Cluster, bytes: &str) -> bool {
    let sql = format!("SELECT 1 FROM dead_letters WHERE original = convert_to('{bytes}', 'UTF8')");
    cluster.sql(&sql).is_ok_and(|rows| !rows.is_empty())
}
