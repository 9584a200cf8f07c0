//! The vector index: built when there are many vectors, used by tenants that have many, and complete
//! with what is newer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_store::{Config, Hit, Mode, Role, SearchRequest, Store, build_index};

use crate::database::{DIMENSIONS, Database, database};

const FEW: u32 = 100;

/// Documents of ten chunks with vectors of many directions, written past the pipeline.
fn fill(db: &Database, tenant: &str, from: u32, documents: u32) {
    let space = db.space;
    let _ = db.raw.run(&format!(
        "INSERT INTO collections (tenant_id, id, name) VALUES ('{tenant}', md5('{tenant}')::uuid, 'default') ON CONFLICT DO NOTHING;
         INSERT INTO documents (tenant_id, id, collection_id, latest_version, live_version, live_run)
         SELECT '{tenant}', md5('{tenant}' || d)::uuid, md5('{tenant}')::uuid, 1, 1, md5('run')::uuid
         FROM generate_series({from}, {from} + {documents} - 1) AS d;
         INSERT INTO document_versions (tenant_id, document_id, version, state, lane, object_key, filename, chunking, fingerprint)
         SELECT tenant_id, id, 1, 'ready', 'bulk', 'o', 'f', '{{}}', sha256('') FROM documents AS d
         WHERE NOT EXISTS (SELECT FROM document_versions AS v WHERE v.document_id = d.id);
         INSERT INTO chunks
         SELECT '{tenant}', md5('{tenant}' || d)::uuid, 1, md5('run')::uuid, o, 'text', 0, 4, 0, 4, 0, 0, '{{}}', 1, '', 'english', 'text'
         FROM generate_series({from}, {from} + {documents} - 1) AS d, generate_series(0, 9) AS o;
         INSERT INTO vectors_{space} (tenant_id, document_id, version, run_id, ordinal, embedding)
         SELECT '{tenant}', md5('{tenant}' || d)::uuid, 1, md5('run')::uuid, o,
                ARRAY(SELECT sin(d * 7 + o * 3 + k * k) FROM generate_series(1, {DIMENSIONS}) AS k)::real[]::halfvec({DIMENSIONS})
         FROM generate_series({from}, {from} + {documents} - 1) AS d, generate_series(0, 9) AS o;
         ANALYZE"
    ));
}

async fn search(store: &Store, tenant: &str) -> Vec<Hit> {
    let vector: Vec<f32> = (0..DIMENSIONS).map(|k| f32::from(u8::try_from(k).unwrap()).cos()).collect();
    let tenant = tenant.parse().unwrap();
    let request = SearchRequest {
        mode: Mode::Vector,
        vector: Some(vector),
        top_k: 10,
        ..SearchRequest::new(tenant, "")
    };
    store.search(&request).await.unwrap()
}

/// How many of the exact answer's hits the answer has. The index is approximate: most will do.
fn found(answer: &[Hit], exact: &[Hit]) -> usize {
    assert_eq!(answer.len(), exact.len());
    exact.iter().filter(|hit| answer.iter().any(|other| other.chunk_id == hit.chunk_id)).count()
}

#[tokio::test]
async fn the_index_is_built_when_it_is_worth_it_and_finds_what_a_full_comparison_finds() {
    let db = database().await;
    let config = Config { exact_search_rows: FEW, ..db.config.clone() };
    fill(&db, "acme", 0, 60);
    fill(&db, "other", 0, 2);
    let exact = [search(&db.store, "acme").await, search(&db.store, "other").await];
    assert!(build_index(&db.config, db.space).await.unwrap().is_none(), "too few for the usual bound");
    let built = build_index(&config, db.space).await.unwrap().unwrap();
    assert_eq!(built.up_to, 620);
    assert!(build_index(&config, db.space).await.unwrap().is_none(), "nothing is newer");

    let store = Store::connect(&config, Role::Service).await.unwrap();
    for (tenant, exact) in ["acme", "other"].into_iter().zip(&exact) {
        assert!(found(&search(&store, tenant).await, exact) >= 8, "{tenant}");
    }
    // What came after the index is found, too, and what was deleted is not.
    fill(&db, "acme", 60, 30);
    let newer = search(&db.store, "acme").await;
    assert!(found(&newer, &exact[0]) < 10, "some of the nearest came later");
    assert!(found(&search(&store, "acme").await, &newer) >= 8);
    let first = search(&store, "acme").await[0].document;
    assert!(store.delete_document(&db.acme, first).await.unwrap());
    let left = search(&store, "acme").await;
    assert!(left.len() == 10 && left.iter().all(|hit| hit.document != first));
    let rebuilt = build_index(&config, db.space).await.unwrap().unwrap();
    assert!(rebuilt.up_to > built.up_to);
    assert_eq!(db.value("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'vectors%hnsw%'"), "1");
    assert!(found(&search(&store, "acme").await, &left) >= 8);
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_build_of_the_index_that_nobody_waits_for_ends_at_the_server() {
    let db = Arc::new(database().await);
    let config = Config { exact_search_rows: FEW, ..db.config.clone() };
    fill(&db, "acme", 0, 60);
    // A build waits for every transaction that may write to the table.
    let (space, other) = (db.space, Arc::clone(&db));
    let writer = std::thread::spawn(move || {
        other.raw.try_run(&format!(
            "BEGIN; LOCK TABLE vectors_{space} IN ROW EXCLUSIVE MODE; SELECT pg_sleep(600)"
        ))
    });
    let running = |what: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{what}%' AND pid <> pg_backend_pid()"
        );
        db.value(&sql) != "0"
    };
    until(|| running("pg_sleep(600)")).await;
    let build = tokio::spawn(async move { build_index(&config, space).await });
    until(|| running("CREATE INDEX CONCURRENTLY")).await;
    build.abort();
    until(|| !running("CREATE INDEX CONCURRENTLY")).await;
    db.value("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    assert!(writer.join().unwrap().is_err());
    let config = Config { exact_search_rows: FEW, ..db.config.clone() };
    assert!(build_index(&config, space).await.unwrap().is_some());
    assert_eq!(db.value("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'vectors%hnsw%'"), "1");
}

#[tokio::test]
async fn only_tenants_with_many_vectors_walk_the_index() {
    let db = database().await;
    let config = Config { exact_search_rows: FEW, ..db.config.clone() };
    fill(&db, "acme", 0, 60);
    fill(&db, "other", 0, 2);
    build_index(&config, db.space).await.unwrap().unwrap();
    assert_eq!(search_and_count(&db, &config, "other").await, "0");
    assert_ne!(search_and_count(&db, &config, "acme").await, "0");
}

/// Searches, and answers how often the index was walked until then. Sessions report when they end.
async fn search_and_count(db: &Database, config: &Config, tenant: &str) -> String {
    let url = format!("{}?application_name=walker", db.raw.owner_url());
    let store =
        Store::connect(&Config { url: url.as_str().into(), ..config.clone() }, Role::Service).await.unwrap();
    assert!(!search(&store, tenant).await.is_empty());
    drop(store);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walker'";
    let start = Instant::now();
    while db.value(sessions) != "0" {
        assert!(start.elapsed() < Duration::from_secs(10), "the session of the search has not ended");
        tokio::task::yield_now().await;
    }
    db.value(
        "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'vectors%hnsw%'",
    )
}
