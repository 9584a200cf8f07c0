//! Resolving dead letters: replay and discard, a part of a selection at a time.
//!
//! A replay never puts old bytes back: it lets the version wait for a new release, as a retry does, and the
//! janitor releases it in its turn and under the caps. All of it is in rows, and each version is a
//! transaction of its own, so a call that ends in the middle has done what it has done and no more.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, State, TenantId, Version};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{LetterFilter, scope, sql};
use crate::{
    Error, Store,
    commands::{self, Locked},
    cursor, read,
    transaction::{Param, Scope},
};

/// The most letters that one call resolves or names.
pub const MAX_LETTERS: u32 = 1_000;

/// Which dead letters to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These, at most [`MAX_LETTERS`].
    Ids(Vec<Uuid>),
    /// All unresolved ones that the filter lets through.
    Filter(LetterFilter),
}

/// What to resolve, and how much of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// Which letters are meant.
    pub selection: Selection,
    /// Where to go on, as the call before answered.
    pub cursor: Option<String>,
    /// Letters of this call, 1 to [`MAX_LETTERS`].
    pub limit: u32,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// How fast a replay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The pause after each version.
    pub every: Duration,
    /// No version is begun after this time, except the first one.
    pub at_most: Duration,
}

/// What a call did. Letters that were skipped stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// How many letters were resolved. A replay resolves all open letters of a version together, those
    /// that were not selected too.
    pub letters: u64,
    /// The versions that were replayed.
    pub versions: Vec<ReplayedVersion>,
    /// The letters that were left alone, and why.
    pub skipped: Vec<Skipped>,
    /// Selected letters that this call did not come to.
    pub remaining: u64,
    /// What to go on with; none when nothing remains.
    pub next_cursor: Option<String>,
}

/// A version that was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReplayedVersion {
    /// The document.
    #[serde(rename = "document_id")]
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// Its letters that were resolved by that.
    pub letters: u64,
}

/// A letter that was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The letter.
    pub id: Uuid,
    /// Why.
    pub reason: SkipReason,
}

/// Why a letter was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// There is none of this id, or it is another tenant's.
    NotFound,
    /// Something was done about it before.
    Resolved,
    /// It names no version that could be released.
    NoDocument,
    /// The document was deleted.
    Gone,
    /// A newer version took its place.
    Superseded,
    /// The version is on its way again.
    InFlight,
    /// The version is ready.
    Ready,
    /// The version was cancelled.
    Cancelled,
    /// The document's time ran out.
    Expired,
    /// The original is needed and no longer stored.
    OriginalGone,
}

impl SkipReason {
    /// The code, as it stands in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SkipReason::NotFound => "not_found",
            SkipReason::Resolved => "resolved",
            SkipReason::NoDocument => "no_document",
            SkipReason::Gone => "gone",
            SkipReason::Superseded => "superseded",
            SkipReason::InFlight => "in_flight",
            SkipReason::Ready => "ready",
            SkipReason::Cancelled => "cancelled",
            SkipReason::Expired => "expired",
            SkipReason::OriginalGone => "original_gone",
        }
    }

    /// The reason for people, and what they can do.
    #[must_use]
    pub const fn describes(self) -> &'static str {
        match self {
            SkipReason::NotFound => "there is no such dead letter",
            SkipReason::Resolved => "it was replayed or discarded before",
            SkipReason::NoDocument => {
                "it names no document that could be released again; send the event anew and discard the letter"
            }
            SkipReason::Gone => "the document was deleted; discard the letter",
            SkipReason::Superseded => "a newer version took its place; discard the letter",
            SkipReason::InFlight => "the version is on its way again",
            SkipReason::Ready => "the version is searchable; discard the letter",
            SkipReason::Cancelled => "the version was cancelled; retry the document, or discard the letter",
            SkipReason::Expired => "the document's time ran out; discard the letter",
            SkipReason::OriginalGone => {
                "the original is needed and no longer stored; upload the document again"
            }
        }
    }
}

/// A letter of the selection, as far as it decides.
#[derive(Debug)]
struct Picked {
    id: Uuid,
    tenant: Option<TenantId>,
    document: Option<DocumentId>,
    version: Option<Version>,
    created_at: DateTime<Utc>,
    is_resolved: bool,
}

/// A part of a selection, the oldest letters first.
#[derive(Debug, Default)]
struct Part {
    letters: Vec<Picked>,
    absent: Vec<Uuid>,
    /// Letters behind this part.
    behind: u64,
}

impl Picked {
    fn read(row: &Row) -> Result<Self, Error> {
        let tenant: Option<&str> = row.try_get("tenant_id")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant: tenant.and_then(|tenant| tenant.parse().ok()),
            document: row.try_get::<_, Option<Uuid>>("document_id")?.map(DocumentId),
            version: read::count_opt(row, "version")?,
            created_at: row.try_get("created_at")?,
            is_resolved: row.try_get("is_resolved")?,
        })
    }

    const fn place(&self) -> (DateTime<Utc>, Uuid) {
        (self.created_at, self.id)
    }
}

impl Resolve {
    fn check(&self) -> Result<(), Error> {
        let most = MAX_LETTERS as usize;
        match &self.selection {
            Selection::Ids(ids) if ids.is_empty() || ids.len() > most => {
                Err(Error::Invalid(format!("1 to {most} letters can be named at once")))
            }
            _ if self.limit == 0 || self.limit > MAX_LETTERS => {
                Err(Error::Invalid(format!("the limit is 1 to {most} letters a call")))
            }
            _ => Ok(()),
        }
    }
}

impl Store {
    /// Releases the versions of the selected letters again, each under its row's lock, and resolves all
    /// open letters of each. A version that did not stay failed is left alone, and so is its letter.
    ///
    /// The rate is kept by this call itself, which ends after `pace.at_most` and says where to go on. A
    /// schedule in rows would go on by itself, but an operator who sees that the cause is not gone could
    /// not simply stop, and whoever waits could not see how far it is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a limit, a number of ids or a cursor that is none; an error in the middle
    /// leaves what was replayed before replayed, and is answered only where nothing was.
    pub async fn replay_dead_letters(
        &self,
        tenant: Option<&TenantId>,
        asked: &Resolve,
        pace: Pace,
    ) -> Result<Resolved, Error> {
        let part = self.part(tenant, asked).await?;
        let start = Instant::now();
        let mut answer = Resolved::default();
        let mut replayed = HashSet::new();
        let mut done = 0;
        for letter in &part.letters {
            let is_replayed =
                letter.document.zip(letter.version).is_some_and(|version| replayed.contains(&version));
            if !is_replayed {
                if done > 0 && start.elapsed() >= pace.at_most {
                    break;
                }
                match self.release_again(letter, asked.dry_run).await {
                    // What was done has to be answered; the next call begins with what failed.
                    Err(error) if done > 0 => {
                        tracing::warn!(%error, document = letter.document.map(tracing::field::display), "a replay of dead letters ended early");
                        break;
                    }
                    Err(error) => return Err(error),
                    Ok(Err(reason)) => answer.skipped.push(Skipped { id: letter.id, reason }),
                    Ok(Ok(version)) => {
                        replayed.insert((version.document, version.version));
                        answer.letters += version.letters;
                        answer.versions.push(version);
                        let more = done + 1 < part.letters.len() || part.behind > 0;
                        if more && !asked.dry_run {
                            tokio::time::sleep(pace.every).await;
                        }
                    }
                }
            }
            done += 1;
        }
        finish(answer, &part, done)
    }

    /// Notes that nothing more will be done about the selected letters. Their documents stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a limit, a number of ids or a cursor that is none.
    pub async fn discard_dead_letters(
        &self,
        tenant: Option<&TenantId>,
        asked: &Resolve,
    ) -> Result<Resolved, Error> {
        let part = self.part(tenant, asked).await?;
        let open: Vec<Uuid> = part.letters.iter().filter(|l| !l.is_resolved).map(|l| l.id).collect();
        let discarded: HashSet<Uuid> = if asked.dry_run || open.is_empty() {
            open.into_iter().collect()
        } else {
            let name = tenant.map(TenantId::as_str);
            let rows =
                self.single(scope("discard_dead_letters", tenant), sql::DISCARD, &[&name, &open]).await?;
            rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?
        };
        let skipped = part.letters.iter().filter(|letter| !discarded.contains(&letter.id));
        let answer = Resolved {
            letters: discarded.len() as u64,
            skipped: skipped.map(|l| Skipped { id: l.id, reason: SkipReason::Resolved }).collect(),
            ..Resolved::default()
        };
        finish(answer, &part, part.letters.len())
    }

    /// Lets a letter's version wait for a new release, as [`Store::retry`] does, if it stayed failed.
    async fn release_again(
        &self,
        letter: &Picked,
        dry_run: bool,
    ) -> Result<Result<ReplayedVersion, SkipReason>, Error> {
        if letter.is_resolved {
            return Ok(Err(SkipReason::Resolved));
        }
        let (Some(tenant), Some(document), Some(version)) = (&letter.tenant, letter.document, letter.version)
        else {
            return Ok(Err(SkipReason::NoDocument));
        };
        let released = self.transaction(Scope::tenant("replay_dead_letter", tenant), |tx| async move {
            let latest = match commands::lock(&tx, tenant, document).await {
                Ok(latest) => latest,
                Err(Error::NotFound(_)) => return Ok(Err(SkipReason::Gone)),
                Err(error) => return Err(error),
            };
            if let Some(reason) = judge(&latest, version) {
                return Ok(Err(reason));
            }
            let number = read::signed(version);
            let params: [Param<'_>; 3] = [&tenant.as_str(), &document.0, &number];
            let rows = tx.query(sql::LOCK_OPEN, &params).await?;
            let open = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
            if !open.contains(&letter.id) {
                return Ok(Err(SkipReason::Resolved));
            }
            if !dry_run {
                self.again(&tx, tenant, document, version, (None, true)).await?;
                tx.execute(sql::REPLAYED, &[&open]).await?;
            }
            Ok(Ok(ReplayedVersion { document, version, letters: open.len() as u64 }))
        });
        let released = released.await?;
        if let (Ok(ReplayedVersion { letters, .. }), false) = (released, dry_run) {
            tracing::info!(step = "redelivered", %tenant, %document, version, letters, "a dead letter's document is released again");
        }
        Ok(released)
    }

    async fn part(&self, tenant: Option<&TenantId>, asked: &Resolve) -> Result<Part, Error> {
        asked.check()?;
        let after = asked.cursor.as_deref().map(cursor::decode_time).transpose()?;
        let limit = asked.limit as usize;
        match &asked.selection {
            Selection::Ids(ids) => self.named(tenant, ids, after, limit).await,
            Selection::Filter(filter) => self.picked(tenant, filter, after, limit).await,
        }
    }

    async fn named(
        &self,
        tenant: Option<&TenantId>,
        ids: &[Uuid],
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: usize,
    ) -> Result<Part, Error> {
        let name = tenant.map(TenantId::as_str);
        let rows = self.single(scope("named_dead_letters", tenant), sql::NAMED, &[&name, &ids]).await?;
        let mut letters = rows.iter().map(Picked::read).collect::<Result<Vec<_>, _>>()?;
        let mut absent = Vec::new();
        // Said once, with the first part.
        if after.is_none() {
            let mut seen: HashSet<Uuid> = letters.iter().map(|letter| letter.id).collect();
            absent.extend(ids.iter().filter(|id| seen.insert(**id)));
        }
        letters.retain(|letter| after.is_none_or(|after| letter.place() > after));
        let behind = letters.len().saturating_sub(limit) as u64;
        letters.truncate(limit);
        Ok(Part { letters, absent, behind })
    }

    async fn picked(
        &self,
        tenant: Option<&TenantId>,
        filter: &LetterFilter,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: usize,
    ) -> Result<Part, Error> {
        let whose = sql::Whose::of(tenant, filter);
        let (name, document) = (tenant.map(TenantId::as_str), filter.document.map(|document| document.0));
        let more = i64::try_from(limit).unwrap_or(i64::MAX);
        let (time, id) = after.unzip();
        let LetterFilter { stage, reason_code, .. } = filter;
        let params: [Param<'_>; 7] = [&name, stage, reason_code, &document, &time, &id, &more];
        let rows = self.single(scope("picked_dead_letters", tenant), sql::pick(whose), &params).await?;
        let letters = rows.iter().map(Picked::read).collect::<Result<Vec<_>, _>>()?;
        let mut behind = 0;
        if let Some(last) = letters.last().filter(|_| letters.len() == limit) {
            let params: [Param<'_>; 6] = [&name, stage, reason_code, &document, &last.created_at, &last.id];
            let rows = self.single(scope("rest_of_dead_letters", tenant), sql::rest(whose), &params).await?;
            let letters: i64 = rows.first().map_or(Ok(0), |row| row.try_get("letters"))?;
            behind = u64::try_from(letters).unwrap_or(0);
        }
        Ok(Part { letters, absent: Vec::new(), behind })
    }
}

/// The answer with what it did not come to. `done` letters of the part were looked at.
fn finish(mut answer: Resolved, part: &Part, done: usize) -> Result<Resolved, Error> {
    let absent = part.absent.iter().map(|id| Skipped { id: *id, reason: SkipReason::NotFound });
    answer.skipped.extend(absent);
    answer.remaining = part.behind + part.letters.len().saturating_sub(done) as u64;
    if answer.remaining > 0 {
        let last = part.letters.get(done.saturating_sub(1));
        let last = last.ok_or_else(|| Error::Row("letters behind a part without any".into()))?;
        answer.next_cursor = Some(cursor::encode_time(last.created_at, last.id));
    }
    Ok(answer)
}

/// Why a version cannot be released again; none when it can.
fn judge(latest: &Locked, version: Version) -> Option<SkipReason> {
    if latest.version != version {
        return Some(SkipReason::Superseded);
    }
    match latest.state {
        State::Failed if latest.original_gone => Some(SkipReason::OriginalGone),
        State::Failed => None,
        State::Ready => Some(SkipReason::Ready),
        State::Cancelled => Some(SkipReason::Cancelled),
        State::Expired => Some(SkipReason::Expired),
        State::AwaitingUpload
        | State::Waiting
        | State::Releasing
        | State::Extracting
        | State::Embedding
        | State::Indexing => Some(SkipReason::InFlight),
    }
}
