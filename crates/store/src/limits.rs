//! What tenants may use: rates, which the gateways keep, and quotas, which are measured here.
//!
//! Counting a tenant's documents at each upload would walk all of them, and a counter in the tenant's row
//! would make its uploads wait for each other. So the janitor measures every few seconds, and acceptance
//! reads its word. A quota may be passed by what arrives in between.

use riacho_domain::TenantId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// What each tenant may use unless something else is set for it; 0 is no limit. Section `limits` of the
/// configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute with the tenant's keys, over all gateways.
    pub requests_per_minute: u32,
    /// How many requests may come at once; a second's worth, at least 1, where it is 0.
    pub request_burst: u32,
    /// Uploads a minute, over all gateways. A new version is one, and so is a signed URL.
    pub uploads_per_minute: u32,
    /// How many uploads may come at once; a second's worth, at least 1, where it is 0.
    pub upload_burst: u32,
    /// Documents that are not deleted.
    pub max_documents: u64,
    /// Bytes of originals that are stored.
    pub max_bytes: u64,
    /// Documents that were accepted and are neither searchable nor ended.
    pub max_unfinished: u64,
    /// Tokens that are embedded in a month (UTC), of documents and queries. When they are used up, the tenant's
    /// documents wait for the next month, or go on as `over_budget` says; what is on its way is finished.
    pub embedding_tokens_per_month: u64,
    /// The same in money: hundredths of the currency of `models.prices`.
    pub embedding_cents_per_month: u64,
    /// What becomes of documents that come when a budget of the month is used up, the tenant's own or that of all tenants.
    pub over_budget: OverBudget,
}

/// What becomes of documents that come when a budget of the month is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverBudget {
    /// They wait for the next month, or for a larger budget.
    #[default]
    Wait,
    /// They are embedded for the fallback space, with its local model. Where the deployment has none (`riacho space fallback`),
    /// they wait.
    Local,
}

impl OverBudget {
    /// The name, as it stands in the configuration and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OverBudget::Wait => "wait",
            OverBudget::Local => "local",
        }
    }
}

impl Limits {
    /// Whether there is a budget.
    #[must_use]
    pub fn has_budget(&self) -> bool {
        self.embedding_tokens_per_month > 0 || self.embedding_cents_per_month > 0
    }
}

/// What is set for one tenant. What is not set is as in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnLimits {
    /// See [`Limits::requests_per_minute`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// See [`Limits::request_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_burst: Option<u32>,
    /// See [`Limits::uploads_per_minute`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploads_per_minute: Option<u32>,
    /// See [`Limits::upload_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_burst: Option<u32>,
    /// See [`Limits::max_documents`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_documents: Option<u64>,
    /// See [`Limits::max_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// See [`Limits::max_unfinished`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unfinished: Option<u64>,
    /// See [`Limits::embedding_tokens_per_month`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_tokens_per_month: Option<u64>,
    /// See [`Limits::embedding_cents_per_month`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_cents_per_month: Option<u64>,
    /// See [`Limits::over_budget`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_budget: Option<OverBudget>,
    /// Originals of finished documents, and files that are in no collection, are removed after so many seconds; 0 is never. Where it
    /// is not set, the janitor's `original_retention_seconds` holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_retention_seconds: Option<u64>,
}

/// In SQL, the retention of a row `t` of tenants, in seconds, where that of the deployment is `$1`; null is never. More than a
/// hundred years is a hundred, since no timestamp may be before the first one that PostgreSQL knows.
macro_rules! own_retention {
    () => {
        "CASE WHEN t.limits ? 'original_retention_seconds' THEN nullif(least((t.limits ->> 'original_retention_seconds')::float8, 3.2e9), 0) ELSE $1::float8 END"
    };
}
pub(crate) use own_retention;

impl OwnLimits {
    /// These over the deployment's.
    #[must_use]
    pub fn over(&self, defaults: &Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(defaults.requests_per_minute),
            request_burst: self.request_burst.unwrap_or(defaults.request_burst),
            uploads_per_minute: self.uploads_per_minute.unwrap_or(defaults.uploads_per_minute),
            upload_burst: self.upload_burst.unwrap_or(defaults.upload_burst),
            max_documents: self.max_documents.unwrap_or(defaults.max_documents),
            max_bytes: self.max_bytes.unwrap_or(defaults.max_bytes),
            max_unfinished: self.max_unfinished.unwrap_or(defaults.max_unfinished),
            embedding_tokens_per_month: self
                .embedding_tokens_per_month
                .unwrap_or(defaults.embedding_tokens_per_month),
            embedding_cents_per_month: self
                .embedding_cents_per_month
                .unwrap_or(defaults.embedding_cents_per_month),
            over_budget: self.over_budget.unwrap_or(defaults.over_budget),
        }
    }

    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        serde_json::from_value(row.try_get("limits")?).map_err(|error| Error::Row(format!("limits: {error}")))
    }
}

/// A quota: how much of something a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// Documents.
    Documents,
    /// Bytes of originals.
    Bytes,
    /// Documents on their way.
    Unfinished,
}

impl Quota {
    /// All quotas.
    pub const ALL: [Quota; 3] = [Quota::Documents, Quota::Bytes, Quota::Unfinished];

    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Quota::Documents => "documents",
            Quota::Bytes => "bytes",
            Quota::Unfinished => "unfinished",
        }
    }

    /// Reads those that are used up from a tenant's row.
    pub(crate) fn read(row: &Row) -> Result<Vec<Quota>, Error> {
        let names: Vec<String> = row.try_get("over_quota")?;
        let of = |name: &String| Quota::ALL.into_iter().find(|quota| quota.as_str() == name);
        names.iter().map(|name| of(name).ok_or_else(|| Error::Row(format!("a quota of {name}")))).collect()
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Quota::Documents => "documents",
            Quota::Bytes => "bytes of originals",
            Quota::Unfinished => "documents on their way",
        })
    }
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Documents that are not deleted.
    pub documents: u64,
    /// Bytes of originals that are stored, those of deleted documents too until they are purged.
    pub bytes: u64,
    /// Documents that were accepted and are neither searchable nor ended.
    pub unfinished: u64,
}

impl Usage {
    /// The quotas of `limits` that are used up.
    #[must_use]
    pub fn over(&self, limits: &Limits) -> Vec<Quota> {
        let is_over = |used: u64, max: u64| max > 0 && used >= max;
        Quota::ALL
            .into_iter()
            .filter(|quota| match quota {
                Quota::Documents => is_over(self.documents, limits.max_documents),
                Quota::Bytes => is_over(self.bytes, limits.max_bytes),
                Quota::Unfinished => is_over(self.unfinished, limits.max_unfinished),
            })
            .collect()
    }
}

impl Store {
    /// What a tenant uses now. It walks the tenant's documents.
    pub async fn usage(&self, tenant: &TenantId) -> Result<Usage, Error> {
        let rows = self.single(Scope::tenant("usage", tenant), USAGE, &[&tenant.as_str()]).await?;
        let row = rows.first().ok_or_else(|| Error::Row("no usage".into()))?;
        let of = |column: &str| Ok::<_, Error>(row.try_get::<_, i64>(column)?.unsigned_abs());
        Ok(Usage { documents: of("documents")?, bytes: of("bytes")?, unfinished: of("unfinished")? })
    }

    /// Sets what a tenant may use, in place of what was set for it.
    pub async fn set_tenant_limits(&self, id: &TenantId, limits: &OwnLimits) -> Result<(), Error> {
        let value = serde_json::to_value(limits).map_err(|error| Error::Invalid(error.to_string()))?;
        let params: [Param<'_>; 2] = [&id.as_str(), &value];
        let rows = self.single(Scope::all("set_tenant_limits"), SET_LIMITS, &params).await?;
        if rows.is_empty() { Err(Error::NotFound("tenant")) } else { Ok(()) }
    }

    /// Writes down which quotas of a tenant are used up; answers whether that is new. The janitor's word.
    pub async fn set_over_quota(&self, id: &TenantId, over: &[Quota]) -> Result<bool, Error> {
        let names: Vec<&str> = over.iter().map(|quota| quota.as_str()).collect();
        let params: [Param<'_>; 2] = [&id.as_str(), &names];
        Ok(!self.single(Scope::all("set_over_quota"), SET_OVER_QUOTA, &params).await?.is_empty())
    }
}

// Versions are found by their documents, for which there is an index by tenant.
const USAGE: &str = "-- store::limits::usage
SELECT own.documents, own.unfinished,
       own.bytes + (SELECT coalesce(sum(size), 0)::bigint FROM files WHERE tenant_id = $1) AS bytes
FROM (SELECT count(*) FILTER (WHERE v.version = d.latest_version AND d.deleted_at IS NULL) AS documents,
             count(*) FILTER (WHERE v.finished_at IS NULL) AS unfinished,
             coalesce(sum(v.size) FILTER (WHERE v.original_purged_at IS NULL
                 AND NOT EXISTS (SELECT FROM files AS f WHERE f.object_key = v.object_key)), 0)::bigint AS bytes
      FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.tenant_id = $1
      WHERE d.tenant_id = $1) AS own";

const SET_LIMITS: &str = "-- store::limits::set_tenant_limits
UPDATE tenants SET limits = $2 WHERE id = $1 RETURNING id";

const SET_OVER_QUOTA: &str = "-- store::limits::set_over_quota
UPDATE tenants SET over_quota = $2 WHERE id = $1 AND over_quota <> $2 RETURNING id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[USAGE, SET_LIMITS, SET_OVER_QUOTA];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_for_a_tenant_goes_before_the_deployments_and_zero_is_no_limit() {
        let deployment = Limits { max_documents: 10, max_bytes: 100, ..Limits::default() };
        let own = OwnLimits { max_documents: Some(0), max_unfinished: Some(5), ..OwnLimits::default() };
        let limits = own.over(&deployment);
        assert_eq!((limits.max_documents, limits.max_bytes, limits.max_unfinished), (0, 100, 5));
        let usage = Usage { documents: 50, bytes: 99, unfinished: 5 };
        assert_eq!(usage.over(&limits), [Quota::Unfinished]);
        assert_eq!(usage.over(&deployment), [Quota::Documents]);
    }
}
