//! The partitions that a stage reads.
#![allow(clippy::unwrap_used)]

use riacho_store::Role;
use riacho_testkit::Deployment;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_stage_reads_every_partition_that_the_database_names() {
    let deployment = Deployment::start().await.unwrap();
    deployment.sql("INSERT INTO topology VALUES (1, 'active'), (4, 'draining')");
    let resources = deployment.resources(Role::Stage).unwrap();
    let (mut core, stop) = (deployment.core().unwrap(), CancellationToken::new());
    core.stage.partitions.clear();
    assert_eq!(resources.runner_config(&core, &stop).await.unwrap().partitions, [0, 1, 4]);
    core.stage.partitions = vec![4];
    assert_eq!(
        resources.runner_config(&core, &stop).await.unwrap().partitions,
        [4],
        "what is configured wins"
    );
}
