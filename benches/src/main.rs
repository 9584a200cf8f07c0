//! Measurements of a whole deployment, one command each.
//!
//! Each starts `riacho up` in an empty data directory (or takes `--url` and `--key` of one that
//! runs), drives it over HTTP as a user would, and prints a table, or one JSON object with `--json`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line program: its output is its purpose

mod accept;
mod api;
mod bulk;
mod corpus;
mod deployment;
mod fairness;
mod figures;
mod folder;
mod idle;
mod memory;
mod page;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "riacho-bench", about = "Measures a deployment of Riacho from outside")]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    bench: Bench,
}

/// The deployment to measure.
#[derive(Args, Clone)]
struct Target {
    /// The binary to start; by default the `riacho` beside this one.
    #[arg(long, global = true)]
    riacho: Option<PathBuf>,
    /// A deployment that runs already, for example `http://127.0.0.1:8000`.
    #[arg(long, global = true, requires = "key")]
    url: Option<String>,
    /// Its API key.
    #[arg(long, global = true, env = "RIACHO_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

#[derive(Subcommand)]
enum Bench {
    /// Latency of accepting uploads at a fixed rate, while the pipeline works on them.
    Accept(accept::Options),
    /// Time from the 202 of one small document to its being searchable, on an idle system.
    Idle(idle::Options),
    /// Documents and chunks a second, from the first upload to the last document searchable.
    Bulk(bulk::Options),
    /// What an interactive upload waits while thousands of bulk documents of another tenant wait.
    Fairness(fairness::Options),
    /// What becomes of every file of a folder.
    Folder(folder::Options),
    /// Memory of each service in a process of its own, at rest and at work.
    Memory(memory::Options),
    /// What the page asks for, and how long its views take in a browser, for a tenant with few documents and one with many.
    Page(page::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let figures = runtime.block_on(async {
        match &cli.bench {
            Bench::Accept(options) => accept::run(&cli.target, options).await,
            Bench::Idle(options) => idle::run(&cli.target, options).await,
            Bench::Bulk(options) => bulk::run(&cli.target, options).await,
            Bench::Fairness(options) => fairness::run(&cli.target, options).await,
            Bench::Folder(options) => folder::run(&cli.target, options).await,
            Bench::Memory(options) => memory::run(&cli.target, options).await,
            Bench::Page(options) => page::run(&cli.target, options).await,
        }
    })?;
    figures.print(cli.json);
    Ok(())
}
