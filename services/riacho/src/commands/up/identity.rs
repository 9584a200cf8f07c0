//! What a data directory has once: the schema, the default tenant, the development key, the secret
//! that signs uploads.

use anyhow::Context;
use rand::RngCore;
use riacho_models::Models;
use riacho_store::{Conflict, Error, KeyScope, NewKey, Role, Store, migrate};

use crate::{
    DEFAULT_TENANT,
    commands::space::live_space,
    config::{Config, Settings},
    data_dir::{DataDir, write_private},
};

/// The configuration in force, with the secret that signs uploads.
pub(super) fn settle(mut settings: Settings, data_dir: &DataDir) -> anyhow::Result<Config> {
    settings.set_default("objects.signing_secret", &signing_secret(data_dir)?)?;
    Ok(settings.load()?)
}

/// Brings the schema up to date.
pub(super) async fn migrate(config: &Config) -> anyhow::Result<()> {
    migrate::migrate(&config.database).await.context("cannot bring the schema up to date")?;
    Ok(())
}

/// Makes what is not there yet: the first space, the tenant, and the development key, which is given.
pub(super) async fn ensure(config: &Config, models: &Models, data_dir: &DataDir) -> anyhow::Result<String> {
    live_space(config, models).await?;
    development_key(config, data_dir).await
}

/// The key of the file, if the database knows it; else a new one, with all scopes.
async fn development_key(config: &Config, data_dir: &DataDir) -> anyhow::Result<String> {
    let mut database = config.database.clone();
    database.pool_size = 1;
    let store = Store::connect(&database, Role::Janitor).await?;
    let tenant = DEFAULT_TENANT.parse()?;
    store.ensure_tenant(&tenant, "Default").await?;
    if let Some(key) = DataDir::read(&data_dir.api_key()) {
        match store.authenticate(&key).await {
            // One that an earlier build made lacks the scope of operators.
            Ok(Some(principal)) if !principal.may(KeyScope::Operator) => {}
            // A suspended tenant keeps its key.
            Ok(Some(_)) | Err(Error::Conflict(Conflict::TenantNotActive)) => return Ok(key),
            Ok(None) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let scopes = vec![KeyScope::Admin, KeyScope::Operator];
    let new = NewKey { tenant, name: "development".into(), scopes, expires_at: None };
    let created = store.create_key(&new).await?;
    write_private(&data_dir.api_key(), created.secret.expose())?;
    Ok(created.secret.expose().to_owned())
}

fn signing_secret(data_dir: &DataDir) -> anyhow::Result<String> {
    let file = data_dir.signing_secret();
    if let Some(secret) = DataDir::read(&file) {
        return Ok(secret);
    }
    let mut random = [0u8; 32];
    rand::rng().fill_bytes(&mut random);
    let secret = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    write_private(&file, &secret)?;
    Ok(secret)
}
