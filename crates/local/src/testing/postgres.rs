//! A PostgreSQL for tests and the databases in it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::{or_fail, scratch};
use crate::postgres::{self, Durability, OWNER, Row, Spec};
use crate::process::Process;
use crate::runtime::Runtime;
use crate::{Error, Result};

/// How long a template may have sessions that are about to end.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// A PostgreSQL with pgvector that loses its data with this value, or with the process that started it.
#[derive(Debug)]
pub struct TestPostgres {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    runtime: Runtime,
    spec: Spec,
    process: Mutex<Option<Process>>,
    databases: AtomicU32,
}

/// A database of a test's own. Dropping it drops the database.
#[derive(Debug)]
pub struct TestDatabase {
    server: Arc<Server>,
    name: String,
}

impl TestPostgres {
    pub(super) fn start_new() -> TestPostgres {
        or_fail("no PostgreSQL for the test", TestPostgres::try_start())
    }

    fn try_start() -> Result<TestPostgres> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runtime = Runtime::find();
        let name = format!("pg{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = scratch::dir().join(&name);
        copy_template(&runtime, &dir)?;
        let spec = Spec {
            address: dir.clone(),
            dir,
            log: scratch::dir().join(format!("{name}.log")),
            port: None,
            settings: postgres::test_settings(),
            death_signal: Signal::SIGQUIT,
            start_limit: Duration::from_secs(60),
        };
        let process = Mutex::new(Some(postgres::start(&runtime, &spec)?));
        Ok(TestPostgres { server: Arc::new(Server { runtime, spec, process, databases: AtomicU32::new(0) }) })
    }

    /// Makes an empty database.
    #[must_use]
    pub fn create_database(&self) -> TestDatabase {
        or_fail("no database for the test", self.server.create("template0"))
    }

    /// Makes a copy of a database. Nothing may be connected to that for the moment; sessions that are about to end
    /// are waited for.
    #[must_use]
    pub fn create_database_from(&self, template: &TestDatabase) -> TestDatabase {
        or_fail("no database for the test", self.server.create(&template.name))
    }

    /// The process of the server; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.process().as_ref().map(Process::pid)
    }

    /// Stops the server in good order, which ends all sessions.
    pub fn stop(&self) {
        drop(self.server.process().take());
    }

    /// Starts the server again on the same data and the same address. Does nothing while it runs.
    pub fn start(&self) {
        let mut process = self.server.process();
        if process.is_none() {
            let started = postgres::start(&self.server.runtime, &self.server.spec);
            *process = Some(or_fail("PostgreSQL does not start again", started));
        }
    }

    /// Ends the server as a crash would. What was committed is still there after [`TestPostgres::start`], because
    /// the system has it in memory even though nothing was flushed.
    pub fn kill9(&self) {
        if let Some(mut process) = self.server.process().take() {
            process.kill9();
        }
    }
}

impl TestDatabase {
    /// The URL of the database as its owner, who is a superuser.
    #[must_use]
    pub fn owner_url(&self) -> String {
        self.url_as(OWNER)
    }

    /// The URL of the database as a role that exists and may log in; no password is asked.
    #[must_use]
    pub fn url_as(&self, role: &str) -> String {
        self.server.spec.url(role, &self.name)
    }

    /// The name of the database.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs SQL as the owner and answers the rows as text.
    #[must_use]
    pub fn run(&self, sql: &str) -> Vec<Row> {
        or_fail("a statement of the test failed", self.try_run(sql))
    }

    /// The same, for a server that may be away.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub fn try_run(&self, sql: &str) -> Result<Vec<Row>> {
        self.server.spec.connect(&self.name).and_then(|mut session| session.run(sql))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // The server may be stopped by now; then its data go with its directory.
        let sql = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name);
        let _ = self.server.spec.connect("postgres").and_then(|mut session| session.run(&sql));
    }
}

impl Server {
    fn create(self: &Arc<Self>, template: &str) -> Result<TestDatabase> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let sql = format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\" STRATEGY file_copy");
        let mut session = self.spec.connect("postgres")?;
        let start = Instant::now();
        loop {
            match session.run(&sql) {
                Ok(_) => return Ok(TestDatabase { server: Arc::clone(self), name }),
                Err(Error::Refused { message, .. })
                    if message.contains("being accessed by other users") && start.elapsed() < BUSY_LIMIT =>
                {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies the cluster that was made once for all test processes: several times faster than making one.
fn copy_template(runtime: &Runtime, to: &Path) -> Result<()> {
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(Error::io("make", &cache))?;
    let program = runtime.postgres_bin()?.join("postgres");
    let found = fs::metadata(&program).map_err(Error::io("read", &program))?;
    let mut hasher = DefaultHasher::new();
    (&program, found.len(), found.mtime(), geteuid().as_raw()).hash(&mut hasher);
    let template = cache.join(format!("cluster-{:016x}", hasher.finish()));
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).map_err(Error::io("open", &lock_path))?;
    lock.lock().map_err(Error::io("lock", &lock_path))?;
    postgres::make_cluster(runtime, &template, &cache.join("initdb.log"), Durability::Scratch)?;
    drop(lock);
    postgres::copy_cluster(&template, to)
}

/// Beside the runtime of the workspace, so that `make clean` finds it; else with the servers of this process.
fn cache_dir() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let private = here.ancestors().map(|dir| dir.join(".riacho")).find(|dir| dir.is_dir());
    private.unwrap_or_else(|| scratch::dir().to_owned()).join("cache")
}
