//! The vector index: built when there are many vectors, used by tenants that have many, and complete
//! with what is newer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_store::{Config, Filter, Hit, IndexBuilt, Mode, Role, SearchRequest, Store};

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
    search_for(store, tenant, 10, None).await
}

/// The nearest of all vectors, whatever index there is.
async fn exactly(db: &Database, tenant: &str) -> Vec<Hit> {
    let _ = db.raw.run("ALTER TABLE vector_indexes RENAME TO away; CREATE TABLE vector_indexes (LIKE away); GRANT SELECT ON vector_indexes TO riacho_service");
    let hits = search(&db.store, tenant).await;
    let _ = db.raw.run("DROP TABLE vector_indexes; ALTER TABLE away RENAME TO vector_indexes");
    hits
}

async fn search_for(store: &Store, tenant: &str, top_k: u32, filter: Option<Filter>) -> Vec<Hit> {
    let vector: Vec<f32> = (0..DIMENSIONS).map(|k| f32::from(u8::try_from(k).unwrap()).cos()).collect();
    let tenant = tenant.parse().unwrap();
    let request = SearchRequest {
        mode: Mode::Vector,
        vector: Some(vector),
        top_k,
        filter,
        ..SearchRequest::new(tenant, "")
    };
    store.search(&request).await.unwrap()
}

/// How many hits of the answer are as near as those of the exact one, to a thousandth, which is what half precision keeps. The
/// index is approximate: most will do.
fn found(answer: &[Hit], exact: &[Hit]) -> usize {
    assert_eq!(answer.len(), exact.len());
    let last = exact.last().map_or(0.0, |hit| hit.score);
    answer.iter().filter(|hit| hit.score >= last - 1e-3).count()
}

/// Builds what is due where a tenant with more than [`FEW`] vectors has many.
async fn build(db: &Database) -> Vec<IndexBuilt> {
    let janitor = Store::connect(&few(&db.config), Role::Janitor).await.unwrap();
    janitor.build_indexes(&db.config, db.space).await.unwrap()
}

fn few(config: &Config) -> Config {
    Config { exact_search_rows: FEW, ..config.clone() }
}

const INDEXES: &str = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'vectors%hnsw%'";

#[tokio::test]
async fn a_tenants_index_is_built_when_it_is_worth_it_and_finds_what_a_full_comparison_finds() {
    let db = database().await;
    fill(&db, "acme", 0, 60);
    fill(&db, "other", 0, 2);
    let exact = [search(&db.store, "acme").await, search(&db.store, "other").await];
    assert!(
        db.janitor.build_indexes(&db.config, db.space).await.unwrap().is_empty(),
        "too few for the usual bound"
    );
    let built = build(&db).await;
    assert_eq!(
        built.iter().map(|built| (built.tenant.as_str(), built.vectors)).collect::<Vec<_>>(),
        [("acme", 600)]
    );
    assert!(build(&db).await.is_empty(), "nothing is newer");

    for (tenant, exact) in ["acme", "other"].into_iter().zip(&exact) {
        assert!(found(&search(&db.store, tenant).await, exact) >= 8, "{tenant}");
    }
    // What came after the index is found, too, and what was deleted is not.
    fill(&db, "acme", 60, 30);
    let newer = exactly(&db, "acme").await;
    assert!(newer[9].score > exact[0][9].score, "some of the nearest came later");
    assert!(found(&search(&db.store, "acme").await, &newer) >= 8);
    let first = search(&db.store, "acme").await[0].document;
    assert!(db.store.delete_document(&db.acme, first).await.unwrap());
    let left = search(&db.store, "acme").await;
    assert!(left.len() == 10 && left.iter().all(|hit| hit.document != first));
    let rebuilt = build(&db).await;
    assert_eq!(rebuilt.len(), 1);
    assert_eq!(db.value(INDEXES), "1", "the former one is removed");
    assert!(found(&search(&db.store, "acme").await, &left) >= 8);

    // A tenant that has few again is searched exactly.
    let _ = db.raw.run(&format!(
        "DELETE FROM vectors_{} WHERE tenant_id = 'acme' AND (ordinal > 0 OR seq % 3 > 0)",
        db.space
    ));
    assert!(build(&db).await.is_empty());
    assert_eq!(
        (db.value(INDEXES).as_str(), db.value("SELECT count(*) FROM vector_indexes").as_str()),
        ("0", "0")
    );
    assert_eq!(search(&db.store, "acme").await.len(), 10);
}

#[tokio::test]
async fn the_nearest_are_found_behind_more_that_are_not_live_than_are_looked_at() {
    let db = database().await;
    fill(&db, "acme", 0, 60);
    let all = search(&db.store, "acme").await;
    let nearest: Vec<String> =
        search_for(&db.store, "acme", 100, None).await.iter().map(|hit| hit.document.to_string()).collect();
    let list = nearest.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    let _ = db.raw.run(&format!("UPDATE documents SET live_run = md5('other')::uuid WHERE id IN ({list})"));
    let behind = search(&db.store, "acme").await;
    assert_eq!((behind.len(), found(&behind, &all)), (10, 0));
}

#[tokio::test]
async fn a_search_that_is_narrowed_finds_the_same_with_and_without_an_index() {
    let db = database().await;
    fill(&db, "acme", 0, 700);
    let _ = db.raw.run("UPDATE documents SET metadata = jsonb_build_object('kind', substr(id::text, 1, 1))");
    // All but a sixteenth, which are so many that the index is walked, and a sixteenth, which are compared.
    for filter in [r#"{"not": {"kind": "a"}}"#, r#"{"kind": "a"}"#] {
        let filter = Filter::parse(&serde_json::from_str(filter).unwrap()).unwrap();
        let exact = search_for(&db.store, "acme", 10, Some(filter.clone())).await;
        assert_eq!(exact.len(), 10);
        build(&db).await;
        let store = Store::connect(&few(&db.config), Role::Service).await.unwrap();
        let hits = search_for(&store, "acme", 10, Some(filter)).await;
        assert!(found(&hits, &exact) >= 8, "{}", found(&hits, &exact));
        let is_of_kind = |hit: &Hit| (hit.metadata["kind"] == "a") == (exact[0].metadata["kind"] == "a");
        assert!(hits.iter().all(is_of_kind));
    }
    assert_eq!(db.value(INDEXES), "1");
}

#[tokio::test]
async fn a_walk_that_finds_too_few_is_followed_by_a_full_comparison() {
    let db = database().await;
    fill(&db, "acme", 0, 700);
    build(&db).await;
    // All but ten chunks are of a version that is not live any more, and these are the farthest from the query.
    let all = search_for(&db.store, "acme", 100, None).await;
    let _ = db.raw.run(
        "UPDATE documents SET live_run = md5('other')::uuid WHERE id NOT IN (SELECT document_id FROM vectors_1
         ORDER BY embedding <=> ARRAY(SELECT cos(k - 1) FROM generate_series(1, 8) AS k)::real[]::halfvec DESC LIMIT 1)"
            .replace("vectors_1", &format!("vectors_{}", db.space))
            .replace("(1, 8)", &format!("(1, {DIMENSIONS})"))
            .as_str(),
    );
    let left = search(&db.store, "acme").await;
    assert_eq!((left.len(), found(&left, &all[..10])), (10, 0));
}

#[tokio::test]
async fn an_index_that_is_gone_is_noticed_and_one_that_cannot_be_built_keeps_no_other_waiting() {
    let db = database().await;
    fill(&db, "acme", 0, 60);
    fill(&db, "other", 0, 50);
    assert_eq!(build(&db).await.len(), 2);
    let name =
        db.value("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'vectors%hnsw%' ORDER BY 1 LIMIT 1");
    let _ = db.raw.run(&format!("DROP INDEX {name}"));
    let rebuilt = build(&db).await;
    assert_eq!(rebuilt.iter().map(|built| built.tenant.as_str()).collect::<Vec<_>>(), ["acme"]);

    // The index of the larger tenant is refused.
    fill(&db, "acme", 60, 60);
    fill(&db, "other", 50, 50);
    let space = db.space;
    let _ = db.raw.run(
        "CREATE FUNCTION refused() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_query() LIKE '%''acme''%' THEN RAISE EXCEPTION 'no room'; END IF; END $$;
         CREATE EVENT TRIGGER refused ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION refused()",
    );
    let janitor = Store::connect(&few(&db.config), Role::Janitor).await.unwrap();
    let failed = janitor.build_indexes(&db.config, space).await.unwrap_err();
    assert!(failed.to_string().contains("no room"), "{failed}");
    let of =
        |tenant: &str| db.value(&format!("SELECT vectors FROM vector_indexes WHERE tenant_id = '{tenant}'"));
    assert_eq!((of("acme").as_str(), of("other").as_str()), ("600", "1000"));
    let _ = db.raw.run("DROP EVENT TRIGGER refused");
    assert_eq!(build(&db).await.len(), 1);
    assert_eq!(db.value(INDEXES), "2", "what is not needed is removed");
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
    let other = Arc::clone(&db);
    let building = tokio::spawn(async move { build(&other).await });
    until(|| running("CREATE INDEX CONCURRENTLY")).await;
    building.abort();
    until(|| !running("CREATE INDEX CONCURRENTLY")).await;
    db.value("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    assert!(writer.join().unwrap().is_err());
    assert_eq!(build(&db).await.len(), 1);
    assert_eq!(db.value(INDEXES), "1", "what the other build left is removed");
}

#[tokio::test]
async fn only_tenants_with_many_vectors_walk_the_index() {
    let db = database().await;
    fill(&db, "acme", 0, 60);
    fill(&db, "other", 0, 2);
    assert_eq!(build(&db).await.len(), 1);
    assert_eq!(search_and_count(&db, "other").await, "0");
    assert_ne!(search_and_count(&db, "acme").await, "0");
}

/// Searches, and answers how often the index was walked until then. Sessions report when they end.
async fn search_and_count(db: &Database, tenant: &str) -> String {
    let url = format!("{}?application_name=walker", db.raw.owner_url());
    let store = Store::connect(&Config { url: url.as_str().into(), ..db.config.clone() }, Role::Service)
        .await
        .unwrap();
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
