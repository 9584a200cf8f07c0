//! A run: rounds of tasks with a fault in the middle of each, then quiet, then judgement.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    answers, bounds,
    checks::{self, Wrong},
    client::Client,
    cluster::Cluster,
    faults::{Injected, inject},
    history::{History, is_end},
    model,
    producer::Producer,
    report::Report,
    schedule::{Round, Schedule, Setup},
    visible::{self, Watched},
    workload::Workload,
};

/// How long everything may take to come to its end after the last fault. The last look for what a loss took
/// comes a minute and a half after it.
const QUIET_LIMIT: Duration = Duration::from_secs(240);
/// How long a round waits for what its fault broke.
const ROUND_LIMIT: Duration = Duration::from_secs(20);

/// How long a fault waits until enough is on its way.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// How long a run is.
#[derive(Debug, Clone)]
pub(crate) enum Length {
    Rounds(usize),
    Time { at_least: Duration, documents: usize },
}

impl Length {
    fn goes_on(&self, rounds: usize, begun: Instant, documents: usize) -> bool {
        match self {
            Length::Rounds(count) => rounds < *count,
            Length::Time { at_least, documents: wanted } => {
                begun.elapsed() < *at_least || documents < *wanted
            }
        }
    }
}

pub(crate) async fn run(setup: Setup, length: Length) {
    let cluster = Cluster::start(setup.partitions).await;
    let client = Client::new(cluster.http(), cluster.gateways());
    let workload = Workload::new(client.clone(), Producer::new(&cluster));
    let memory = bounds::memory_at_start(&cluster).await;
    let (watched, begun) = (Mutex::new(Watched::default()), Instant::now());
    let mut schedule = Schedule::new(setup.clone());
    let (mut faults, mut rounds) = (Vec::new(), 0);
    let beside =
        async { futures::join!(cluster.tend(), visible::watch(&cluster, &client, &workload, &watched)) };
    let main = async {
        while length.goes_on(rounds, begun, workload.oracle().documents.len()) {
            let round = schedule.round();
            let (injected, ()) = futures::join!(fault(&cluster, &workload, &round), workload.round(&round));
            rounds += 1;
            injected.iter().for_each(|injected| tell(injected, begun));
            faults.extend(injected);
            if !round.overlaps {
                quiet(&cluster, ROUND_LIMIT).await;
            }
        }
        quiet(&cluster, QUIET_LIMIT).await
    };
    let is_quiet = tokio::select! {
        _ = beside => unreachable!("it goes on for ever"),
        is_quiet = main => is_quiet,
    };
    let mut wrong = watched.lock().unwrap().wrong.clone();
    if !is_quiet {
        wrong.push((None, format!("not everything came to its end within {QUIET_LIMIT:?}")));
    }
    judge(
        cluster,
        &client,
        &workload,
        Judged { setup, length, begun, rounds, faults, memory, watched, wrong },
    )
    .await;
}

/// Injects a round's fault amid its tasks, and where possible while documents are on their way.
async fn fault(cluster: &Cluster, workload: &Workload, round: &Round) -> Vec<Injected> {
    while workload.answered.load(Ordering::Relaxed) < round.after {
        sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    while begun.elapsed() < BUSY_LIMIT && open(cluster).is_none_or(|count| count < round.busy) {
        sleep(Duration::from_millis(5)).await;
    }
    let alone = inject(cluster, workload, round, round.fault);
    match round.beside {
        None => vec![alone.await],
        Some(beside) => {
            <[Injected; 2]>::from(futures::join!(alone, inject(cluster, workload, round, beside))).into()
        }
    }
}

/// How many versions are on their way.
fn open(cluster: &Cluster) -> Option<usize> {
    const OPEN: &str = "SELECT count(*) FROM document_versions WHERE state NOT IN ('ready', 'failed', 'cancelled', 'expired')";
    cluster.sql(OPEN).ok()?.first()?.first()?.as_ref()?.parse().ok()
}

fn tell(injected: &Injected, begun: Instant) {
    let lasted = injected.ended - injected.began;
    eprintln!(
        "{:7.1} s  round {}: {}, {lasted:.1} s",
        begun.elapsed().as_secs_f64(),
        injected.round,
        injected.fault
    );
}

/// Waits until nothing is on its way, and says whether it came to that.
async fn quiet(cluster: &Cluster, limit: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if open(cluster) == Some(0) {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// What a run leaves to be judged.
struct Judged {
    setup: Setup,
    length: Length,
    begun: Instant,
    rounds: usize,
    faults: Vec<Injected>,
    memory: u64,
    watched: Mutex<Watched>,
    wrong: Wrong,
}

/// Checks everything, tells, and fails when anything is wrong.
async fn judge(cluster: Cluster, client: &Client, workload: &Workload, run: Judged) {
    let Judged { setup, length, begun, rounds, faults, memory, watched, mut wrong } = run;
    let seconds = begun.elapsed().as_secs_f64();
    // Acknowledgements and dead letters follow the rows.
    let streams = settled(&cluster).await;
    let mut oracle = std::mem::take(&mut *workload.oracle());
    let mut failed = Vec::new();
    failed.extend(checks::adopt(&cluster, &mut oracle).err());
    let rows = checks::documents(&cluster).map_err(|error| failed.push(error)).unwrap_or_default();
    let history = History::read(&cluster).map_err(|error| failed.push(error)).unwrap_or_default();
    wrong.extend(oracle.violations.clone());
    wrong.extend(answers::silence(&oracle, workload.begun, &faults));
    wrong.extend(answers::shares(&oracle, &history));
    wrong.extend(checks::ends(&oracle, &rows));
    wrong.extend(checks::failures(&oracle, &rows));
    wrong.extend(history.violations(&oracle, &faults));
    wrong.extend(bounds::in_flight(&history));
    wrong.extend(visible::live(client, &oracle, &rows).await);
    wrong.extend(visible::marks(client, &oracle, &rows).await);
    let (receipts, left) = checks::receipts(&cluster).map_err(|e| failed.push(e)).unwrap_or_default();
    wrong.extend(left);
    let orphans = checks::orphans(&cluster);
    let (compared, of_vectors) = model::vectors(&cluster).map_err(|e| failed.push(e)).unwrap_or_default();
    wrong.extend(of_vectors);
    let spent = model::spent(&cluster, &oracle, &rows, &history, &faults);
    if spent.is_too_much() {
        wrong.push((None, format!("the model was asked for too much: {spent:?}")));
    }
    let events = workload.producer.check(&cluster, &oracle);
    let (at_rest, too_much) =
        bounds::memory_at_rest(&cluster, memory).await.map_err(|e| failed.push(e)).unwrap_or_default();
    wrong.extend(too_much.map(|text| (None, text)));
    let letters = checks::dead_letters(&cluster, &oracle, &faults);
    for found in [streams, checks::chunks(&cluster), letters, events, bounds::objects(&cluster)] {
        found.map_or_else(|error| failed.push(error), |found| wrong.extend(found));
    }
    wrong.extend(failed.into_iter().map(|error| (None, format!("a check could not be made: {error}"))));
    wrong.extend(client.violations().into_iter().map(|text| (None, text)));
    let unstopped = cluster.stop_all().await;
    let complaints = faults.iter().flat_map(|injected| &injected.complaints).chain(&unstopped);
    wrong.extend(complaints.map(|text| (None, text.clone())));
    let (panics, errors) = checks::logs(&cluster.logs());
    wrong.extend(panics);

    let watched = watched.into_inner().unwrap();
    let (losses, stalls) = history.released_again();
    let mut notes = vec![
        format!("searches meanwhile: {} answered, {} refused or too late", watched.searches, watched.refused),
        format!("released again: {losses} after a loss that was noticed, {stalls} found by their age"),
        format!("documents purged to the last object, with a receipt: {receipts}"),
        format!("events published: {}", oracle.events.len()),
        format!(
            "chunks sent to the model: {}, of them distinct {}, excused {}; of files that met no fault {}, {} of them again; \
             vectors compared: {compared}",
            spent.chunks, spent.distinct, spent.excused, spent.calm, spent.calm_again
        ),
        format!("redis' memory at rest: {at_rest} bytes, {memory} at the start"),
    ];
    notes.extend(orphans.map(|count| format!("originals that no row names: {count}")));
    notes.extend(cluster.ended_by_themselves().into_iter().map(|text| format!("ended by itself: {text}")));
    let mut ends = BTreeMap::new();
    for version in rows.values().flat_map(|row| row.versions.values()) {
        *ends.entry(format!("{} {}", version.state, version.error).trim().to_owned()).or_insert(0) += 1;
    }
    debug_assert!(
        rows.values().flat_map(|row| row.versions.values()).all(|v| is_end(&v.state)) || !wrong.is_empty()
    );
    let report = Report {
        setup: &setup,
        length: &length,
        seconds,
        rounds,
        faults: &faults,
        history: &history,
        oracle: &oracle,
        ends,
        notes,
        errors,
        wrong,
    };
    conclude(cluster, &report);
}

/// Prints the report, and fails with everything that is known when something is wrong.
fn conclude(cluster: Cluster, report: &Report<'_>) {
    eprintln!("\n{}", report.text());
    if let Some(path) = std::env::var_os("RIACHO_CHAOS_REPORT").filter(|path| !path.is_empty()) {
        fs::write(path, format!("{:#}\n", report.json())).unwrap();
    }
    if report.wrong.is_empty() {
        return cluster.remove();
    }
    eprintln!("{}\nplan:", report.stories(&cluster));
    let mut schedule = Schedule::new(report.setup.clone());
    for round in (0..report.rounds).map(|_| schedule.round()) {
        let (fault, tasks) = (round.fault, round.tasks.len());
        eprintln!(
            "  round {}: {tasks} tasks, after {} of them {fault} for {} ms",
            round.number, round.after, round.millis
        );
    }
    let (seed, partitions) = (report.setup.seed, report.setup.partitions);
    panic!(
        "{} violations with seed {seed} on {partitions} partitions; logs are in {}; again: make chaos SEED={seed} PARTITIONS={partitions}",
        report.wrong.len(),
        cluster.logs().display()
    );
}

/// Waits until the streams are as they should be, and gives what they still are when they are not.
async fn settled(cluster: &Cluster) -> Result<Wrong, String> {
    let begun = Instant::now();
    loop {
        let found = checks::streams_are_empty(cluster);
        if found.as_ref().is_ok_and(Vec::is_empty) || begun.elapsed() > Duration::from_secs(90) {
            return found;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
