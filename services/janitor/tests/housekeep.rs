//! Housekeeping: deleted tenants go, also with what came late.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use riacho_janitor::{Config, Janitor, TaskName};
use riacho_store::Role;
use riacho_testkit::Deployment;

#[tokio::test]
async fn a_deleted_tenant_goes_also_where_an_upload_was_committed_after_its_deletion() {
    let deployment = Deployment::start().await.unwrap();
    let config = Config { purge_grace_seconds: 0, ..Config::default() };
    let resources = deployment.resources(Role::Janitor).unwrap();
    let janitor = Janitor::new(config, &deployment.core().unwrap(), &resources);
    deployment.janitor.delete_tenant(&deployment.tenant).await.unwrap();
    deployment.sql("UPDATE tenants SET state = 'active'");
    deployment.accept("late.txt", "saw its tenant active").await.unwrap();
    deployment.sql("UPDATE tenants SET state = 'deleting'");
    let counts = async |task, dry_run| janitor.run_task(task, dry_run).await.unwrap().counts;
    assert_eq!(counts(TaskName::Housekeep, true).await["late_tenants"], 1);
    let first = counts(TaskName::Housekeep, false).await;
    assert_eq!((first["late_tenants"], first.get("tenants")), (1, None), "{first:?}");
    assert_eq!(counts(TaskName::Purge, false).await["documents"], 1);
    assert_eq!(counts(TaskName::Housekeep, false).await["tenants"], 1);
    assert!(deployment.sql("SELECT FROM tenants").is_empty());
}
