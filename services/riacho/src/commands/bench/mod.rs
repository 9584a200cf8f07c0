//! `riacho bench`: measurements of the parts of a deployment, on private servers where they need some.

mod bus;
mod extract;
mod hop;
mod raw;
mod redelivery;
mod server;

use super::Context;
use crate::cli::BenchCommand;

pub(super) async fn run(context: &Context, command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Bus(options) => bus::run(context, &options).await,
        BenchCommand::Extract(options) => extract::run(context, &options).await,
        BenchCommand::BusWorker { redis } => redelivery::work(&redis).await,
    }
}
