//! The private redis-server of a measurement, and what it says of itself.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context as _;
use riacho_local::{
    Options, Servers,
    resp::{Connection, Reply},
};
use riacho_streams::{Config, Streams};

/// Commands that a script of ours executes. A client sends none of them by itself while a stage works.
const SCRIPTED: [&str; 14] = [
    "xack",
    "xdel",
    "xadd",
    "xclaim",
    "xpending",
    "xrange",
    "xinfo|consumers",
    "info",
    "hget",
    "hset",
    "hdel",
    "type",
    "exists",
    "pttl",
];

/// A redis-server with an append-only file, which goes with this value.
pub(super) struct Server {
    _servers: Servers,
    dir: PathBuf,
    pub(super) url: String,
    pub(super) streams: Streams,
}

/// How often each command was executed.
pub(super) struct Commands(BTreeMap<String, u64>);

impl Server {
    pub(super) async fn start() -> anyhow::Result<Server> {
        let dir = std::env::temp_dir().join(format!("riacho-bench-{}", std::process::id()));
        let options = Options { postgres: false, ..Options::default() };
        let servers = Servers::start(&dir, &options).await?;
        let url = servers.redis_url().context("redis-server was not started")?;
        let streams = Streams::connect(&Config::for_url(&url)).await?;
        Ok(Server { _servers: servers, dir, url, streams })
    }

    /// A connection that does no more than the protocol asks for.
    pub(super) fn connection(&self) -> anyhow::Result<Connection> {
        let socket = self.url.strip_prefix("redis+unix://").context("redis-server has no socket")?;
        Ok(Connection::open(socket.as_ref())?)
    }

    /// Removes everything.
    pub(super) fn flush(&self) -> anyhow::Result<()> {
        self.connection()?.ask(&["FLUSHALL"])?;
        Ok(())
    }

    /// Bytes in use.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        let info = self.info("memory")?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap_or_default();
        Ok(used.trim().parse()?)
    }

    /// The processor time that the server has used, and that this process has.
    pub(super) fn processor_time(&self) -> anyhow::Result<[Duration; 2]> {
        let info = self.info("cpu")?;
        let of = |name: &str| {
            let text = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            text.and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let server = Duration::from_secs_f64(of("used_cpu_user") + of("used_cpu_sys"));
        let own = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
        let micros = |time: nix::sys::time::TimeVal| {
            Duration::from_secs(time.tv_sec().try_into().unwrap_or(0))
                + Duration::from_micros(time.tv_usec().try_into().unwrap_or(0))
        };
        Ok([server, micros(own.user_time()) + micros(own.system_time())])
    }

    pub(super) fn commands(&self) -> anyhow::Result<Commands> {
        let info = self.info("commandstats")?;
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(Commands(info.lines().filter_map(count).collect()))
    }

    fn info(&self, section: &str) -> anyhow::Result<String> {
        match self.connection()?.ask(&["INFO", section])? {
            Reply::Text(text) => Ok(text),
            other => anyhow::bail!("INFO answered {other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The servers end a moment later, with their field; what they still write goes nowhere.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Commands {
    /// How many commands were sent since `before`, and how many were executed, those of scripts included.
    pub(super) fn since(&self, before: &Commands) -> (u64, u64) {
        let (mut sent, mut executed) = (0, 0);
        for (name, count) in &self.0 {
            let more = count - before.0.get(name).copied().unwrap_or(0);
            executed += more;
            if !SCRIPTED.contains(&name.as_str()) {
                sent += more;
            }
        }
        (sent, executed)
    }
}
