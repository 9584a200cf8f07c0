//! `riacho key create|list|revoke`.

use anyhow::bail;
use riacho_store::{KeyScope, NewKey, Role};
use serde_json::json;

use super::{Context, store_failure};
use crate::{
    cli::KeyCommand,
    exit::{Failure, Kind},
};

pub(super) async fn run(context: &Context, command: KeyCommand) -> anyhow::Result<()> {
    let store = context.store(Role::Service).await?;
    match command {
        KeyCommand::Create { of, name, scopes, expires_at } => {
            let scopes = scopes.iter().map(|scope| scope_of(scope)).collect::<anyhow::Result<Vec<_>>>()?;
            let new = NewKey { tenant: of.tenant, name, scopes, expires_at };
            let created = store.create_key(&new).await.map_err(store_failure)?;
            let secret = created.secret.expose();
            let mut value = serde_json::to_value(&created.key)?;
            value["secret"] = json!(secret);
            context.output.result(&value, || {
                format!(
                    "{secret}\n\nKey {} of tenant {}. The secret is not shown again.",
                    created.key.id, created.key.tenant
                )
            });
        }
        KeyCommand::List { of } => {
            let keys = store.keys(&of.tenant).await.map_err(store_failure)?;
            context.output.list(&keys, &["id", "name", "scopes", "created", "expires", "revoked"], |key| {
                let scopes = key.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let (expires, revoked) = (super::time(key.expires_at), super::time(key.revoked_at));
                vec![
                    key.id.clone(),
                    key.name.clone(),
                    scopes,
                    super::time(Some(key.created_at)),
                    expires,
                    revoked,
                ]
            });
        }
        KeyCommand::Revoke { of, id } => {
            if !store.revoke_key(&of.tenant, &id).await.map_err(store_failure)? {
                bail!("tenant {} has no key {id}, or it is revoked already", of.tenant);
            }
            context.output.result(&json!({ "id": id, "revoked": true }), || format!("revoked {id}"));
        }
    }
    Ok(())
}

fn scope_of(text: &str) -> anyhow::Result<KeyScope> {
    text.trim().parse().map_err(|_| {
        Failure::error(
            Kind::Usage,
            format!("scope {text:?} is none of documents:read, documents:write, search, admin, operator"),
        )
    })
}
