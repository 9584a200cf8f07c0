//! Where an extraction begins, and where its run becomes the version. Concurrent calls go together.

use std::collections::{HashMap, HashSet};

use futures::{FutureExt, future::BoxFuture};
use riacho_domain::{ReleaseId, RunId};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::{
    Error, Release, Store, read,
    stages::{Column, by_tenant, superseded},
    together::Together,
    transaction::Scope,
};

/// The calls of this file that wait for their group.
#[derive(Default)]
pub(crate) struct Calls {
    begins: Together<Release, Option<Extraction>>,
    seals: Together<(Release, Seal), Sealed>,
}

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
    /// An extractor takes the release up. None: it is no longer current. Cancel safe: a call that was
    /// made takes place.
    pub async fn begin_extraction(&self, release: &Release) -> Result<Option<Extraction>, Error> {
        let store = self.clone();
        let begin = async move |releases: Vec<Release>| {
            store.each(&releases, |store, part| store.begin_all(part).boxed()).await
        };
        self.inner.extractions.begins.call(release.clone(), begin).await
    }

    async fn begin_all(&self, releases: &[Release]) -> Result<Vec<Option<Extraction>>, Error> {
        let scope = Scope::all("begin_extraction").relaxed();
        let rows = self.of_extractions(scope, releases, BEGIN).await?;
        let mut begun = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id = ReleaseId(row.try_get("release_id")?);
            begun.insert(id, Extraction { sealed: SealedRun::read(row)? });
        }
        let answer = |release: &Release| {
            begun.get(&release.release).cloned().or_else(|| superseded("begin_extraction", None))
        };
        Ok(releases.iter().map(answer).collect())
    }

    /// Seals a run, unless one is sealed. Must come before the run's last handoff. Cancel safe: a call
    /// that was made takes place.
    pub async fn seal(&self, release: &Release, seal: &Seal) -> Result<Sealed, Error> {
        if seal.chunk_total == 0 {
            return Err(Error::Invalid(
                "a run without chunks is not sealed, the document failed as empty".into(),
            ));
        }
        let store = self.clone();
        let seals = async move |seals: Vec<(Release, Seal)>| {
            store.each(&seals, |store, part| store.seal_all(part).boxed()).await
        };
        self.inner.extractions.seals.call((release.clone(), seal.clone()), seals).await
    }

    async fn seal_all(&self, seals: &[(Release, Seal)]) -> Result<Vec<Sealed>, Error> {
        let groups = by_tenant(seals, |(release, _)| release);
        let columns = groups.into_iter().map(|(tenant, seals)| (tenant, seal_columns(&seals)));
        let rows = self.for_tenants(Scope::all("seal"), columns.collect(), SEAL).await?;
        let mut first = HashSet::with_capacity(rows.len());
        for row in &rows {
            first.insert(read::run(row, "run_id")?);
        }
        let late: Vec<Release> = seals
            .iter()
            .filter(|(_, seal)| !first.contains(&Some(seal.run)))
            .map(|(r, _)| r.clone())
            .collect();
        let mut sealed = HashMap::with_capacity(late.len());
        for row in self.of_extractions(Scope::all("sealed"), &late, SEALED).await? {
            if let Some(run) = SealedRun::read(&row)? {
                sealed.insert(ReleaseId(row.try_get("release_id")?), run);
            }
        }
        let answer = |(release, seal): &(Release, Seal)| match sealed.get(&release.release) {
            _ if first.contains(&Some(seal.run)) => Sealed::First,
            Some(run) => Sealed::Existing(run.clone()),
            None => superseded("seal", Sealed::Superseded),
        };
        Ok(seals.iter().map(answer).collect())
    }

    /// Runs a statement of (tenant, documents, versions, release ids).
    async fn of_extractions(
        &self,
        scope: Scope<'_>,
        releases: &[Release],
        sql: &str,
    ) -> Result<Vec<Row>, Error> {
        let groups = by_tenant(releases, |release| release);
        let columns = groups.into_iter().map(|(tenant, releases)| (tenant, fences(&releases)));
        self.for_tenants(scope, columns.collect(), sql).await
    }

    /// Answers all, or one by one where the data of one is refused: the others must not suffer for it.
    async fn each<Q: Sync, A: Send>(&self, questions: &[Q], work: Work<Q, A>) -> Vec<Result<A, Error>> {
        match work(self, questions).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) if error.is_of_the_data() && questions.len() > 1 => {
                let mut answers = Vec::with_capacity(questions.len());
                for question in questions {
                    let answer = work(self, std::slice::from_ref(question)).await;
                    let none = || Error::Row("a call without an answer".into());
                    answers.push(answer.and_then(|answers| answers.into_iter().next().ok_or_else(none)));
                }
                answers
            }
            Err(error) => questions.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// Answers a group of questions, in order.
type Work<Q, A> = for<'a> fn(&'a Store, &'a [Q]) -> BoxFuture<'a, Result<Vec<A>, Error>>;

/// Documents, versions and release ids.
fn fences(releases: &[&Release]) -> Vec<Column> {
    let documents: Vec<Uuid> = releases.iter().map(|release| release.document.0).collect();
    let versions: Vec<i32> = releases.iter().map(|release| read::signed(release.version)).collect();
    let ids: Vec<Uuid> = releases.iter().map(|release| release.release.0).collect();
    vec![Box::new(documents), Box::new(versions), Box::new(ids)]
}

/// The columns of [`SEAL`].
fn seal_columns(seals: &[&(Release, Seal)]) -> Vec<Column> {
    fn column<T: ToSql + Sync + Send + 'static>(seals: &[&(Release, Seal)], of: impl Fn(&Seal) -> T) -> Column
    where
        Vec<T>: ToSql,
    {
        Box::new(seals.iter().map(|(_, seal)| of(seal)).collect::<Vec<T>>())
    }
    let releases: Vec<&Release> = seals.iter().map(|(release, _)| release).collect();
    let mut columns = fences(&releases);
    columns.extend([
        column(seals, |seal| seal.run.0),
        column(seals, |seal| seal.manifest.clone()),
        column(seals, |seal| read::signed(seal.chunk_total)),
        column(seals, |seal| seal.detected_type.clone()),
        column(seals, |seal| seal.encoding.clone()),
        column(seals, |seal| seal.language.clone()),
        column(seals, |seal| seal.pages.map(read::signed)),
    ]);
    columns
}

// `IS TRUE` hides the state from the planner: an index of all versions in flight would be walked from
// end to end for each row.
const BEGIN: &str = "-- store::extraction::begin_all
UPDATE document_versions AS v
SET state = CASE WHEN v.state = 'releasing' THEN 'extracting' ELSE v.state END,
    released_at = coalesce(v.released_at, now()), started_at = coalesce(v.started_at, now()),
    extractions = v.extractions + CASE WHEN v.run_id IS NULL THEN 1 ELSE 0 END
FROM unnest($2::uuid[], $3::int[], $4::uuid[]) AS r (document, version, release)
WHERE v.tenant_id = $1 AND v.document_id = r.document AND v.version = r.version AND v.release_id = r.release
  AND (v.state IN ('releasing', 'extracting', 'embedding', 'indexing')) IS TRUE
RETURNING v.release_id, v.run_id, v.manifest, v.chunk_total";

const SEAL: &str = "-- store::extraction::seal_all
UPDATE document_versions AS v
SET run_id = r.run, manifest = r.manifest, chunk_total = r.total, detected_type = r.detected, encoding = r.encoding,
    language = r.language, pages_total = coalesce(r.pages, v.pages_total),
    pages_done = coalesce(r.pages, v.pages_done), sealed_at = now(),
    state = CASE WHEN v.state IN ('releasing', 'extracting') THEN 'embedding' ELSE v.state END
FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::uuid[], $6::bytea[], $7::int[], $8::text[], $9::text[],
            $10::text[], $11::int[])
     AS r (document, version, release, run, manifest, total, detected, encoding, language, pages)
WHERE v.tenant_id = $1 AND v.document_id = r.document AND v.version = r.version AND v.release_id = r.release
  AND v.run_id IS NULL AND (v.state IN ('releasing', 'extracting', 'embedding', 'indexing')) IS TRUE
RETURNING v.run_id";

const SEALED: &str = "-- store::extraction::seal_all
SELECT v.release_id, v.run_id, v.manifest, v.chunk_total
FROM unnest($2::uuid[], $3::int[], $4::uuid[]) AS r (document, version, release)
JOIN document_versions AS v
  ON v.document_id = r.document AND v.version = r.version AND v.release_id = r.release
WHERE v.tenant_id = $1 AND (v.state IN ('releasing', 'extracting', 'embedding', 'indexing')) IS TRUE";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[BEGIN, SEAL, SEALED];
