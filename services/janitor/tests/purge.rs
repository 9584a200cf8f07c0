//! A purge of which something fails: it costs itself, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use bytes::Bytes;
use riacho_domain::DocumentId;
use riacho_janitor::{Config, Janitor, Summary, TaskName};
use riacho_objects::Key;
use riacho_store::{Body, File, Role};
use riacho_testkit::{Deployment, eventually};

/// A janitor that waits for nothing and takes one thing at a time.
fn janitor(deployment: &Deployment) -> Janitor {
    let config = Config { purge_grace_seconds: 0, batch: 1, ..Config::default() };
    Janitor::new(config, &deployment.core().unwrap(), &deployment.resources(Role::Janitor).unwrap())
}

async fn purge(janitor: &Janitor) -> Result<Summary, String> {
    janitor.run_task(TaskName::Purge, false).await.map_err(|error| error.to_string())
}

async fn deleted(deployment: &Deployment, filename: &str) -> DocumentId {
    let accepted = deployment.accept(filename, format!("content of {filename}")).await.unwrap();
    assert!(deployment.store.delete_document(&deployment.tenant, accepted.document).await.unwrap());
    accepted.document
}

async fn deleted_file(deployment: &Deployment, content: &'static str) -> File {
    let file = deployment.file(content, None).await.unwrap();
    assert!(deployment.store.delete_file(&deployment.tenant, file.id).await.unwrap());
    file
}

/// Makes the local store refuse to delete an object: a folder with something in it stands in its place.
fn block(deployment: &Deployment, object_key: &str) -> PathBuf {
    let path = deployment.objects.local_path(&Key::parse(object_key).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("in-the-way"), "").unwrap();
    path
}

fn receipts(deployment: &Deployment) -> usize {
    deployment.sql("SELECT FROM receipts").len()
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_keeps_nothing_else_from_its_purge() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    let accepted = deployment.accept("stuck.txt", "stuck").await.unwrap().document;
    let original = deployment.store.original(&deployment.tenant, accepted, Some(1)).await.unwrap().unwrap();
    let in_the_way = [
        block(&deployment, &original.object_key),
        block(&deployment, &deleted_file(&deployment, "first").await.object_key),
    ];
    // The oldest of all, so the first candidate of each run.
    assert!(deployment.store.delete_document(&deployment.tenant, accepted).await.unwrap());
    for n in 0..3 {
        deleted(&deployment, &format!("{n}.txt")).await;
    }
    deleted_file(&deployment, "second").await;
    let error = purge(&janitor).await.unwrap_err();
    assert!(error.starts_with("2 failed, the first with: "), "{error}");
    assert_eq!(receipts(&deployment), 4, "three documents and a file");
    let left = "SELECT id FROM documents UNION ALL SELECT id FROM files";
    assert_eq!(deployment.sql(left).len(), 2, "what failed is not forgotten");
    purge(&janitor).await.unwrap_err();
    for path in in_the_way {
        fs::remove_dir_all(path).unwrap();
    }
    let counts = purge(&janitor).await.unwrap().counts;
    assert_eq!((counts["documents"], counts["files"]), (1, 1), "{counts:?}");
    assert_eq!((receipts(&deployment), deployment.sql(left).len()), (6, 0));
}

#[tokio::test]
async fn while_redis_is_away_what_does_not_need_it_is_purged() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    for n in 0..2 {
        deleted(&deployment, &format!("{n}.txt")).await;
    }
    let mut accept = deployment.stored("failed.txt", &Bytes::from_static(b"failed")).await.unwrap();
    accept.body = Body::Stored { size: 6, sha256: [1; 32] };
    let cancelled = deployment.store.accept(&accept).await.unwrap().document;
    deployment.store.cancel(&deployment.tenant, cancelled).await.unwrap();
    deleted_file(&deployment, "first").await;
    deployment.redis().stop();
    purge(&janitor).await.unwrap_err();
    let purged =
        format!("SELECT FROM document_versions WHERE document_id = '{cancelled}' AND purged_at IS NOT NULL");
    assert_eq!(deployment.sql(&purged).len(), 1);
    assert_eq!(deployment.sql("SELECT FROM files").len(), 0);
    assert_eq!(receipts(&deployment), 1);
    deployment.redis().start();
    eventually(|| async { purge(&janitor).await }).await;
    assert_eq!(receipts(&deployment), 3);
}
