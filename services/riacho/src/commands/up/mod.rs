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
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use riacho_local::Servers;
use riacho_models::Models;
use riacho_service::{Metrics, Resources, health::Need};
use riacho_store::Role;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::{
    cli,
    client::Client,
    config::{Config, Settings},
    data_dir::{DataDir, Running},
    exit::{Failure, Kind},
};

/// How long the services may take to say that they are ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a probe waits for the workers; less than a probe may take.
const PIPELINE_PROBE: Duration = Duration::from_secs(2);
/// How long they may take to stop. What was in hand is redelivered after the next start.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long running events may finish after Ctrl-C: somebody waits at the terminal.
const GRACE_SECONDS: &str = "4";

/// What a start has found out.
struct Deployment<'s> {
    data_dir: DataDir,
    config: Config,
    address: SocketAddr,
    servers: &'s Servers,
    api_key: String,
}

impl Deployment<'_> {
    /// Lets other commands find this deployment.
    fn tell_others(&self) -> anyhow::Result<()> {
        let settings = private::settings_for_others(self.servers, &self.data_dir);
        let url = page::url_of(self.address);
        self.data_dir.write_running(&Running { pid: std::process::id(), url, settings })
    }
}

/// What the services start from.
struct Plan {
    listener: TcpListener,
    models: Models,
    metrics: Metrics,
    started: Instant,
    demo: bool,
}

pub(super) async fn run(context: &Context, arguments: cli::Up) -> anyhow::Result<()> {
    let started = Instant::now();
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let mut settings = Settings::new(&context.global);
    if arguments.private {
        settings.leave_out_servers();
    }
    settings.set_default("log.format", "text")?;
    settings.set_default("log.filter", "warn")?;
    settings.set_default("stage.grace_seconds", GRACE_SECONDS)?;
    settings.set_default("gateway.grace_seconds", GRACE_SECONDS)?;
    if let Some(listen) = arguments.listen.listen {
        settings.set("http.listen", &listen);
    }
    // A wrong configuration or a taken port shall not start a database first.
    let config = settings.clone().load()?;
    let listener = listen(&config.http.listen).await?;
    let address = listener.local_addr().context("cannot listen")?;
    settings.set("http.listen", &address.to_string());
    let metrics = riacho_service::telemetry::init(&config.log, &config.traces, &[])?;

    let data_dir = context.data_dir().create()?;
    // Reading a model's files takes as long as starting the servers, and blocks.
    let section = config.models.clone();
    let models = tokio::task::spawn_blocking(move || Models::load(&section));
    let servers = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        servers = private::start(&data_dir, &mut settings) => servers?,
    };
    let prepared = tokio::select! {
        () = stop.cancelled() => Ok(None),
        prepared = prepare(settings, &data_dir, models) => prepared.map(Some),
    };
    let result = match prepared {
        Ok(Some((config, models, api_key))) => {
            let deployment = Deployment { data_dir, config, address, servers: &servers, api_key };
            let plan = Plan { listener, models, metrics, started, demo: arguments.demo };
            serve(context, &deployment, plan, &stop).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    servers.stop().await;
    context.output.note("stopped");
    result
}

async fn prepare(
    settings: Settings,
    data_dir: &DataDir,
    models: JoinHandle<Result<Models, riacho_models::Error>>,
) -> anyhow::Result<(Config, Models, String)> {
    let config = identity::settle(settings, data_dir)?;
    identity::migrate(&config).await?;
    let models = models.await?.context("embedding model")?;
    let api_key = identity::ensure(&config, &models, data_dir).await?;
    Ok((config, models, api_key))
}

/// Runs the services until `stop`, or until one of them ends or a server cannot be kept running.
async fn serve(
    context: &Context,
    deployment: &Deployment<'_>,
    plan: Plan,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    deployment.tell_others()?;
    let config = &deployment.config;
    let mut pipeline = pipeline::Pipeline::spawn(
        config.clone(),
        is_private(deployment),
        plan.metrics.clone(),
        stop.clone(),
    )?;
    let (started, demo) = (plan.started, plan.demo);
    let mut gateway = tokio::spawn(gateway(config.clone(), plan, pipeline.connected(), stop.clone()));

    let result = tokio::select! {
        ended = &mut gateway => Err(unexpected("the gateway", ended.map_err(Into::into).flatten())),
        ended = pipeline.ended() => Err(unexpected("the pipeline", ended)),
        error = deployment.servers.supervise() => Err(error.into()),
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
        tracing::warn!("services did not stop in time; what they had in hand is redelivered");
    }
    deployment.data_dir.clear_running();
    if asked { Ok(()) } else { result }
}

/// Whether every connection of the workers is to the PostgreSQL that this process runs.
fn is_private(deployment: &Deployment<'_>) -> bool {
    let database = &deployment.config.database;
    deployment.servers.database_url().is_some()
        && database.read_url.is_none()
        && database.janitor_url.is_none()
}

/// The gateway, on the listener that was taken first and with the models that were loaded for the space.
async fn gateway(
    config: Config,
    plan: Plan,
    pipeline: watch::Receiver<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let core = config.core();
    let resources = match Resources::connect(&core, Role::Service, plan.metrics, &stop).await {
        Err(_) if stop.is_cancelled() => return Ok(()),
        resources => resources?,
    };
    // The process is ready once its workers are connected too.
    resources.health.add("pipeline", Need::Required, move || {
        let mut pipeline = pipeline.clone();
        Box::pin(async move {
            // Waiting within the probe makes the process ready at the moment, not at the next probe.
            let connected = pipeline.wait_for(|connected| *connected);
            match tokio::time::timeout(PIPELINE_PROBE, connected).await {
                Ok(Ok(_)) => Ok(()),
                _ => Err("not connected".to_owned()),
            }
        })
    });
    riacho_ingest_gateway::serve(config.gateway, &core, resources, plan.models, plan.listener, stop).await;
    Ok(())
}

/// Waits until everything is ready, shows it, and then waits for the stop.
async fn show(
    context: &Context,
    deployment: &Deployment<'_>,
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

/// Takes the gateway's address. A client that comes before everything runs waits, and is not refused.
async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let text = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("address {address} is taken; choose another with --listen HOST:PORT")
            }
            _ => format!("cannot listen on {address}: {error}"),
        };
        Failure::error(Kind::Failed, text)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_said_with_the_flag_that_helps() {
        let taken = listen("127.0.0.1:0").await.unwrap();
        let error = listen(&taken.local_addr().unwrap().to_string()).await.unwrap_err().to_string();
        assert!(error.contains("is taken") && error.contains("--listen"), "{error}");
    }
}
