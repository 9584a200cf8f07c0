//! What the caller's tenant uses, and what it may use.

use axum::{Json, extract::State};
use riacho_store::{Limits, TenantState};
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
    /// What the tenant may use.
    limits: LimitsBody,
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
        }
    }
}

/// Ask what the tenant uses, and what it may use.
///
/// A rate or a quota that is used up answers an upload with 429 and `Retry-After`. Quotas are measured every few
/// seconds.
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
    Ok(Json(UsageBody {
        documents: usage.documents,
        bytes: usage.bytes,
        unfinished: usage.unfinished,
        over_quota: tenant.over_quota.iter().map(|quota| quota.as_str()).collect(),
        limits: tenant.limits.over(app.limits()).into(),
    }))
}
