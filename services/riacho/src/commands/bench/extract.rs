//! `riacho bench extract`: how fast the parsers read the files of a folder, and what memory they need.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use riacho_domain::Lane;
use riacho_extractor::{Error, ocr, pool, pool::Pool};
use serde::Serialize;

use crate::{cli::BenchExtract, commands::Context};

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Files of a round.
    files: usize,
    /// Pages of a round; a file of a format without pages counts as none.
    pages: usize,
    /// Bytes of text of a round.
    text_bytes: usize,
    /// Parser processes.
    processes: usize,
    /// Seconds of each round.
    seconds: Vec<f64>,
    /// Pages a second in the median round.
    pages_per_s: f64,
    /// Files a second in the median round.
    files_per_s: f64,
    /// The most memory that a parser ever had, in bytes.
    parser_peak_bytes: u64,
    /// Files without text, by reason.
    failed: BTreeMap<String, usize>,
}

pub(super) async fn run(context: &Context, options: &BenchExtract) -> anyhow::Result<()> {
    let extractor = context.config()?.extractor;
    let pool = Pool::new(pool::Config {
        processes: options.processes,
        interactive_processes: 0,
        documents_per_process: u32::MAX,
        ocr: ocr::Config { enabled: options.ocr, ..extractor.ocr.clone() },
        ..extractor.pool()
    })?;
    pool.warm().await?;
    let files = files(&options.folder)?;
    let mut figures = Figures { files: files.len(), processes: options.processes, ..Figures::default() };
    for round in 0..options.rounds.max(1) {
        let start = Instant::now();
        let parsed = stream::iter(files.clone()).map(|(name, bytes)| {
            let pool = &pool;
            async move { (pool.parse(Lane::Bulk, &name, bytes, |_, _| {}).await, name) }
        });
        let parsed: Vec<_> = parsed.buffer_unordered(options.processes * 2).collect().await;
        figures.seconds.push(start.elapsed().as_secs_f64());
        if round == 0 {
            count(&mut figures, parsed, options.texts.as_deref())?;
        }
    }
    figures.parser_peak_bytes = peak_of_children();
    let mut seconds = figures.seconds.clone();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    figures.pages_per_s = figures.pages as f64 / median;
    figures.files_per_s = figures.files as f64 / median;
    context.output.result(&figures, || text(&figures));
    Ok(())
}

fn count(
    figures: &mut Figures,
    parsed: Vec<(Result<riacho_extractor::extracted::Extracted, Error>, String)>,
    texts: Option<&Path>,
) -> anyhow::Result<()> {
    for (result, name) in parsed {
        match result {
            Ok(extracted) => {
                figures.pages += extracted.outline.pages.len();
                figures.text_bytes += extracted.text.len();
                if let Some(folder) = texts {
                    fs::create_dir_all(folder)?;
                    fs::write(
                        folder.join(name.replace('/', "_")).with_added_extension("txt"),
                        extracted.text,
                    )?;
                }
            }
            Err(Error::Document(failure)) => {
                *figures.failed.entry(failure.reason.to_string()).or_default() += 1
            }
            Err(error) => return Err(error).with_context(|| name),
        }
    }
    Ok(())
}

/// The files of a folder and its folders, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<(String, Bytes)>> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path: PathBuf = entry?.path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        anyhow::Ok((name, Bytes::from(fs::read(path)?)))
    };
    paths.iter().map(read).collect()
}

/// The peak of the resident memory of the parsers, as the kernel counts it.
fn peak_of_children() -> u64 {
    let own = format!("PPid:\t{}", std::process::id());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let peaks = processes.filter_map(|process| {
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        status.lines().find(|line| *line == own)?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.split_whitespace().next()?.parse::<u64>().ok()
    });
    peaks.max().unwrap_or(0) * 1024
}

fn text(figures: &Figures) -> String {
    let failed: Vec<String> =
        figures.failed.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!(
        "{} files, {} pages, {} processes\n{:.0} pages/s, {:.1} files/s\n{:.0} MB at most in a parser\n{}",
        figures.files,
        figures.pages,
        figures.processes,
        figures.pages_per_s,
        figures.files_per_s,
        figures.parser_peak_bytes as f64 / 1e6,
        failed.join(", ")
    )
}
