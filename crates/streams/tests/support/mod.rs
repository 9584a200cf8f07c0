//! A private server for one test, and a plain connection to look behind the crate's back.

#[allow(unused_imports)] // each test file uses some of these
pub(crate) use riacho_local::testing::Reply;
use riacho_local::testing::{self, TestRedis};
use riacho_streams::{Config, Streams};

/// A server, the streams on it, and a connection of its own.
pub(crate) struct Server {
    pub(crate) redis: TestRedis,
    pub(crate) streams: Streams,
}

#[allow(dead_code)] // each test file uses some of these
impl Server {
    pub(crate) async fn start() -> Server {
        Server::with(testing::redis(), |_| {}).await
    }

    pub(crate) async fn with(redis: TestRedis, change: impl FnOnce(&mut Config)) -> Server {
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
        self.raw(&["XLEN", key]).int()
    }
}
