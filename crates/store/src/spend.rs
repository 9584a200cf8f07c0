//! What embeddings cost, by tenant, month and model; and the budgets of a month.
//!
//! Months are those of UTC, by the database's clock. A budget that is used up lets the tenant's documents wait
//! for the next month: the janitor measures it as it measures quotas, and what is in flight then is finished.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use futures::future::join_all;
use riacho_domain::TenantId;
use serde::Serialize;
use tokio_postgres::Row;

use crate::{
    Error, Limits, Store, read,
    stages::SET_TENANT,
    transaction::{Param, Scope},
};

/// Nanos, thousand-millionths, of a hundredth of the currency.
const NANOS_A_CENT: u64 = 10_000_000;

/// What was embedded, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Spent {
    /// Texts, of documents and of queries.
    pub texts: u64,
    /// Tokens, as the model counted them.
    pub tokens: u64,
    /// Requests to the model that carried texts of the tenant.
    pub requests: u64,
    /// Thousand-millionths of the currency that prices are in.
    pub money_nanos: u64,
}

impl Spent {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            texts: self.texts.saturating_add(other.texts),
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
            money_nanos: self.money_nanos.saturating_add(other.money_nanos),
        }
    }

    /// The amount in the currency that prices are in.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // for people
    pub fn money(&self) -> f64 {
        self.money_nanos as f64 / 1e9
    }

    /// The budgets of `limits` that are used up by what was spent in the month.
    #[must_use]
    pub fn over(&self, limits: &Limits) -> Vec<Budget> {
        let is_over = |used: u64, most: u64| most > 0 && used >= most;
        Budget::ALL
            .into_iter()
            .filter(|budget| match budget {
                Budget::Tokens => is_over(self.tokens, limits.embedding_tokens_per_month),
                Budget::Money => {
                    is_over(self.money_nanos, limits.embedding_cents_per_month.saturating_mul(NANOS_A_CENT))
                }
            })
            .collect()
    }

    fn read(row: &Row) -> Result<Self, Error> {
        let of = |column: &str| Ok::<_, Error>(read::size_opt(row, column)?.unwrap_or(0));
        Ok(Self {
            texts: of("texts")?,
            tokens: of("tokens")?,
            requests: of("requests")?,
            money_nanos: of("money_nanos")?,
        })
    }
}

/// A budget of a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Tokens.
    Tokens,
    /// Money.
    Money,
}

impl Budget {
    /// All budgets.
    pub const ALL: [Budget; 2] = [Budget::Tokens, Budget::Money];

    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Budget::Tokens => "tokens",
            Budget::Money => "money",
        }
    }

    /// Reads those that are used up from a tenant's row.
    pub(crate) fn read(row: &Row) -> Result<Vec<Budget>, Error> {
        let names: Vec<String> = row.try_get("over_budget")?;
        let of = |name: &String| Budget::ALL.into_iter().find(|budget| budget.as_str() == name);
        names.iter().map(|name| of(name).ok_or_else(|| Error::Row(format!("a budget of {name}")))).collect()
    }
}

/// What was spent by tenant and model, to be added to the present month.
pub type Spending = BTreeMap<(TenantId, String), Spent>;

/// What a tenant spent on a model in a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MonthSpent {
    /// The tenant.
    pub tenant: TenantId,
    /// The first day of the month.
    pub month: NaiveDate,
    /// The model's id.
    pub model: String,
    /// How much.
    #[serde(flatten)]
    pub spent: Spent,
}

impl Store {
    /// Adds to what was spent in the present month. What a tenant spent that is gone is forgotten.
    pub async fn add_spending(&self, spending: &Spending) -> Result<(), Error> {
        let mut tenants: BTreeMap<&TenantId, Columns<'_>> = BTreeMap::new();
        for ((tenant, model), spent) in spending {
            tenants.entry(tenant).or_default().push(model, spent);
        }
        if tenants.is_empty() {
            return Ok(());
        }
        let tenants = &tenants;
        self.transaction(Scope::all("add_spending").relaxed(), |tx| async move {
            tx.prepare(&[SET_TENANT, ADD]).await?;
            // In the order of the tenants and models, as everybody takes these rows: one after the other.
            for (tenant, columns) in tenants {
                let id = tenant.as_str();
                let set: [Param<'_>; 1] = [&id];
                let add = columns.params(&id);
                let (set, added) = futures::join!(tx.query(SET_TENANT, &set), tx.execute(ADD, &add));
                set?;
                added?;
            }
            Ok(())
        })
        .await
    }

    /// What a tenant spent in the present month, on all models.
    pub async fn spent_this_month(&self, tenant: &TenantId) -> Result<Spent, Error> {
        let months = self.spending(tenant, 1).await?;
        Ok(months.into_iter().fold(Spent::default(), |all, month| all.and(month.spent)))
    }

    /// What a tenant spent in the last `months` months, the present one included, the newest first.
    pub async fn spending(&self, tenant: &TenantId, months: u32) -> Result<Vec<MonthSpent>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &read::signed(months.clamp(1, 1_200))];
        let rows = self.single(Scope::tenant("spending", tenant), MONTHS, &params).await?;
        rows.iter().map(month_spent).collect()
    }

    /// Writes down which budgets of a tenant are used up; answers whether that is new. The janitor's word.
    pub async fn set_over_budget(&self, id: &TenantId, over: &[Budget]) -> Result<bool, Error> {
        let names: Vec<&str> = over.iter().map(|budget| budget.as_str()).collect();
        let params: [Param<'_>; 2] = [&id.as_str(), &names];
        Ok(!self.single(Scope::all("set_over_budget"), SET_OVER_BUDGET, &params).await?.is_empty())
    }

    /// The present month, by its first day.
    pub async fn this_month(&self) -> Result<NaiveDate, Error> {
        let rows = self.single(Scope::all("this_month"), MONTH, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::Row("no month".into()))?;
        Ok(row.try_get("month")?)
    }
}

fn month_spent(row: &Row) -> Result<MonthSpent, Error> {
    Ok(MonthSpent {
        tenant: read::tenant(row, "tenant_id")?,
        month: row.try_get("month")?,
        model: row.try_get("model")?,
        spent: Spent::read(row)?,
    })
}

/// What a tenant spent, column by column.
#[derive(Default)]
struct Columns<'a> {
    models: Vec<&'a str>,
    texts: Vec<i64>,
    tokens: Vec<i64>,
    requests: Vec<i64>,
    money: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, model: &'a str, spent: &Spent) {
        self.models.push(model);
        self.texts.push(read::signed_size(spent.texts));
        self.tokens.push(read::signed_size(spent.tokens));
        self.requests.push(read::signed_size(spent.requests));
        self.money.push(read::signed_size(spent.money_nanos));
    }

    fn params<'p>(&'p self, tenant: &'p &str) -> [Param<'p>; 6] {
        [tenant, &self.models, &self.texts, &self.tokens, &self.requests, &self.money]
    }
}

const ADD: &str = "-- store::spend::add_spending
INSERT INTO embedding_spend AS s (tenant_id, month, model, texts, tokens, requests, money_nanos)
SELECT $1, date_trunc('month', now() AT TIME ZONE 'UTC')::date, model, texts, tokens, requests, money
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS new (model, texts, tokens, requests, money)
WHERE EXISTS (SELECT FROM tenants WHERE id = $1)
ON CONFLICT (tenant_id, month, model) DO UPDATE
SET texts = s.texts + excluded.texts, tokens = s.tokens + excluded.tokens, requests = s.requests + excluded.requests,
    money_nanos = s.money_nanos + excluded.money_nanos";

const MONTHS: &str = "-- store::spend::spending
SELECT tenant_id, month, model, texts, tokens, requests, money_nanos FROM embedding_spend
WHERE tenant_id = $1 AND month > date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => $2)
ORDER BY month DESC, model";

const MONTH: &str = "-- store::spend::this_month
SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month";

const SET_OVER_BUDGET: &str = "-- store::spend::set_over_budget
UPDATE tenants SET over_budget = $2 WHERE id = $1 AND over_budget <> $2 RETURNING id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[ADD, MONTHS, MONTH, SET_OVER_BUDGET];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_when_it_is_reached_and_zero_is_none() {
        let spent = Spent { tokens: 1_000, money_nanos: 2 * NANOS_A_CENT, ..Spent::default() };
        let limits = |tokens, cents| Limits {
            embedding_tokens_per_month: tokens,
            embedding_cents_per_month: cents,
            ..Limits::default()
        };
        assert_eq!(spent.over(&limits(0, 0)), []);
        assert_eq!(spent.over(&limits(1_001, 3)), []);
        assert_eq!(spent.over(&limits(1_000, 3)), [Budget::Tokens]);
        assert_eq!(spent.over(&limits(1, 2)), [Budget::Tokens, Budget::Money]);
        assert!((spent.money() - 0.02).abs() < 1e-12);
    }
}
