//! Releases: what puts a document version onto the streams, and what every write of a stage names.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, Lane, ReleaseId, SpaceId, State, TenantId, Version};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::{
    Error, Store, read,
    transaction::{Param, Scope},
};

/// How a document is cut into chunks. Fixed when the version is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chunking {
    /// Target size of a chunk in tokens.
    pub max_tokens: u32,
    /// Tokens that a chunk repeats of the one before it.
    pub overlap_tokens: u32,
    /// The tokenizer's vocabulary.
    pub tokenizer: String,
}

impl Default for Chunking {
    fn default() -> Self {
        Self { max_tokens: 384, overlap_tokens: 0, tokenizer: "o200k_base".to_owned() }
    }
}

/// One release of one version: the fence that every write of a stage names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Release {
    /// The document's tenant.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// The release.
    pub release: ReleaseId,
}

/// A release as the first four parameters of a statement.
pub(crate) struct ReleaseParams<'a> {
    tenant: &'a str,
    version: i32,
    release: &'a Release,
}

impl Release {
    pub(crate) fn fence(&self) -> ReleaseParams<'_> {
        ReleaseParams { tenant: self.tenant.as_str(), version: read::signed(self.version), release: self }
    }
}

impl ReleaseParams<'_> {
    /// Tenant, document, version, release.
    pub(crate) fn params(&self) -> [Param<'_>; 4] {
        [&self.tenant, &self.release.document.0, &self.version, &self.release.release.0]
    }
}

/// A release that is written down and has to be put onto the extractor's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasePlan {
    /// The document's tenant.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// The release.
    pub release: ReleaseId,
    /// The partition of the streams.
    pub partition: u16,
    /// The lane.
    pub lane: Lane,
    /// The embedding space that the release is pinned to.
    pub space: SpaceId,
    /// The original's key in the object store.
    pub object_key: String,
    /// The file's name.
    pub filename: String,
    /// The media type that the uploader claimed.
    pub content_type: String,
    /// The original's size in bytes.
    pub size: u64,
    /// SHA-256 of the original.
    pub sha256: [u8; 32],
    /// How to cut.
    pub chunking: Chunking,
    /// W3C Trace Context of the request that caused the release.
    pub traceparent: String,
}

/// The columns that a plan is read from.
macro_rules! plan_columns {
    () => {
        "v.tenant_id, v.document_id, v.version, v.release_id, v.partition, v.lane, v.space_id, \
         v.object_key, v.filename, v.content_type, v.size, v.sha256, v.chunking, v.traceparent"
    };
}
pub(crate) use plan_columns;

impl ReleasePlan {
    /// The release by itself.
    #[must_use]
    pub fn release(&self) -> Release {
        Release {
            tenant: self.tenant.clone(),
            document: self.document,
            version: self.version,
            release: self.release,
        }
    }

    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        let absent = |what: &str| Error::Row(format!("a release without {what}"));
        let partition: Option<i16> = row.try_get("partition")?;
        let chunking: serde_json::Value = row.try_get("chunking")?;
        Ok(Self {
            tenant: read::tenant(row, "tenant_id")?,
            document: read::document(row, "document_id")?,
            version: read::version(row, "version")?,
            release: read::release(row, "release_id")?.ok_or_else(|| absent("id"))?,
            partition: partition.and_then(|p| u16::try_from(p).ok()).ok_or_else(|| absent("partition"))?,
            lane: read::lane(row, "lane")?,
            space: read::count_opt(row, "space_id")?.ok_or_else(|| absent("space"))?,
            object_key: row.try_get("object_key")?,
            filename: row.try_get("filename")?,
            content_type: row.try_get("content_type")?,
            size: read::size_opt(row, "size")?.ok_or_else(|| absent("size"))?,
            sha256: read::hash_opt(row, "sha256")?.ok_or_else(|| absent("hash"))?,
            chunking: serde_json::from_value(chunking).map_err(|error| Error::Row(error.to_string()))?,
            traceparent: row.try_get("traceparent")?,
        })
    }
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The document.
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// The version's state.
    pub state: State,
    /// Set exactly when this call wrote `releasing`: put it onto the stream, then tell
    /// [`Store::released`].
    pub release: Option<ReleasePlan>,
    /// The same bytes with the same settings were there; nothing was written.
    pub duplicate: bool,
    /// The same Idempotency-Key, or event, was there; nothing was written.
    pub replayed: bool,
    /// When the version was accepted.
    pub accepted_at: DateTime<Utc>,
}

impl Store {
    /// The entries are on their streams. Answers the releases whose rows were changed by that: of the
    /// others, a stage was faster, or they are not current.
    pub async fn released(&self, releases: &[Release]) -> Result<HashSet<ReleaseId>, Error> {
        let rows = self.for_releases(Scope::all("released").relaxed(), releases, RELEASED).await?;
        rows.iter().map(|row| Ok(ReleaseId(row.try_get("release_id")?))).collect()
    }

    /// The stream was full: the version waits in PostgreSQL. False: the release is not current.
    pub async fn back_to_waiting(&self, release: &Release) -> Result<bool, Error> {
        let scope = Scope::tenant("back_to_waiting", &release.tenant);
        let rows = self.single(scope, BACK_TO_WAITING, &release.fence().params()).await?;
        Ok(!rows.is_empty())
    }
}

// The state is compared in a way that no partial index serves: it would be walked from end to end.
const RELEASED: &str = "-- store::release::released
UPDATE document_versions SET state = 'extracting', released_at = now()
WHERE tenant_id = $1 AND document_id = ANY ($2) AND release_id = ANY ($3) AND state IS NOT DISTINCT FROM 'releasing'
RETURNING release_id";

const BACK_TO_WAITING: &str = "-- store::release::back_to_waiting
UPDATE document_versions SET state = 'waiting', release_id = NULL, partition = NULL
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND release_id = $4 AND state = 'releasing'
RETURNING version, pg_notify('riacho_waiting', '')::text AS woken";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[RELEASED, BACK_TO_WAITING];
