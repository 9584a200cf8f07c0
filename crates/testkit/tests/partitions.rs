//! The partitions that a stage reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use riacho_domain::{DocumentId, Lane, ReleaseId, StageName};
use riacho_proto::v1;
use riacho_service::{CoreConfig, Resources};
use riacho_stage::{Context, Event, Failure, Outcome, ReleaseMeta, Runner, Stage, codec};
use riacho_store::Role;
use riacho_testkit::{Deployment, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Writes down the documents that it gets.
#[derive(Default)]
struct Seen(Mutex<Vec<DocumentId>>);

impl Stage for Seen {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, event: Event, _: &Context) -> Result<Outcome, Failure> {
        self.0.lock().unwrap().push(event.envelope.document);
        Ok(Outcome::Failed(riacho_domain::ReasonCode::Empty))
    }
}

impl Seen {
    fn has(&self, document: DocumentId) -> bool {
        self.0.lock().unwrap().contains(&document)
    }
}

/// Puts an event onto the extractor's stream of a partition.
async fn release(resources: &Resources, partition: u16) -> DocumentId {
    let meta = ReleaseMeta {
        tenant: "default".parse().unwrap(),
        document: DocumentId::new(),
        version: 1,
        release: ReleaseId::new(),
        lane: Lane::Bulk,
        traceparent: String::new(),
    };
    let envelope = codec::encode_release(&meta, v1::ExtractRequested::default());
    resources.streams.release(partition, meta.lane, &envelope, meta.release).await.unwrap();
    meta.document
}

fn run(runner: Runner, stop: &CancellationToken) -> (Arc<Seen>, JoinHandle<()>) {
    let (seen, stopped) = (Arc::new(Seen::default()), stop.clone());
    let stage = Arc::clone(&seen);
    (seen, tokio::spawn(async move { runner.run_stage(stage, stopped).await.unwrap() }))
}

fn everything(deployment: &Deployment) -> (Resources, CoreConfig, CancellationToken) {
    let mut core = deployment.core().unwrap();
    core.stage.partitions.clear();
    (deployment.resources(Role::Stage).unwrap(), core, CancellationToken::new())
}

#[tokio::test]
async fn a_stage_reads_every_partition_that_the_database_names() {
    let deployment = Deployment::start().await.unwrap();
    deployment.sql("INSERT INTO topology VALUES (1, 'active'), (4, 'draining')");
    let (resources, core, stop) = everything(&deployment);
    let (seen, running) = run(resources.runner(&core, 1, &stop).await.unwrap(), &stop);
    for partition in [0, 1, 4] {
        let document = release(&resources, partition).await;
        eventually(|| async { seen.has(document).then_some(()).ok_or(partition) }).await;
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_partition_that_is_added_is_read_by_the_stages_that_run() {
    let deployment = Deployment::start().await.unwrap();
    let (resources, core, stop) = everything(&deployment);
    let (seen, running) = run(resources.runner(&core, 1, &stop).await.unwrap(), &stop);
    deployment.sql("INSERT INTO topology VALUES (9, 'active')");
    let document = release(&resources, 9).await;
    eventually(|| async { seen.has(document).then_some(()).ok_or("not read") }).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_stage_that_is_told_its_partitions_reads_no_others() {
    let deployment = Deployment::start().await.unwrap();
    deployment.sql("INSERT INTO topology VALUES (4, 'active')");
    let (resources, mut core, stop) = everything(&deployment);
    core.stage.partitions = vec![4];
    let (seen, running) = run(resources.runner(&core, 1, &stop).await.unwrap(), &stop);
    let other = release(&resources, 0).await;
    let own = release(&resources, 4).await;
    eventually(|| async { seen.has(own).then_some(()).ok_or("not read") }).await;
    assert!(!seen.has(other));
    stop.cancel();
    running.await.unwrap();
}
