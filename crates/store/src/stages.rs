//! What the stages write before there are rows of chunks; see `extraction` for the extractor. Every write names its release and is a
//! compare-and-set: no row changed means that the release is no longer current.

use std::collections::{BTreeMap, HashSet};

use riacho_domain::{ReasonCode, ReleaseId, TenantId};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::{
    Error, Release, Store,
    metrics::names,
    read,
    transaction::{Param, Scope},
};

impl Store {
    /// How far the extraction is. False: the release is no longer current.
    pub async fn progress(
        &self,
        release: &Release,
        pages_done: u32,
        pages_total: Option<u32>,
    ) -> Result<bool, Error> {
        let fence = release.fence();
        let [tenant, document, version, id] = fence.params();
        let (done, total) = (read::signed(pages_done), pages_total.map(read::signed));
        let scope = Scope::tenant("progress", &release.tenant).relaxed();
        let rows = self.single(scope, PROGRESS, &[tenant, document, version, id, &done, &total]).await?;
        Ok(if rows.is_empty() { superseded("progress", false) } else { true })
    }

    /// The version failed for good. False: the release is no longer current. A version that is live
    /// stays live.
    pub async fn fail(&self, release: &Release, code: ReasonCode, message: &str) -> Result<bool, Error> {
        let message: String = message.chars().filter(|c| *c != '\0').take(2_000).collect();
        let fence = release.fence();
        let [tenant, document, version, id] = fence.params();
        let params: [Param<'_>; 6] = [tenant, document, version, id, &code.as_str(), &message];
        let rows = self.single(Scope::tenant("fail", &release.tenant), FAIL, &params).await?;
        Ok(if rows.is_empty() { superseded("fail", false) } else { true })
    }

    /// Which of the releases are current, of any tenants.
    pub async fn current_releases(&self, releases: &[Release]) -> Result<HashSet<ReleaseId>, Error> {
        let rows = self.for_releases(Scope::all("current_releases"), releases, CURRENT).await?;
        let mut current = HashSet::new();
        for row in rows {
            if read::state(&row, "state")?.is_in_flight() {
                current.insert(ReleaseId(row.try_get("release_id")?));
            }
        }
        Ok(current)
    }

    /// Runs a statement of (tenant, documents, release ids) for releases of any tenants.
    pub(crate) async fn for_releases(
        &self,
        scope: Scope<'_>,
        releases: &[Release],
        sql: &str,
    ) -> Result<Vec<Row>, Error> {
        let groups = by_tenant(releases, |release| release);
        let columns = groups.into_iter().map(|(tenant, releases)| {
            let documents: Vec<Uuid> = releases.iter().map(|release| release.document.0).collect();
            let ids: Vec<Uuid> = releases.iter().map(|release| release.release.0).collect();
            (tenant, vec![Box::new(documents) as Column, Box::new(ids)])
        });
        self.for_tenants(scope, columns.collect(), sql).await
    }

    /// Runs a statement for each tenant with the tenant and its columns as parameters, all in one round trip.
    pub(crate) async fn for_tenants(
        &self,
        scope: Scope<'_>,
        columns: Vec<(&TenantId, Vec<Column>)>,
        sql: &str,
    ) -> Result<Vec<Row>, Error> {
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let columns = &columns;
        self.transaction(scope, |tx| async move {
            tx.prepare(&[SET_TENANT, sql]).await?;
            let tx = &tx;
            let asked = columns.iter().map(|(tenant, columns)| async move {
                let tenant = tenant.as_str();
                let of_tenant: [Param<'_>; 1] = [&tenant];
                let mut params: Vec<Param<'_>> = vec![&tenant];
                params.extend(columns.iter().map(|column| column.as_ref() as Param<'_>));
                let (set, rows) = futures::join!(tx.query(SET_TENANT, &of_tenant), tx.query(sql, &params));
                set?;
                rows
            });
            Ok(tx.finish(asked.collect()).await?.into_iter().flatten().collect())
        })
        .await
    }
}

/// The values of many rows, as one parameter.
pub(crate) type Column = Box<dyn ToSql + Sync + Send>;

/// Items by the tenant of their release, each tenant's in the order in which rows are locked everywhere.
pub(crate) fn by_tenant<T>(items: &[T], release: impl Fn(&T) -> &Release) -> BTreeMap<&TenantId, Vec<&T>> {
    let mut sorted: Vec<&T> = items.iter().collect();
    sorted.sort_by_key(|item| release(item).document);
    let mut groups: BTreeMap<&TenantId, Vec<&T>> = BTreeMap::new();
    for item in sorted {
        groups.entry(&release(item).tenant).or_default().push(item);
    }
    groups
}

/// Counts a write that came too late, and answers it.
pub(crate) fn superseded<T>(name: &'static str, answer: T) -> T {
    metrics::counter!(names::SUPERSEDED, "write" => name).increment(1);
    answer
}

/// Makes the rest of the transaction, or the part up to the next call, work for a tenant.
pub(crate) const SET_TENANT: &str = "-- store::stages::for_tenants
SELECT set_config('riacho.tenant', $1, true)";

const PROGRESS: &str = "-- store::stages::progress
UPDATE document_versions SET pages_done = $5, pages_total = coalesce($6, pages_total)
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')
RETURNING version";

const FAIL: &str = "-- store::stages::fail
UPDATE document_versions SET state = 'failed', error_code = $5, error_message = $6, finished_at = now()
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')
RETURNING version";

// The state is looked at by the caller: named here, it would let the planner walk all versions in flight.
const CURRENT: &str = "-- store::stages::current_releases
SELECT release_id, state FROM document_versions
WHERE tenant_id = $1 AND document_id = ANY ($2) AND release_id = ANY ($3)";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[SET_TENANT, PROGRESS, FAIL, CURRENT];
