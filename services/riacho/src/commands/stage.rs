//! `riacho stage list|pause|resume`.

use std::time::Duration;

use riacho_domain::StageName;
use riacho_store::{Pause, Role};
use riacho_streams::{StageFigures, Streams};
use serde_json::{Value, json};

use super::{Context, store_failure};
use crate::cli::StageCommand;

/// How long the figures of the streams are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &Context, command: StageCommand) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    match command {
        StageCommand::List => list(context, &store).await?,
        StageCommand::Pause { stage, reason } => {
            let pause = store.pause_stage(stage, context.actor().as_str(), &reason).await;
            let pause = pause.map_err(store_failure)?;
            context.output.result(&pause, || {
                let since = super::time(Some(pause.since));
                format!(
                    "{stage} is paused since {since} by {}; its replicas follow within a second",
                    pause.by
                )
            });
        }
        StageCommand::Resume { stage } => {
            let ended = store.resume_stage(stage, context.actor().as_str()).await.map_err(store_failure)?;
            let was = json!({ "stage": stage, "was_paused": ended.is_some() });
            context.output.result(&was, || match ended {
                Some(pause) => {
                    format!("{stage} is resumed; it was paused since {}", super::time(Some(pause.since)))
                }
                None => format!("{stage} was not paused"),
            });
        }
    }
    Ok(())
}

async fn list(context: &Context, store: &riacho_store::Store) -> anyhow::Result<()> {
    let paused = store.paused_stages().await.map_err(store_failure)?;
    let partitions = store.partitions().await.map_err(store_failure)?;
    let partitions: Vec<u16> = partitions.iter().map(|partition| partition.partition).collect();
    let redis = context.config()?.redis;
    let figures = tokio::time::timeout(PATIENCE, figures(&redis, &partitions)).await;
    // Whether a stage is paused is known without Redis.
    let figures = match figures {
        Ok(Ok(figures)) => figures.map(Some),
        Ok(Err(_)) | Err(_) => {
            context.output.note("redis cannot be reached: no figures");
            [const { None }; 3]
        }
    };
    let rows = StageName::ALL.iter().zip(figures).map(|(stage, figures)| {
        row(*stage, paused.iter().find(|pause| pause.stage == *stage), figures.as_ref())
    });
    let header = ["stage", "state", "since", "by", "reason", "backlog", "pending", "consumers"];
    context.output.list(&rows.collect::<Vec<_>>(), &header, |row| {
        let text = |key: &str| row[key].as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
        let number =
            |key: &str| row[key].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let since = super::time(row["since"].as_str().and_then(|time| time.parse().ok()));
        let (backlog, pending, consumers) = (number("backlog"), number("pending"), number("consumers"));
        vec![text("stage"), text("state"), since, text("by"), text("reason"), backlog, pending, consumers]
    });
    Ok(())
}

async fn figures(
    redis: &riacho_streams::Config,
    partitions: &[u16],
) -> Result<[StageFigures; 3], riacho_streams::Error> {
    let streams = Streams::connect(redis).await?;
    let mut all = <[StageFigures; 3]>::default();
    for (stage, figures) in StageName::ALL.into_iter().zip(&mut all) {
        *figures = streams.figures(stage, partitions).await?;
    }
    Ok(all)
}

fn row(stage: StageName, pause: Option<&Pause>, figures: Option<&StageFigures>) -> Value {
    json!({
        "stage": stage, "state": if pause.is_some() { "paused" } else { "runs" },
        "since": pause.map(|pause| pause.since), "by": pause.map(|pause| &pause.by),
        "reason": pause.map(|pause| &pause.reason),
        "backlog": figures.map(|figures| figures.backlog), "pending": figures.map(|figures| figures.pending),
        "consumers": figures.map(|figures| figures.consumers_alive),
    })
}
