//! `riacho tenant create|list|suspend|resume|weight|limits|spend|export|delete`.

use riacho_store::{Role, Tenant};
use serde_json::json;

use super::{Context, store_failure};
use crate::cli::TenantCommand;

mod export;
mod limits;
mod spend;

pub(super) async fn run(context: &Context, command: TenantCommand) -> anyhow::Result<()> {
    if let TenantCommand::Export { id, to } = command {
        return export::run(context, &id, &to).await;
    }
    if let TenantCommand::Limits(asked) = command {
        return limits::run(context, asked).await;
    }
    if let TenantCommand::Spend { id, months } = command {
        return spend::run(context, id, months).await;
    }
    let store = context.store(Role::Janitor).await?;
    let show = |tenant: &Tenant, done: &str| {
        context.output.result(tenant, || format!("tenant {} {done}", tenant.id))
    };
    match command {
        TenantCommand::Create { id, name } => {
            let name = name.unwrap_or_else(|| id.to_string());
            show(
                &store.create_tenant(&id, &name).await.map_err(store_failure)?,
                "is made; next: riacho key create --tenant",
            );
        }
        TenantCommand::List => {
            let tenants = store.tenants().await.map_err(store_failure)?;
            context.output.list(&tenants, &["id", "name", "state", "weight", "created"], |tenant| {
                let state = json!(tenant.state).as_str().unwrap_or_default().to_owned();
                let (weight, created) = (tenant.weight.to_string(), super::time(Some(tenant.created_at)));
                vec![tenant.id.to_string(), tenant.name.clone(), state, weight, created]
            });
        }
        TenantCommand::Suspend { id } => {
            show(&store.suspend_tenant(&id).await.map_err(store_failure)?, "is suspended")
        }
        TenantCommand::Resume { id } => {
            show(&store.resume_tenant(&id).await.map_err(store_failure)?, "is active")
        }
        TenantCommand::Weight { id, weight } => {
            let tenant = store.set_tenant_weight(&id, weight).await.map_err(store_failure)?;
            show(&tenant, &format!("has the weight {weight}"));
        }
        TenantCommand::Delete { id, yes: _ } => {
            let tenant = store.delete_tenant(&id).await.map_err(store_failure)?;
            show(&tenant, "is deleted; the janitor removes its data");
        }
        TenantCommand::Export { .. } | TenantCommand::Limits(_) | TenantCommand::Spend { .. } => {}
    }
    Ok(())
}
