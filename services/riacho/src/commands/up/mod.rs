//! `riacho up`: everything in one process, on private servers in a data directory.
//!
//! `private.rs` starts the servers, `identity.rs` makes the schema, the tenant and the key, `pipeline.rs`
//! runs the workers beside the gateway, `page.rs` says what runs where, `demo.rs` shows it at work.

mod demo;
mod identity;
mod page;
mod pipeline;
mod private;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use riacho_service::Metrics;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::{
    cli,
    client::Client,
    config::{Config, Settings},
    data_dir::{DataDir, Running},
    exit::{Failure, Kind},
    services::{Group, Service},
};

/// How long the services may take to say that they are ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long they may take to stop. What was in hand is redelivered after the next start.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long running events may finish after Ctrl-C: somebody waits at the terminal.
const GRACE_SECONDS: &str = "4";

/// What a start has found out so far.
struct Deployment {
    data_dir: DataDir,
    config: Config,
    address: SocketAddr,
    servers: riacho_local::Servers,
    api_key: String,
}

pub(super) async fn run(context: &Context, arguments: cli::Up) -> anyhow::Result<()> {
    let started = Instant::now();
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let mut settings = Settings::new(&context.global);
    settings.set_default("log.format", "text")?;
    // The Redis client warns of its closed connections when the server beside it stops, as it should.
    settings.set_default("log.filter", "warn,fred=error")?;
    settings.set_default("stage.grace_seconds", GRACE_SECONDS)?;
    settings.set_default("gateway.grace_seconds", GRACE_SECONDS)?;
    if let Some(listen) = arguments.listen.listen {
        settings.set("http.listen", &listen);
    }
    // A wrong configuration or a taken port shall not start a database first.
    let config = settings.clone().load()?;
    let address = free_address(&config.http.listen)?;
    settings.set("http.listen", &address.to_string());
    let metrics = riacho_service::telemetry::init(&config.log)?;

    let data_dir = context.data_dir().create()?;
    let servers = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        servers = private::start(&data_dir, &mut settings) => servers?,
    };
    let running = Running {
        pid: std::process::id(),
        url: page::url_of(address),
        settings: private::settings_for_others(&servers, &data_dir),
    };
    let prepared = tokio::select! {
        () = stop.cancelled() => None,
        prepared = identity::prepare(settings, &data_dir) => Some(prepared),
    };
    let result = match prepared {
        None => Ok(servers),
        Some(Err(error)) => {
            servers.stop().await;
            return Err(error);
        }
        Some(Ok((config, api_key))) => {
            data_dir.write_running(&running)?;
            let deployment = Deployment { data_dir: data_dir.clone(), config, address, servers, api_key };
            let result = serve(context, &deployment, metrics, &stop, started, arguments.demo).await;
            data_dir.clear_running();
            result.map(|()| deployment.servers)
        }
    };
    // Dropping the servers stops them too; this says when they have stopped.
    result?.stop().await;
    context.output.note("stopped");
    Ok(())
}

/// Runs the services until `stop`, or until one of them or a server ends.
async fn serve(
    context: &Context,
    deployment: &Deployment,
    metrics: Metrics,
    stop: &CancellationToken,
    started: Instant,
    demo: bool,
) -> anyhow::Result<()> {
    let config = &deployment.config;
    let mut pipeline = pipeline::Pipeline::spawn(config.clone(), metrics.clone(), stop.clone())?;
    let gateway = Group::connect(&[Service::Gateway], config, &metrics, stop).await?;
    if let Some(health) = gateway.health() {
        pipeline.watch(health);
    }
    let (gateway_config, gateway_stop) = (config.clone(), stop.clone());
    let mut gateway = tokio::spawn(async move { gateway.run(&gateway_config, gateway_stop).await });

    let result = tokio::select! {
        ended = &mut gateway => Err(unexpected("the gateway", ended.map_err(Into::into).flatten())),
        ended = pipeline.ended() => Err(unexpected("the pipeline", ended)),
        error = deployment.servers.failure() => Err(error.into()),
        result = show(context, deployment, stop, started, demo) => result,
    };
    let asked = stop.is_cancelled();
    stop.cancel();
    let drained = async {
        if !gateway.is_finished() {
            let _ = gateway.await;
        }
        pipeline.join().await;
    };
    if tokio::time::timeout(STOP_LIMIT, drained).await.is_err() {
        tracing::warn!(
            "services did not stop in time; what they had in hand is redelivered after the next start"
        );
    }
    if asked { Ok(()) } else { result }
}

/// Waits until everything is ready, shows it, and then waits for the stop.
async fn show(
    context: &Context,
    deployment: &Deployment,
    stop: &CancellationToken,
    started: Instant,
    demo: bool,
) -> anyhow::Result<()> {
    let client = Client::at(&page::url_of(deployment.address), &deployment.api_key)?;
    let ready = async {
        while !client.is_ready().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = tokio::time::timeout(READY_LIMIT, ready) => {
            ready.map_err(|_| anyhow!("not ready after {} s; see /health", READY_LIMIT.as_secs()))?;
        }
    }
    let took = started.elapsed();
    if demo {
        context.output.note(&format!("Riacho is ready after {:.1} s.", took.as_secs_f64()));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            shown = demo::run(context.output, &client) => shown?,
        }
    }
    page::print(context.output, deployment, took);
    stop.cancelled().await;
    context.output.note("stopping");
    Ok(())
}

fn unexpected(what: &str, ended: anyhow::Result<()>) -> anyhow::Error {
    ended.err().unwrap_or_else(|| anyhow!("{what} ended by itself"))
}

/// The address that the gateway will listen on: checked before anything is started, with a free port
/// in place of port 0.
fn free_address(listen: &str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).map_err(|error| {
        let text = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("address {listen} is taken; choose another with --listen HOST:PORT")
            }
            _ => format!("cannot listen on {listen}: {error}"),
        };
        Failure::new(Kind::Failed, text)
    })?;
    listener.local_addr().context("cannot listen")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_taken_port_is_said_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = free_address(&taken.local_addr().unwrap().to_string()).unwrap_err().to_string();
        assert!(error.contains("is taken") && error.contains("--listen"), "{error}");
        assert_ne!(free_address("127.0.0.1:0").unwrap().port(), 0);
    }
}
