//! Services on a primary with sentinels and on a cluster, while a server is killed and another takes over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use nix::sys::signal::Signal;
use riacho_domain::{Lane, StageName};
use riacho_local::testing::{TestServers, Topology};
use riacho_streams::Keys;
use riacho_testkit::eventually;
use support::cluster::{Cluster, Services};

/// Documents of each part of a test.
const SOME: usize = 12;

/// Services on servers of a topology.
struct Deployed {
    servers: TestServers,
    cluster: Cluster,
    services: Services,
}

impl Deployed {
    async fn start(topology: Topology, partitions: u16) -> Deployed {
        let servers = TestServers::start(topology, &[]);
        let mut cluster = Cluster::new();
        cluster.redis.stop();
        cluster.set("REDIS_URL", &servers.url());
        let key = cluster.prepare();
        assert_eq!(cluster.json(&["partitions", "set", &partitions.to_string()])["partition"], 0);
        let mut services = cluster.start(&key);
        services.are_ready().await;
        services.upload("first").await;
        services.all_ready().await;
        Deployed { servers, cluster, services }
    }

    async fn upload(&mut self, part: &str) {
        for number in 0..SOME {
            self.services.upload(&format!("{part}{number}")).await;
        }
    }

    /// Kills the server of the first partition while documents are on their way, lets a replica take over, and
    /// checks that every document is ready. What a `stale` replica did not get was acknowledged all the same.
    async fn survive(mut self, stale: bool) {
        let key = Keys::new("riacho").work(0, StageName::Extract, Lane::Interactive);
        self.upload("worked").await;
        if stale {
            let primary = self.servers.home_of(&key);
            primary.wait_until_replicated();
            self.servers.pause_replication(primary);
        }
        // Nobody takes these from the streams before the server is gone.
        self.services.work.signal(Signal::SIGSTOP).unwrap();
        self.upload_while_stopped().await;
        let victim = self.servers.home_of(&key);
        if !stale {
            victim.wait_until_replicated();
        }
        victim.kill9();
        self.services.work.signal(Signal::SIGCONT).unwrap();
        for number in 0..SOME {
            self.services.upload(&format!("meanwhile{number}")).await;
        }
        self.servers.wait_for_failover(&key, victim);
        self.services.all_ready().await;
        let losses =
            self.cluster.database.run("SELECT sum(losses) FROM document_versions")[0][0].clone().unwrap();
        assert_eq!(stale, losses != "0", "{losses} were lost: {}", self.services.log());
        victim.start();
        self.servers.wait_until_whole();
        self.services.upload("returned").await;
        self.services.all_ready().await;
        self.cluster.check(&self.services);
        self.is_at_rest().await;
        self.services.stop().await;
    }

    async fn upload_while_stopped(&mut self) {
        self.upload("held").await;
        let sent = "SELECT count(*) FROM document_versions WHERE state = 'releasing'";
        let database = &self.cluster.database;
        eventually(|| async {
            let left = database.run(sent)[0][0].clone().unwrap();
            (left == "0").then_some(()).ok_or(left)
        })
        .await;
    }

    /// No stream of any server has an entry, but that of the last hour's figures.
    async fn is_at_rest(&self) {
        eventually(|| async {
            let mut left = Vec::new();
            for server in self.servers.primaries() {
                let keys = server.try_command(&["KEYS", "riacho:*"]).map_err(|error| error.to_string())?;
                for key in keys.list().iter().map(|key| key.text()).filter(|key| *key != "riacho:history") {
                    if server.command(&["TYPE", key]).text() == "stream" {
                        let length = server.command(&["XLEN", key]).int();
                        left.extend((length > 0).then(|| format!("{length} on {key}")));
                    }
                }
            }
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_primary_of_sentinels_costs_no_document() {
    Deployed::start(Topology::Sentinel, 1).await.survive(false).await;
}

#[tokio::test]
async fn what_a_stale_replica_never_had_is_found_and_released_again() {
    Deployed::start(Topology::Sentinel, 1).await.survive(true).await;
}

#[tokio::test]
async fn a_killed_master_of_a_cluster_with_sixteen_partitions_costs_no_document() {
    Deployed::start(Topology::Cluster, 16).await.survive(false).await;
}
