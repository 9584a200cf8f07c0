//! Chaos: each service as processes of its own, faults from a seed, and an oracle that remembers what was
//! asked for. At the end every document is where the last command that was answered left it, whole and once.
//!
//! `schedule` makes the plan of a seed, `contents` the files, `workload`, `client` and `producer` carry it out against a
//! `cluster`, `faults` and `deadly` inject, `oracle` remembers, `history`, `checks`, `answers`, `bounds`, `model` and `visible` judge,
//! `report` tells.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod answers;
mod bounds;
mod checks;
mod client;
mod cluster;
mod contents;
mod deadly;
mod faults;
mod history;
mod model;
mod oracle;
mod producer;
mod report;
mod run;
mod schedule;
mod visible;
mod workload;

use std::time::Duration;

use run::{Length, run};
use schedule::{Fault, Service, Setup, Wire};
use tokio::sync::Mutex;

/// The seed of the short runs.
const SEED: u64 = 7;
/// A long run goes on until it had so many documents.
const DOCUMENTS: usize = 1_000;

/// Two runs beside each other would only wait for each other.
static ALONE: Mutex<()> = Mutex::const_new(());

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn seed(default: u64) -> u64 {
    number("RIACHO_CHAOS_SEED").unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_document_comes_to_its_right_end_whatever_fails() {
    let _alone = ALONE.lock().await;
    let faults = vec![
        Fault::Kill(Service::Extractor, 0),
        Fault::Pause(Service::Embedder, 1),
        Fault::EmptyRedis,
        Fault::KillPostgres,
        Fault::Kill(Service::Gateway, 1),
        Fault::TwoLeaders { flush: true },
        Fault::RollingRestart,
        Fault::Poison,
        Fault::LoseReplies(Wire::Redis),
        Fault::CutWire(Wire::Postgres),
    ];
    let setup = Setup { seed: seed(SEED), partitions: 1, new_documents: 7, faults: Some(faults) };
    run(setup, Length::Rounds(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_on_sixteen_partitions_come_to_their_right_end() {
    let _alone = ALONE.lock().await;
    let faults = vec![Fault::Flush, Fault::Silence(Wire::Redis), Fault::Kill(Service::Indexer, 0)];
    let setup = Setup { seed: seed(SEED), partitions: 16, new_documents: 10, faults: Some(faults) };
    run(setup, Length::Rounds(3)).await;
}

/// `make chaos` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `make chaos SEED=.. MINUTES=.. PARTITIONS=..`"]
async fn a_long_run_of_a_seed_loses_doubles_and_mixes_nothing() {
    let _alone = ALONE.lock().await;
    let minutes = number("RIACHO_CHAOS_MINUTES").unwrap_or(10);
    let partitions = u16::try_from(number("RIACHO_CHAOS_PARTITIONS").unwrap_or(1)).unwrap();
    let setup =
        Setup { seed: seed(rand::random::<u32>().into()), partitions, new_documents: 30, faults: None };
    run(setup, Length::Time { at_least: Duration::from_secs(minutes * 60), documents: DOCUMENTS }).await;
}
