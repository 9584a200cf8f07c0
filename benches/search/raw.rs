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
    /// The HNSW index, with the settings of the product.
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
                 SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 100; SET hnsw.max_scan_tuples = 40000"
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
        let statement = self
            .client
            .prepare(&format!(
                "SELECT document_id, ordinal, embedding <=> $2::text::halfvec AS distance FROM vectors_{space}
                 WHERE tenant_id = $1 {narrowed} ORDER BY {order} LIMIT 10"
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

    /// Rows a second of COPY into a table without indexes, and into one with a live HNSW index; chunks and vectors in one row.
    pub(super) async fn copy(&self, rows: u64) -> anyhow::Result<[f64; 2]> {
        let (space, directory) = (self.space, self.data_directory().await?);
        let file = format!("'{directory}/bench.copy' (FORMAT binary)");
        self.run(&format!(
            "COPY (SELECT c.*, v.embedding FROM chunks AS c
                   JOIN vectors_{space} AS v USING (tenant_id, document_id, version, run_id, ordinal) LIMIT {rows}) TO {file};
             CREATE TABLE bench_plain AS SELECT c.*, v.embedding FROM chunks AS c
                   JOIN vectors_{space} AS v USING (tenant_id, document_id, version, run_id, ordinal) LIMIT 0;
             CREATE TABLE bench_live (LIKE bench_plain);
             CREATE INDEX ON bench_live USING hnsw (embedding halfvec_cosine_ops)"
        ))
        .await?;
        let mut rates = [0.0; 2];
        for (rate, table) in rates.iter_mut().zip(["bench_plain", "bench_live"]) {
            let start = Instant::now();
            self.run(&format!("COPY {table} FROM {file}")).await?;
            *rate = rows as f64 / start.elapsed().as_secs_f64();
        }
        self.run("DROP TABLE bench_plain, bench_live").await?;
        Ok(rates)
    }

    async fn data_directory(&self) -> anyhow::Result<String> {
        Ok(self.client.query_one("SHOW data_directory", &[]).await?.try_get(0)?)
    }
}
