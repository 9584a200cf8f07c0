//! Damaged files through the real pool: each ends with text or with a typed reason, whatever was done to
//! it, and what is parsed beside it is not touched.
//!
//! The samples of the project are damaged by default. By hand, for a folder of one's own:
//!
//!     RIACHO_MUTATIONS_DIR=.. RIACHO_MUTATIONS=20 RIACHO_MUTATIONS_SEED=1 RIACHO_MUTATIONS_OCR=1 \
//!         cargo test --release -p riacho-extractor --test mutations -- --nocapture
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _, Write as _},
    path::{Path, PathBuf},
};

use futures::StreamExt as _;
use rand::{Rng, SeedableRng, rngs::StdRng};
use riacho_domain::{Lane, ReasonCode};
use riacho_extractor::{
    Error, ocr,
    pool::{Config, Pool},
};

/// How many damaged files are parsed at once, each beside a sound one.
const AT_ONCE: usize = 3;
/// Reasons that lie in a file.
const TYPED: [ReasonCode; 10] = [
    ReasonCode::Encrypted,
    ReasonCode::Corrupt,
    ReasonCode::TooLarge,
    ReasonCode::Bomb,
    ReasonCode::Timeout,
    ReasonCode::Memory,
    ReasonCode::Unsupported,
    ReasonCode::Empty,
    ReasonCode::NeedsOcr,
    ReasonCode::ParserCrashed,
];

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A file, damaged in one of several ways. `other` lends its bytes.
fn damaged(random: &mut StdRng, bytes: &[u8], other: &[u8]) -> (&'static str, Vec<u8>) {
    if bytes.starts_with(b"PK\x03\x04")
        && random.random_bool(0.5)
        && let Some(repacked) = repacked(random, bytes, other)
    {
        return ("inside", repacked);
    }
    let (name, damage) = DAMAGES[random.random_range(0..DAMAGES.len())];
    let mut bytes = bytes.to_vec();
    damage(random, &mut bytes, other);
    (name, bytes)
}

type Damage = fn(&mut StdRng, &mut Vec<u8>, &[u8]);

const DAMAGES: [(&str, Damage); 6] = [
    ("bits", |random, bytes, _| {
        for _ in 0..random.random_range(1..64) {
            if let Some(byte) = at(random, bytes.len()).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
    }),
    ("cut", |random, bytes, _| {
        let end = random.random_range(0..=bytes.len());
        bytes.truncate(end);
    }),
    ("removed", |random, bytes, _| {
        let range = range(random, bytes.len());
        bytes.drain(range);
    }),
    ("repeated", |random, bytes, _| {
        let part = bytes[range(random, bytes.len())].to_vec();
        let times = random.random_range(1..50);
        let at = random.random_range(0..=bytes.len());
        bytes.splice(at..at, part.repeat(times));
    }),
    ("zeroed", |random, bytes, _| {
        let range = range(random, bytes.len());
        bytes[range].fill(0);
    }),
    ("spliced", |random, bytes, other| {
        let part = other[range(random, other.len())].to_vec();
        let range = range(random, bytes.len());
        bytes.splice(range, part);
    }),
];

fn at(random: &mut StdRng, length: usize) -> Option<usize> {
    (length > 0).then(|| random.random_range(0..length))
}

/// A part of so many bytes: mostly a small one.
fn range(random: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let start = random.random_range(0..=length);
    let most = if random.random_bool(0.8) { 4096 } else { length };
    start..(start + random.random_range(0..=most)).min(length)
}

/// A packed file with one damaged entry, packed soundly.
fn repacked(random: &mut StdRng, bytes: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
    let chosen = at(random, archive.len())?;
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).ok()?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        if index == chosen {
            DAMAGES[random.random_range(0..DAMAGES.len())].1(random, &mut content, other);
        }
        writer.start_file(entry.name().ok()?, zip::write::SimpleFileOptions::default()).ok()?;
        writer.write_all(&content).ok()?;
    }
    writer.finish().ok().map(Cursor::into_inner)
}

async fn outcome(pool: &Pool, name: &str, bytes: Vec<u8>) -> String {
    match pool.parse(Lane::Bulk, name, bytes.into(), |_, _| {}).await {
        Ok(extracted) => {
            assert!(extracted.is_sound(), "{name}");
            if extracted.outline.missing.is_empty() {
                "text".to_owned()
            } else {
                "text of some pages".to_owned()
            }
        }
        Err(Error::Document(failure)) => {
            assert!(TYPED.contains(&failure.reason) && !failure.message.is_empty(), "{name}: {failure:?}");
            failure.reason.to_string()
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_end_with_text_or_a_reason_and_cost_their_neighbours_nothing() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let folder = setting("RIACHO_MUTATIONS_DIR", samples);
    let (count, seed) = (setting("RIACHO_MUTATIONS", 12), setting("RIACHO_MUTATIONS_SEED", 1));
    let ocr = ocr::Config { enabled: setting("RIACHO_MUTATIONS_OCR", 0) == 1, ..ocr::Config::default() };
    let pool = Pool::new(Config {
        processes: 2,
        command: vec![PathBuf::from(env!("CARGO_BIN_EXE_riacho-parse-child"))],
        pdfium_library: riacho_local::Runtime::find().pdfium_path().ok(),
        timeout_seconds: 20,
        ocr,
        ..Config::default()
    })
    .unwrap();
    let neighbour = include_bytes!("../../../docs/examples/station-handbook.pdf").as_slice();
    let sound = pool.parse(Lane::Bulk, "neighbour.pdf", neighbour.into(), |_, _| {}).await.unwrap();
    let files: Vec<(String, Vec<u8>)> = files(&folder)
        .into_iter()
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut damaged_files = Vec::new();
    for (name, bytes) in &files {
        damaged_files.push(("none", name, bytes.clone()));
        for _ in 0..count {
            let other = &files[random.random_range(0..files.len())].1;
            let (damage, bytes) = damaged(&mut random, bytes, other);
            damaged_files.push((damage, name, bytes));
        }
    }
    let (pool, sound) = (&pool, &sound);
    let outcomes = futures::stream::iter(damaged_files).map(|(damage, name, bytes)| async move {
        let beside = pool.parse(Lane::Bulk, "neighbour.pdf", neighbour.into(), |_, _| {});
        let (outcome, beside) = tokio::join!(outcome(pool, name, bytes), beside);
        assert_eq!(beside.unwrap(), *sound, "beside {damage} {name}");
        (damage, outcome)
    });
    let mut table: BTreeMap<(&str, String), u32> = BTreeMap::new();
    for pair in outcomes.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        *table.entry(pair).or_default() += 1;
    }
    for ((damage, outcome), count) in &table {
        println!("{damage}\t{outcome}\t{count}");
    }
    let texts: u32 = table
        .iter()
        .filter(|((damage, outcome), _)| *damage != "none" && outcome == "text")
        .map(|(_, n)| n)
        .sum();
    assert!(count == 0 || texts > 0, "nothing was left to be read: {table:?}");
}
