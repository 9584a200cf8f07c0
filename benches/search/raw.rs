//! The limit: what PostgreSQL and pgvector do without anything around them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls};

/// A connection as the owner of the server, whom row-level security does not bind.
pub(super) struct Raw {
    client: Client,
    space: u32,
}

/// How a raw query finds its rows.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// All rows of the tenant are compared.
    Exact,
    /// The tenant's HNSW index, with the settings of the product.
    Index,
}

impl Raw {
    pub(super) async fn connect(url: &str, space: u32) -> anyhow::Result<Raw> {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.context("connecting to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(Raw { client, space })
    }

    pub(super) async fn run(&self, sql: &str) -> anyhow::Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// The similarities of the ten nearest chunks of a tenant, of documents with a condition where there is one, and the
    /// time that it took.
    pub(super) async fn nearest(
        &self,
        way: Way,
        tenant: &str,
        vector: &[f32],
        condition: Option<&str>,
    ) -> anyhow::Result<(Vec<f64>, Duration)> {
        let space = self.space;
        let settings = match way {
            Way::Exact => "SET enable_indexscan = on; SET enable_sort = on; SET enable_seqscan = off",
            Way::Index => {
                "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
                 SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 400; SET hnsw.max_scan_tuples = 40000"
            }
        };
        self.client.batch_execute(settings).await?;
        let order = if way == Way::Exact {
            "(embedding <=> $2::text::halfvec) + 0.0"
        } else {
            "embedding <=> $2::text::halfvec"
        };
        let narrowed = condition.map_or_else(String::new, |condition| {
            format!("AND document_id IN (SELECT id FROM documents WHERE tenant_id = $1 AND {condition})")
        });
        let reached = if way == Way::Index { self.reached(tenant).await? } else { String::new() };
        let statement = self
            .client
            .prepare(&format!(
                "SELECT document_id, ordinal, embedding <=> $2::text::halfvec AS distance FROM vectors_{space}
                 WHERE tenant_id = $1 {reached} {narrowed} ORDER BY {order} LIMIT 10"
            ))
            .await?;
        let vector = format!("{vector:?}");
        let start = Instant::now();
        let rows = self.client.query(&statement, &[&tenant, &vector]).await?;
        let took = start.elapsed();
        let near = rows
            .iter()
            .map(|row| Ok(1.0 - row.try_get::<_, f64>("distance")?))
            .collect::<anyhow::Result<_>>()?;
        Ok((near, took))
    }

    /// The condition by which the planner knows that the tenant's index fits.
    async fn reached(&self, tenant: &str) -> anyhow::Result<String> {
        let sql = format!(
            "SELECT indexed_seq FROM vector_indexes WHERE space_id = {} AND tenant_id = $1",
            self.space
        );
        let up_to: i64 = self.client.query_one(&sql, &[&tenant]).await?.try_get(0)?;
        Ok(format!("AND tenant_id = '{tenant}' AND seq <= {up_to}"))
    }

    /// Rows a second of COPY, chunks and vectors: into a table without indexes, into tables with all indexes of the product but
    /// HNSW, and into a table with a live HNSW index alone.
    pub(super) async fn copy(&self, rows: u64) -> anyhow::Result<[f64; 3]> {
        let (space, directory) = (self.space, self.data_directory().await?);
        let both = format!("'{directory}/bench.copy' (FORMAT binary)");
        let chunks = format!("'{directory}/bench-chunks.copy' (FORMAT binary)");
        let vectors = format!("'{directory}/bench-vectors.copy' (FORMAT binary)");
        self.run(&format!(
            "CREATE TABLE bench_plain AS SELECT c.*, v.embedding FROM chunks AS c
                   JOIN vectors_{space} AS v USING (tenant_id, document_id, version, run_id, ordinal) LIMIT {rows};
             CREATE TABLE bench_chunks (LIKE chunks INCLUDING ALL);
             CREATE TABLE bench_vectors (LIKE vectors_{space} INCLUDING ALL);
             COPY (SELECT * FROM bench_plain) TO {both};
             COPY (SELECT c.* FROM bench_plain AS b JOIN chunks AS c USING (tenant_id, document_id, version, run_id, ordinal)) TO {chunks};
             COPY (SELECT v.tenant_id, v.document_id, v.version, v.run_id, v.ordinal, v.seq, v.embedding FROM bench_plain AS b JOIN vectors_{space} AS v USING (tenant_id, document_id, version, run_id, ordinal)) TO {vectors};
             TRUNCATE bench_plain;
             CREATE TABLE bench_live (LIKE bench_plain);
             CREATE INDEX ON bench_live USING hnsw (embedding halfvec_cosine_ops)"
        ))
        .await?;
        let ways = [
            format!("COPY bench_plain FROM {both}"),
            // The list of words that wait for the text index is worked off, as it is in the long run.
            format!(
                "COPY bench_chunks FROM {chunks}; COPY bench_vectors (tenant_id, document_id, version, run_id, ordinal, seq, embedding) FROM {vectors};
                 SELECT gin_clean_pending_list(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                 WHERE indrelid = 'bench_chunks'::regclass AND relam = (SELECT oid FROM pg_am WHERE amname = 'gin')"
            ),
            format!("COPY bench_live FROM {both}"),
        ];
        let mut rates = [0.0; 3];
        for (rate, copy) in rates.iter_mut().zip(ways) {
            let start = Instant::now();
            self.run(&copy).await?;
            *rate = rows as f64 / start.elapsed().as_secs_f64();
        }
        self.run("DROP TABLE bench_plain, bench_chunks, bench_vectors, bench_live").await?;
        Ok(rates)
    }

    async fn data_directory(&self) -> anyhow::Result<String> {
        Ok(self.client.query_one("SHOW data_directory", &[]).await?.try_get(0)?)
    }
}
