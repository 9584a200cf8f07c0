//! A primary with replicas, and three sentinels that watch them.
//!
//! All know each other from their configuration, so that nothing has to be discovered first.

use super::redis::{Plan, TestRedis, free_ports, owned, retried};
use super::{Reply, or_fail, wait_for};
use crate::Result;
use crate::redis::Kind;

/// The name under which the sentinels know the primary.
const SERVICE: &str = "main";
const SENTINELS: usize = 3;
/// So long a primary does not answer before a sentinel takes it for dead.
const DOWN_AFTER_MS: &str = "1500";

/// A primary, its replicas and its sentinels. All end with this value.
#[derive(Debug)]
pub struct TestSentinel {
    nodes: Vec<TestRedis>,
    sentinels: Vec<TestRedis>,
}

impl TestSentinel {
    pub(super) fn start_with(replicas: usize, settings: &[(&str, &str)]) -> TestSentinel {
        let started = retried(|| TestSentinel::try_start(replicas, settings));
        let servers = or_fail("no redis-servers with sentinels for the test", started);
        servers.wait_for_replicas();
        wait_for("the sentinels", || servers.sentinels.iter().all(knows_all).then_some(()));
        servers
    }

    fn try_start(replicas: usize, settings: &[(&str, &str)]) -> Result<TestSentinel> {
        let ports = free_ports(1 + replicas + SENTINELS)?;
        let (nodes, sentinels) = ports.split_at(1 + replicas);
        let primary = nodes[0].to_string();
        let start_node = |port: &u16| {
            let mut settings = owned(settings);
            settings.extend(owned(&[("repl-diskless-sync-delay", "0"), ("repl-ping-replica-period", "1")]));
            if *port != nodes[0] {
                settings.push(("replicaof".to_owned(), format!("127.0.0.1 {primary}")));
            }
            TestRedis::try_start(Plan { kind: Kind::Data, port: Some(*port), settings, files: vec![] })
        };
        let start_sentinel = |port: &u16| {
            let settings = watching(nodes, sentinels, *port);
            TestRedis::try_start(Plan { kind: Kind::Sentinel, port: Some(*port), settings, files: vec![] })
        };
        Ok(TestSentinel {
            nodes: nodes.iter().map(start_node).collect::<Result<_>>()?,
            sentinels: sentinels.iter().map(start_sentinel).collect::<Result<_>>()?,
        })
    }

    /// The URL that names all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let ports: Vec<u16> = self.sentinels.iter().filter_map(TestRedis::port).collect();
        let others: String = ports[1..].iter().map(|port| format!("node=127.0.0.1:{port}&")).collect();
        format!("redis-sentinel://127.0.0.1:{}?{others}sentinelServiceName={SERVICE}", ports[0])
    }

    /// The server that most sentinels call the primary. It may be away.
    #[must_use]
    pub fn primary(&self) -> &TestRedis {
        wait_for("a majority of the sentinels", || {
            let named: Vec<u16> = self.sentinels.iter().filter_map(primary_port).collect();
            let by_most = |node: &&TestRedis| {
                named.iter().filter(|port| Some(**port) == node.port()).count() * 2 > SENTINELS
            };
            self.nodes.iter().find(by_most)
        })
    }

    /// All servers that hold data, the first one being the first primary.
    #[must_use]
    pub fn nodes(&self) -> &[TestRedis] {
        &self.nodes
    }

    /// Lets a replica take over while the primary runs; answers before it has.
    pub fn fail_over(&self) {
        let command = ["SENTINEL", "FAILOVER", SERVICE];
        let is_begun =
            |sentinel: &TestRedis| matches!(sentinel.command(&command), Reply::Text(_)).then_some(());
        wait_for("a replica that is good enough", || is_begun(&self.sentinels[0]));
    }

    /// Lets replicas that were cut off for up to a minute take over, which takes longer then: a sentinel allows ten
    /// times what it waits before it takes a primary for dead (`sentinelSelectSlave` of Redis).
    pub(super) fn be_patient(&self) {
        for sentinel in &self.sentinels {
            sentinel.command(&["SENTINEL", "SET", SERVICE, "down-after-milliseconds", "6000"]);
        }
    }

    /// Waits until a server other than `old` is the primary and takes writes.
    pub fn wait_for_failover(&self, old: &TestRedis) {
        wait_for("the failover", || {
            let primary = self.primary();
            (primary.port() != old.port() && is_primary(primary)).then_some(())
        });
    }

    /// Waits until every server that runs and is not the primary has its data.
    pub fn wait_for_replicas(&self) {
        wait_for("the replicas", || {
            let primary = self.primary().port();
            let mut others = self.nodes.iter().filter(|node| node.port() != primary && node.pid().is_some());
            others.all(has_its_data).then_some(())
        });
    }
}

/// The configuration of a sentinel at `own` that knows all others.
fn watching(nodes: &[u16], sentinels: &[u16], own: u16) -> Vec<(String, String)> {
    let id = |port: &u16| format!("{port:040x}");
    let quorum = SENTINELS / 2 + 1;
    let mut lines = vec![
        format!("myid {}", id(&own)),
        format!("monitor {SERVICE} 127.0.0.1 {} {quorum}", nodes[0]),
        format!("down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}"),
        format!("failover-timeout {SERVICE} 4000"),
    ];
    lines.extend(nodes[1..].iter().map(|port| format!("known-replica {SERVICE} 127.0.0.1 {port}")));
    let others = sentinels.iter().filter(|port| **port != own);
    lines.extend(others.map(|port| format!("known-sentinel {SERVICE} 127.0.0.1 {port} {}", id(port))));
    lines.into_iter().map(|line| ("sentinel".to_owned(), line)).collect()
}

/// Whether a sentinel is connected to the primary, and to a replica and sentinels that could replace it.
fn knows_all(sentinel: &TestRedis) -> bool {
    let text = |reply: &Reply| match reply {
        Reply::Text(text) => text.clone(),
        _ => String::new(),
    };
    let is_well = |group: &str| {
        let Ok(Reply::List(servers)) = sentinel.try_command(&["SENTINEL", group, SERVICE]) else {
            return false;
        };
        servers.iter().all(|server| {
            let fields: Vec<String> = server.list().iter().map(text).collect();
            let get = |name| fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
            get("flags")
                == Some(group.trim_end_matches('s'))
                    .map(|kind| if kind == "replica" { "slave" } else { kind })
        })
    };
    is_well("replicas") && is_well("sentinels")
}

fn primary_port(sentinel: &TestRedis) -> Option<u16> {
    let reply = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).ok()?;
    match reply {
        Reply::List(address) => address.get(1)?.text().parse().ok(),
        _ => None,
    }
}

pub(super) fn is_primary(node: &TestRedis) -> bool {
    node.info("replication", "role").as_deref() == Some("master")
}

pub(super) fn has_its_data(node: &TestRedis) -> bool {
    node.info("replication", "master_link_status").as_deref() == Some("up")
}
