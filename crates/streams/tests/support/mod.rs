//! Private servers for one test, of the topology that `RIACHO_TEST_TOPOLOGY` names, and a plain connection to look behind the crate's back.

#[allow(unused_imports)] // each test file uses some of these
pub(crate) use riacho_local::testing::Reply;
use riacho_local::testing::{TestServers, Topology};
use riacho_streams::{Config, Streams};

/// Servers, the streams on them, and connections of the test's own.
pub(crate) struct Server {
    pub(crate) redis: TestServers,
    pub(crate) streams: Streams,
}

#[allow(dead_code)] // each test file uses some of these
impl Server {
    pub(crate) async fn start() -> Server {
        Server::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Server {
        Server::with(TestServers::start(Topology::of_the_environment(), &[]), change).await
    }

    pub(crate) async fn with(redis: impl Into<TestServers>, change: impl FnOnce(&mut Config)) -> Server {
        let redis = redis.into();
        let mut config = Config::for_url(&redis.url());
        change(&mut config);
        let streams = Streams::connect(&config).await.unwrap();
        Server { redis, streams }
    }

    /// Sends a command over a connection of its own.
    pub(crate) fn raw<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        self.redis.command(args)
    }

    pub(crate) fn len(&self, key: &str) -> i64 {
        self.redis.stream_length(key)
    }
}
