//! Both servers on one data directory, for as long as this process lives.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::address::Address;
use crate::postgres::{self, Durability, OWNER};
use crate::process::{self, Process};
use crate::redis;
use crate::runtime::Runtime;
use crate::{Error, Result};

const DATABASE: &str = "riacho";
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// The pause before a server that ended is started again, at first and at most.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A server that has run for this long counts as well again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// How often in a row a server is started again before it is given up.
const RESTARTS: u32 = 8;

/// Which servers to start, and how. The default starts both, on Unix sockets only.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the programs are.
    pub runtime: Runtime,
    /// Whether to start redis-server; not when the configuration names an external one.
    pub redis: bool,
    /// Whether to start PostgreSQL; not when the configuration names an external one.
    pub postgres: bool,
    /// A port on 127.0.0.1 for redis-server beside its socket. A password is made and asked for then.
    pub redis_port: Option<u16>,
    /// A port on 127.0.0.1 for PostgreSQL beside its socket. A password is made and asked for there.
    pub postgres_port: Option<u16>,
    /// Lines for the end of redis.conf, where they win over this crate's own.
    pub redis_settings: Vec<(String, String)>,
    /// Settings of PostgreSQL that win over this crate's own.
    pub postgres_settings: Vec<(String, String)>,
    /// What the disk must have free for a start.
    pub min_free_bytes: u64,
    /// How long a server may take to answer: after a crash it reads its logs again first.
    pub start_limit: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            runtime: Runtime::find(),
            redis: true,
            postgres: true,
            redis_port: None,
            postgres_port: None,
            redis_settings: Vec::new(),
            postgres_settings: Vec::new(),
            min_free_bytes: 256 * 1024 * 1024,
            start_limit: Duration::from_secs(120),
        }
    }
}

/// What runs where, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The redis-server, if it was started here.
    pub redis: Option<ServerStatus>,
    /// The PostgreSQL, if it was started here.
    pub postgres: Option<ServerStatus>,
}

/// One server that runs.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Its process.
    pub pid: u32,
    /// Its data.
    pub dir: PathBuf,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// Its port on 127.0.0.1, if one was asked for.
    pub port: Option<u16>,
    /// Its log file.
    pub log: PathBuf,
}

/// A server that runs, and what it takes to start it again.
#[derive(Debug)]
struct Running<S> {
    /// None once it was stopped on purpose: then nothing starts it again.
    process: Mutex<Option<Process>>,
    start: fn(&Runtime, &S) -> Result<Process>,
    runtime: Runtime,
    spec: S,
    _address: Address,
}

/// The running servers. They end with this value, and with this process however it ends.
#[derive(Debug)]
pub struct Servers {
    data_dir: PathBuf,
    // In the order in which they are stopped, the lock last.
    redis: Option<Arc<Running<redis::Spec>>>,
    postgres: Option<Arc<Running<postgres::Spec>>>,
    postgres_password: Option<String>,
    _lock: File,
}

impl Servers {
    /// Starts the servers on a data directory, which is made if there is none, and waits until they answer.
    ///
    /// Whatever an earlier process left running there is stopped first. If this future is dropped, what it had
    /// started is stopped.
    pub async fn start(data_dir: &Path, options: &Options) -> Result<Servers> {
        let (data_dir, options) = (data_dir.to_owned(), options.clone());
        blocking(move || Servers::start_blocking(&data_dir, &options)).await
    }

    /// The same for callers outside of an asynchronous runtime.
    pub fn start_blocking(data_dir: &Path, options: &Options) -> Result<Servers> {
        make_private_dir(data_dir)?;
        let data_dir = data_dir.canonicalize().map_err(Error::io("find", data_dir))?;
        let lock = lock(&data_dir)?;
        process::check_space(&data_dir, options.min_free_bytes)?;
        let logs = data_dir.join("logs");
        make_private_dir(&logs)?;
        let (redis, postgres) = thread::scope(|scope| {
            let redis = scope.spawn(|| options.redis.then(|| start_redis(&data_dir, options)).transpose());
            let postgres = options.postgres.then(|| start_postgres(&data_dir, options)).transpose();
            (redis.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), postgres)
        });
        let (redis, (postgres, postgres_password)) = (redis?, postgres?.unzip());
        let postgres_password = postgres_password.flatten();
        let (redis, postgres) = (redis.map(Arc::new), postgres.map(Arc::new));
        Ok(Servers { data_dir, redis, postgres, postgres_password, _lock: lock })
    }

    /// The URL of redis-server through its socket, `redis+unix://PATH`; none if it was not started here.
    #[must_use]
    pub fn redis_url(&self) -> Option<String> {
        let spec = &self.redis.as_ref()?.spec;
        let socket = redis::socket_in(&spec.address);
        // A user and a host that are not empty have to stand before the path when there is a password.
        let login = spec.password.as_ref().map(|password| format!("default:{password}@localhost"));
        Some(format!("redis+unix://{}{}", login.unwrap_or_default(), socket.display()))
    }

    /// The URL of redis-server on its port; none without one.
    #[must_use]
    pub fn redis_tcp_url(&self) -> Option<String> {
        let spec = &self.redis.as_ref()?.spec;
        let login = spec.password.as_ref().map(|password| format!("default:{password}@")).unwrap_or_default();
        Some(format!("redis://{login}127.0.0.1:{}", spec.port?))
    }

    /// The URL of the database through the socket, as its owner, who is a superuser; none if PostgreSQL was not
    /// started here.
    #[must_use]
    pub fn database_url(&self) -> Option<String> {
        Some(self.postgres.as_ref()?.spec.url(OWNER, DATABASE))
    }

    /// The URL of the database on its port, with its password; none without one.
    #[must_use]
    pub fn database_tcp_url(&self) -> Option<String> {
        let port = self.postgres.as_ref()?.spec.port?;
        let password = self.postgres_password.as_ref()?;
        Some(format!("postgresql://{OWNER}:{password}@127.0.0.1:{port}/{DATABASE}"))
    }

    /// What runs where.
    #[must_use]
    pub fn status(&self) -> Status {
        let redis = self.redis.as_ref().map(|running| ServerStatus {
            pid: running.pid().unwrap_or_default(),
            dir: running.spec.dir.clone(),
            socket: redis::socket_in(&running.spec.address),
            port: running.spec.port,
            log: running.spec.log.clone(),
        });
        let postgres = self.postgres.as_ref().map(|running| ServerStatus {
            pid: running.pid().unwrap_or_default(),
            dir: running.spec.dir.clone(),
            socket: running.spec.socket(),
            port: running.spec.port,
            log: running.spec.log.clone(),
        });
        Status { data_dir: self.data_dir.clone(), redis, postgres }
    }

    /// Keeps the servers running: one that ends is started again on the same data, after a pause that grows.
    ///
    /// Answers only when a server ends again and again, with the reason of its last end. Cancel safe: a start
    /// that is under way goes on.
    pub async fn supervise(&self) -> Error {
        tokio::select! {
            error = keep(self.redis.clone()) => error,
            error = keep(self.postgres.clone()) => error,
        }
    }

    /// Stops redis-server, then PostgreSQL, and waits for their end.
    pub async fn stop(self) {
        blocking(move || drop(self)).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(redis) = &self.redis {
            redis.stop();
        }
        if let Some(postgres) = &self.postgres {
            postgres.stop();
        }
    }
}

impl<S> Running<S> {
    fn new(
        start: fn(&Runtime, &S) -> Result<Process>,
        runtime: &Runtime,
        spec: S,
        address: Address,
    ) -> Result<Running<S>> {
        let process = Mutex::new(Some(start(runtime, &spec)?));
        Ok(Running { process, start, runtime: runtime.clone(), spec, _address: address })
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process; none once it was stopped.
    fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    fn check(&self) -> Result<()> {
        self.process().as_mut().map_or(Ok(()), Process::check)
    }

    /// Starts it again, unless it was stopped meanwhile. A start may take minutes, and nobody waits for it:
    /// what was started for a server that is stopped now is dropped, which ends it.
    fn restart(&self) -> Result<()> {
        if self.process().is_none() {
            return Ok(());
        }
        let started = (self.start)(&self.runtime, &self.spec)?;
        let mut process = self.process();
        if process.is_some() {
            *process = Some(started);
        }
        Ok(())
    }

    fn stop(&self) {
        drop(self.process().take());
    }
}

/// Starts a server again whenever it ends; answers why when that does not help.
async fn keep<S: Send + Sync + 'static>(running: Option<Arc<Running<S>>>) -> Error {
    let Some(running) = running else { return std::future::pending().await };
    let (mut pause, mut restarts, mut since) = (RESTART_PAUSE.0, 0, Instant::now());
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let Err(mut error) = running.check() else { continue };
        if since.elapsed() > WELL_AFTER {
            (pause, restarts) = (RESTART_PAUSE.0, 0);
        }
        loop {
            if restarts == RESTARTS {
                return error;
            }
            restarts += 1;
            tracing::warn!(%error, restarts, "a private server ended and is started again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESTART_PAUSE.1);
            let again = Arc::clone(&running);
            match blocking(move || again.restart()).await {
                Ok(()) => break,
                Err(failed) => error = failed,
            }
        }
        since = Instant::now();
    }
}

/// Runs work that waits for processes where it does not hold up the runtime's tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels work, and then nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Makes a directory, and those above it, for this account only. One that exists stays as it is.
fn make_private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("make", dir))
}

/// Takes the data directory for this process, for as long as the file is open.
fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("lock");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.take(32).read_to_string(&mut owner);
            let owner = if owner.trim().is_empty() { "(unknown)" } else { owner.trim() }.to_owned();
            return Err(Error::InUse { dir: data_dir.to_owned(), owner });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    // Only for the message above.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn start_redis(data_dir: &Path, options: &Options) -> Result<Running<redis::Spec>> {
    let dir = data_dir.join("redis");
    fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
    let address = Address::of(&dir)?;
    let password = options.redis_port.map(|_| password_in(&data_dir.join("redis-password"))).transpose()?;
    let spec = redis::Spec {
        kind: redis::Kind::Data,
        address: address.path().to_owned(),
        dir,
        log: data_dir.join("logs/redis.log"),
        port: options.redis_port,
        password,
        settings: options.redis_settings.clone(),
        death_signal: Signal::SIGTERM,
        start_limit: options.start_limit,
    };
    Running::new(redis::start, &options.runtime, spec, address)
}

fn start_postgres(data_dir: &Path, options: &Options) -> Result<(Running<postgres::Spec>, Option<String>)> {
    let (dir, log) = (data_dir.join("postgres"), data_dir.join("logs/postgres.log"));
    postgres::make_cluster(&options.runtime, &dir, &log, Durability::Kept)?;
    let address = Address::of(&dir)?;
    let mut settings = postgres::laptop_settings();
    settings.extend(options.postgres_settings.iter().cloned());
    let spec = postgres::Spec {
        address: address.path().to_owned(),
        dir,
        log,
        port: options.postgres_port,
        settings,
        death_signal: Signal::SIGINT,
        start_limit: options.start_limit,
    };
    let running = Running::new(postgres::start, &options.runtime, spec, address)?;
    let spec = &running.spec;
    let mut session = spec.connect("postgres")?;
    if session.run(&format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?.is_empty() {
        session.run(&format!("CREATE DATABASE {DATABASE}"))?;
    }
    let password = match spec.port {
        None => None,
        Some(_) => {
            let password = password_in(&data_dir.join("postgres-password"))?;
            session.run(&format!("ALTER ROLE {OWNER} PASSWORD '{password}'"))?;
            Some(password)
        }
    };
    Ok((running, password))
}

/// The password in a file, which is made with a random one if there is none.
fn password_in(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        // It goes into a statement and a configuration file: only what this function writes is taken.
        Ok(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(text),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("read", path)(error));
        }
        _ => {}
    }
    let mut random = [0u8; 16];
    let source = Path::new("/dev/urandom");
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(Error::io("read", source))?;
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(password.as_bytes()));
    written.map_err(Error::io("write", path))?;
    Ok(password)
}
