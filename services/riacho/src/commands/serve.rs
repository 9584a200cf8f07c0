//! `riacho ingest-gateway`, `extractor`, `embedder`, `indexer`, `janitor` and `work`: services as processes.

use crate::{
    cli::{Listen, Work, Worker},
    commands::Context,
    services::{Service, run_process},
};

pub(super) async fn gateway(context: &Context, listen: Listen) -> anyhow::Result<()> {
    let mut config = context.config()?;
    if let Some(address) = listen.listen {
        config.http.listen = address;
    }
    run_process(&[Service::Gateway], config).await
}

pub(super) async fn worker(context: &Context, worker: Worker) -> anyhow::Result<()> {
    run_process(&[Service::Worker(worker)], context.config()?).await
}

pub(super) async fn workers(context: &Context, work: Work) -> anyhow::Result<()> {
    let mut services = Vec::new();
    for worker in work.stages {
        let service = Service::Worker(worker);
        if !services.contains(&service) {
            services.push(service);
        }
    }
    run_process(&services, context.config()?).await
}
