//! A dry run counts what the run does, all of it, and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chrono::Utc;
use riacho_domain::{DocumentId, RunId, UploadId};
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_objects::Key;
use riacho_store::{Body, File, NewFile, OwnLimits, Role};
use riacho_testkit::Deployment;

/// A janitor whose tasks need several steps for what each test has.
fn janitor(deployment: &Deployment) -> Janitor {
    let config = Config {
        batch: 2,
        purge_grace_seconds: 0,
        orphan_age_seconds: 0,
        original_retention_seconds: Some(3600),
        ..Config::default()
    };
    Janitor::new(config, &deployment.core().unwrap(), &deployment.resources(Role::Janitor).unwrap())
}

async fn run(janitor: &Janitor, task: TaskName, dry_run: bool) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(task, dry_run).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

/// Runs a task twice without doing anything, and then for good; a last look finds nothing.
async fn same<const N: usize>(janitor: &Janitor, task: TaskName, expected: [(&'static str, u64); N]) {
    let expected = BTreeMap::from(expected);
    assert_eq!(run(janitor, task, true).await, expected, "{task}, dry");
    assert_eq!(run(janitor, task, true).await, expected, "{task}, dry again");
    let mut done = run(janitor, task, false).await;
    done.retain(|what, _| expected.contains_key(what));
    assert_eq!(done, expected, "{task}");
    assert_eq!(run(janitor, task, true).await, BTreeMap::new(), "{task}, afterwards");
}

async fn accepted(deployment: &Deployment, count: usize, prefix: &str) -> Vec<DocumentId> {
    let mut documents = Vec::new();
    for n in 0..count {
        let name = format!("{prefix}-{n}.txt");
        documents.push(deployment.accept(&name, format!("content of {name}")).await.unwrap().document);
    }
    documents
}

/// A document of a file, in a collection that is made where there is none.
async fn made_of(deployment: &Deployment, file: &File, collection: &str) -> DocumentId {
    let (store, tenant) = (&deployment.store, &deployment.tenant);
    let found = store.create_collection(tenant, collection).await.unwrap();
    let body = Body::Stored { size: file.size, sha256: file.sha256 };
    let mut accept = riacho_store::Accept::new(tenant.clone(), "file.txt", file.object_key.clone(), body);
    accept.collection = Some(collection.to_owned());
    accept.made_of = Some(riacho_store::MadeOf { file: file.id, collection: found.id });
    store.accept(&accept).await.unwrap().document
}

#[tokio::test]
async fn of_uploads_originals_and_unused_files() {
    let deployment = Deployment::start().await.unwrap();
    for n in 0..3 {
        let mut accept = deployment.stored(&format!("{n}.txt"), &Bytes::from(format!("{n}"))).await.unwrap();
        accept.body = Body::Awaited { expires_at: Utc::now() - chrono::Duration::hours(1) };
        deployment.store.accept(&accept).await.unwrap();
        deployment.file(format!("unused {n}"), None).await.unwrap();
    }
    for document in accepted(&deployment, 5, "done").await {
        deployment.store.cancel(&deployment.tenant, document).await.unwrap();
    }
    deployment.sql(
        "UPDATE document_versions SET finished_at = now() - interval '2 hours' WHERE finished_at IS NOT NULL",
    );
    deployment.sql("UPDATE files SET used_at = now() - interval '2 hours'");
    accepted(&deployment, 2, "in-flight").await;
    let expected = [("uploads", 3), ("originals", 5), ("files", 3)];
    same(&janitor(&deployment), TaskName::ExpireUploads, expected).await;
}

#[tokio::test]
async fn of_tenants_that_have_a_retention_of_their_own() {
    let deployment = Deployment::start().await.unwrap();
    // Before the first timestamp that PostgreSQL knows.
    let ages = Some(9_007_199_254_740_991);
    let tenants =
        [("keeps", Some(0)), ("ages", ages), ("long", Some(24 * 3600)), ("short", Some(60)), ("usual", None)];
    for (name, retention) in tenants {
        let (tenant, _) = deployment.add_tenant(name).await.unwrap();
        let own = OwnLimits { original_retention_seconds: retention, ..OwnLimits::default() };
        deployment.janitor.set_tenant_limits(&tenant, &own).await.unwrap();
        for n in 0..3 {
            let mut accept =
                deployment.stored(&format!("{n}.txt"), &Bytes::from(format!("{name} {n}"))).await.unwrap();
            accept.tenant = tenant.clone();
            let document = deployment.store.accept(&accept).await.unwrap().document;
            deployment.store.cancel(&tenant, document).await.unwrap();
        }
        let new = NewFile {
            object_key: Key::original(&tenant, UploadId::new()).to_string(),
            filename: "file.txt".into(),
            content_type: "text/plain".into(),
            purpose: "assistants".into(),
            size: 1,
            sha256: [1; 32],
            ttl: None,
        };
        deployment.store.create_file(&tenant, &new).await.unwrap();
    }
    let done = |minutes: u32| {
        deployment
            .sql(&format!("UPDATE document_versions SET finished_at = now() - interval '{minutes} minutes'"));
        deployment.sql(&format!("UPDATE files SET used_at = now() - interval '{minutes} minutes'"));
    };
    let originals = async |tenant: &str| {
        let kept = "original_purged_at IS NULL";
        let kept = format!("SELECT FROM document_versions WHERE tenant_id = '{tenant}' AND {kept}");
        deployment.sql(&kept).len()
    };
    let janitor = janitor(&deployment);
    done(30);
    same(&janitor, TaskName::ExpireUploads, [("originals", 3), ("files", 1)]).await;
    assert_eq!((originals("short").await, originals("usual").await), (0, 3));
    // Where the deployment keeps all, a tenant's own holds still.
    let config = Config { original_retention_seconds: None, batch: 2, ..Config::default() };
    let resources = deployment.resources(Role::Janitor).unwrap();
    let keeping = Janitor::new(config, &deployment.core().unwrap(), &resources);
    done(25 * 60);
    same(&keeping, TaskName::ExpireUploads, [("originals", 3), ("files", 1)]).await;
    assert_eq!((originals("long").await, originals("usual").await), (0, 3));
    same(&janitor, TaskName::ExpireUploads, [("originals", 3), ("files", 1)]).await;
    assert_eq!((originals("usual").await, originals("keeps").await, originals("ages").await), (0, 3, 3));
}

#[tokio::test]
async fn of_documents_files_and_collections_past_their_time() {
    let deployment = Deployment::start().await.unwrap();
    let store = &deployment.store;
    for n in 0..5 {
        let mut accept = deployment.stored(&format!("{n}.txt"), &Bytes::from(format!("{n}"))).await.unwrap();
        accept.ttl = Some(Duration::ZERO);
        store.accept(&accept).await.unwrap();
    }
    // One whose newer version is on its way and lives longer.
    let prolonged = accepted(&deployment, 1, "prolonged").await[0];
    deployment.sql(&format!(
        "UPDATE documents SET expires_at = now() - interval '1 hour' WHERE id = '{prolonged}';
         UPDATE document_versions SET expires_at = now() + interval '1 hour' WHERE document_id = '{prolonged}'"
    ));
    for n in 0..3 {
        deployment.file(format!("brief {n}"), Some(Duration::ZERO)).await.unwrap();
    }
    for (name, ttl) in [("kept", None), ("gone", None), ("also-gone", Some(Duration::ZERO))] {
        store.create_collection(&deployment.tenant, name).await.unwrap();
        for n in 0..3 {
            let content = Bytes::from(format!("{name} {n}"));
            let mut accept = deployment.stored(&format!("{name}-{n}.txt"), &content).await.unwrap();
            (accept.collection, accept.ttl) = (Some(name.to_owned()), ttl);
            store.accept(&accept).await.unwrap();
        }
    }
    deployment.sql("UPDATE collections SET deleted_at = now() WHERE name LIKE '%gone'");
    let expected = [("documents", 5 + 3 + 3), ("files", 3)];
    same(&janitor(&deployment), TaskName::ExpireDocuments, expected).await;
}

#[tokio::test]
async fn of_what_is_to_be_purged() {
    let deployment = Deployment::start().await.unwrap();
    let store = &deployment.store;
    for document in accepted(&deployment, 5, "deleted").await {
        assert!(store.delete_document(&deployment.tenant, document).await.unwrap());
    }
    for document in accepted(&deployment, 3, "cancelled").await {
        store.cancel(&deployment.tenant, document).await.unwrap();
    }
    accepted(&deployment, 1, "kept").await;
    // Files go once no document names them, also in the run that purges the last one.
    for n in 0..3 {
        let file = deployment.file(format!("file {n}"), None).await.unwrap();
        made_of(&deployment, &file, &format!("collection-{n}")).await;
        assert!(store.delete_file(&deployment.tenant, file.id).await.unwrap());
    }
    let expected = [("documents", 5 + 3), ("versions", 3), ("files", 3)];
    same(&janitor(&deployment), TaskName::Purge, expected).await;
}

#[tokio::test]
async fn of_what_is_forgotten() {
    let deployment = Deployment::start().await.unwrap();
    // Rows that are kept for a while, uploads that never came, a tenant of which nothing is left, and one with something.
    deployment.sql(
        "INSERT INTO audit (at, actor, action, target, outcome)
         SELECT now() - interval '2 years', 'cli:test', 'x', 'y', 'ok' FROM generate_series(1, 3)",
    );
    for n in 0..3 {
        let mut accept = deployment.stored(&format!("{n}.txt"), &Bytes::from(format!("{n}"))).await.unwrap();
        accept.body = Body::Awaited { expires_at: Utc::now() - chrono::Duration::hours(30) };
        deployment.store.accept(&accept).await.unwrap();
    }
    let janitor = janitor(&deployment);
    run(&janitor, TaskName::ExpireUploads, false).await;
    let (empty, _) = deployment.add_tenant("empty").await.unwrap();
    deployment.janitor.delete_tenant(&empty).await.unwrap();
    deployment.add_tenant("late").await.unwrap();
    deployment.sql(
        "UPDATE tenants SET state = 'deleting' WHERE id = 'late';
         INSERT INTO files (tenant_id, id, object_key, filename, content_type, purpose, size, sha256)
         VALUES ('late', gen_random_uuid(), 't/late/originals/x', 'x', 'text/plain', 'x', 1, sha256('x'))",
    );
    deployment.janitor.set_partitions(3).await.unwrap();
    deployment.janitor.set_partitions(1).await.unwrap();
    let expected = [("rows", 3 + 3), ("late_tenants", 1), ("tenants", 1), ("partitions", 2)];
    same(&janitor, TaskName::Housekeep, expected).await;
}

#[tokio::test]
async fn of_objects_that_no_row_knows_and_uploads_that_were_abandoned() {
    let deployment = Deployment::start().await.unwrap();
    let (tenant, objects) = (&deployment.tenant, &deployment.objects);
    let janitor = janitor(&deployment);
    run(&janitor, TaskName::Orphans, false).await;
    for n in 0..5 {
        let key = match n % 2 {
            0 => Key::original(tenant, UploadId::new()),
            _ => Key::text(tenant, DocumentId::new(), 1, RunId::new()),
        };
        objects.put(&key, Bytes::from_static(b"bytes")).await.unwrap();
        let part = format!("{}#1", objects.local_path(&key).unwrap().display());
        fs::write(&part, "a part").unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(&part).unwrap().set_modified(hour_ago).unwrap();
    }
    let expected = [("originals", 3), ("texts", 2), ("bytes", 25), ("abandoned_uploads", 5)];
    same(&janitor, TaskName::Orphans, expected).await;
}

#[tokio::test]
async fn of_indexes_and_of_spaces_that_were_given_up() {
    let deployment = Deployment::start().await.unwrap();
    let (model, dimensions) = riacho_testkit::LOCAL_MODEL;
    riacho_store::ensure_space(&deployment.database_config(), model, dimensions * 2).await.unwrap();
    deployment.sql(&format!(
        "UPDATE embedding_spaces SET state = 'retired', state_changed_at = now() - interval '1 hour' WHERE id <> {}",
        deployment.space.id
    ));
    let config = riacho_store::Config { exact_search_rows: 3, ..deployment.database_config() };
    let mut resources = deployment.resources(Role::Janitor).unwrap();
    resources.store = riacho_store::Store::connect(&config, Role::Janitor).await.unwrap();
    for n in 0..2 {
        let tenant = format!("large-{n}");
        deployment.add_tenant(&tenant).await.unwrap();
        deployment.sql(&vectors_of(&tenant, deployment.space.id, dimensions));
    }
    let settings = Config { purge_grace_seconds: 0, ..Config::default() };
    let mut core = deployment.core().unwrap();
    core.database = config;
    let janitor = Janitor::new(settings, &core, &resources);
    same(&janitor, TaskName::Index, [("indexes", 2), ("spaces", 1)]).await;
}

/// Five vectors of a tenant, which is many where `exact_search_rows` is three.
fn vectors_of(tenant: &str, space: u32, dimensions: u32) -> String {
    format!(
        "INSERT INTO vectors_{space} (tenant_id, document_id, version, run_id, ordinal, embedding)
         SELECT '{tenant}', md5('{tenant}')::uuid, 1, md5('run')::uuid, o,
                ARRAY(SELECT sin(o * 3 + k) FROM generate_series(1, {dimensions}) AS k)::real[]::halfvec({dimensions})
         FROM generate_series(0, 4) AS o"
    )
}
