//! How fast small files become chunks: the pool alone, the chunker alone, and both.
//!
//!     cargo run --release -p riacho-extractor --example extractor_throughput [DOCUMENTS]
#![allow(clippy::print_stdout)] // a program for a terminal

use std::{process::ExitCode, sync::Arc, time::Instant};

use futures::{StreamExt, TryStreamExt, stream};
use riacho_domain::Lane;
use riacho_extractor::{
    child,
    chunk::{self, Settings},
    pool::{Config, Pool},
    wire::SUBCOMMAND,
};

/// Words of a river station, so that tokens and sentences are those of prose.
const WORDS: &str = "the water level of the river is measured every hour by the radar at the old bridge and the warden reads \
    the staff gauge twice a day when rain falls on the hills it takes four hours until the station sees the flood";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == SUBCOMMAND) {
        return child::main();
    }
    let documents = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(2000);
    let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from);
    match runtime.and_then(|runtime| runtime.block_on(run(documents))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(documents: usize) -> anyhow::Result<()> {
    let pool = Pool::new(Config::default())?;
    pool.warm().await?;
    let settings = Arc::new(Settings::default());
    chunk::Tokens::new(&settings.tokenizer)?;
    round_trip(&pool).await?;
    let texts: Vec<bytes::Bytes> = (0..documents).map(|i| document(i).into()).collect();
    let bytes: usize = texts.iter().map(bytes::Bytes::len).sum();
    println!("{documents} documents, {:.1} MB", bytes as f64 / 1e6);

    let start = Instant::now();
    let parsed: Vec<_> = stream::iter(texts.clone())
        .map(|text| pool.parse(Lane::Bulk, "a.txt", text, |_, _| {}))
        .buffer_unordered(4)
        .try_collect()
        .await?;
    report("parse", documents, bytes, start, None);

    let start = Instant::now();
    let mut chunks = 0;
    for extracted in &parsed {
        chunks += chunk::cut(extracted, "a.txt", &settings)?.len();
    }
    report("cut, one thread", documents, bytes, start, Some(chunks));

    let start = Instant::now();
    let chunks: Vec<usize> = stream::iter(texts)
        .map(|text| {
            let (pool, settings) = (pool.clone(), Arc::clone(&settings));
            async move {
                let extracted = pool.parse(Lane::Bulk, "a.txt", text, |_, _| {}).await?;
                tokio::task::spawn_blocking(move || {
                    anyhow::Ok(chunk::cut(&extracted, "a.txt", &settings)?.len())
                })
                .await?
            }
        })
        .buffer_unordered(4)
        .try_collect()
        .await?;
    report("parse and cut", documents, bytes, start, Some(chunks.iter().sum()));
    Ok(())
}

async fn round_trip(pool: &Pool) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        pool.parse(Lane::Bulk, "a.txt", "short".into(), |_, _| {}).await?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("round trip of a few bytes: p50 {:?}, p99 {:?}", times[250], times[495]);
    Ok(())
}

fn report(what: &str, documents: usize, bytes: usize, start: Instant, chunks: Option<usize>) {
    let seconds = start.elapsed().as_secs_f64();
    let chunks = chunks.map_or(String::new(), |chunks| format!(", {:.0} chunks/s", chunks as f64 / seconds));
    let rate = documents as f64 / seconds;
    println!("{what}: {rate:.0} documents/s, {:.1} MB/s{chunks}", bytes as f64 / 1e6 / seconds);
}

/// 5 to 20 KB of sentences.
fn document(seed: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = seed as u64 * 7919 + 17;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let length = 5_000 + next(15_000);
    let mut text = String::with_capacity(length + 200);
    while text.len() < length {
        for _ in 0..3 + next(5) {
            let sentence: Vec<&str> = (0..6 + next(18)).map(|_| words[next(words.len())]).collect();
            // A sentence that begins small would be taken for the rest of the one before it.
            text.push_str("Then ");
            text.push_str(&sentence.join(" "));
            text.push_str(". ");
        }
        text.push_str("\n\n");
    }
    text
}
