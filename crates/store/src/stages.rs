//! What the stages write before there are rows of chunks. Every write names its release and is a
//! compare-and-set: no row changed means that the release is no longer current.

use std::collections::HashSet;

use riacho_domain::{ReasonCode, ReleaseId, RunId, TenantId};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, MissingPages, Release, Store,
    metrics::{failed, names},
    read,
    transaction::{Param, Scope},
};

/// A run that was sealed: it is the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRun {
    /// The run.
    pub run: RunId,
    /// Its manifest, as the extractor encoded it.
    pub manifest: Vec<u8>,
    /// How many chunks it has.
    pub chunk_total: u32,
}

/// What an extractor starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extraction {
    /// The run that an earlier delivery sealed: it is replayed, and nothing is cut anew.
    pub sealed: Option<SealedRun>,
}

/// A run to be sealed.
#[derive(Debug, Clone)]
pub struct Seal {
    /// The run.
    pub run: RunId,
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// How many chunks it has; at least one.
    pub chunk_total: u32,
    /// The media type that the bytes turned out to be.
    pub detected_type: String,
    /// The character encoding of the original, where it has one.
    pub encoding: Option<String>,
    /// How certain that is: `certain`, `declared`, `likely` or `doubtful`.
    pub encoding_confidence: Option<&'static str>,
    /// The pages that have no text, and why.
    pub missing: Vec<MissingPages>,
    /// The text's language, ISO 639-1, or empty.
    pub language: String,
    /// How many pages it has, where the format has pages.
    pub pages: Option<u32>,
}

/// What became of a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// This run is the version now.
    First,
    /// Another run (or this one, before) was sealed: that one is to be replayed.
    Existing(SealedRun),
    /// The release is no longer current.
    Superseded,
}

impl SealedRun {
    fn read(row: &Row) -> Result<Option<Self>, Error> {
        let Some(run) = read::run(row, "run_id")? else { return Ok(None) };
        let manifest: Option<Vec<u8>> = row.try_get("manifest")?;
        let total = read::count_opt(row, "chunk_total")?;
        match (manifest, total) {
            (Some(manifest), Some(chunk_total)) => Ok(Some(Self { run, manifest, chunk_total })),
            _ => Err(Error::Row("a sealed run without manifest".into())),
        }
    }
}

impl Store {
    /// An extractor takes the release up. None: it is no longer current.
    pub async fn begin_extraction(&self, release: &Release) -> Result<Option<Extraction>, Error> {
        let scope = Scope::tenant("begin_extraction", &release.tenant).relaxed();
        let rows = self.single(scope, BEGIN, &release.fence().params()).await?;
        match rows.first() {
            Some(row) => Ok(Some(Extraction { sealed: SealedRun::read(row)? })),
            None => Ok(superseded("begin_extraction", None)),
        }
    }

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

    /// Seals a run, unless one is sealed. Must come before the run's last handoff.
    pub async fn seal(&self, release: &Release, seal: &Seal) -> Result<Sealed, Error> {
        if seal.chunk_total == 0 {
            return Err(Error::Invalid(
                "a run without chunks is not sealed, the document failed as empty".into(),
            ));
        }
        let scope = Scope::tenant("seal", &release.tenant);
        self.transaction(scope, |tx| async move {
            let fence = release.fence();
            let [tenant, document, version, id] = fence.params();
            let (total, pages) = (read::signed(seal.chunk_total), seal.pages.map(read::signed));
            let manifest = seal.manifest.as_slice();
            let missing = missing(&seal.missing)?;
            let params: [Param<'_>; 13] = [
                tenant,
                document,
                version,
                id,
                &seal.run.0,
                &manifest,
                &total,
                &seal.detected_type,
                &seal.encoding,
                &seal.language,
                &pages,
                &seal.encoding_confidence,
                &missing,
            ];
            tx.prepare(&[SEAL, SEALED]).await?;
            let fence_params = fence.params();
            let (done, found) =
                futures::join!(tx.execute(SEAL, &params), tx.query_opt(SEALED, &fence_params));
            if done? == 1 {
                return Ok(Sealed::First);
            }
            let sealed = found?.as_ref().map(SealedRun::read).transpose()?.flatten();
            Ok(sealed.map_or_else(|| superseded("seal", Sealed::Superseded), Sealed::Existing))
        })
        .await
    }

    /// The version failed for good. False: the release is no longer current. A version that is live
    /// stays live.
    pub async fn fail(&self, release: &Release, code: ReasonCode, message: &str) -> Result<bool, Error> {
        let message: String = message.chars().filter(|c| *c != '\0').take(2_000).collect();
        let fence = release.fence();
        let [tenant, document, version, id] = fence.params();
        let params: [Param<'_>; 6] = [tenant, document, version, id, &code.as_str(), &message];
        let rows = self.single(Scope::tenant("fail", &release.tenant), FAIL, &params).await?;
        if rows.is_empty() {
            return Ok(superseded("fail", false));
        }
        failed(code.as_str(), 1);
        Ok(true)
    }

    /// Which of the releases are current, of any tenants.
    pub async fn current_releases(&self, releases: &[Release]) -> Result<HashSet<ReleaseId>, Error> {
        let rows = self.for_releases(Scope::all("current_releases"), releases, CURRENT).await?;
        let mut current = HashSet::new();
        current_of(&rows, &mut current)?;
        Ok(current)
    }

    /// Runs a statement of (tenant, documents, release ids) for releases of any tenants: once for each
    /// tenant, all in one round trip.
    pub(crate) async fn for_releases(
        &self,
        scope: Scope<'_>,
        releases: &[Release],
        sql: &str,
    ) -> Result<Vec<Row>, Error> {
        let groups = by_tenant(releases);
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let groups = &groups;
        self.transaction(scope, |tx| async move {
            tx.prepare(&[SET_TENANT, sql]).await?;
            let tx = &tx;
            let asked = groups.iter().map(|(tenant, documents, ids)| async move {
                let tenant = tenant.as_str();
                let of_tenant: [Param<'_>; 1] = [&tenant];
                let params: [Param<'_>; 3] = [&tenant, documents, ids];
                let (set, rows) = futures::join!(tx.query(SET_TENANT, &of_tenant), tx.query(sql, &params));
                set?;
                rows
            });
            Ok(tx.finish(asked.collect()).await?.into_iter().flatten().collect())
        })
        .await
    }
}

/// Missing pages as they stand in a row; nothing where none is missing.
fn missing(pages: &[MissingPages]) -> Result<Option<Value>, Error> {
    let some = (!pages.is_empty()).then(|| serde_json::to_value(pages));
    some.transpose().map_err(|error| Error::Invalid(error.to_string()))
}

/// Reads the rows of [`CURRENT`].
pub(crate) fn current_of(rows: &[Row], current: &mut HashSet<ReleaseId>) -> Result<(), Error> {
    for row in rows {
        if read::state(row, "state")?.is_in_flight() {
            current.insert(ReleaseId(row.try_get("release_id")?));
        }
    }
    Ok(())
}

type TenantReleases<'a> = (&'a TenantId, Vec<Uuid>, Vec<Uuid>);

pub(crate) fn by_tenant(releases: &[Release]) -> Vec<TenantReleases<'_>> {
    let mut groups: std::collections::BTreeMap<&TenantId, (Vec<Uuid>, Vec<Uuid>)> =
        std::collections::BTreeMap::new();
    // In the order in which rows are locked everywhere.
    let mut sorted: Vec<&Release> = releases.iter().collect();
    sorted.sort_unstable_by_key(|release| release.document);
    for release in sorted {
        let (documents, ids) = groups.entry(&release.tenant).or_default();
        documents.push(release.document.0);
        ids.push(release.release.0);
    }
    groups.into_iter().map(|(tenant, (documents, ids))| (tenant, documents, ids)).collect()
}

/// Counts a write that came too late, and answers it.
pub(crate) fn superseded<T>(name: &'static str, answer: T) -> T {
    metrics::counter!(names::SUPERSEDED, "write" => name).increment(1);
    answer
}

/// Makes the rest of the transaction, or the part up to the next call, work for a tenant.
pub(crate) const SET_TENANT: &str = "-- store::stages::for_releases
SELECT set_config('riacho.tenant', $1, true)";

const BEGIN: &str = "-- store::stages::begin_extraction
UPDATE document_versions
SET state = CASE WHEN state = 'releasing' THEN 'extracting' ELSE state END,
    released_at = coalesce(released_at, now()), started_at = coalesce(started_at, now()),
    extractions = extractions + CASE WHEN run_id IS NULL THEN 1 ELSE 0 END
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')
RETURNING run_id, manifest, chunk_total";

const PROGRESS: &str = "-- store::stages::progress
UPDATE document_versions SET pages_done = $5, pages_total = coalesce($6, pages_total)
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')
RETURNING version";

const SEAL: &str = "-- store::stages::seal
UPDATE document_versions
SET run_id = $5, manifest = $6, chunk_total = $7, detected_type = $8, encoding = $9, language = $10,
    pages_total = coalesce($11, pages_total), pages_done = coalesce($11, pages_done), sealed_at = now(),
    encoding_confidence = $12, missing_pages = $13,
    state = CASE WHEN state IN ('releasing', 'extracting') THEN 'embedding' ELSE state END
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4 AND run_id IS NULL
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')";

const SEALED: &str = "-- store::stages::seal
SELECT run_id, manifest, chunk_total FROM document_versions
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')";

const FAIL: &str = "-- store::stages::fail
UPDATE document_versions SET state = 'failed', error_code = $5, error_message = $6, finished_at = now()
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')
RETURNING version";

// The state is looked at by the caller: named here, it would let the planner walk all versions in flight.
pub(crate) const CURRENT: &str = "-- store::stages::current_releases
SELECT release_id, state FROM document_versions
WHERE tenant_id = $1 AND document_id = ANY ($2) AND release_id = ANY ($3)";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[SET_TENANT, BEGIN, PROGRESS, SEAL, SEALED, FAIL, CURRENT];
