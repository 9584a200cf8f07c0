//! What the task `orphans` leaves alone: the objects of another deployment, and those whose rows are being written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use riacho_domain::UploadId;
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_objects::{Key, OWNER_OBJECT};
use riacho_store::Role;
use riacho_testkit::Deployment;

/// A janitor to which every object is old.
fn janitor(deployment: &Deployment) -> Janitor {
    let config = Config { orphan_age_seconds: 0, batch: 7, ..Config::default() };
    Janitor::new(config, &deployment.core().unwrap(), &deployment.resources(Role::Janitor).unwrap())
}

/// Objects that no row knows.
async fn strays(deployment: &Deployment, count: usize) -> Vec<Key> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let key = Key::original(&deployment.tenant, UploadId::new());
        deployment.objects.put(&key, Bytes::from_static(b"nobody's")).await.unwrap();
        keys.push(key);
    }
    keys
}

async fn are_there(deployment: &Deployment, keys: &[Key]) -> usize {
    let mut there = 0;
    for key in keys {
        there += usize::from(deployment.objects.exists(key).await.unwrap());
    }
    there
}

async fn removed(janitor: &Janitor) -> Result<u64, String> {
    let summary = janitor.run_task(TaskName::Orphans, false).await.map_err(|error| error.to_string())?;
    Ok(summary.counts.get("originals").copied().unwrap_or(0))
}

async fn dry(janitor: &Janitor) -> Result<u64, String> {
    let summary = janitor.run_task(TaskName::Orphans, true).await.map_err(|error| error.to_string())?;
    Ok(summary.counts.get("originals").copied().unwrap_or(0))
}

#[tokio::test]
async fn a_store_of_another_deployment_loses_nothing() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    assert_eq!(removed(&janitor).await, Ok(0));
    let keys = strays(&deployment, 3).await;
    let ours = deployment.janitor.deployment().await.unwrap().to_string();
    // As where a database was set up anew, or the settings name the store of another one.
    deployment.sql("UPDATE deployment SET id = gen_random_uuid()");
    for refused in [dry(&janitor).await, removed(&janitor).await] {
        let error = refused.unwrap_err();
        assert!(error.contains(&ours) && error.contains(OWNER_OBJECT), "{error}");
    }
    assert_eq!(are_there(&deployment, &keys).await, 3);
    deployment.sql(&format!("UPDATE deployment SET id = '{ours}'"));
    assert_eq!(removed(&janitor).await, Ok(3));
}

#[tokio::test]
async fn a_store_that_names_no_deployment_is_taken_over_where_most_of_its_objects_are_known() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    let keys = strays(&deployment, 10).await;
    deployment.accept("one.txt", "one").await.unwrap();
    let ours = deployment.janitor.deployment().await.unwrap().to_string();
    for refused in [dry(&janitor).await, removed(&janitor).await] {
        let error = refused.unwrap_err();
        assert!(error.contains("of 11 objects") && error.contains("knows 1:"), "{error}");
        assert!(error.contains(&ours) && error.contains(OWNER_OBJECT), "{error}");
    }
    assert_eq!((are_there(&deployment, &keys).await, deployment.objects.owner().await.unwrap()), (10, None));
    for n in 2..=10 {
        deployment.accept(&format!("{n}.txt"), format!("content {n}")).await.unwrap();
    }
    assert_eq!(dry(&janitor).await, Ok(10));
    assert_eq!(deployment.objects.owner().await.unwrap(), None, "a dry run only looks");
    assert_eq!(removed(&janitor).await, Ok(10));
    assert_eq!(deployment.objects.owner().await.unwrap(), Some(ours));
}

#[tokio::test]
async fn a_store_is_given_to_a_deployment_by_hand_as_the_error_says() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    strays(&deployment, 2).await;
    removed(&janitor).await.unwrap_err();
    let ours = deployment.janitor.deployment().await.unwrap().to_string();
    std::fs::write(deployment.objects.local_directory().unwrap().join(OWNER_OBJECT), ours).unwrap();
    assert_eq!(removed(&janitor).await, Ok(2));
}

#[tokio::test]
async fn a_row_that_comes_while_objects_are_removed_saves_its_own() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment);
    assert_eq!(removed(&janitor).await, Ok(0));
    let keys = strays(&deployment, 1).await;
    let new = riacho_store::NewFile {
        object_key: keys[0].to_string(),
        filename: "late.txt".into(),
        content_type: "text/plain".into(),
        purpose: "assistants".into(),
        size: 8,
        sha256: [7; 32],
        ttl: None,
    };
    deployment.store.create_file(&deployment.tenant, &new).await.unwrap();
    // The row is seen from the second question on, as one that is committed after the first.
    deployment.sql("CREATE SEQUENCE asked");
    deployment.sql("GRANT USAGE ON SEQUENCE asked TO riacho_janitor");
    deployment.sql("ALTER TABLE files RENAME TO all_files");
    deployment.sql(
        "CREATE VIEW files WITH (security_invoker) AS SELECT * FROM all_files WHERE (SELECT nextval('asked')) > 1",
    );
    deployment.sql("GRANT SELECT ON files TO riacho_janitor");
    assert_eq!(removed(&janitor).await, Ok(0));
    assert_eq!(are_there(&deployment, &keys).await, 1);
    assert_eq!(deployment.sql("SELECT last_value FROM asked"), [[Some("2".to_owned())]]);
}
