//! A redis-server of a test's own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Reply, command, or_fail, scratch};
use crate::process::Process;
use crate::redis::{self, Spec};
use crate::runtime::Runtime;
use crate::{Error, Result};

/// How often another port is tried when a free one is taken before the server gets to it.
const PORT_ATTEMPTS: u32 = 5;

/// A redis-server that ends with this value.
#[derive(Debug)]
pub struct TestRedis {
    runtime: Runtime,
    spec: Spec,
    process: Mutex<Option<Process>>,
    _dir: TempDir,
}

impl TestRedis {
    pub(super) fn start_with(tcp: bool, settings: &[(&str, &str)]) -> TestRedis {
        let mut attempt = 1;
        loop {
            match TestRedis::try_start(tcp, settings) {
                Err(Error::PortTaken { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                other => return or_fail("no redis-server for the test", other),
            }
        }
    }

    fn try_start(tcp: bool, settings: &[(&str, &str)]) -> Result<TestRedis> {
        let runtime = Runtime::find();
        let made = tempfile::Builder::new().prefix("redis-").tempdir_in(scratch::dir());
        let dir = made.map_err(Error::io("make a directory in", scratch::dir()))?;
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let spec = Spec {
            dir: dir.path().to_owned(),
            address: dir.path().to_owned(),
            log: dir.path().join("redis.log"),
            port: if tcp { Some(free_port()?) } else { None },
            password: None,
            settings: settings.iter().map(own).collect(),
            death_signal: Signal::SIGKILL,
            start_limit: Duration::from_secs(30),
        };
        let process = Mutex::new(Some(redis::start(&runtime, &spec)?));
        Ok(TestRedis { runtime, spec, process, _dir: dir })
    }

    /// The URL: `redis+unix://PATH`, or `redis://127.0.0.1:PORT` of a server that has one.
    #[must_use]
    pub fn url(&self) -> String {
        match self.spec.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => format!("redis+unix://{}", self.socket().display()),
        }
    }

    /// The URL in the form that the Python package `redis` takes.
    #[must_use]
    pub fn python_url(&self) -> String {
        match self.spec.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => format!("unix://{}", self.socket().display()),
        }
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        redis::socket_in(&self.spec.address)
    }

    /// Sends a command over a connection of its own.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        command(&self.socket(), args)
    }

    /// The process of the server; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Stops the server in good order: nothing that it answered for is lost.
    pub fn stop(&self) {
        drop(self.process().take());
    }

    /// Starts the server again on the same data and the same address. Does nothing while it runs.
    pub fn start(&self) {
        let mut process = self.process();
        if process.is_none() {
            *process =
                Some(or_fail("redis-server does not start again", redis::start(&self.runtime, &self.spec)));
        }
    }

    /// Ends the server as a crash would.
    pub fn kill9(&self) {
        if let Some(mut process) = self.process().take() {
            process.kill9();
        }
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        // Its data go with it, so there is nothing to write in good order.
        self.kill9();
    }
}

fn free_port() -> Result<u16> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|source| Error::Io {
        what: "find a free port on",
        path: PathBuf::from("127.0.0.1"),
        source,
    })
}
