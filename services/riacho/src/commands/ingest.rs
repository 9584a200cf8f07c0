//! `riacho ingest PATH..`: files and folders into the deployment.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    cli,
    client::{Client, Target},
    commands::Context,
    exit::{Failure, Kind},
    sync::{Options, Scope, StateAt, begin},
};

pub(super) async fn run(context: &Context, arguments: cli::Ingest) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server, &context.data_dir())?;
    let scope = Scope::new(&arguments.paths, &arguments.include, &arguments.exclude);
    let scope = scope.map_err(|text| Failure::error(Kind::Usage, text))?;
    let options = Options {
        target: Target { collection: arguments.collection, lane: arguments.lane },
        concurrency: usize::from(arguments.concurrency),
        wait: !arguments.no_wait,
        by_path: arguments.by_path,
        watch: arguments.watch,
        delete: arguments.delete,
        max_delete: arguments.max_delete,
        adopt: arguments.adopt,
        settle: Duration::from_secs_f64(arguments.settle),
        rescan: Duration::from_secs_f64(arguments.rescan),
    };
    let state = match arguments.state {
        _ if arguments.no_state => StateAt::Nowhere,
        Some(file) => StateAt::File(file),
        None => StateAt::Default,
    };
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let ended = begin(&client, scope, options, state, context.output, stop).await?;
    context.output.result(&ended.summary, || ended.summary.text());
    match ended.was_interrupted {
        true => Err(Failure::silent(Kind::Interrupted)),
        false if ended.summary.failed + ended.summary.kept > 0 => Err(Failure::silent(Kind::Failed)),
        false => Ok(()),
    }
}
