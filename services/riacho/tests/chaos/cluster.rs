//! The servers, and two processes of each service, which are started again when they end by themselves.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use riacho_local::testing::{self, Reply, TestDatabase, TestPostgres, TestRedis};
use riacho_testkit::{
    Proxy,
    openai::OpenAi,
    process::{self, Process, command},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    history,
    schedule::{Service, Wire},
};

const RIACHO: &str = env!("CARGO_BIN_EXE_riacho");
pub(crate) const REPLICAS: usize = 2;
/// The hour after which what is deleted is purged, for a test.
const PURGE_GRACE_SECONDS: u32 = 15;
/// The most bytes on a stream: little enough to be reached.
pub(crate) const STREAM_MAX_BYTES: usize = 48 << 10;
/// The most documents of the tenant on their way: little enough to be reached.
pub(crate) const IN_FLIGHT: usize = 20;
/// The most events in a batch of the embedder: few, so that little is at the model when a fault comes.
pub(crate) const EMBEDDER_BATCH_EVENTS: usize = 4;
/// The most chunks in an event, with either tuning.
pub(crate) const BATCH_CHUNKS_MAX: usize = 7;
/// The dimensions of the model's vectors.
pub(crate) const DIMENSIONS: usize = 64;
/// How long a parser may take: longer than a process is stopped, whose clock goes on.
const PARSER_SECONDS: u32 = 8;
/// What a parser may map. The program itself takes two thirds of it, unless it is a release.
const PARSER_BYTES: u64 = 288 << 20;
/// How long an orchestrator waits before it starts a process again that ended.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// What a rolling restart changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) chunk_tokens: u32,
    pub(crate) batch_chunks: u32,
}

impl Tuning {
    const FIRST: Tuning = Tuning { chunk_tokens: 64, batch_chunks: 4 };

    pub(crate) fn other(self) -> Tuning {
        if self == Self::FIRST {
            Tuning { chunk_tokens: 96, batch_chunks: BATCH_CHUNKS_MAX as u32 }
        } else {
            Self::FIRST
        }
    }
}

struct Member {
    service: Service,
    replica: usize,
    listen: Option<String>,
    process: Option<Process>,
    /// Somebody has it down on purpose.
    is_down: bool,
    starts: usize,
}

/// A deployment under test.
pub(crate) struct Cluster {
    pub(crate) redis: TestRedis,
    pub(crate) postgres: TestPostgres,
    database: TestDatabase,
    /// What computes the vectors, and counts what it was asked for.
    pub(crate) model: OpenAi,
    to_redis: Proxy,
    to_postgres: Proxy,
    dir: PathBuf,
    pub(crate) partitions: u16,
    pub(crate) key: String,
    members: Mutex<Vec<Member>>,
    tuning: Mutex<Tuning>,
    /// Processes that ended without having been asked to.
    ended: Mutex<Vec<String>>,
}

/// Seconds of the clock that PostgreSQL sees too.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A port that stays free while its process is down: below those that the system gives to connections.
fn lasting_port() -> u16 {
    let bind = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(bind).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Starts the servers and all processes, and waits until the gateways are ready.
    pub(crate) async fn start(partitions: u16) -> Cluster {
        let dir = TempDir::with_prefix("riacho-chaos-").unwrap().keep();
        for part in ["logs", "objects"] {
            fs::create_dir(dir.join(part)).unwrap();
        }
        let (redis, postgres) =
            tokio::task::block_in_place(|| (testing::redis(), testing::private_postgres()));
        let database = postgres.create_database();
        let to_redis = Proxy::before(&redis.url()).unwrap();
        let to_postgres = Proxy::before(&database.owner_url()).unwrap();
        let model = OpenAi::start(DIMENSIONS).await.unwrap();
        let mut cluster = Cluster {
            redis,
            postgres,
            database,
            model,
            to_redis,
            to_postgres,
            dir,
            partitions,
            key: String::new(),
            members: Mutex::default(),
            tuning: Mutex::new(Tuning::FIRST),
            ended: Mutex::default(),
        };
        cluster.json(&["migrate"]);
        cluster.json(&["tenant", "create", "default"]);
        cluster.key = cluster.json(&["key", "create"])["secret"].as_str().unwrap().to_owned();
        cluster.sql(&history::install(partitions)).unwrap();
        for replica in 0..REPLICAS {
            for service in Service::ALL {
                let listen = (service == Service::Gateway).then(|| format!("127.0.0.1:{}", lasting_port()));
                let member = Member { service, replica, listen, process: None, is_down: true, starts: 0 };
                lock(&cluster.members).push(member);
                cluster.start_process(service, replica);
            }
        }
        cluster.gateways_are_ready().await;
        cluster
    }

    /// The settings of a replica's processes. The second reaches its servers through proxies.
    fn env(&self, replica: usize) -> Vec<(String, String)> {
        let objects = self.objects();
        let tuning = self.tuning();
        let (redis, postgres) = match replica {
            1 => (self.to_redis.url().to_owned(), self.to_postgres.url().to_owned()),
            _ => (self.redis.url(), self.database.owner_url()),
        };
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let settings = [
            ("REDIS_URL", redis),
            ("DATABASE_URL", postgres),
            ("RIACHO_DATA_DIR", text(self.dir.join("none"))),
            ("RIACHO__OBJECTS__DIRECTORY", text(objects)),
            ("RIACHO__REDIS__STREAM_MAX_BYTES", STREAM_MAX_BYTES.to_string()),
            ("RIACHO__DATABASE__POOL_SIZE", "6".to_owned()),
            ("RIACHO__MODELS__PROVIDER", "openai".to_owned()),
            ("RIACHO__MODELS__BASE_URL", self.model.base_url()),
            ("RIACHO__MODELS__DIMENSIONS", DIMENSIONS.to_string()),
            ("OPENAI_API_KEY", self.model.api_key().to_owned()),
            ("RIACHO__EXTRACTOR__PARSER__PROCESSES", "1".to_owned()),
            ("RIACHO__EXTRACTOR__PARSER__TIMEOUT_SECONDS", PARSER_SECONDS.to_string()),
            ("RIACHO__EXTRACTOR__PARSER__MEMORY_BYTES", PARSER_BYTES.to_string()),
            ("RIACHO__EXTRACTOR__BATCH_CHUNKS", tuning.batch_chunks.to_string()),
            ("RIACHO__EMBEDDER__BATCH_EVENTS", EMBEDDER_BATCH_EVENTS.to_string()),
            ("RIACHO__GATEWAY__CHUNKING__MAX_TOKENS", tuning.chunk_tokens.to_string()),
            ("RIACHO__JANITOR__LEASE_SECONDS", "6".to_owned()),
            ("RIACHO__JANITOR__IN_FLIGHT_PER_TENANT", IN_FLIGHT.to_string()),
            ("RIACHO__JANITOR__PURGE_GRACE_SECONDS", PURGE_GRACE_SECONDS.to_string()),
            ("RIACHO__JANITOR__SCHEDULES__PURGE", "*/5 * * * * *".to_owned()),
            ("RIACHO__JANITOR__SCHEDULES__CONSUMERS", "*/15 * * * * *".to_owned()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Runs a command to its end and gives the JSON it prints.
    fn json(&self, args: &[&str]) -> Value {
        let output = tokio::task::block_in_place(|| {
            command(Path::new(RIACHO)).args(args).arg("--json").envs(self.env(0)).output().unwrap()
        });
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap()).unwrap()
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Forgets what is left on disk, after a run that went well.
    pub(crate) fn remove(self) {
        let dir = self.dir.clone();
        drop(self);
        let _ = fs::remove_dir_all(dir);
    }

    pub(crate) fn tuning(&self) -> Tuning {
        *lock(&self.tuning)
    }

    /// Processes that are started from now on are tuned otherwise.
    pub(crate) fn retune(&self) {
        let mut tuning = lock(&self.tuning);
        *tuning = tuning.other();
    }

    pub(crate) fn gateways(&self) -> Vec<String> {
        let members = lock(&self.members);
        members.iter().filter_map(|member| Some(format!("http://{}", member.listen.as_ref()?))).collect()
    }

    pub(crate) fn http(&self) -> reqwest::Client {
        process::client(&self.key).unwrap()
    }

    pub(crate) async fn gateways_are_ready(&self) {
        let http = self.http();
        for gateway in self.gateways() {
            riacho_testkit::within(Duration::from_secs(180), || async {
                http.get(format!("{gateway}/readyz")).send().await.is_ok_and(|a| a.status().is_success())
            })
            .await;
        }
    }

    /// Runs SQL as the owner.
    pub(crate) fn sql(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        tokio::task::block_in_place(|| self.database.try_run(sql)).map_err(|error| error.to_string())
    }

    /// Sends a command to Redis.
    pub(crate) fn redis(&self, args: &[&str]) -> Result<Reply, String> {
        let reply = tokio::task::block_in_place(|| testing::try_command(&self.redis.socket(), args));
        match reply {
            Ok(Reply::Error(text)) => Err(text),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        }
    }

    fn with<T>(&self, service: Service, replica: usize, act: impl FnOnce(&mut Member) -> T) -> T {
        let mut members = lock(&self.members);
        let found = members.iter_mut().find(|member| (member.service, member.replica) == (service, replica));
        act(found.unwrap())
    }

    /// Starts a process; where one runs, nothing happens.
    pub(crate) fn start_process(&self, service: Service, replica: usize) {
        let (env, logs) = (self.env(replica), self.logs());
        self.with(service, replica, |member| {
            member.is_down = false;
            if member.process.is_none() {
                member.start(&env, &logs);
            }
        });
    }

    pub(crate) fn wire(&self, wire: Wire) -> &Proxy {
        match wire {
            Wire::Redis => &self.to_redis,
            Wire::Postgres => &self.to_postgres,
        }
    }

    /// The process of a replica, while one runs.
    pub(crate) fn pid(&self, service: Service, replica: usize) -> Option<u32> {
        self.with(service, replica, |member| member.process.as_ref().map(Process::pid))
    }

    /// Kills a process, which stays down.
    pub(crate) fn kill(&self, service: Service, replica: usize) {
        self.with(service, replica, |member| {
            member.is_down = true;
            if let Some(mut process) = member.process.take() {
                process.kill9().unwrap();
            }
        });
    }

    pub(crate) fn signal(&self, service: Service, replica: usize, signal: Signal) {
        self.with(service, replica, |member| member.process.as_ref().map(|process| process.signal(signal)));
    }

    /// Asks a process to stop, and waits until it did.
    pub(crate) async fn stop(&self, service: Service, replica: usize) -> Result<(), String> {
        let process = self.with(service, replica, |member| {
            member.is_down = true;
            member.process.take()
        });
        let Some(mut process) = process else { return Ok(()) };
        let status = process.stop().await.map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} {replica} stopped with {status}", service.name()))
        }
    }

    /// Starts again what ended by itself, until the future is dropped.
    pub(crate) async fn tend(&self) {
        loop {
            sleep(RESTART_PAUSE).await;
            let (env, logs) = ([self.env(0), self.env(1)], self.logs());
            for member in lock(&self.members).iter_mut().filter(|member| !member.is_down) {
                let status = member.process.as_mut().and_then(|process| process.ended().ok().flatten());
                let Some(status) = status else { continue };
                let last = member.process.take().map(|process| process.log()).unwrap_or_default();
                let last = last.lines().next_back().unwrap_or_default().to_owned();
                lock(&self.ended).push(format!(
                    "{} {}: {status}: {last}",
                    member.service.name(),
                    member.replica
                ));
                member.start(&env[member.replica], &logs);
            }
        }
    }

    pub(crate) fn ended_by_themselves(&self) -> Vec<String> {
        lock(&self.ended).clone()
    }

    /// Stops everything; what does not stop well is told.
    pub(crate) async fn stop_all(&self) -> Vec<String> {
        let all =
            Service::ALL.iter().flat_map(|service| (0..REPLICAS).map(move |replica| (*service, replica)));
        let stopping = all.map(|(service, replica)| self.stop(service, replica));
        futures::future::join_all(stopping).await.into_iter().filter_map(Result::err).collect()
    }
}

impl Member {
    fn start(&mut self, env: &[(String, String)], logs: &Path) {
        self.starts += 1;
        let log = logs.join(format!("{}-{}.{:03}.log", self.service.name(), self.replica, self.starts));
        let mut args = vec![self.service.name()];
        if let Some(listen) = &self.listen {
            args.extend(["--listen", listen]);
        }
        let env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.process = Some(Process::spawn_into(log, RIACHO, &args, &env).unwrap());
    }
}
