//! The transaction of the indexer: lock in id order, decide, write rows, count, flip.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::Utc;
use futures::future::join_all;
use riacho_domain::{DocumentId, SpaceId, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    IndexAnswer, IndexItem,
    count::{Admission, Settled, VersionRow},
    rows::Columns,
};
use crate::{
    Error, Store, attachments,
    language::configuration,
    metrics::names,
    read,
    stages::{SET_TENANT, superseded},
    transaction::{Param, Tx},
};

type Key = (DocumentId, Version);
/// Rows that were really added, by version and run.
type Inserted = HashMap<Key, HashMap<Uuid, u32>>;

impl Store {
    pub(super) async fn write_items(&self, tx: &Tx, items: &[&IndexItem]) -> Result<Vec<IndexAnswer>, Error> {
        let rows = lock(tx, items).await?;
        let mut answers: Vec<IndexAnswer> = items.iter().map(|item| admission(&rows, item)).collect();
        let admitted: Vec<&IndexItem> = items
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| matches!(answer, IndexAnswer::Written { .. }))
            .map(|(item, _)| *item)
            .collect();
        if admitted.is_empty() {
            return Ok(answers);
        }
        let inserted = self.insert(tx, &admitted).await?;
        let mut settled = settle(tx, &rows, &admitted, &inserted).await?;
        let gone = replace_attachments(tx, &rows, &settled).await?;
        settled.retain(|(document, _), _| !gone.contains(document));
        for (item, answer) in items.iter().zip(&mut answers) {
            if gone.contains(&item.release.document) && matches!(answer, IndexAnswer::Written { .. }) {
                *answer = superseded("index", IndexAnswer::Superseded);
            }
        }
        write_versions(tx, &rows, &settled).await?;
        report(&rows, &settled, &inserted);
        mark_ready(items, &settled, &mut answers);
        Ok(answers)
    }

    /// Adds the rows of all admitted items, a statement for each tenant and table.
    async fn insert(&self, tx: &Tx, items: &[&IndexItem]) -> Result<Inserted, Error> {
        let mut groups: BTreeMap<(&TenantId, SpaceId), Vec<&IndexItem>> = BTreeMap::new();
        for item in items {
            groups.entry((&item.release.tenant, item.space)).or_default().push(item);
        }
        let statements: BTreeMap<SpaceId, String> =
            groups.keys().map(|(_, space)| (*space, insert_vectors(*space))).collect();
        tx.prepare(&[SET_TENANT, INSERT_CHUNKS, ADD_LANGUAGES]).await?;
        for statement in statements.values() {
            tx.prepare(&[statement]).await?;
        }
        let written = join_all(groups.iter().map(|((tenant, space), items)| {
            let languages = self.new_languages(tenant, items);
            let statement = statements.get(space).map_or("", String::as_str);
            async move { insert_group(tx, tenant, statement, items, &languages).await }
        }))
        .await;
        let mut inserted = Inserted::new();
        for rows in written {
            for row in rows? {
                let key = (read::document(&row, "document_id")?, read::version(&row, "version")?);
                let run: Uuid = row.try_get("run_id")?;
                inserted.entry(key).or_default().insert(run, read::count(&row, "added")?);
            }
        }
        Ok(inserted)
    }

    fn new_languages(&self, tenant: &TenantId, items: &[&IndexItem]) -> Vec<&'static str> {
        let mut languages: Vec<_> = items.iter().map(|item| configuration(&item.language)).collect();
        languages.sort_unstable();
        languages.dedup();
        languages.retain(|config| !self.inner.known.has_language(tenant, config));
        languages
    }

    /// After the commit: the languages of what was written are noted. Those of what came too late are not.
    pub(super) fn remember_languages(&self, items: &[&IndexItem], answers: &[IndexAnswer]) {
        for (item, answer) in items.iter().zip(answers) {
            if matches!(answer, IndexAnswer::Written { .. }) {
                self.inner.known.add_language(&item.release.tenant, configuration(&item.language));
            }
        }
    }
}

/// Locks the documents by id, then the versions, of all tenants in one flight.
async fn lock(tx: &Tx, items: &[&IndexItem]) -> Result<HashMap<Key, VersionRow>, Error> {
    let mut keys: Vec<(DocumentId, Version, &TenantId)> = items
        .iter()
        .map(|item| (item.release.document, item.release.version, &item.release.tenant))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    // Neighbours of one tenant share a statement; the order of ids stays.
    let groups: Vec<(&str, Vec<Uuid>, Vec<i32>)> = keys
        .chunk_by(|a, b| a.2 == b.2)
        .map(|group| {
            let documents = group.iter().map(|key| key.0.0).collect();
            (group[0].2.as_str(), documents, group.iter().map(|key| read::signed(key.1)).collect())
        })
        .collect();
    tx.prepare(&[SET_TENANT, LOCK_DOCUMENTS, LOCK_VERSIONS]).await?;
    let documents = join_all(groups.iter().map(|(tenant, documents, _)| async move {
        let set: [Param<'_>; 1] = [tenant];
        let params: [Param<'_>; 2] = [tenant, documents];
        let (set, rows) = futures::join!(tx.query(SET_TENANT, &set), tx.query(LOCK_DOCUMENTS, &params));
        set?;
        rows
    }));
    let versions = join_all(groups.iter().map(|(tenant, documents, versions)| async move {
        let set: [Param<'_>; 1] = [tenant];
        let params: [Param<'_>; 3] = [tenant, documents, versions];
        let (set, rows) = futures::join!(tx.query(SET_TENANT, &set), tx.query(LOCK_VERSIONS, &params));
        set?;
        rows
    }));
    let (documents, versions) = futures::join!(documents, versions);
    let mut live = HashMap::new();
    for rows in documents {
        for row in rows? {
            let id = read::document(&row, "id")?;
            live.insert(id, (read::count_opt(&row, "live_version")?, row.try_get::<_, bool>("deleted")?));
        }
    }
    let mut locked = HashMap::new();
    for rows in versions {
        for row in rows? {
            let version = version_row(&row, &live)?;
            locked.insert((version.document, version.version), version);
        }
    }
    Ok(locked)
}

fn version_row(row: &Row, live: &HashMap<DocumentId, (Option<Version>, bool)>) -> Result<VersionRow, Error> {
    let document = read::document(row, "document_id")?;
    // A version whose document was not found is being deleted.
    let (live_version, deleted) = live.get(&document).copied().unwrap_or((None, true));
    let total = read::count_opt(row, "chunk_total")?;
    Ok(VersionRow {
        tenant: read::tenant(row, "tenant_id")?,
        document,
        version: read::version(row, "version")?,
        state: read::state(row, "state")?,
        release: read::release(row, "release_id")?,
        space: read::count_opt(row, "space_id")?,
        sealed: read::run(row, "run_id")?.zip(total),
        indexed_run: row.try_get("indexed_run")?,
        chunks_indexed: read::count(row, "chunks_indexed")?,
        live_version,
        deleted,
        accepted_at: row.try_get("created_at")?,
    })
}

fn admission(rows: &HashMap<Key, VersionRow>, item: &IndexItem) -> IndexAnswer {
    let admission = rows
        .get(&(item.release.document, item.release.version))
        .filter(|row| row.tenant == item.release.tenant)
        .map_or(Admission::Superseded, |row| row.admit(item));
    match admission {
        Admission::Write => IndexAnswer::Written { ready: false },
        Admission::Superseded => superseded("index", IndexAnswer::Superseded),
        Admission::Rejected(message) => IndexAnswer::Rejected { message },
    }
}

async fn insert_group(
    tx: &Tx,
    tenant: &TenantId,
    insert_vectors: &str,
    items: &[&IndexItem],
    languages: &[&'static str],
) -> Result<Vec<Row>, Error> {
    let tenant = tenant.as_str();
    let columns = Columns::of(items);
    let set: [Param<'_>; 1] = [&tenant];
    let chunk_params: [Param<'_>; 18] = [
        &tenant,
        &columns.documents,
        &columns.versions,
        &columns.runs,
        &columns.ordinals,
        &columns.texts,
        &columns.byte_starts,
        &columns.byte_ends,
        &columns.char_starts,
        &columns.char_ends,
        &columns.first_pages,
        &columns.last_pages,
        &columns.headings,
        &columns.tokens,
        &columns.hashes,
        &columns.configs,
        &columns.lexemes,
        &columns.table_headers,
    ];
    let vector_params: [Param<'_>; 6] =
        [&tenant, &columns.documents, &columns.versions, &columns.runs, &columns.ordinals, &columns.vectors];
    let language_params: [Param<'_>; 2] = [&tenant, &languages];
    let (set, noted, chunks, vectors) = futures::join!(
        tx.query(SET_TENANT, &set),
        async {
            if languages.is_empty() { Ok(0) } else { tx.execute(ADD_LANGUAGES, &language_params).await }
        },
        tx.execute(INSERT_CHUNKS, &chunk_params),
        tx.query(insert_vectors, &vector_params),
    );
    set?;
    noted?;
    chunks?;
    vectors
}

/// Decides for each version what its row becomes, counting rows again where that is needed.
async fn settle(
    tx: &Tx,
    rows: &HashMap<Key, VersionRow>,
    items: &[&IndexItem],
    inserted: &Inserted,
) -> Result<BTreeMap<Key, Settled>, Error> {
    let mut settled = BTreeMap::new();
    let nothing = HashMap::new();
    // The sealed run's batch decides where several runs of a version came at once.
    for item in items {
        let key = (item.release.document, item.release.version);
        let Some(row) = rows.get(&key) else { continue };
        let added = inserted.get(&key).unwrap_or(&nothing);
        if settled.contains_key(&key) {
            continue;
        }
        let decided = match row.settle(item.run.0, added, &nothing) {
            Ok(decided) => decided,
            Err(run) => {
                let counted = HashMap::from([(run, recount(tx, row, item.space, run).await?)]);
                row.settle(item.run.0, added, &counted)
                    .map_err(|_| Error::Row("a count that did not help".into()))?
            }
        };
        settled.insert(key, decided);
    }
    Ok(settled)
}

async fn recount(tx: &Tx, row: &VersionRow, space: SpaceId, run: Uuid) -> Result<u32, Error> {
    let tenant = row.tenant.as_str();
    tx.query(SET_TENANT, &[&tenant]).await?;
    let params: [Param<'_>; 4] = [&tenant, &row.document.0, &read::signed(row.version), &run];
    read::count(&tx.query_one(&recount_vectors(space), &params).await?, "total")
}

/// What was attached to the versions before one that becomes live goes with them, and what is attached to this one is
/// found with it. Answers what went: it may be in this batch.
async fn replace_attachments(
    tx: &Tx,
    rows: &HashMap<Key, VersionRow>,
    settled: &BTreeMap<Key, Settled>,
) -> Result<HashSet<DocumentId>, Error> {
    let mut groups: BTreeMap<&TenantId, Vec<(Uuid, i32)>> = BTreeMap::new();
    for (key, _) in settled.iter().filter(|((_, version), settled)| settled.ready && *version > 1) {
        if let Some(row) = rows.get(key) {
            groups.entry(&row.tenant).or_default().push((key.0.0, read::signed(key.1)));
        }
    }
    let mut gone = HashSet::new();
    for (tenant, live) in &groups {
        tx.query(SET_TENANT, &[&tenant.as_str()]).await?;
        gone.extend(attachments::replace(tx, tenant, live).await?);
    }
    Ok(gone)
}

/// Writes the versions, flips the documents of those that are ready, and commits, in one flight.
async fn write_versions(
    tx: &Tx,
    rows: &HashMap<Key, VersionRow>,
    settled: &BTreeMap<Key, Settled>,
) -> Result<(), Error> {
    let mut groups: BTreeMap<&TenantId, Updates> = BTreeMap::new();
    for (key, settled) in settled {
        if let Some(row) = rows.get(key) {
            groups.entry(&row.tenant).or_default().push(*key, *settled);
        }
    }
    tx.prepare(&[SET_TENANT, UPDATE_VERSIONS, FLIP]).await?;
    let written = groups.iter().map(|(tenant, updates)| async move { updates.write(tx, tenant).await });
    tx.finish(written.collect()).await.map(drop)
}

#[derive(Default)]
struct Updates {
    documents: Vec<Uuid>,
    versions: Vec<i32>,
    runs: Vec<Uuid>,
    counts: Vec<i32>,
    states: Vec<&'static str>,
    live_documents: Vec<Uuid>,
    live_versions: Vec<i32>,
    live_runs: Vec<Uuid>,
}

impl Updates {
    fn push(&mut self, (document, version): Key, settled: Settled) {
        self.documents.push(document.0);
        self.versions.push(read::signed(version));
        self.runs.push(settled.run);
        self.counts.push(read::signed(settled.count));
        self.states.push(settled.state.as_str());
        if settled.ready {
            self.live_documents.push(document.0);
            self.live_versions.push(read::signed(version));
            self.live_runs.push(settled.run);
        }
    }

    async fn write(&self, tx: &Tx, tenant: &TenantId) -> Result<(), Error> {
        let tenant = tenant.as_str();
        let set: [Param<'_>; 1] = [&tenant];
        let update: [Param<'_>; 6] =
            [&tenant, &self.documents, &self.versions, &self.runs, &self.counts, &self.states];
        let flip: [Param<'_>; 4] = [&tenant, &self.live_documents, &self.live_versions, &self.live_runs];
        let (set, updated, flipped) =
            futures::join!(tx.query(SET_TENANT, &set), tx.execute(UPDATE_VERSIONS, &update), async {
                if self.live_documents.is_empty() { Ok(0) } else { tx.execute(FLIP, &flip).await }
            },);
        set?;
        updated?;
        flipped?;
        Ok(())
    }
}

/// One item of each version that became ready says so: the last.
fn mark_ready(items: &[&IndexItem], settled: &BTreeMap<Key, Settled>, answers: &mut [IndexAnswer]) {
    let mut last: HashMap<Key, usize> = HashMap::new();
    for (place, item) in items.iter().enumerate() {
        let key = (item.release.document, item.release.version);
        if matches!(answers[place], IndexAnswer::Written { .. }) && settled.get(&key).is_some_and(|s| s.ready)
        {
            last.insert(key, place);
        }
    }
    for place in last.into_values() {
        answers[place] = IndexAnswer::Written { ready: true };
    }
}

fn report(rows: &HashMap<Key, VersionRow>, settled: &BTreeMap<Key, Settled>, inserted: &Inserted) {
    let chunks: u64 = inserted.values().flat_map(HashMap::values).map(|count| u64::from(*count)).sum();
    metrics::counter!(names::CHUNKS_WRITTEN).increment(chunks);
    for (key, _) in settled.iter().filter(|(_, settled)| settled.ready) {
        if let Some(took) = rows.get(key).and_then(|row| (Utc::now() - row.accepted_at).to_std().ok()) {
            metrics::histogram!(names::DOCUMENT_SECONDS).record(took.as_secs_f64());
        }
    }
}

// `IS TRUE` keeps the planner from an index that begins with the tenant; see migration 0006.
const LOCK_DOCUMENTS: &str = "-- store::indexing::lock
SELECT id, live_version, deleted_at IS NOT NULL AS deleted FROM documents
WHERE (tenant_id = $1) IS TRUE AND id = ANY ($2) ORDER BY id FOR NO KEY UPDATE";

const LOCK_VERSIONS: &str = "-- store::indexing::lock
SELECT v.tenant_id, v.document_id, v.version, v.state, v.release_id, v.space_id, v.run_id, v.chunk_total, v.indexed_run,
       v.chunks_indexed, v.created_at
FROM document_versions AS v
WHERE v.tenant_id = $1
  AND (v.document_id, v.version) IN (SELECT document, version FROM unnest($2::uuid[], $3::int[]) AS wanted (document, version))
ORDER BY v.document_id, v.version FOR NO KEY UPDATE OF v";

const INSERT_CHUNKS: &str = "-- store::indexing::insert_group
INSERT INTO chunks (tenant_id, document_id, version, run_id, ordinal, text, byte_start, byte_end, char_start, char_end,
    page_first, page_last, heading_path, token_count, content_hash, config, tsv, table_header)
SELECT $1, document, version, run, ordinal, body, byte_start, byte_end, char_start, char_end, page_first, page_last,
       string_to_array(headings, E'\\x1f'), tokens, hash, config, lexemes,
       table_header
FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
            $10::bigint[], $11::int[], $12::int[], $13::text[], $14::int[], $15::bytea[], $16::text[], $17::tsvector[],
            $18::text[])
     AS new (document, version, run, ordinal, body, byte_start, byte_end, char_start, char_end, page_first, page_last,
             headings, tokens, hash, config, lexemes, table_header)
ON CONFLICT DO NOTHING";

const ADD_LANGUAGES: &str = "-- store::indexing::insert_group
INSERT INTO tenant_languages (tenant_id, config) SELECT $1, config FROM unnest($2::text[]) AS config
ON CONFLICT DO NOTHING";

const UPDATE_VERSIONS: &str = "-- store::indexing::write_versions
UPDATE document_versions AS v
SET indexed_run = new.run, chunks_indexed = new.count, state = new.state,
    finished_at = CASE WHEN new.state = 'ready' THEN now() END
FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::int[], $6::text[]) AS new (document, version, run, count, state)
WHERE v.tenant_id = $1 AND v.document_id = new.document AND v.version = new.version";

// In every other space that is filled the new live version may lack vectors: that stands in `space_gaps` with the flip.
// In its own it has all of them, whatever the version before lacked or had refused.
// It takes rows that other transactions wait for as its last step, see migration 0012: the counts of the gaps say that
// they are written.
const FLIP: &str = "-- store::indexing::write_versions
WITH flipped AS (UPDATE documents AS d
SET live_version = new.version, live_run = new.run, updated_at = now(),
    collection_id = coalesce(v.collection_id, d.collection_id), metadata = coalesce(v.metadata, d.metadata),
    expires_at = coalesce(v.expires_at, d.expires_at)
FROM unnest($2::uuid[], $3::int[], $4::uuid[]) AS new (document, version, run)
JOIN document_versions AS v ON v.tenant_id = $1 AND v.document_id = new.document AND v.version = new.version
WHERE (d.tenant_id = $1) IS TRUE AND d.id = new.document AND (d.live_version IS NULL OR d.live_version <= new.version)
RETURNING d.tenant_id, d.id, v.space_id, v.chunk_total),
gaps AS (INSERT INTO space_gaps (space_id, tenant_id, document_id, chunks)
SELECT s.id, f.tenant_id, f.id, f.chunk_total
FROM flipped AS f JOIN embedding_spaces AS s ON s.state NOT IN ('fallback', 'retired') AND s.id <> f.space_id
ORDER BY s.id, f.id
ON CONFLICT (space_id, document_id) DO UPDATE
SET mark = nextval('space_gaps_mark'), chunks = excluded.chunks, next_ordinal = 0, refused = NULL
RETURNING document_id),
closed AS (DELETE FROM space_gaps AS g USING flipped AS f WHERE g.space_id = f.space_id AND g.document_id = f.id
RETURNING g.document_id)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT DISTINCT tenant_id, pg_backend_pid() % 16, 1 FROM flipped
WHERE (SELECT count(*) FROM gaps) + (SELECT count(*) FROM closed) >= 0
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

fn insert_vectors(space: SpaceId) -> String {
    format!(
        "-- store::indexing::insert_group
WITH added AS (
    INSERT INTO vectors_{space} (tenant_id, document_id, version, run_id, ordinal, embedding)
    SELECT $1, document, version, run, ordinal, embedding
    FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::int[], $6::halfvec[]) AS new (document, version, run, ordinal, embedding)
    ON CONFLICT DO NOTHING
    RETURNING document_id, version, run_id)
SELECT document_id, version, run_id, count(*)::int AS added FROM added GROUP BY document_id, version, run_id"
    )
}

fn recount_vectors(space: SpaceId) -> String {
    format!(
        "-- store::indexing::recount
SELECT count(*)::int AS total FROM vectors_{space}
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND run_id = $4"
    )
}

/// The statements of this file, for a space.
pub(crate) fn statements(space: SpaceId) -> Vec<String> {
    let fixed = [LOCK_DOCUMENTS, LOCK_VERSIONS, INSERT_CHUNKS, ADD_LANGUAGES, UPDATE_VERSIONS, FLIP];
    let mut all: Vec<String> = fixed.iter().map(|sql| (*sql).to_owned()).collect();
    all.extend([insert_vectors(space), recount_vectors(space)]);
    all
}
