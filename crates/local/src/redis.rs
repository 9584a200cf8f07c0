//! A private redis-server: its configuration, its socket and its life.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{self, Farewell, Process};
use crate::runtime::Runtime;
use crate::{Error, Result, spawner};

const NAME: &str = "redis-server";
const SOCKET: &str = "redis.sock";
const PID_FILE: &str = "redis.pid";
/// SIGTERM flushes and closes the append-only file.
const FAREWELL: Farewell = &[(Signal::SIGTERM, Duration::from_secs(10))];

/// What a redis-server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Holds data.
    Data,
    /// Watches servers that do, and promotes a replica when their primary is away.
    Sentinel,
}

/// How a redis-server is to run.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    /// Its directory: data, configuration and socket.
    pub(crate) dir: PathBuf,
    /// A short path to the same directory, for clients.
    pub(crate) address: PathBuf,
    pub(crate) log: PathBuf,
    /// A port on loopback beside the socket.
    pub(crate) port: Option<u16>,
    /// Asked of every client, on the socket too.
    pub(crate) password: Option<String>,
    /// Lines for the end of the configuration, where they win.
    pub(crate) settings: Vec<(String, String)>,
    /// What the server gets when this process dies.
    pub(crate) death_signal: Signal,
    pub(crate) start_limit: Duration,
}

/// Starts the server, after stopping what an earlier process left in the directory, and waits until it answers.
pub(crate) fn start(runtime: &Runtime, spec: &Spec) -> Result<Process> {
    let program = runtime.redis_server()?;
    fs::create_dir_all(&spec.dir).map_err(Error::io("make", &spec.dir))?;
    fs::set_permissions(&spec.dir, fs::Permissions::from_mode(0o700))
        .map_err(Error::io("protect", &spec.dir))?;
    process::stop_leftover(NAME, &spec.dir.join(PID_FILE), FAREWELL, |pid| {
        process::works_in(pid, &spec.dir)
    })?;
    if let Some(port) = spec.port {
        check_port(NAME, port)?;
    }
    write_config(spec)?;
    let (log, log_start) = process::open_log(&spec.log)?;
    let errors = log.try_clone().map_err(Error::io("open", &spec.log))?;
    let mut command = Command::new(program);
    command.arg("redis.conf");
    if spec.kind == Kind::Sentinel {
        command.arg("--sentinel");
    }
    command.current_dir(&spec.dir).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child =
        spawner::spawn(command, None, spec.death_signal).map_err(Error::io("start", Path::new(NAME)))?;
    let mut server = Process::new(NAME, &spec.log, log_start, child, FAREWELL);
    let socket = socket_in(&spec.address);
    let ready = server.wait_until(spec.start_limit, || ping(&socket, spec.password.as_deref()));
    match ready {
        Ok(()) => Ok(server),
        Err(error) => Err(taken_port(&server, spec.port).unwrap_or(error)),
    }
}

/// The socket of a server whose directory clients reach by `address`.
pub(crate) fn socket_in(address: &Path) -> PathBuf {
    address.join(SOCKET)
}

/// Fails if something listens on the port; the server's own message would only be in its log.
pub(crate) fn check_port(server: &'static str, port: u16) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::PortTaken { server, port }),
        _ => Ok(()),
    }
}

fn taken_port(server: &Process, port: Option<u16>) -> Option<Error> {
    let taken = server.log_text().contains("Address already in use");
    port.filter(|_| taken).map(|port| Error::PortTaken { server: NAME, port })
}

fn write_config(spec: &Spec) -> Result<()> {
    let port = spec.port.unwrap_or(0).to_string();
    let mut lines: Vec<(&str, &str)> = vec![
        ("dir", "."),
        ("bind", "127.0.0.1"),
        ("port", &port),
        ("unixsocket", SOCKET),
        ("unixsocketperm", "700"),
        ("pidfile", PID_FILE),
        ("daemonize", "no"),
    ];
    if spec.kind == Kind::Data {
        lines.extend([
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            // The append-only file is the only copy; snapshots beside it would cost memory and disk for nothing.
            ("save", "\"\""),
            // A stream that silently loses entries is worse than a writer that is told to wait.
            ("maxmemory-policy", "noeviction"),
        ]);
    }
    if let Some(password) = &spec.password {
        lines.push(("requirepass", password));
    }
    lines.extend(spec.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let text: String = lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    let path = spec.dir.join("redis.conf");
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(Error::io("write", &path))
}

/// Whether the server answers and has loaded its data.
fn ping(socket: &Path, password: Option<&str>) -> Option<()> {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        stream.write_all(format!("{login}PING\r\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0u8; 256];
        // One line for each command; an error line ends the wait as well.
        let lines = 1 + usize::from(password.is_some());
        while answer.iter().filter(|byte| **byte == b'\n').count() < lines {
            match stream.read(&mut buffer)? {
                0 => return Ok(false),
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(answer.ends_with(b"+PONG\r\n"))
    };
    ask().unwrap_or(false).then_some(())
}
