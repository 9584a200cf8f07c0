//! What embeddings cost, by tenant, month and model; and the budgets of a month.
//!
//! Months are those of UTC, by the database's clock. A budget that is used up lets the tenant's documents wait
//! for the next month, or go on with the fallback space, as the tenant chose: the janitor measures it as it measures
//! quotas, and what is in flight then is finished. So does one of all tenants together, with the documents of all.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use riacho_domain::TenantId;
use serde::Serialize;
use tokio_postgres::Row;

use crate::{
    Error, Limits, OverBudget, Store, read,
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

    /// The tenant's budgets of `limits` that are used up by what it spent in the month.
    #[must_use]
    pub fn over(&self, limits: &Limits) -> Vec<Budget> {
        let most = (limits.embedding_tokens_per_month, limits.embedding_cents_per_month);
        self.reaches(most, [Budget::Tokens, Budget::Money])
    }

    /// The budgets of all tenants together that are used up by what these spent in the month. 0 is no budget.
    #[must_use]
    pub fn over_total(&self, tokens: u64, cents: u64) -> Vec<Budget> {
        self.reaches((tokens, cents), [Budget::TotalTokens, Budget::TotalMoney])
    }

    fn reaches(&self, (tokens, cents): (u64, u64), budgets: [Budget; 2]) -> Vec<Budget> {
        let is_over = |used: u64, most: u64| most > 0 && used >= most;
        let over =
            [is_over(self.tokens, tokens), is_over(self.money_nanos, cents.saturating_mul(NANOS_A_CENT))];
        budgets.into_iter().zip(over).filter_map(|(budget, is_over)| is_over.then_some(budget)).collect()
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
    /// Tokens of the tenant.
    Tokens,
    /// Money of the tenant.
    Money,
    /// Tokens of all tenants together.
    TotalTokens,
    /// Money of all tenants together.
    TotalMoney,
}

impl Budget {
    /// All budgets.
    pub const ALL: [Budget; 4] = [Budget::Tokens, Budget::Money, Budget::TotalTokens, Budget::TotalMoney];

    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Budget::Tokens => "tokens",
            Budget::Money => "money",
            Budget::TotalTokens => "total_tokens",
            Budget::TotalMoney => "total_money",
        }
    }

    /// Reads those that are used up from a tenant's row.
    pub(crate) fn read(row: &Row) -> Result<Vec<Budget>, Error> {
        let names: Vec<String> = row.try_get("over_budget")?;
        let of = |name: &String| Budget::ALL.into_iter().find(|budget| budget.as_str() == name);
        names.iter().map(|name| of(name).ok_or_else(|| Error::Row(format!("a budget of {name}")))).collect()
    }
}

/// What was embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Chunks of documents on their way, and what of these the live space lacks.
    Documents,
    /// Queries of searches.
    Queries,
    /// Stored chunks, for a space beside the live one: the operator's decision, which counts towards no budget.
    Spaces,
    /// Documents and queries for the fallback space, while a budget is used up. They count towards none.
    Fallback,
}

impl Purpose {
    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::Documents => "documents",
            Purpose::Queries => "queries",
            Purpose::Spaces => "spaces",
            Purpose::Fallback => "fallback",
        }
    }

    /// Whether what is spent for it counts towards budgets.
    const fn counts(self) -> bool {
        matches!(self, Purpose::Documents | Purpose::Queries)
    }

    fn read(row: &Row) -> Result<Self, Error> {
        let name: &str = row.try_get("purpose")?;
        let all = [Purpose::Documents, Purpose::Queries, Purpose::Spaces, Purpose::Fallback];
        let known = all.into_iter().find(|purpose| purpose.as_str() == name);
        known.ok_or_else(|| Error::Row(format!("a purpose of {name}")))
    }
}

/// What was spent by tenant, model and purpose, to be added to the present month.
pub type Spending = BTreeMap<(TenantId, String, Purpose), Spent>;

/// What a tenant spent on a model in a month, for one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MonthSpent {
    /// The tenant.
    pub tenant: TenantId,
    /// The first day of the month.
    pub month: NaiveDate,
    /// The model's id.
    pub model: String,
    /// What for.
    pub purpose: Purpose,
    /// How much.
    #[serde(flatten)]
    pub spent: Spent,
}

impl Store {
    /// Adds to what was spent in the present month. What a tenant spent that is gone is forgotten. What the fallback
    /// space's model embedded, documents and queries, is spent for [`Purpose::Fallback`]: who embeds need not know.
    pub async fn add_spending(&self, spending: &Spending) -> Result<(), Error> {
        let mut tenants: BTreeMap<&TenantId, Columns<'_>> = BTreeMap::new();
        for ((tenant, model, purpose), spent) in spending {
            tenants.entry(tenant).or_default().push(model, *purpose, spent);
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

    /// What a tenant spent of its budgets in the present month, on all models.
    pub async fn budget_spent(&self, tenant: &TenantId) -> Result<Spent, Error> {
        let months = self.spending(tenant, 1).await?;
        let counts = months.into_iter().filter(|month| month.purpose.counts());
        Ok(counts.fold(Spent::default(), |all, month| all.and(month.spent)))
    }

    /// What each tenant spent of its budgets in the present month. The janitor's role sees all.
    pub async fn budgets_spent(&self) -> Result<HashMap<TenantId, Spent>, Error> {
        let rows = self.single(Scope::all("budgets_spent"), BUDGETS, &[]).await?;
        rows.iter().map(|row| Ok((read::tenant(row, "tenant_id")?, Spent::read(row)?))).collect()
    }

    /// What a tenant spent by model and purpose in the last `months` months, the present one included, the newest first.
    pub async fn spending(&self, tenant: &TenantId, months: u32) -> Result<Vec<MonthSpent>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &read::signed(months.clamp(1, 1_200))];
        let rows = self.single(Scope::tenant("spending", tenant), MONTHS, &params).await?;
        rows.iter().map(month_spent).collect()
    }

    /// Writes down which budgets of a tenant are used up, and what becomes of its documents while some are; answers
    /// whether that is new. The janitor's word.
    pub async fn set_over_budget(
        &self,
        id: &TenantId,
        over: &[Budget],
        then: OverBudget,
    ) -> Result<bool, Error> {
        let names: Vec<&str> = over.iter().map(|budget| budget.as_str()).collect();
        let params: [Param<'_>; 3] = [&id.as_str(), &names, &(then == OverBudget::Local)];
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
        purpose: Purpose::read(row)?,
        spent: Spent::read(row)?,
    })
}

/// What a tenant spent, column by column.
#[derive(Default)]
struct Columns<'a> {
    models: Vec<&'a str>,
    purposes: Vec<&'a str>,
    texts: Vec<i64>,
    tokens: Vec<i64>,
    requests: Vec<i64>,
    money: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, model: &'a str, purpose: Purpose, spent: &Spent) {
        self.models.push(model);
        self.purposes.push(purpose.as_str());
        self.texts.push(read::signed_size(spent.texts));
        self.tokens.push(read::signed_size(spent.tokens));
        self.requests.push(read::signed_size(spent.requests));
        self.money.push(read::signed_size(spent.money_nanos));
    }

    fn params<'p>(&'p self, tenant: &'p &str) -> [Param<'p>; 7] {
        [tenant, &self.models, &self.purposes, &self.texts, &self.tokens, &self.requests, &self.money]
    }
}

const ADD: &str = "-- store::spend::add_spending
INSERT INTO embedding_spend AS s (tenant_id, month, model, purpose, texts, tokens, requests, money_nanos)
SELECT $1, date_trunc('month', now() AT TIME ZONE 'UTC')::date, model, purpose, sum(texts), sum(tokens), sum(requests), sum(money)
FROM (SELECT model, CASE WHEN purpose IN ('documents', 'queries') AND model IN (SELECT s.model FROM embedding_spaces AS s WHERE s.state = 'fallback')
                         THEN 'fallback' ELSE purpose END AS purpose, texts, tokens, requests, money
      FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
           AS new (model, purpose, texts, tokens, requests, money)) AS new
WHERE EXISTS (SELECT FROM tenants WHERE id = $1)
GROUP BY model, purpose ORDER BY model, purpose
ON CONFLICT (tenant_id, month, model, purpose) DO UPDATE
SET texts = s.texts + excluded.texts, tokens = s.tokens + excluded.tokens, requests = s.requests + excluded.requests,
    money_nanos = s.money_nanos + excluded.money_nanos";

const MONTHS: &str = "-- store::spend::spending
SELECT tenant_id, month, model, purpose, texts, tokens, requests, money_nanos FROM embedding_spend
WHERE tenant_id = $1 AND month > date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => $2)
ORDER BY month DESC, model, purpose";

const BUDGETS: &str = "-- store::spend::budgets_spent
SELECT tenant_id, sum(texts)::bigint AS texts, sum(tokens)::bigint AS tokens, sum(requests)::bigint AS requests,
       sum(money_nanos)::bigint AS money_nanos
FROM embedding_spend
WHERE month = date_trunc('month', now() AT TIME ZONE 'UTC')::date AND purpose IN ('documents', 'queries') GROUP BY tenant_id";

const MONTH: &str = "-- store::spend::this_month
SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month";

const SET_OVER_BUDGET: &str = "-- store::spend::set_over_budget
UPDATE tenants SET over_budget = $2, wants_fallback = $3 WHERE id = $1 AND (over_budget, wants_fallback) <> ($2, $3) RETURNING id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[ADD, MONTHS, BUDGETS, MONTH, SET_OVER_BUDGET];

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
        assert_eq!(spent.over_total(0, 2), [Budget::TotalMoney]);
        assert_eq!(spent.over_total(1_000, 3), [Budget::TotalTokens]);
        assert!((spent.money() - 0.02).abs() < 1e-12);
    }
}
