//! Which words are in very many chunks of a large tenant, counted now and then: a search that counted them each time would walk
//! the list of all their chunks (`matching_chunks` in the schema).

use riacho_domain::TenantId;

use crate::{
    Error, Store, read,
    search::BOUND,
    transaction::{Param, Scope, Tx},
};

/// Words of tenants with more chunks than this are counted. Below, the index finds the chunks of the most frequent word in about a
/// millisecond.
const MANY: i64 = 10_000;
/// So many chunks are looked at; with more, a part stands for all.
const SAMPLE: i64 = 20_000;

impl Store {
    /// Counts the words of tenants that have many chunks, where these are a quarter more or fewer than at the last count, and
    /// forgets those of tenants that have few again. Answers how many tenants were counted. For the role of the janitor.
    ///
    /// Takes about a second for a tenant; what was counted before a failure stays.
    pub async fn count_words(&self) -> Result<u64, Error> {
        self.single(Scope::all("count_words"), FORGET, &[&(MANY / 2)]).await?;
        let due = self.single(Scope::all("count_words"), DUE, &[&MANY]).await?;
        for row in &due {
            let (tenant, chunks): (TenantId, i64) = (read::tenant(row, "tenant_id")?, row.try_get("chunks")?);
            let (scope, tenant) = (Scope::all("count_words"), &tenant);
            self.transaction(scope, |tx| async move { count(&tx, tenant, chunks).await }).await?;
        }
        Ok(due.len() as u64)
    }

    /// How many tenants [`Store::count_words`] would count.
    pub async fn words_due(&self) -> Result<u64, Error> {
        Ok(self.single(Scope::all("words_due"), DUE, &[&MANY]).await?.len() as u64)
    }
}

async fn count(tx: &Tx, tenant: &TenantId, chunks: i64) -> Result<(), Error> {
    tx.batch("-- store::frequent_words::count\nSET LOCAL statement_timeout = 0").await?;
    tx.execute(DELETE, &[&tenant.as_str()]).await?;
    tx.execute(INSERT, &[&tenant.as_str(), &chunks]).await?;
    let stands_for = (chunks + SAMPLE - 1) / SAMPLE;
    let params: [Param<'_>; 3] = [&tenant.as_str(), &stands_for, &i64::from(BOUND)];
    tx.execute(COUNT, &params).await?;
    Ok(())
}

const DUE: &str = "-- store::frequent_words::count_words
SELECT t.id AS tenant_id, counted.chunks
FROM tenants AS t LEFT JOIN word_counts AS w ON w.tenant_id = t.id
CROSS JOIN LATERAL (SELECT FROM chunks AS c WHERE c.tenant_id = t.id OFFSET $1 LIMIT 1) AS has_many
CROSS JOIN LATERAL (SELECT count(*) AS chunks FROM chunks AS c WHERE c.tenant_id = t.id) AS counted
WHERE abs(counted.chunks - coalesce(w.chunks, 0)) * 4 > counted.chunks";

const FORGET: &str = "-- store::frequent_words::count_words
DELETE FROM word_counts AS w WHERE NOT EXISTS (SELECT FROM chunks AS c WHERE c.tenant_id = w.tenant_id OFFSET $1 LIMIT 1)";

const DELETE: &str = "-- store::frequent_words::count
DELETE FROM word_counts WHERE tenant_id = $1";

const INSERT: &str = "-- store::frequent_words::count
INSERT INTO word_counts (tenant_id, chunks) VALUES ($1, $2)";

// A lexeme is hashed as a query shows it, in quotes.
const COUNT: &str = "-- store::frequent_words::count
INSERT INTO frequent_words (tenant_id, word_hash, chunks)
SELECT $1, hashtextextended(array_to_tsvector(ARRAY[word])::text, 0) AS hash, max(ndoc * $2)
FROM ts_stat(format('SELECT tsv FROM chunks WHERE tenant_id = %L AND abs(hashtext(document_id::text || ordinal)::bigint) %% %s = 0', $1::text, $2::bigint))
WHERE ndoc * $2 >= $3 GROUP BY hash";

pub(crate) const STATEMENTS: &[&str] = &[DUE, FORGET, DELETE, INSERT, COUNT];
