//! Damaged files through the real pool: each ends with text or with a typed reason, whatever was done to
//! it, and what is parsed beside it is not touched.
//!
//! The samples of the project are damaged by default. By hand, for a folder of one's own:
//!
//!     RIACHO_MUTATIONS_DIR=.. RIACHO_MUTATIONS=20 RIACHO_MUTATIONS_SEED=1 RIACHO_MUTATIONS_OCR=1 \
//!         cargo test --release -p riacho-extractor --test mutations -- --nocapture
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/compound.rs"]
mod compound;
#[path = "ocr/drawing.rs"]
#[allow(dead_code)] // only pictures are drawn
mod drawing;

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

fn packed(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        // The kind of file is told by an entry that is not compressed.
        let options = zip::write::SimpleFileOptions::default();
        let options = if *name == "mimetype" {
            options.compression_method(zip::CompressionMethod::Stored)
        } else {
            options
        };
        writer.start_file(*name, options).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Small files of the formats of which there is no sample.
fn made() -> Vec<(String, Vec<u8>)> {
    use compound::{attached_file, attached_message, file, message};
    let inner = message("Inner", "The inner text.", vec![attached_file("deep.csv", b"hour,level\n1,2\n")]);
    let attachments =
        vec![attached_file("notes.txt", b"The gauge stood at two metres."), attached_message("Inner", inner)];
    let odt = [
        ("mimetype", "application/vnd.oasis.opendocument.text"),
        (
            "content.xml",
            "<office:document-content><office:body><office:text><text:h text:outline-level=\"1\">Levels</text:h>\
             <text:p>The gauge stood at two metres.</text:p></office:text></office:body></office:document-content>",
        ),
    ];
    let epub = [
        ("mimetype", "application/epub+zip"),
        (
            "META-INF/container.xml",
            "<container><rootfiles><rootfile full-path=\"book.opf\"/></rootfiles></container>",
        ),
        (
            "book.opf",
            "<package><manifest><item id=\"a\" href=\"one.xhtml\"/></manifest><spine><itemref idref=\"a\"/></spine></package>",
        ),
        ("one.xhtml", "<html><body><h1>One</h1><p>The gauge stood at two metres.</p></body></html>"),
    ];
    let text = |text: &str| text.as_bytes().to_vec();
    let files = [
        ("levels.msg", file(&message("Levels", "See the notes.", attachments))),
        ("levels.odt", packed(&odt)),
        ("book.epub", packed(&epub)),
        ("note.rtf", text(r"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 The gauge stood at {\b two} metres.\par}")),
        ("gauge.json", text(r#"{"gauge": {"name": "Weir", "levels": [1, 2, 3]}}"#)),
        (
            "gauge.xml",
            text("<?xml version=\"1.0\"?><gauge><name>Weir</name><level unit=\"m\">2</level></gauge>"),
        ),
        ("fax.tif", drawing::tiff(&[drawing::drawn(&["Level two"]), drawing::drawn(&["Level three"])])),
    ];
    files.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

async fn outcome(pool: &Pool, name: &str, bytes: Vec<u8>) -> String {
    let size = bytes.len();
    match pool.parse(Lane::Bulk, name, bytes.into(), |_, _| {}).await {
        Ok(extracted) => {
            assert!(extracted.is_sound(), "{name}");
            let attached: usize = extracted.attachments.iter().map(|attachment| attachment.bytes.len()).sum();
            assert!(
                attached <= size && extracted.attachments.iter().all(|a| !a.filename.is_empty()),
                "{name}"
            );
            if let Some(failure) = extracted.unreadable {
                assert!(TYPED.contains(&failure.reason) && attached > 0, "{name}: {failure:?}");
                failure.reason.to_string()
            } else if extracted.outline.missing.is_empty() {
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
    let with_ocr = setting("RIACHO_MUTATIONS_OCR", 0) == 1;
    let ocr = ocr::Config { enabled: with_ocr, ..ocr::Config::default() };
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
    let own = std::env::var_os("RIACHO_MUTATIONS_DIR").is_none();
    let mut files: Vec<(String, Vec<u8>)> = files(&folder)
        .into_iter()
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    if own {
        files.extend(made());
    }
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
        // Where no text is recognised a picture has none.
        let expected = if name.ends_with(".tif") && !with_ocr { "needs_ocr" } else { "text" };
        assert!(damage != "none" || !own || outcome == expected, "{name}: {outcome}");
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
    // A parser that crashes has a mistake of its own, which nobody looks for when many do.
    let crashed: u32 =
        table.iter().filter(|((_, outcome), _)| outcome == "parser_crashed").map(|(_, n)| n).sum();
    let all: u32 = table.values().sum();
    assert!(!own || crashed * 50 <= all, "{crashed} of {all} ended their parser: {table:?}");
}
