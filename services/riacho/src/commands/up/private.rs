//! The private servers of a data directory, started unless the configuration names others.

use riacho_local::{Options, Servers};

use crate::{
    config::Settings,
    data_dir::DataDir,
    exit::{Failure, Kind},
};

/// Starts what nobody else runs, and tells the settings where it is.
pub(super) async fn start(data_dir: &DataDir, settings: &mut Settings) -> anyhow::Result<Servers> {
    let redis = !settings.has("redis.url")?;
    let postgres = !settings.has("database.url")?;
    let options = Options { redis, postgres, ..Options::default() };
    let servers = Servers::start(data_dir.path(), &options)
        .await
        .map_err(|error| Failure::error(Kind::Failed, error.to_string()))?;
    if let Some(url) = servers.redis_url() {
        settings.set("redis.url", &url);
    }
    if let Some(url) = servers.database_url() {
        settings.set("database.url", &url);
    }
    settings.set_default("objects.directory", &data_dir.objects().to_string_lossy())?;
    Ok(servers)
}

/// What other commands need to know to work on the same servers. The sockets stand in directories of
/// their owner, so the addresses are no secrets.
pub(super) fn settings_for_others(servers: &Servers, data_dir: &DataDir) -> Vec<(String, String)> {
    let known = [
        ("redis.url", servers.redis_url()),
        ("database.url", servers.database_url()),
        ("objects.directory", Some(data_dir.objects().to_string_lossy().into_owned())),
    ];
    known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
