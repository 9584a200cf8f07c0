//! A Redis Cluster: three masters, each with a replica.
//!
//! The nodes find each other and their slots in the files that they begin with, as after a restart.

use super::redis::{Plan, TestRedis, free_ports, owned, retried};
use super::sentinel::has_its_data;
use super::{Reply, or_fail, wait_for};
use crate::Result;
use crate::redis::Kind;

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// So long a master does not answer before the others take it for dead.
const NODE_TIMEOUT_MS: &str = "1500";

/// Three masters and their replicas. All end with this value.
#[derive(Debug)]
pub struct TestCluster {
    nodes: Vec<TestRedis>,
}

impl TestCluster {
    pub(super) fn start_with(settings: &[(&str, &str)]) -> TestCluster {
        let started = retried(|| TestCluster::try_start(settings));
        let cluster = or_fail("no Redis Cluster for the test", started);
        cluster.wait_until_whole();
        cluster
    }

    fn try_start(settings: &[(&str, &str)]) -> Result<TestCluster> {
        let all_ports = free_ports(MASTERS * 4)?;
        let (ports, bus_ports) = all_ports.split_at(MASTERS * 2);
        let start = |own: usize| {
            let mut settings = owned(settings);
            settings.extend(owned(&[
                ("cluster-enabled", "yes"),
                ("cluster-config-file", "nodes.conf"),
                ("cluster-node-timeout", NODE_TIMEOUT_MS),
                // A replica takes over however old its data are: what it did not have is for the census.
                ("cluster-replica-validity-factor", "0"),
                ("repl-diskless-sync-delay", "0"),
                ("repl-ping-replica-period", "1"),
            ]));
            settings.push(("cluster-port".to_owned(), bus_ports[own].to_string()));
            let files = vec![("nodes.conf", nodes_file(ports, bus_ports, own))];
            TestRedis::try_start(Plan { kind: Kind::Data, port: Some(ports[own]), settings, files })
        };
        Ok(TestCluster { nodes: (0..ports.len()).map(start).collect::<Result<_>>()? })
    }

    /// A URL that names two of the nodes; a client finds the others.
    #[must_use]
    pub fn url(&self) -> String {
        let ports: Vec<u16> = self.nodes.iter().filter_map(TestRedis::port).collect();
        format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", ports[0], ports[1])
    }

    /// All nodes; first the three that begin as masters.
    #[must_use]
    pub fn nodes(&self) -> &[TestRedis] {
        &self.nodes
    }

    /// The masters, as the nodes that run see them. Some may be away.
    #[must_use]
    pub fn masters(&self) -> Vec<&TestRedis> {
        self.ranges().into_iter().filter_map(|(_, port)| self.node_at(port)).collect()
    }

    /// The master of the slot that a key is in. It may be away.
    #[must_use]
    pub fn master_of(&self, key: &str) -> &TestRedis {
        let slot = self.ask_any(&["CLUSTER", "KEYSLOT", key]).int();
        let find = || {
            let (_, port) = self.ranges().into_iter().find(|(slots, _)| slots.contains(&slot))?;
            self.node_at(port)
        };
        wait_for("the master of a slot", find)
    }

    /// Waits until another node than `old` is the master of the key's slot, and all nodes that run agree
    /// that every slot is served.
    pub fn wait_for_failover(&self, key: &str, old: &TestRedis) {
        wait_for("the failover", || (self.master_of(key).port() != old.port()).then_some(()));
        self.wait_until_whole();
    }

    /// Lets the replica of a master take over while both run; answers before it has.
    pub fn fail_over(&self, master: &TestRedis) {
        let port = master.port().map(|port| port.to_string());
        let replica = wait_for("a replica", || {
            self.nodes
                .iter()
                .find(|node| has_its_data(node) && node.info("replication", "master_port") == port)
        });
        replica.command(&["CLUSTER", "FAILOVER"]);
    }

    /// Begins to move the slot of a key: it is at both nodes, and so is one half each of its keys.
    #[must_use]
    pub fn begin_to_move<'a>(&self, key: &str, from: &'a TestRedis, to: &'a TestRedis) -> MovingSlot<'a> {
        let slot = self.ask_any(&["CLUSTER", "KEYSLOT", key]).int().to_string();
        let moving = MovingSlot { slot, from, to };
        to.command(&["CLUSTER", "SETSLOT", &moving.slot, "IMPORTING", &id_of(from)]);
        from.command(&["CLUSTER", "SETSLOT", &moving.slot, "MIGRATING", &id_of(to)]);
        let keys = moving.keys();
        moving.migrate(&keys[..keys.len() / 2]);
        moving
    }

    /// Moves what is left, and tells all nodes.
    pub fn end_the_move(&self, moving: &MovingSlot<'_>) {
        moving.migrate(&moving.keys());
        let new = id_of(moving.to);
        let masters = self.masters().into_iter().filter(|node| node.port() != moving.to.port());
        for node in std::iter::once(moving.to).chain(masters) {
            node.command(&["CLUSTER", "SETSLOT", &moving.slot, "NODE", &new]);
        }
    }

    /// Waits until every node that runs sees every slot served, and every replica has its data.
    pub fn wait_until_whole(&self) {
        wait_for("a whole cluster", || {
            let mut running = self.nodes.iter().filter(|node| node.pid().is_some());
            running.all(is_well).then_some(())
        });
    }

    /// Sends a command to the node that answers it, following redirections.
    pub(super) fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        wait_for("an answer of the cluster", || {
            let mut reply = self.ask_any(args);
            for _ in 0..3 {
                let Reply::Error(text) = &reply else { return Some(reply) };
                if !text.starts_with("MOVED ") {
                    return (!text.starts_with("CLUSTERDOWN")).then_some(reply);
                }
                let port = text.rsplit(':').next().and_then(|port| port.parse().ok())?;
                reply = self.node_at(port)?.try_command(args).ok()?;
            }
            None
        })
    }

    fn node_at(&self, port: u16) -> Option<&TestRedis> {
        self.nodes.iter().find(|node| node.port() == Some(port))
    }

    fn ask_any<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        wait_for("a node that runs", || self.nodes.iter().find_map(|node| node.try_command(args).ok()))
    }

    /// Which slots are at the master of which port.
    fn ranges(&self) -> Vec<(std::ops::RangeInclusive<i64>, u16)> {
        let slots = self.ask_any(&["CLUSTER", "SLOTS"]);
        let range = |range: &Reply| {
            let [from, to, master, ..] = range.list() else { return None };
            let port = u16::try_from(master.list().get(1)?.int()).ok()?;
            Some((from.int()..=to.int(), port))
        };
        slots.list().iter().filter_map(range).collect()
    }
}

/// A slot on its way from one node to another.
#[derive(Debug)]
pub struct MovingSlot<'a> {
    slot: String,
    from: &'a TestRedis,
    to: &'a TestRedis,
}

impl MovingSlot<'_> {
    /// Those of its keys that are still where they were.
    fn keys(&self) -> Vec<String> {
        let keys = self.from.command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"]);
        keys.list().iter().map(|key| key.text().to_owned()).collect()
    }

    fn migrate(&self, keys: &[String]) {
        let port = self.to.port().unwrap_or_default().to_string();
        for key in keys {
            let reply = self.from.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            assert_eq!(reply, Reply::Text("OK".to_owned()));
        }
    }
}

fn id_of(node: &TestRedis) -> String {
    node.command(&["CLUSTER", "MYID"]).text().to_owned()
}

fn is_well(node: &TestRedis) -> bool {
    let Ok(Reply::Text(info)) = node.try_command(&["CLUSTER", "INFO"]) else { return false };
    let is_replica = node.info("replication", "role").as_deref() == Some("slave");
    info.contains("cluster_state:ok") && (!is_replica || has_its_data(node))
}

/// What node `own` knows of all of them: the first three have the slots, the others one master each.
fn nodes_file(ports: &[u16], bus_ports: &[u16], own: usize) -> String {
    let id = |at: usize| format!("{:040x}", ports[at]);
    let mut text = String::new();
    for at in 0..ports.len() {
        let myself = if at == own { "myself," } else { "" };
        let address = format!("127.0.0.1:{}@{}", ports[at], bus_ports[at]);
        let (role, epoch, slots) = if at < MASTERS {
            let (from, to) = (SLOTS * at / MASTERS, SLOTS * (at + 1) / MASTERS - 1);
            ("master -".to_owned(), at + 1, format!(" {from}-{to}"))
        } else {
            (format!("slave {}", id(at - MASTERS)), at - MASTERS + 1, String::new())
        };
        text += &format!("{} {address} {myself}{role} 0 0 {epoch} connected{slots}\n", id(at));
    }
    text + &format!("vars currentEpoch {MASTERS} lastVoteEpoch 0\n")
}
