//! `riacho space list|create|fill|compare|switch|fallback|drop`.

mod compare;
mod fallback;
mod switch;

use std::{fmt::Write as _, time::Duration};

use riacho_domain::SpaceId;
use riacho_models::{Model, Models};
use riacho_store::{Missing, Role, Space, SpaceState, Store};
use serde::Serialize;

use super::{Context, store_failure};
use crate::{
    cli::{FillSpace, SpaceCommand},
    config::Config,
    exit::{Failure, Kind},
};

/// Between two looks at a space that is waited for.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, command: SpaceCommand) -> anyhow::Result<()> {
    match command {
        SpaceCommand::List => list(context).await,
        SpaceCommand::Create { model, per_second } => create(context, &model, per_second).await,
        SpaceCommand::Fill(arguments) => fill(context, &arguments).await,
        SpaceCommand::Compare(arguments) => compare::run(context, arguments).await,
        SpaceCommand::Switch { id, wait, force } => {
            switch::run(context, id, Duration::from_secs(wait), force).await
        }
        SpaceCommand::Fallback { id, force } => fallback::run(context, id, force).await,
        SpaceCommand::Drop { id, yes: _ } => {
            let space = context.store(Role::Janitor).await?.retire_space(id).await.map_err(store_failure)?;
            context.output.result(&space, || {
                format!("space {id} is given up; the janitor removes its vectors after the grace of purges")
            });
            Ok(())
        }
    }
}

/// The space that documents are searched in. Where there is none, that of the first model is made; where
/// it is of a model that is not configured, nothing would work.
pub(super) async fn live_space(config: &Config, models: &Models) -> anyhow::Result<Space> {
    let first = models.first();
    let dimensions = u32::try_from(first.dimensions())?;
    let space = riacho_store::ensure_live_space(&config.database, first.id(), dimensions);
    let space = space.await.map_err(store_failure)?;
    if models.of(&space.model, space.dimensions).is_none() {
        let text = format!(
            "the documents are embedded with {} ({} dimensions, space {}), which is not configured: keep it as `models` or \
             `models.spaces.NAME`, and see docs/operations/models.md for how to change the model",
            space.model, space.dimensions, space.id
        );
        return Err(Failure::error(Kind::Usage, text));
    }
    Ok(space)
}

/// A space as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    space: Space,
    /// What it lacks.
    missing: Missing,
    /// Share of the chunks that are to be filled in and are; none while nobody knows.
    progress: Option<f64>,
    /// Documents on their way that are embedded for it.
    in_flight: u64,
}

async fn shown(store: &Store) -> anyhow::Result<Vec<Shown>> {
    let (spaces, missing, pinned) =
        tokio::try_join!(store.spaces(), store.missing(None), store.pinned_releases())
            .map_err(store_failure)?;
    let one = |space: Space| {
        let missing = missing.get(&space.id).copied().unwrap_or_default();
        let in_flight = pinned.get(&space.id).copied().unwrap_or(0);
        Shown { progress: progress(&space, missing), in_flight, missing, space }
    };
    Ok(spaces.into_iter().map(one).collect())
}

#[allow(clippy::cast_precision_loss)] // a share for people
fn progress(space: &Space, missing: Missing) -> Option<f64> {
    if !space.is_seeded || !is_filled(space) {
        return None;
    }
    let all = space.filled + missing.chunks;
    Some(if missing.chunks == 0 { 1.0 } else { space.filled as f64 / all as f64 })
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let spaces = shown(&context.store(Role::Janitor).await?).await?;
    let usual = context.config()?.janitor.fill_per_second;
    let header = [
        "id",
        "model",
        "dimensions",
        "state",
        "filled",
        "missing",
        "documents",
        "on their way",
        "a second",
        "",
    ];
    context.output.list(&spaces, &header, |Shown { space, missing, progress, in_flight }| {
        let filled = progress.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0));
        let rate = match (space.state, space.per_second) {
            (SpaceState::Live | SpaceState::Fallback | SpaceState::Retired, _) => "-".to_owned(),
            (_, rate) => rate.unwrap_or(usual).to_string(),
        };
        vec![
            space.id.to_string(),
            space.model.clone(),
            space.dimensions.to_string(),
            space.state.as_str().to_owned(),
            filled,
            missing.chunks.to_string(),
            missing.documents.to_string(),
            in_flight.to_string(),
            rate,
            remark(space, *missing),
        ]
    });
    Ok(())
}

/// Whether what is missing in a space is filled in.
fn is_filled(space: &Space) -> bool {
    !matches!(space.state, SpaceState::Fallback | SpaceState::Retired)
}

/// What else a person wants to know of a space.
fn remark(space: &Space, missing: Missing) -> String {
    let mut text = String::new();
    if is_filled(space) && !space.is_seeded {
        text.push_str("documents are being looked through; ");
    }
    if missing.refused > 0 {
        let _ = write!(text, "its model refuses chunks of {} documents; ", missing.refused);
    }
    if missing.over_budget > 0 {
        let _ = write!(text, "{} documents wait for their tenant's budget; ", missing.over_budget);
    }
    if space.per_second == Some(0) && is_filled(space) {
        text.push_str("paused; ");
    }
    if let Some(trouble) = &space.trouble {
        let _ = write!(text, "{trouble}; ");
    }
    text.trim_end_matches("; ").to_owned()
}

async fn create(context: &Context, name: &str, per_second: Option<u32>) -> anyhow::Result<()> {
    let config = context.config()?;
    let section = config.models.clone();
    let models = tokio::task::spawn_blocking(move || Models::load(&section)).await??;
    let model = find_model(&models, name)?;
    let dimensions = u32::try_from(model.dimensions())?;
    let space = riacho_store::ensure_space(&config.database, model.id(), dimensions).await;
    let space = space.map_err(store_failure)?;
    if per_second.is_some() {
        let store = context.store(Role::Janitor).await?;
        store.set_fill_rate(space.id, per_second).await.map_err(store_failure)?;
    }
    context.output.result(&space, || {
        let Space { id, model, dimensions, state, .. } = &space;
        let state = state.as_str();
        let rate = per_second.unwrap_or(config.janitor.fill_per_second);
        format!(
            "space {id}: {model}, {dimensions} dimensions, {state}\n\
             the janitor fills it with at most {rate} chunks a second; next: riacho space list"
        )
    });
    Ok(())
}

fn find_model<'m>(models: &'m Models, name: &str) -> anyhow::Result<&'m dyn Model> {
    let by_id = || models.all().find(|model| model.id() == name);
    let found = models.named(name).or_else(by_id).map(|model| &**model);
    found.ok_or_else(|| {
        let names: Vec<&str> = models.names().chain(models.all().map(|model| model.id())).collect();
        Failure::error(
            Kind::Usage,
            format!("there is no model {name:?}; configured are {}", names.join(", ")),
        )
    })
}

async fn fill(context: &Context, arguments: &FillSpace) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let rate = if arguments.pause { Some(0) } else { arguments.per_second };
    // Who only looks, or waits, changes no rate that somebody set.
    if rate.is_some() || arguments.usual_rate {
        store.set_fill_rate(arguments.id, rate).await.map_err(store_failure)?;
    }
    store.try_refused_again(arguments.id).await.map_err(store_failure)?;
    let mut told = String::new();
    loop {
        let space = find_shown(&store, arguments.id).await?;
        let is_complete = space.space.is_seeded && space.missing == Missing::default();
        let line = state_line(&space);
        if arguments.wait && !is_complete {
            let is_paused = space.space.per_second == Some(0) && space.space.state != SpaceState::Live;
            let Missing { documents, refused, over_budget, .. } = space.missing;
            if is_paused || !is_filled(&space.space) || documents > 0 && refused + over_budget >= documents {
                return Err(Failure::error(Kind::Failed, line));
            }
            if line != told {
                context.output.note(&line);
                told = line;
            }
            tokio::time::sleep(LOOK).await;
            continue;
        }
        context.output.result(&space, || line);
        return Ok(());
    }
}

async fn find_shown(store: &Store, id: SpaceId) -> anyhow::Result<Shown> {
    let found = shown(store).await?.into_iter().find(|shown| shown.space.id == id);
    found.ok_or_else(|| Failure::error(Kind::Failed, format!("there is no embedding space {id}")))
}

fn state_line(Shown { space, missing, progress, .. }: &Shown) -> String {
    let state = space.state.as_str();
    let share = match progress {
        Some(share) => format!("{:.1}% filled", share * 100.0),
        None => "not filled".to_owned(),
    };
    let mut line = format!(
        "space {}: {state}, {share}, {} chunks of {} documents are missing",
        space.id, missing.chunks, missing.documents
    );
    let remark = remark(space, *missing);
    if !remark.is_empty() {
        let _ = write!(line, "; {remark}");
    }
    line
}
