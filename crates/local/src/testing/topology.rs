//! One test on each way to run Redis.

use super::cluster::TestCluster;
use super::redis::TestRedis;
use super::sentinel::TestSentinel;
use super::{Reply, wait_for};

/// Commands that are meant for every server which takes writes.
const FOR_ALL: [&str; 6] = ["CONFIG", "FLUSHALL", "SCRIPT", "CLIENT", "ACL", "INFO"];

/// A way to run Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// A primary and a replica, which three sentinels promote.
    Sentinel,
    /// Three masters with a replica each, over which the slots are spread.
    Cluster,
}

impl Topology {
    /// What `RIACHO_TEST_TOPOLOGY` names: `single`, `sentinel` or `cluster`; one server when it is not set.
    ///
    /// # Panics
    /// When it names something else.
    #[must_use]
    pub fn of_the_environment() -> Topology {
        match std::env::var("RIACHO_TEST_TOPOLOGY").unwrap_or_default().as_str() {
            "" | "single" => Topology::Single,
            "sentinel" => Topology::Sentinel,
            "cluster" => Topology::Cluster,
            other => panic!("RIACHO_TEST_TOPOLOGY is {other:?}, and no topology"),
        }
    }
}

/// Servers of a topology. They end with this value.
#[derive(Debug)]
pub enum TestServers {
    /// One server.
    Single(TestRedis),
    /// A primary and its replica with sentinels.
    Sentinel(TestSentinel),
    /// A cluster.
    Cluster(TestCluster),
}

impl TestServers {
    /// Starts servers, each with these lines at the end of its configuration.
    #[must_use]
    pub fn start(topology: Topology, settings: &[(&str, &str)]) -> TestServers {
        match topology {
            Topology::Single => TestServers::Single(TestRedis::start_with(false, settings)),
            Topology::Sentinel => TestServers::Sentinel(TestSentinel::start_with(1, settings)),
            Topology::Cluster => TestServers::Cluster(TestCluster::start_with(settings)),
        }
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            TestServers::Single(redis) => redis.url(),
            TestServers::Sentinel(servers) => servers.url(),
            TestServers::Cluster(cluster) => cluster.url(),
        }
    }

    /// The servers that take writes.
    #[must_use]
    pub fn primaries(&self) -> Vec<&TestRedis> {
        match self {
            TestServers::Single(redis) => vec![redis],
            TestServers::Sentinel(servers) => vec![servers.primary()],
            TestServers::Cluster(cluster) => cluster.masters(),
        }
    }

    /// The server that a key is on. It may be away.
    #[must_use]
    pub fn home_of(&self, key: &str) -> &TestRedis {
        match self {
            TestServers::Single(redis) => redis,
            TestServers::Sentinel(servers) => servers.primary(),
            TestServers::Cluster(cluster) => cluster.master_of(key),
        }
    }

    /// Lets another server take over what the server of this key has, while all run; answers before it has.
    ///
    /// # Panics
    /// When there is only one server.
    pub fn fail_over(&self, key: &str) {
        match self {
            TestServers::Single(_) => panic!("one server has nothing to fail over to"),
            TestServers::Sentinel(servers) => servers.fail_over(),
            TestServers::Cluster(cluster) => cluster.fail_over(cluster.master_of(key)),
        }
    }

    /// Waits until another server than `old` has taken over what it had.
    ///
    /// # Panics
    /// When there is only one server.
    pub fn wait_for_failover(&self, key: &str, old: &TestRedis) {
        match self {
            TestServers::Single(_) => panic!("one server has nothing to fail over to"),
            TestServers::Sentinel(servers) => servers.wait_for_failover(old),
            TestServers::Cluster(cluster) => cluster.wait_for_failover(key, old),
        }
    }

    /// Cuts the replicas of a server off, which stay good enough to take over for a minute.
    pub fn pause_replication(&self, primary: &TestRedis) {
        if let TestServers::Sentinel(servers) = self {
            servers.be_patient();
        }
        primary.pause_replication();
    }

    /// Waits until all servers that run agree with each other, and replicas have their data.
    pub fn wait_until_whole(&self) {
        match self {
            TestServers::Single(_) => {}
            TestServers::Sentinel(servers) => servers.wait_for_replicas(),
            TestServers::Cluster(cluster) => cluster.wait_until_whole(),
        }
    }

    /// Sends a command to the server that it is for: that of its key; every one for settings and connections,
    /// and then their texts come one after the other.
    ///
    /// # Panics
    /// When no server answers.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        let name = args.first().map(|name| String::from_utf8_lossy(name.as_ref()).to_uppercase());
        if name.is_some_and(|name| FOR_ALL.contains(&name.as_str())) {
            let replies = self.primaries().into_iter().map(|server| server.command(args));
            return joined(replies.collect());
        }
        match self {
            TestServers::Single(redis) => redis.command(args),
            TestServers::Sentinel(servers) => {
                wait_for("the primary", || servers.primary().try_command(args).ok())
            }
            TestServers::Cluster(cluster) => cluster.command(args),
        }
    }

    /// The number of entries on a stream.
    ///
    /// # Panics
    /// When no server answers.
    #[must_use]
    pub fn stream_length(&self, key: &str) -> i64 {
        self.command(&["XLEN", key]).int()
    }
}

fn joined(replies: Vec<Reply>) -> Reply {
    let texts = replies.iter().map(|reply| match reply {
        Reply::Text(text) => Some(text.as_str()),
        _ => None,
    });
    match texts.collect::<Option<Vec<_>>>() {
        Some(texts) => Reply::Text(texts.join("\n")),
        None => replies.into_iter().next().unwrap_or(Reply::Nil),
    }
}

impl From<TestRedis> for TestServers {
    fn from(redis: TestRedis) -> TestServers {
        TestServers::Single(redis)
    }
}
