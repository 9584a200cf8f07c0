//! `riacho tenant spend`.

use riacho_domain::TenantId;
use riacho_store::{MonthSpent, Role};

use super::super::{Context, store_failure};

pub(super) async fn run(context: &Context, id: Option<TenantId>, months: u32) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let tenants = match id {
        Some(id) => {
            let missing = || store_failure(riacho_store::Error::NotFound("tenant"));
            vec![store.tenant(&id).await.map_err(store_failure)?.ok_or_else(missing)?]
        }
        None => store.tenants().await.map_err(store_failure)?,
    };
    let mut spent: Vec<MonthSpent> = Vec::new();
    for tenant in tenants {
        spent.extend(store.spending(&tenant.id, months).await.map_err(store_failure)?);
    }
    let columns = ["tenant", "month", "model", "purpose", "texts", "tokens", "requests", "money"];
    context.output.list(&spent, &columns, |one| {
        let MonthSpent { tenant, month, model, purpose, spent } = one;
        let numbers = [spent.texts, spent.tokens, spent.requests].map(|number| number.to_string());
        let mut row = vec![tenant.to_string(), month.format("%Y-%m").to_string(), model.clone()];
        row.push(purpose.as_str().to_owned());
        row.extend(numbers);
        row.push(format!("{:.4}", spent.money()));
        row
    });
    Ok(())
}
