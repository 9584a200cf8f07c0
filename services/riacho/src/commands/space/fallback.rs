//! `riacho space fallback`.

use riacho_models::{Config as ModelsConfig, Model, Models, Provider};
use riacho_store::{Conflict, Error, Role, Space};

use super::super::{Context, store_failure};
use crate::{
    cli::FallbackId,
    exit::{Failure, Kind},
};

pub(super) async fn run(context: &Context, id: Option<FallbackId>, force: bool) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let space = match id {
        None => store.fallback_space().await.map_err(store_failure)?,
        Some(FallbackId(id)) => {
            if let Some(id) = id {
                let spaces = store.spaces().await.map_err(store_failure)?;
                let space = spaces.into_iter().find(|space| space.id == id);
                check_local(&context.config()?.models, &space.ok_or_else(unknown)?).await?;
            }
            match store.set_fallback(id, force).await {
                Err(Error::Conflict(conflict @ Conflict::FallbackInUse { .. })) => {
                    return Err(Failure::error(Kind::Failed, format!("{conflict}; --force does it anyway")));
                }
                space => space.map_err(store_failure)?,
            }
        }
    };
    context.output.result(&space, || match &space {
        None => "there is no fallback space: over their budget, documents of all tenants wait".to_owned(),
        Some(Space { id, model, .. }) => format!(
            "space {id}, {model}, is the fallback: documents of tenants whose limit `over_budget` is `local` go there while a budget of \
             theirs is used up"
        ),
    });
    Ok(())
}

fn unknown() -> anyhow::Error {
    store_failure(Error::NotFound("embedding space"))
}

/// What goes on over a budget must cost nothing: the model has to be a local one.
async fn check_local(section: &ModelsConfig, space: &Space) -> anyhow::Result<()> {
    let owned = section.clone();
    let models = tokio::task::spawn_blocking(move || Models::load(&owned)).await??;
    let is_of =
        |model: &dyn Model| model.id() == space.model && model.dimensions() == space.dimensions as usize;
    let mut local = section
        .spaces
        .iter()
        .filter(|(_, section)| section.provider == Provider::Local)
        .filter_map(|(name, _)| models.named(name))
        .chain((section.provider == Provider::Local).then(|| models.first()));
    if local.any(|model| is_of(&**model)) {
        return Ok(());
    }
    let Space { id, model, .. } = space;
    let text = format!(
        "space {id} is of {model}, which is no configured local model: a fallback is the space of a section `models.spaces.NAME` with \
         provider \"local\""
    );
    Err(Failure::error(Kind::Usage, text))
}
