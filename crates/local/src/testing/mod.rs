//! Private servers for tests: quick, on free sockets, gone with the test.
//!
//! All functions wait for the servers themselves (a few hundredths of a second) and may be called in asynchronous
//! tests. They panic when a server cannot be had, because a test can do nothing else about it.

// A test has no better answer to a missing server than to fail with the reason.
#![allow(clippy::panic)]

mod cluster;
mod postgres;
mod redis;
mod scratch;
mod sentinel;
mod topology;

use std::{path::Path, sync::OnceLock};

pub use crate::resp::Reply;
pub use cluster::{MovingSlot, TestCluster};
pub use postgres::{TestDatabase, TestPostgres};
pub use redis::TestRedis;
pub use sentinel::TestSentinel;
pub use topology::{TestServers, Topology};

use crate::{Error, Result, resp::Connection};

/// How long servers may take to agree with each other, on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Starts a redis-server of the test's own on a Unix socket. It keeps an append-only file, so that its data
/// survive a restart within the test.
#[must_use]
pub fn redis() -> TestRedis {
    TestRedis::start_with(false, &[])
}

/// The same on a free port of 127.0.0.1 beside the socket, without a password.
#[must_use]
pub fn redis_tcp() -> TestRedis {
    TestRedis::start_with(true, &[])
}

/// The same on a Unix socket with more lines of configuration, such as `("maxmemory", "20mb")`.
#[must_use]
pub fn redis_with(settings: &[(&str, &str)]) -> TestRedis {
    TestRedis::start_with(false, settings)
}

/// The PostgreSQL that all tests of this process share. Each test makes a database of its own in it; roles are
/// shared by all of them.
#[must_use]
pub fn postgres() -> &'static TestPostgres {
    static SHARED: OnceLock<TestPostgres> = OnceLock::new();
    SHARED.get_or_init(TestPostgres::start_new)
}

/// A PostgreSQL of the test's own, to be stopped and killed.
#[must_use]
pub fn private_postgres() -> TestPostgres {
    TestPostgres::start_new()
}

/// Sends a command to the server behind a Unix socket, over a connection of its own.
///
/// # Panics
/// When the server cannot be reached or does not answer in its protocol.
pub fn command<A: AsRef<[u8]>>(socket: &Path, args: &[A]) -> Reply {
    or_fail("no answer of redis-server", try_command(socket, args))
}

/// The same, for a server that may be away.
///
/// # Errors
/// When the server cannot be reached or does not answer in its protocol.
pub fn try_command<A: AsRef<[u8]>>(socket: &Path, args: &[A]) -> Result<Reply> {
    let reply = Connection::open(socket).and_then(|mut connection| connection.ask(args));
    reply.map_err(Error::io("talk to", socket))
}

/// Waits until something is so, which tests of several servers do for each other's views.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn or_fail<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}
