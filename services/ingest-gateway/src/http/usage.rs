//! What the caller's tenant uses, and what it may use.

use axum::{Json, extract::State};
use chrono::NaiveDate;
use riacho_store::{Budget, Limits, MonthSpent, Spent, TenantState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read},
    problem::{Problem, ProblemBody},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// What the caller's tenant uses, and what it may use.
#[derive(Debug, Serialize, ToSchema)]
struct UsageBody {
    /// Documents that are not deleted.
    documents: u64,
    /// Bytes of originals that are stored, those of deleted documents too until they are purged.
    bytes: u64,
    /// Documents that were accepted and are neither searchable nor ended.
    unfinished: u64,
    /// The quotas that are used up, as acceptance sees them: `documents`, `bytes`, `unfinished`.
    over_quota: Vec<&'static str>,
    /// What embeddings cost in the present month.
    embedding: EmbeddingBody,
    /// What the tenant may use.
    limits: LimitsBody,
}

/// What embeddings cost in a month (UTC), of documents and queries.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingBody {
    /// The month.
    #[schema(example = "2026-11")]
    month: String,
    /// The month's budgets that are used up, as releases see them: `tokens`, `money`, and `total_tokens`, `total_money` for
    /// those of all tenants together. Documents wait until it is over or the budget is raised, or go on as
    /// `limits.over_budget` says.
    over_budget: Vec<&'static str>,
    /// All together.
    total: SpentBody,
    /// Each model, for each purpose.
    models: Vec<ModelSpentBody>,
}

/// What was spent.
#[derive(Debug, Serialize, ToSchema)]
struct SpentBody {
    /// Texts that a model embedded.
    texts: u64,
    /// Tokens, as the model counted them.
    tokens: u64,
    /// Requests to a model that carried texts of the tenant.
    requests: u64,
    /// Money by the deployment's prices, in their currency.
    money: f64,
}

/// What was spent on a model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelSpentBody {
    /// The model.
    #[schema(example = "openai/text-embedding-3-small@1536")]
    model: String,
    /// What was embedded: `documents`, `queries`, or `spaces`: stored chunks, for a new model, or `fallback`: documents and
    /// queries for the fallback space. The last two count towards no budget.
    #[schema(example = "documents")]
    purpose: &'static str,
    #[serde(flatten)]
    spent: SpentBody,
}

impl From<Spent> for SpentBody {
    fn from(spent: Spent) -> Self {
        let Spent { texts, tokens, requests, .. } = spent;
        Self { texts, tokens, requests, money: spent.money() }
    }
}

impl EmbeddingBody {
    fn new(month: NaiveDate, over_budget: &[Budget], spending: Vec<MonthSpent>) -> Self {
        let total = spending.iter().fold(Spent::default(), |all, one| all.and(one.spent));
        let model = |one: MonthSpent| ModelSpentBody {
            model: one.model,
            purpose: one.purpose.as_str(),
            spent: one.spent.into(),
        };
        Self {
            month: month.format("%Y-%m").to_string(),
            over_budget: over_budget.iter().map(|budget| budget.as_str()).collect(),
            total: total.into(),
            models: spending.into_iter().map(model).collect(),
        }
    }
}

/// What a tenant may use; nothing where it is not limited.
#[derive(Debug, Serialize, ToSchema)]
struct LimitsBody {
    /// Requests a minute, over all gateways.
    requests_per_minute: Option<u64>,
    /// Uploads a minute, over all gateways.
    uploads_per_minute: Option<u64>,
    /// Documents that are not deleted.
    max_documents: Option<u64>,
    /// Bytes of originals that are stored.
    max_bytes: Option<u64>,
    /// Documents on their way.
    max_unfinished: Option<u64>,
    /// Tokens that are embedded in a month.
    embedding_tokens_per_month: Option<u64>,
    /// What embeddings may cost in a month, in hundredths of the currency of the deployment's prices.
    embedding_cents_per_month: Option<u64>,
    /// What becomes of documents that come when a budget is used up: they `wait`, or are embedded with the `local` model of the
    /// fallback space.
    #[schema(example = "wait")]
    over_budget: &'static str,
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> Self {
        let some = |limit: u64| (limit > 0).then_some(limit);
        Self {
            requests_per_minute: some(limits.requests_per_minute.into()),
            uploads_per_minute: some(limits.uploads_per_minute.into()),
            max_documents: some(limits.max_documents),
            max_bytes: some(limits.max_bytes),
            max_unfinished: some(limits.max_unfinished),
            embedding_tokens_per_month: some(limits.embedding_tokens_per_month),
            embedding_cents_per_month: some(limits.embedding_cents_per_month),
            over_budget: limits.over_budget.as_str(),
        }
    }
}

/// Ask what the tenant uses, and what it may use.
///
/// A rate or a quota that is used up answers an upload with 429 and `Retry-After`; a budget lets documents wait, or go on with the fallback space. Quotas and
/// budgets are measured every few seconds.
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "keys",
    responses(
        (status = 200, description = "Counted now.", body = UsageBody),
        (status = 429, description = "Too many requests of this tenant.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn usage(State(app): State<App>, caller: Caller<Read>) -> Result<Json<UsageBody>, Problem> {
    let tenant = app.store().tenant(&caller.tenant).await?;
    let tenant = tenant.filter(|tenant| tenant.state == TenantState::Active);
    let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
    let usage = app.store().usage(&caller.tenant).await?;
    let (month, spending) = (app.store().this_month().await?, app.store().spending(&caller.tenant, 1).await?);
    Ok(Json(UsageBody {
        documents: usage.documents,
        bytes: usage.bytes,
        unfinished: usage.unfinished,
        over_quota: tenant.over_quota.iter().map(|quota| quota.as_str()).collect(),
        embedding: EmbeddingBody::new(month, &tenant.over_budget, spending),
        limits: tenant.limits.over(app.limits()).into(),
    }))
}
