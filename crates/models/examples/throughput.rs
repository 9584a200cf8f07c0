//! Measures the local models: texts a second, for several lengths and numbers of threads.
//!
//!     cargo run --release -p riacho-models --example throughput [FILE..]
//!
//! The texts of the static model are cut from the given text files, or made of words drawn from a vocabulary of
//! 20,000 by Zipf's law. Without files the words do not repeat as those of real documents do. What words a sentence
//! transformer gets makes no difference; its texts have a number of tokens, as in benches/peers/embeddings.
#![allow(clippy::print_stdout)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use riacho_models::{Config, Kind, LocalConfig, Model, load};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words = words()?;
    let runtime = riacho_local::Runtime::find();
    if let Ok(directory) = runtime.model_dir("all-minilm-l6-v2") {
        transformer(&directory).await?;
    }
    let directory = runtime.wordllama_dir()?;
    whole_texts(&directory.join("tokenizer.json"), &words)?;
    for threads in [1, 2] {
        let local = LocalConfig { directory: Some(directory.clone()), threads, ..LocalConfig::default() };
        let model = load(&Config { local, ..Config::default() })?;
        for size in [96, 190, 380] {
            measure(&*model, &words, size, threads).await?;
        }
        query(&*model, 10_000).await?;
    }
    Ok(())
}

async fn transformer(directory: &Path) -> Result<(), Failure> {
    for threads in [1, 2] {
        let start = Instant::now();
        let local = LocalConfig { directory: Some(directory.to_owned()), threads, ..LocalConfig::default() };
        let model = load(&Config { local, ..Config::default() })?;
        println!("{} with {threads} threads, read in {:.2?}", model.id(), start.elapsed());
        for tokens in [16, 128, 256] {
            // With the two that the tokenizer adds.
            batches(&*model, &vec!["river ".repeat(tokens - 2); 8192 / tokens]).await?;
        }
        let mixed: Vec<String> = (0..128).map(|n| "river ".repeat(1 + n * 89 % 254)).collect();
        batches(&*model, &mixed).await?;
        query(&*model, 200).await?;
    }
    Ok(())
}

/// Embeds the same batch again and again: the median of the batches, and texts in a second of the processor, since other
/// processes take their time too.
async fn batches(model: &dyn Model, batch: &[String]) -> Result<(), Failure> {
    let (start, mut tokens, mut times) = (Instant::now(), 0, Vec::new());
    let used = processor_seconds()?;
    while start.elapsed() < Duration::from_secs(20) {
        let begun = Instant::now();
        tokens = model.embed(batch.to_vec(), Kind::Passage).await?.tokens;
        times.push(begun.elapsed().as_secs_f64());
    }
    let used = processor_seconds()? - used;
    times.sort_by(f64::total_cmp);
    let texts = batch.len() as f64;
    println!(
        "  {texts} texts of {:.0} tokens: {:.1} texts/s, at best {:.1}; {:.1} in a second of the processor",
        tokens as f64 / texts,
        texts / times[times.len() / 2],
        texts / times[0],
        texts * times.len() as f64 / used,
    );
    Ok(())
}

/// What this process has used of the processors (proc_pid_stat(5): fields 14 and 15, in hundredths).
fn processor_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12).take(2);
    Ok(fields.map(str::parse::<f64>).sum::<Result<f64, _>>()? / 100.0)
}

async fn measure(model: &dyn Model, words: &[String], size: usize, threads: usize) -> Result<(), Failure> {
    let batch: Vec<String> = words.chunks_exact(size).take(2000).map(|words| words.join(" ")).collect();
    let (start, mut texts, mut tokens) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(3) {
        for part in batch.chunks(256) {
            tokens += model.embed(part.to_vec(), Kind::Passage).await?.tokens;
            texts += part.len();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{threads} threads, {size} words ({} tokens) a text: {:.0} texts/s, {:.1} M tokens/s",
        tokens / texts as u64,
        texts as f64 / seconds,
        tokens as f64 / seconds / 1e6
    );
    Ok(())
}

/// The yardstick: the tokenizer alone, over whole texts, on one thread.
fn whole_texts(tokenizer: &Path, words: &[String]) -> Result<(), Failure> {
    let tokenizer = tokenizers::Tokenizer::from_file(tokenizer).map_err(|error| error.to_string())?;
    let batch: Vec<String> = words.chunks_exact(190).take(2000).map(|words| words.join(" ")).collect();
    let (start, mut texts, mut tokens) = (Instant::now(), 0, 0);
    for text in batch.iter().cycle() {
        tokens += tokenizer.encode_fast(text.as_str(), false).map_err(|error| error.to_string())?.len();
        texts += 1;
        if start.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "the tokenizer alone, 190 words a text: {:.0} texts/s, {:.1} M tokens/s",
        f64::from(texts) / seconds,
        tokens as f64 / seconds / 1e6
    );
    Ok(())
}

async fn query(model: &dyn Model, count: u32) -> Result<(), Failure> {
    let start = Instant::now();
    for n in 0..count {
        model.embed(vec![format!("where does the river {n} meet the sea")], Kind::Query).await?;
    }
    println!("  a query: {:.1} microseconds", start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    Ok(())
}

fn words() -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    for file in std::env::args().skip(1) {
        let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
        words.extend(text.split(' ').map(str::to_owned));
    }
    if words.is_empty() {
        let mut state = 88_172_645_463_325_252_u64;
        words = (0..800_000).map(|_| zipf_word(&mut state)).collect();
    }
    Ok(words)
}

/// A word of two to four syllables; the n-th is drawn about as often as 1/n.
fn zipf_word(state: &mut u64) -> String {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let uniform = (*state >> 11) as f64 / (1_u64 << 53) as f64;
    let mut rank = 20_000_f64.powf(uniform) as usize;
    let syllables = ["ri", "a", "cho", "stre", "am", "wa", "ter", "flo", "ing", "de", "lta", "spr", "brook"];
    let mut word = String::new();
    for _ in 0..2 + rank % 3 {
        word.push_str(syllables[rank % syllables.len()]);
        rank = rank / syllables.len() + rank % 7;
    }
    word
}
