//! Prints the OpenAPI document of the API, as it stands in `schemas/openapi.json`.

use std::io::Write;

fn main() -> anyhow::Result<()> {
    std::io::stdout().write_all(riacho_ingest_gateway::openapi_json()?.as_bytes())?;
    Ok(())
}
