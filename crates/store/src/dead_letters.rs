//! Dead letters: entries that could not be processed, kept with their bytes. A tenant sees and resolves
//! its own; those of all tenants, and those of none, are work of the janitor's role.

mod resolve;
mod sql;

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, ReleaseId, TenantId, Version};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

pub use self::resolve::{
    MAX_LETTERS, Pace, ReplayedVersion, Resolve, Resolved, Selection, SkipReason, Skipped,
};
pub(crate) use self::sql::{STATEMENTS, looking};
use crate::{
    Error, Page, Role, Store, cursor,
    documents::page_limit,
    metrics::failed,
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

/// A dead letter, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// The tenant, when it is known.
    pub tenant: Option<TenantId>,
    /// The document, when it is known.
    #[serde(rename = "document_id")]
    pub document: Option<DocumentId>,
    /// Its version.
    pub version: Option<Version>,
    /// The release that the entry belonged to.
    #[serde(rename = "release_id")]
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
    /// The size of the entry as it was read.
    pub original_bytes: u32,
    /// When it was given up.
    pub occurred_at: DateTime<Utc>,
    /// When it came into the database.
    pub created_at: DateTime<Utc>,
    /// What was done about it.
    pub state: LetterState,
    /// When that was done.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What was done about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    /// Nothing yet.
    #[default]
    Unresolved,
    /// Its version was released again.
    Replayed,
    /// Nothing more will be done.
    Discarded,
}

impl LetterState {
    /// All of them.
    pub const ALL: [LetterState; 3] =
        [LetterState::Unresolved, LetterState::Replayed, LetterState::Discarded];

    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LetterState::Unresolved => "unresolved",
            LetterState::Replayed => "replayed",
            LetterState::Discarded => "discarded",
        }
    }
}

impl fmt::Display for LetterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LetterState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = LetterState::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of unresolved, replayed, discarded"))
    }
}

/// Which dead letters are meant; those without a limit on a field are all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LetterFilter {
    /// Only of this stage.
    pub stage: Option<String>,
    /// Only given up for this reason.
    pub reason_code: Option<String>,
    /// Only of this document.
    pub document: Option<DocumentId>,
}

/// Which dead letters to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListLetters {
    /// Which are meant.
    pub filter: LetterFilter,
    /// Only those that this was done about.
    pub state: LetterState,
    /// Where the page begins, as the page before answered.
    pub cursor: Option<String>,
    /// Letters of a page, at most [`crate::MAX_PAGE`]; 0 for 100.
    pub limit: u32,
}

impl DeadLetter {
    fn read(row: &Row) -> Result<Self, Error> {
        let tenant: Option<&str> = row.try_get("tenant_id")?;
        let resolution: Option<&str> = row.try_get("resolution")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant: tenant.and_then(|tenant| tenant.parse().ok()),
            document: row.try_get::<_, Option<Uuid>>("document_id")?.map(DocumentId),
            version: read::count_opt(row, "version")?,
            release: read::release(row, "release_id")?,
            stage: row.try_get("stage")?,
            stream: row.try_get("stream")?,
            entry_id: row.try_get("entry_id")?,
            reason_code: row.try_get("reason_code")?,
            message: row.try_get("message")?,
            attempts: read::count(row, "attempts")?,
            trace_id: row.try_get("trace_id")?,
            original_bytes: read::count(row, "original_bytes")?,
            occurred_at: row.try_get("occurred_at")?,
            created_at: row.try_get("created_at")?,
            state: resolution.map_or(Ok(LetterState::Unresolved), str::parse).map_err(Error::Row)?,
            resolved_at: row.try_get("resolved_at")?,
        })
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedLetter {
    /// It is written down, and was not before.
    pub is_new: bool,
    /// Its version failed with it; one that was cancelled, replaced or released again meanwhile does not.
    pub has_failed: bool,
}

impl Store {
    /// Writes a dead letter down, once for each entry, and fails its version if its release is current.
    /// Of the intake's, a tenant keeps about a thousand. Of a document that was purged none is kept: it
    /// has what the document had.
    pub async fn add_dead_letter(&self, letter: &NewDeadLetter) -> Result<AddedLetter, Error> {
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
        let (added, ended) = self
            .transaction(scope, |tx| async move {
                // Whoever sends rubbish in a loop must not fill the database with it.
                if is_intake && tx.query_opt(sql::MANY_OF_INTAKE, &[&tenant]).await?.is_some() {
                    return Ok((false, 0));
                }
                // Of a document that nobody knows, for example after an older backup was restored, the letter is all there is.
                if document.is_some()
                    && tx.query_opt(sql::LOCK_DOCUMENT, &[&document]).await?.is_none()
                    && tx.query_opt(sql::PURGED, &[&document]).await?.is_some()
                {
                    return Ok((false, 0));
                }
                let added = tx.execute(sql::ADD, insert).await? == 1;
                Ok((added, tx.execute(sql::FAIL, fail).await?))
            })
            .await?;
        failed(&code, ended);
        Ok(AddedLetter { is_new: added, has_failed: ended > 0 })
    }

    /// A page of dead letters, the newest first: of one tenant, or of all and of none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a cursor that no page was answered with.
    pub async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        list: &ListLetters,
    ) -> Result<Page<DeadLetter>, Error> {
        let (time, id) = list.cursor.as_deref().map(cursor::decode_time).transpose()?.unzip();
        let limit = page_limit(list.limit);
        let more = i64::from(limit) + 1;
        let name = tenant.map(TenantId::as_str);
        let document = list.filter.document.map(|document| document.0);
        let LetterFilter { stage, reason_code, .. } = &list.filter;
        let resolution = (list.state != LetterState::Unresolved).then(|| list.state.as_str());
        let params: [Param<'_>; 8] = [&name, stage, reason_code, &document, &time, &id, &more, &resolution];
        let statement = sql::list(sql::Whose::of(tenant, &list.filter), resolution.is_none());
        let rows = self.single(scope("dead_letters", tenant), statement, &params).await?;
        let letters = rows.iter().map(DeadLetter::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(letters, limit as usize, |last| cursor::encode_time(last.created_at, last.id)))
    }

    /// How many of the tenant's dead letters nobody has resolved, by the stage that gave up.
    pub async fn unresolved_letters(&self, tenant: &TenantId) -> Result<Vec<(String, u64)>, Error> {
        let scope = Scope::tenant("unresolved_letters", tenant);
        let rows = self.single(scope, sql::COUNT_OPEN, &[&tenant.as_str()]).await?;
        let count = |row: &Row| {
            let letters: i64 = row.try_get("letters")?;
            Ok((row.try_get("stage")?, u64::try_from(letters).unwrap_or(0)))
        };
        rows.iter().map(count).collect()
    }

    /// How many dead letters of all tenants are open; of more than [`MOST_COUNTED`], so many.
    pub async fn open_dead_letters(&self) -> Result<u64, Error> {
        let rows = self.single(Scope::all("open_dead_letters"), sql::OPEN, &[&MOST_COUNTED]).await?;
        let open: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(open.and_then(|open| u64::try_from(open).ok()).unwrap_or(0))
    }

    /// A dead letter, and the entry as it was read; none when there is none, or it is another tenant's.
    pub async fn dead_letter(
        &self,
        tenant: Option<&TenantId>,
        id: Uuid,
    ) -> Result<Option<(DeadLetter, Vec<u8>)>, Error> {
        let name = tenant.map(TenantId::as_str);
        let rows = self.single(scope("dead_letter", tenant), sql::GET, &[&name, &id]).await?;
        rows.first().map(|row| Ok((DeadLetter::read(row)?, row.try_get("original")?))).transpose()
    }
}

/// The most open dead letters that are counted: whoever looks every few seconds must not read millions of rows.
const MOST_COUNTED: i64 = 100_000;

/// The stage of letters that the intake keeps.
const INTAKE: &str = "intake";

fn scope<'a>(name: &'static str, tenant: Option<&'a TenantId>) -> Scope<'a> {
    tenant.map_or(Scope::all(name), |tenant| Scope::tenant(name, tenant))
}
