//! `riacho config print|check|schema`.

use serde_json::json;

use crate::{cli::ConfigCommand, commands::Context, config::Config};

pub(super) fn run(context: &Context, command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Print => {
            let config = context.config()?;
            context.output.result(&config, || riacho_service::config::redacted_toml(&config));
        }
        ConfigCommand::Check => {
            context.config()?;
            context.output.result(&json!({ "ok": true }), || "the configuration can be used".to_owned());
        }
        ConfigCommand::Schema => {
            let schema = riacho_service::config::json_schema::<Config>();
            context.output.raw(&serde_json::to_string_pretty(&schema)?);
        }
    }
    Ok(())
}
