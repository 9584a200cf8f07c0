//! `riacho migrate`: brings the schema to this binary's version, and makes the space of the configured model.

use serde_json::json;

use super::{Context, store_failure};

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let config = context.config()?;
    let report = riacho_store::migrate::migrate(&config.database).await.map_err(store_failure)?;
    let model = riacho_models::load(&config.models)?;
    let dimensions = u32::try_from(model.dimensions())?;
    let space =
        riacho_store::ensure_space(&config.database, model.id(), dimensions).await.map_err(store_failure)?;
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
