//! `riacho openapi`: the description of the HTTP interface, as it stands in `schemas/openapi.json`.

use super::Context;

pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    context.output.raw(&serde_json::to_string_pretty(&riacho_ingest_gateway::openapi())?);
    Ok(())
}
