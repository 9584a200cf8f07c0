//! `riacho migrate`: brings the schema to this binary's version, and makes the first space where there is none.

use riacho_models::Models;
use riacho_store::Role;
use serde_json::json;

use super::{Context, space::live_space, store_failure};
use crate::cli::Migrate;

pub(super) async fn run(context: &Context, arguments: &Migrate) -> anyhow::Result<()> {
    if arguments.check {
        context.store(Role::Service).await?;
        context.output.result(&json!({ "fits": true }), || "the schema is the one of this build".to_owned());
        return Ok(());
    }
    let config = context.config()?;
    let report = riacho_store::migrate::migrate(&config.database).await.map_err(store_failure)?;
    let models = Models::load(&config.models)?;
    let space = live_space(&config, &models).await?;
    let value = json!({
        "applied": report.applied, "at": report.at,
        "space": { "id": space.id, "model": space.model, "dimensions": space.dimensions },
    });
    context.output.result(&value, || {
        let applied = match report.applied.as_slice() {
            [] => "nothing to apply".to_owned(),
            names => format!("applied {}", names.join(", ")),
        };
        let (model, dimensions) = (&space.model, space.dimensions);
        format!(
            "schema at version {}: {applied}\nembedding space {}: {model}, {dimensions} dimensions",
            report.at, space.id
        )
    });
    Ok(())
}
