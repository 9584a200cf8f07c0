//! A private PostgreSQL: its cluster, its socket and its life.

mod cluster;
mod session;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

pub(crate) use cluster::{Durability, copy_cluster, make_cluster};
pub(crate) use session::{Row, Session};

use crate::process::{self, Farewell, Process};
use crate::redis::check_port;
use crate::runtime::Runtime;
use crate::{Error, Result, account, spawner};

const NAME: &str = "PostgreSQL";
/// The superuser of the cluster and the owner of its databases.
pub(crate) const OWNER: &str = "riacho";
/// The port gives the socket its name even when nothing listens on it.
pub(crate) const DEFAULT_PORT: u16 = 5432;
/// A fast shutdown writes a checkpoint; an immediate one leaves that to the next start.
const FAREWELL: Farewell =
    &[(Signal::SIGINT, Duration::from_secs(20)), (Signal::SIGQUIT, Duration::from_secs(5))];
/// How long backends of a killed server may take to notice, during which a new one cannot start.
const ORPHANS_LIMIT: Duration = Duration::from_secs(10);

/// How a PostgreSQL is to run.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The cluster's directory, which holds the socket too.
    pub(crate) dir: PathBuf,
    /// A short path to the same directory, for clients.
    pub(crate) address: PathBuf,
    pub(crate) log: PathBuf,
    /// A port on loopback beside the socket.
    pub(crate) port: Option<u16>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) death_signal: Signal,
    pub(crate) start_limit: Duration,
}

impl Spec {
    fn port_number(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// The socket, by the short path.
    pub(crate) fn socket(&self) -> PathBuf {
        self.address.join(format!(".s.PGSQL.{}", self.port_number()))
    }

    /// Opens a session of the owner.
    pub(crate) fn connect(&self, database: &str) -> Result<Session> {
        Session::open(&self.socket(), OWNER, database)
    }

    /// The URL of a database for a role, through the socket. The host is the directory of the socket.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let host = self.address.to_string_lossy().replace('/', "%2F");
        match self.port_number() {
            DEFAULT_PORT => format!("postgresql://{role}@{host}/{database}"),
            port => format!("postgresql://{role}@{host}:{port}/{database}"),
        }
    }
}

/// Starts the server on an existing cluster, after stopping what an earlier process left, and waits until it
/// answers.
pub(crate) fn start(runtime: &Runtime, spec: &Spec) -> Result<Process> {
    let program = runtime.postgres_bin()?.join("postgres");
    cluster::check_version(&spec.dir)?;
    let marker = cluster::marker(&spec.dir)?;
    process::stop_leftover(NAME, &spec.dir.join("postmaster.pid"), FAREWELL, |pid| {
        process::has_argument(pid, &marker)
    })?;
    cluster::remove_sockets(&spec.dir)?;
    if let Some(port) = spec.port {
        check_port(NAME, port)?;
    }
    let begun = std::time::Instant::now();
    loop {
        match start_once(&program, spec, &marker) {
            Err(Error::Ended { reason, .. })
                if reason.contains("pre-existing shared memory") && begun.elapsed() < ORPHANS_LIMIT =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

fn start_once(program: &Path, spec: &Spec, marker: &str) -> Result<Process> {
    let account = account::for_cluster(&spec.dir)?;
    if let Some(account) = &account {
        account.check_reach(program)?;
    }
    let (log, log_start) = process::open_log(&spec.log)?;
    let errors = log.try_clone().map_err(Error::io("open", &spec.log))?;
    let mut command = cluster::command(program, &spec.dir, account.is_some());
    command.arg("-c").arg(marker).arg("-c").arg(format!("port={}", spec.port_number()));
    // Relative to the cluster, which is the server's working directory: no path is too long for a socket then.
    command.args(["-c", "unix_socket_directories=.", "-c", "unix_socket_permissions=0700"]);
    let listen = if spec.port.is_some() { "127.0.0.1" } else { "" };
    command.arg("-c").arg(format!("listen_addresses={listen}"));
    for (name, value) in &spec.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = spawn(command, account, spec.death_signal, program)?;
    let mut server = Process::new(NAME, &spec.log, log_start, child, FAREWELL);
    let ready = server.wait_until(spec.start_limit, || spec.connect("postgres").ok().map(drop));
    match (ready, spec.port) {
        (Ok(()), _) => Ok(server),
        (Err(_), Some(port)) if server.log_text().contains("Address already in use") => {
            Err(Error::PortTaken { server: NAME, port })
        }
        (Err(error), _) => Err(error),
    }
}

fn spawn(
    command: Command,
    account: Option<account::Account>,
    death_signal: Signal,
    program: &Path,
) -> Result<std::process::Child> {
    spawner::spawn(command, account, death_signal).map_err(Error::io("start", program))
}

/// The settings of a server that keeps its data on a laptop.
pub(crate) fn laptop_settings() -> Vec<(String, String)> {
    owned(&[
        ("shared_buffers", "256MB"),
        ("max_connections", "120"),
        ("work_mem", "16MB"),
        // Builds of the vector index fit into this up to about a hundred thousand chunks.
        ("maintenance_work_mem", "256MB"),
        ("effective_cache_size", "2GB"),
        ("random_page_cost", "1.1"),
        ("max_wal_size", "2GB"),
        ("checkpoint_timeout", "15min"),
        // Filling a new file of the log with zeros holds up every commit for as long.
        ("wal_init_zero", "off"),
        ("jit", "off"),
        ("huge_pages", "off"),
        ("log_checkpoints", "off"),
        ("log_min_duration_statement", "2s"),
        // The statement says what was slow; its parameters are people's documents and searches.
        ("log_parameter_max_length", "0"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
    ])
}

/// The settings of a server whose data nobody needs after the test.
pub(crate) fn test_settings() -> Vec<(String, String)> {
    owned(&[
        ("shared_buffers", "64MB"),
        ("max_connections", "300"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_wal_size", "1GB"),
        ("checkpoint_timeout", "1h"),
        ("io_method", "sync"),
        // In files of the cluster, so that a killed server leaves nothing in the system.
        ("dynamic_shared_memory_type", "mmap"),
        ("jit", "off"),
        ("huge_pages", "off"),
        ("log_checkpoints", "off"),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
    ])
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
