//! A redis-server of a test's own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Reply, command, or_fail, scratch, try_command, wait_for};
use crate::process::Process;
use crate::redis::{self, Kind, Spec};
use crate::runtime::Runtime;
use crate::{Error, Result};

/// How often another port is tried when a free one is taken before the server gets to it.
const PORT_ATTEMPTS: u32 = 5;

/// A redis-server that ends with this value.
#[derive(Debug)]
pub struct TestRedis {
    runtime: Runtime,
    spec: Box<Spec>,
    process: Mutex<Option<Process>>,
    _dir: TempDir,
}

/// How a server of a test is to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// A port on 127.0.0.1 beside the socket.
    pub(super) port: Option<u16>,
    /// Lines for the end of the configuration.
    pub(super) settings: Vec<(String, String)>,
    /// What the server finds in its directory: names and contents.
    pub(super) files: Vec<(&'static str, String)>,
}

impl TestRedis {
    pub(super) fn start_with(tcp: bool, settings: &[(&str, &str)]) -> TestRedis {
        let start = || {
            let port = if tcp { free_ports(1)?.pop() } else { None };
            let settings = owned(settings);
            TestRedis::try_start(Plan { kind: Kind::Data, port, settings, files: vec![] })
        };
        or_fail("no redis-server for the test", retried(start))
    }

    pub(super) fn try_start(plan: Plan) -> Result<TestRedis> {
        let runtime = runtime();
        let made = tempfile::Builder::new().prefix("redis-").tempdir_in(scratch::dir());
        let dir = made.map_err(Error::io("make a directory in", scratch::dir()))?;
        for (name, content) in &plan.files {
            let path = dir.path().join(name);
            fs::write(&path, content).map_err(Error::io("write", &path))?;
        }
        let spec = Box::new(Spec {
            kind: plan.kind,
            dir: dir.path().to_owned(),
            address: dir.path().to_owned(),
            log: dir.path().join("redis.log"),
            port: plan.port,
            password: None,
            settings: plan.settings,
            death_signal: Signal::SIGKILL,
            start_limit: Duration::from_secs(30),
        });
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

    /// The port on 127.0.0.1, of a server that has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.spec.port
    }

    /// Sends a command to a server that may be away.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in its protocol.
    pub fn try_command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        try_command(&self.socket(), args)
    }

    /// The value of a line of INFO; none of a server that is away.
    #[must_use]
    pub fn info(&self, section: &str, name: &str) -> Option<String> {
        let reply = self.try_command(&["INFO", section]).ok()?;
        let Reply::Text(text) = reply else { return None };
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }

    /// Waits until a replica has acknowledged all that was written to this server up to now.
    pub fn wait_until_replicated(&self) {
        let written =
            self.info("replication", "master_repl_offset").and_then(|text| text.parse::<u64>().ok());
        wait_for("a replica with all data", || {
            let replica = self.info("replication", "slave0")?;
            let offset = replica.split(',').find_map(|field| field.strip_prefix("offset="))?;
            (offset.parse().ok() >= written).then_some(())
        });
    }

    /// Cuts the replicas of this server off: from now on they do not get what is written to it. One that was cut off
    /// for long does not take over; see [`TestServers::pause_replication`](super::TestServers::pause_replication).
    pub fn pause_replication(&self) {
        self.command(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        self.command(&["CLIENT", "KILL", "TYPE", "replica"]);
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

/// Where the server program is: in the directory that `RIACHO_TEST_REDIS_DIR` names, as `bin/redis-server`, so that the
/// same tests run on another server; else where every other program is.
fn runtime() -> Runtime {
    match std::env::var_os("RIACHO_TEST_REDIS_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Runtime::at(dir),
        None => Runtime::find(),
    }
}

/// Tries again with other ports where one was taken before the server got to it.
pub(super) fn retried<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match start() {
            Err(Error::PortTaken { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

/// Ports that are free at this moment, each another.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let bind = || -> io::Result<Vec<u16>> {
        // All are held until the last one is found.
        let bound: Vec<_> =
            (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<_>>()?;
        bound.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    };
    bind().map_err(|source| Error::Io {
        what: "find a free port on",
        path: PathBuf::from("127.0.0.1"),
        source,
    })
}

pub(super) fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
