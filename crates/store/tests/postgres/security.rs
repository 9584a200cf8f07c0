//! Tenants are kept apart by the database itself.

use riacho_store::SearchRequest;

use crate::database::{Database, axis, database, upload};

/// Runs a statement as a service that works for a tenant would; the error's text, or the rows.
fn as_service(db: &Database, tenant: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let script = format!("SET ROLE riacho_service; SET riacho.tenant = '{tenant}'; {sql}");
    let run = std::panic::AssertUnwindSafe(|| db.raw.run(&script));
    std::panic::catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
    })
}

fn tables(db: &Database) -> Vec<String> {
    let sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND (c.relname = 'tenants' OR EXISTS (
                   SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'))
               ORDER BY 1";
    db.raw.run(sql).into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

#[tokio::test]
async fn every_table_with_a_tenant_has_forced_row_level_security_and_a_policy() {
    let db = database().await;
    let tables = tables(&db);
    assert!(tables.len() >= 12, "{tables:?}");
    for table in tables {
        let sql = format!(
            "SELECT c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
                 SELECT FROM pg_policies p WHERE p.tablename = c.relname AND 'riacho_service' = ANY (p.roles)
                     AND p.qual LIKE '%current_tenant()%')
             FROM pg_class c WHERE c.oid = '{table}'::regclass"
        );
        assert_eq!(db.value(&sql), "t", "{table}");
    }
}

#[tokio::test]
async fn the_services_role_sees_and_changes_no_other_tenants_rows() {
    let db = database().await;
    fill(&db).await;
    for table in tables(&db) {
        let column = if table == "tenants" { "id" } else { "tenant_id" };
        let theirs = format!("SELECT count(*) FROM {table} WHERE {column} = 'acme'");
        assert_ne!(db.value(&theirs), "0", "the test has rows in {table}");
        let seen =
            as_service(&db, "other", &format!("SELECT count(*) FROM {table} WHERE {column} <> 'other'"))
                .unwrap();
        assert_eq!(seen[0][0].as_deref(), Some("0"), "{table}");
        let nobody = as_service(&db, "", &format!("SELECT count(*) FROM {table}")).unwrap();
        assert_eq!(nobody[0][0].as_deref(), Some("0"), "{table} without a tenant");
        // An update that finds nothing changes nothing; one that the role may not do is refused.
        let _ = as_service(&db, "other", &format!("UPDATE {table} SET {column} = {column}"));
        let _ = as_service(&db, "other", &format!("DELETE FROM {table}"));
        assert_ne!(db.value(&theirs), "0", "{table} after a delete");
        let copied = as_service(&db, "other", &format!("COPY {table} FROM STDIN"));
        assert!(copied.is_err(), "COPY into {table} is refused under row-level security");
        let forged = format!(
            "INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, '{{\"{column}\": \"acme\"}}')"
        );
        assert!(as_service(&db, "other", &forged).is_err(), "a row of another tenant in {table}");
    }
}

#[tokio::test]
async fn the_services_role_cannot_lift_its_bounds() {
    let db = database().await;
    for sql in [
        "ALTER TABLE documents DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE documents NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON documents USING (true)",
        "DROP TABLE chunks",
        "TRUNCATE chunks",
        "CREATE TABLE public.mine (x int)",
        "DELETE FROM documents",
        "DELETE FROM files",
        "INSERT INTO tenants (id, name) VALUES ('mine', 'mine')",
    ] {
        assert!(as_service(&db, "other", sql).is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_search_finds_nothing_of_another_tenant() {
    let db = database().await;
    db.ready(&db.acme, "en", &["the secret ingredient is cardamom"]).await;
    db.ready(&db.other, "en", &["nothing of interest"]).await;
    let mut request = SearchRequest::new(db.other.clone(), "cardamom secret");
    assert!(db.store.search(&request).await.unwrap().is_empty());
    request.vector = Some(axis(0).to_vec());
    let hits = db.store.search(&request).await.unwrap();
    assert!(hits.iter().all(|hit| hit.text == "nothing of interest"), "{hits:?}");
    request.tenant = db.acme.clone();
    assert_eq!(db.store.search(&request).await.unwrap()[0].text, "the secret ingredient is cardamom");
    // The function that reads the text index for all tenants answers for the current one only.
    let words = "SELECT count(*) FROM matching_chunks(ARRAY['''cardamom''']::tsquery[], ARRAY['''cardamom''']::tsquery[], ARRAY[1], NULL, 10, 10)";
    assert_eq!(as_service(&db, "acme", words).unwrap()[0][0].as_deref(), Some("1"));
    assert_eq!(as_service(&db, "other", words).unwrap()[0][0].as_deref(), Some("0"));
    assert_eq!(as_service(&db, "", words).unwrap()[0][0].as_deref(), Some("0"));
}

#[tokio::test]
async fn another_tenants_document_is_not_there() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["mine"]).await;
    assert!(db.store.status(&db.other, document).await.unwrap().is_none());
    assert!(db.store.document(&db.other, document).await.unwrap().is_none());
    assert!(db.store.chunks(&db.other, document, None, 10).await.unwrap().is_none());
    assert!(db.store.text_of(&db.other, document, None).await.unwrap().is_none());
    assert!(db.store.original(&db.other, document, None).await.unwrap().is_none());
    assert!(!db.store.delete_document(&db.other, document).await.unwrap());
    assert!(db.store.cancel(&db.other, document).await.is_err());
    assert!(db.store.status(&db.acme, document).await.unwrap().is_some());
}

/// A row of the tenant acme in every table, and none of other's but its own.
async fn fill(db: &Database) {
    db.ready(&db.acme, "en", &["one", "two"]).await;
    let mut accept = upload(&db.acme, "with a key");
    accept.idempotency = Some(riacho_store::Idempotency { key: "k".into(), request_hash: [1; 32] });
    let event = riacho_store::EventKey { tenant: db.acme.clone(), source: "s".into(), event_id: "1".into() };
    db.store.accept_event(&event, &accept).await.unwrap();
    let key = riacho_store::NewKey {
        tenant: db.acme.clone(),
        name: "k".into(),
        scopes: vec![riacho_store::KeyScope::Search],
        expires_at: None,
    };
    db.store.create_key(&key).await.unwrap();
    let file = crate::files::file(db, &db.acme, "a file", None).await;
    let collection = db.store.create_collection(&db.acme, "a collection").await.unwrap();
    let accept = crate::files::made_of(&db.acme, &file, (collection.id, "a collection"));
    let attached = db.store.accept(&accept).await.unwrap();
    let batch = db.store.create_batch(&db.acme, collection.id).await.unwrap();
    db.store.add_to_batch(&db.acme, batch, &[(attached.document, attached.version)]).await.unwrap();
    let reason = riacho_store::Reason { code: "not_found".into(), message: "m".into() };
    db.store.add_refused(&db.acme, batch, &[(file.id, reason)]).await.unwrap();
    let _ = db.raw.run(
        "INSERT INTO embedding_spend VALUES ('acme', '2026-11-01', 'model', 'documents', 1, 1, 1, 1);
         INSERT INTO space_gaps (space_id, tenant_id, document_id, chunks) SELECT 99, tenant_id, id, 1 FROM documents
          WHERE tenant_id = 'acme' LIMIT 1;
         INSERT INTO webhooks (id, tenant_id, url, events, secret)
         VALUES (gen_random_uuid(), 'acme', 'https://example.org/', ARRAY['summary'], decode(repeat('00', 32), 'hex'));
         INSERT INTO webhook_deliveries (tenant_id, webhook_id, event, payload) SELECT 'acme', id, 'summary', '{}' FROM webhooks;
         INSERT INTO audit (tenant_id, actor, action, target, outcome) VALUES ('acme', 'key:k', 'a', 't', 'ok');
         INSERT INTO word_counts VALUES ('acme', 1);
         INSERT INTO frequent_words VALUES ('acme', 1, 1);
         INSERT INTO vector_indexes VALUES (1, 'acme', 1, 1, 1, 1);
         INSERT INTO receipts VALUES (gen_random_uuid(), 'acme', gen_random_uuid(), 1, 1, 1, 1);
         INSERT INTO dead_letters (id, tenant_id, stage, stream, entry_id, reason_code, message, attempts, original, occurred_at)
         VALUES (gen_random_uuid(), 'acme', 'embed', 's', '1-0', 'poison', 'm', 4, '', now())",
    );
}
