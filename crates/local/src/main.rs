//! Runs the private servers on a data directory, for developers: `cargo run -p riacho-local -- DIR`.
//!
//! Prints one line of JSON with the status and the URLs once the servers answer, then waits for Ctrl-C, SIGTERM
//! or the end of a server.

// The status is this program's output, its error the only other thing to say.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use riacho_local::{Options, Servers};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: riacho-local DIR");
        return ExitCode::from(2);
    };
    match run(dir).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("riacho-local: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(dir: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    // Before the start, so that no signal is missed from then on.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let servers = Servers::start(&dir, &Options::default()).await?;
    println!(
        "{{\"status\":{},\"redis_url\":{:?},\"database_url\":{:?}}}",
        serde_json::to_string(&servers.status())?,
        servers.redis_url().unwrap_or_default(),
        servers.database_url().unwrap_or_default()
    );
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        failure = servers.supervise() => Some(failure),
    };
    servers.stop().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}
