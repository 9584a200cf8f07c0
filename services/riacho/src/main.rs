//! The one binary: a subcommand for each service, `up`, and the operator's command line.
//!
//! `cli.rs` says what can be written, `commands/` has a file for each command, `config.rs` assembles
//! the configuration of all services.

mod cli;
mod client;
mod commands;
mod config;
mod data_dir;
mod exit;
mod ingest;
mod output;
mod progress;
mod samples;
mod services;
mod sync;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

/// The tenant that `up` makes, and that commands mean when none is named.
const DEFAULT_TENANT: &str = "default";

fn main() -> ExitCode {
    // A parser's process limits itself before anything else runs: no threads, no configuration, no secrets.
    if std::env::args_os().nth(1).is_some_and(|command| command == riacho_extractor::wire::SUBCOMMAND) {
        return riacho_extractor::child::main();
    }
    if std::env::args_os().nth(1).is_some_and(|command| command == riacho_ingest_gateway::unpack::SUBCOMMAND)
    {
        return riacho_ingest_gateway::unpack::child_main();
    }
    let cli = cli::Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, json),
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<()> {
    // One provider of TLS for all clients of the process; installed once, so a second call cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(async {
        let result = commands::run(cli).await;
        riacho_traces::shutdown().await;
        result
    });
    // What still blocks (a model that loads, a name that resolves) must not hold up the end.
    runtime.shutdown_background();
    result
}
