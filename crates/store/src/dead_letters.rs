//! Dead letters: entries that could not be processed, kept with their bytes. Work of the janitor's
//! role, except that a tenant reads its own, and that the intake keeps what a tenant's producer sent.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, ReleaseId, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Page, Role, Store, cursor,
    documents::page_limit,
    read,
    transaction::{Param, Scope},
};

/// A dead letter on its way into the database.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// The tenant, when the entry could be read so far.
    pub tenant: Option<TenantId>,
    /// The document, when the entry could be read so far.
    pub document: Option<DocumentId>,
    /// Its version.
    pub version: Option<Version>,
    /// Its release.
    pub release: Option<ReleaseId>,
    /// The stage that gave up.
    pub stage: String,
    /// The stream that the entry stood on.
    pub stream: String,
    /// The entry's id there.
    pub entry_id: String,
    /// A stable code.
    pub reason_code: String,
    /// A sentence.
    pub message: String,
    /// How often the entry was delivered.
    pub attempts: u32,
    /// The trace it belonged to, or empty.
    pub trace_id: String,
    /// The entry as it was read.
    pub original: Vec<u8>,
    /// When it was given up.
    pub occurred_at: DateTime<Utc>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// The tenant, when it is known.
    pub tenant: Option<TenantId>,
    /// The document, when it is known.
    pub document: Option<DocumentId>,
    /// Its version.
    pub version: Option<Version>,
    /// The stage that gave up.
    pub stage: String,
    /// The stream that the entry stood on.
    pub stream: String,
    /// The entry's id there.
    pub entry_id: String,
    /// A stable code.
    pub reason_code: String,
    /// A sentence.
    pub message: String,
    /// How often the entry was delivered.
    pub attempts: u32,
    /// The trace it belonged to, or empty.
    pub trace_id: String,
    /// When it was given up.
    pub occurred_at: DateTime<Utc>,
    /// When it came into the database.
    pub created_at: DateTime<Utc>,
    /// When it was replayed or discarded.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What was done about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Its version was released again, or its event taken in again.
    Replayed,
    /// Nothing more will be done.
    Discarded,
}

impl DeadLetter {
    fn read(row: &Row) -> Result<Self, Error> {
        let tenant: Option<&str> = row.try_get("tenant_id")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant: tenant.and_then(|tenant| tenant.parse().ok()),
            document: row.try_get::<_, Option<Uuid>>("document_id")?.map(DocumentId),
            version: read::count_opt(row, "version")?,
            stage: row.try_get("stage")?,
            stream: row.try_get("stream")?,
            entry_id: row.try_get("entry_id")?,
            reason_code: row.try_get("reason_code")?,
            message: row.try_get("message")?,
            attempts: read::count(row, "attempts")?,
            trace_id: row.try_get("trace_id")?,
            occurred_at: row.try_get("occurred_at")?,
            created_at: row.try_get("created_at")?,
            resolved_at: row.try_get("resolved_at")?,
        })
    }
}

impl Store {
    /// Writes a dead letter down, once for each entry, and fails its version if its release is current.
    /// True: it was new. Of the intake's, a tenant keeps about a thousand.
    pub async fn add_dead_letter(&self, letter: &NewDeadLetter) -> Result<bool, Error> {
        let clean =
            |text: &str, most: usize| text.chars().filter(|c| *c != '\0').take(most).collect::<String>();
        let (message, trace) = (clean(&letter.message, 2_000), clean(&letter.trace_id, 100));
        let (stage, stream) = (clean(&letter.stage, 100), clean(&letter.stream, 500));
        let (entry, code) = (clean(&letter.entry_id, 100), clean(&letter.reason_code, 100));
        let tenant = letter.tenant.as_ref().map(TenantId::as_str);
        let document = letter.document.map(|document| document.0);
        let version = letter.version.map(read::signed);
        let release = letter.release.map(|release| release.0);
        let (id, attempts) = (Uuid::now_v7(), read::signed(letter.attempts));
        let insert: [Param<'_>; 14] = [
            &id,
            &tenant,
            &document,
            &version,
            &release,
            &stage,
            &stream,
            &entry,
            &code,
            &message,
            &attempts,
            &trace,
            &letter.original,
            &letter.occurred_at,
        ];
        let fail: [Param<'_>; 5] = [&document, &version, &release, &code, &message];
        let (insert, fail) = (&insert, &fail);
        let scope = match (self.role(), &letter.tenant) {
            (Role::Service | Role::Stage, Some(tenant)) => Scope::tenant("add_dead_letter", tenant),
            _ => Scope::all("add_dead_letter"),
        };
        let is_intake = letter.stage == INTAKE;
        self.transaction(scope, |tx| async move {
            // Whoever sends rubbish in a loop must not fill the database with it.
            if is_intake && tx.query_opt(MANY_OF_INTAKE, &[&tenant]).await?.is_some() {
                return Ok(false);
            }
            let added = tx.execute(ADD, insert).await? == 1;
            tx.execute(FAIL, fail).await?;
            Ok(added)
        })
        .await
    }

    /// A page of dead letters that nothing was done about, the newest first: of one tenant, or of all.
    pub async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeadLetter>, Error> {
        let (time, id) = cursor.map(cursor::decode_time).transpose()?.unzip();
        let limit = page_limit(limit);
        let more = i64::from(limit) + 1;
        let name = tenant.map(TenantId::as_str);
        let params: [Param<'_>; 4] = [&name, &time, &id, &more];
        let scope = tenant.map_or(Scope::all("dead_letters"), |tenant| Scope::tenant("dead_letters", tenant));
        let rows = self.single(scope, LIST, &params).await?;
        let letters = rows.iter().map(DeadLetter::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(letters, limit as usize, |last| cursor::encode_time(last.created_at, last.id)))
    }

    /// The entry of a dead letter, as it was read.
    pub async fn dead_letter_original(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        let rows = self.single(Scope::all("dead_letter_original"), ORIGINAL, &[&id]).await?;
        Ok(rows.first().map(|row| row.try_get("original")).transpose()?)
    }

    /// Notes what was done about a dead letter. False: it is not there, or something was done before.
    pub async fn resolve_dead_letter(
        &self,
        tenant: Option<&TenantId>,
        id: Uuid,
        resolution: Resolution,
    ) -> Result<bool, Error> {
        let name = tenant.map(TenantId::as_str);
        let resolution = match resolution {
            Resolution::Replayed => "replayed",
            Resolution::Discarded => "discarded",
        };
        let scope =
            tenant.map_or(Scope::all("resolve_dead_letter"), |t| Scope::tenant("resolve_dead_letter", t));
        let rows = self.single(scope, RESOLVE, &[&name, &id, &resolution]).await?;
        Ok(!rows.is_empty())
    }
}

/// The stage of letters that the intake keeps.
const INTAKE: &str = "intake";

const MANY_OF_INTAKE: &str = "-- store::dead_letters::add_dead_letter
SELECT 1 FROM dead_letters WHERE tenant_id = $1 AND stage = 'intake' AND resolved_at IS NULL OFFSET 1000 LIMIT 1";

// A tenant that is gone, or never was, leaves the letter without one.
const ADD: &str = "-- store::dead_letters::add_dead_letter
INSERT INTO dead_letters (id, tenant_id, document_id, version, release_id, stage, stream, entry_id, reason_code, message,
    attempts, trace_id, original, occurred_at)
VALUES ($1, (SELECT t.id FROM tenants AS t WHERE t.id = $2), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (stream, entry_id) DO NOTHING";

const FAIL: &str = "-- store::dead_letters::add_dead_letter
UPDATE document_versions SET state = 'failed', error_code = $4, error_message = $5, finished_at = now()
WHERE document_id = $1 AND version = $2 AND release_id = $3
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')";

const LIST: &str = "-- store::dead_letters::dead_letters
SELECT id, tenant_id, document_id, version, stage, stream, entry_id, reason_code, message, attempts, trace_id,
       occurred_at, created_at, resolved_at
FROM dead_letters
WHERE ($1::text IS NULL OR tenant_id = $1) AND resolved_at IS NULL
  AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))
ORDER BY created_at DESC, id DESC LIMIT $4";

const ORIGINAL: &str = "-- store::dead_letters::dead_letter_original
SELECT original FROM dead_letters WHERE id = $1";

const RESOLVE: &str = "-- store::dead_letters::resolve_dead_letter
UPDATE dead_letters SET resolved_at = now(), resolution = $3
WHERE ($1::text IS NULL OR tenant_id = $1) AND id = $2 AND resolved_at IS NULL
RETURNING id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[MANY_OF_INTAKE, ADD, FAIL, LIST, ORIGINAL, RESOLVE];
