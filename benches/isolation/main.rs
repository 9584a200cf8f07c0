//! What it costs to parse in a limited child process: the files of a folder by one parser process, and by the same code in this
//! process, in turns.
#![allow(clippy::print_stdout)] // a command-line program: its output is its purpose

#[path = "../src/figures.rs"]
#[allow(dead_code, unused_imports)] // what other benchmarks print, and its tests
mod figures;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use riacho_domain::{Lane, ReasonCode};
use riacho_extractor::{
    Error, child,
    extracted::Failure,
    ocr,
    parse::{Limits, Outside, Pdfium, Tools, parse},
    pool::{Config, Pool},
    wire::{Picture, SUBCOMMAND, Unread},
};

use self::figures::Figures;

/// What to parse, and how often.
#[derive(Parser)]
#[command(name = "isolation", about = "Measures what parsing in a child process costs")]
struct Options {
    /// A folder of files of many sizes and formats.
    #[arg(long)]
    files: PathBuf,
    /// The PDFium library; without it PDF files are left out.
    #[arg(long)]
    pdfium: Option<PathBuf>,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(SUBCOMMAND) {
        return Ok(child::main());
    }
    let options = Options::parse();
    // Deep documents need the stack that a child has.
    let worker = std::thread::Builder::new().stack_size(128 << 20).spawn(move || run(&options))?;
    worker.join().map_err(|_| anyhow::anyhow!("the measurement panicked"))??;
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Options) -> anyhow::Result<()> {
    // A child has another working directory.
    let pdfium = options.pdfium.as_deref().map(fs::canonicalize).transpose()?;
    let config = Config {
        processes: 1,
        interactive_processes: 0,
        documents_per_process: u32::MAX,
        pdfium_library: pdfium.clone(),
        ocr: ocr::Config { enabled: false, ..ocr::Config::default() },
        ..Config::default()
    };
    let limits = config.limits.clone();
    let pdfium = pdfium.as_deref().map(Pdfium::load).transpose().map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let pool = runtime.block_on(async {
        let pool = Pool::new(config)?;
        pool.warm().await?;
        Ok::<_, Error>(pool)
    })?;
    let mut files = Vec::new();
    read(&options.files, &mut files)?;
    // A file that ends its parser would end this process as well.
    files.retain(|(name, bytes)| {
        let parsed = runtime.block_on(pool.parse(Lane::Bulk, name, bytes.clone(), |_, _| {}));
        let ends = [ReasonCode::ParserCrashed, ReasonCode::Timeout, ReasonCode::Memory];
        !matches!(parsed, Err(Error::Document(failure)) if ends.contains(&failure.reason))
    });
    let (mut ratios, mut inside, mut isolated) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let start = Instant::now();
        for (name, bytes) in &files {
            let _ = in_this_process(&limits, pdfium.as_ref(), name, bytes);
        }
        inside.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for (name, bytes) in &files {
            let _ = runtime.block_on(pool.parse(Lane::Bulk, name, bytes.clone(), |_, _| {}));
        }
        isolated.push(start.elapsed().as_secs_f64());
        ratios.push(inside[inside.len() - 1] / isolated[isolated.len() - 1]);
    }
    ratios.sort_by(f64::total_cmp);
    let mut figures = Figures::default();
    figures.add("files", files.len());
    figures.add("bytes", files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    figures.add("in_this_process_s", inside);
    figures.add("in_a_child_s", isolated);
    figures.add_number("throughput_kept", ratios[ratios.len() / 2]);
    figures.print(options.json);
    Ok(())
}

fn in_this_process(
    limits: &Limits,
    pdfium: Option<&Pdfium>,
    name: &str,
    bytes: &Bytes,
) -> Result<usize, Failure> {
    let tools = Tools { limits, pdfium, rendering: None, skip: &[] };
    let parsed = catch_unwind(AssertUnwindSafe(|| parse(bytes.to_vec(), name, &tools, &mut Nobody)));
    parsed.map_or(Ok(0), |parsed| parsed.map(|extracted| extracted.text.len()))
}

/// Nobody looks at the progress, and nothing is recognised.
struct Nobody;

impl Outside for Nobody {
    fn progress(&mut self, _: u32, _: u32) {}

    fn words(&mut self, _: Picture, _: &[u8]) -> Result<String, Unread> {
        Err(Unread { failure: Failure::new(ReasonCode::NeedsOcr, "it is switched off"), all: true })
    }
}

fn read(folder: &Path, files: &mut Vec<(String, Bytes)>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, files)?;
        } else {
            files.push((path.display().to_string(), Bytes::from(fs::read(&path)?)));
        }
    }
    Ok(())
}
