//! `riacho partitions list|set`.

use riacho_store::Role;

use super::{Context, store_failure};
use crate::cli::PartitionsCommand;

pub(super) async fn run(context: &Context, command: PartitionsCommand) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let partitions = match command {
        PartitionsCommand::List => store.partitions().await,
        PartitionsCommand::Set { count } => store.set_partitions(count).await,
    };
    let partitions = partitions.map_err(store_failure)?;
    context.output.list(&partitions, &["partition", "state"], |partition| {
        let state = if partition.active { "active" } else { "draining" };
        vec![partition.partition.to_string(), state.to_owned()]
    });
    Ok(())
}
