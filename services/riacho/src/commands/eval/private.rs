//! A `riacho up` of the evaluation's own, in a directory that goes with it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cli::Global,
    client::Client,
    data_dir::DataDir,
    exit::{Failure, Kind},
};

/// How long a start may take: it makes the database.
const START: Duration = Duration::from_secs(120);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);

/// A running deployment with nothing in it.
pub(super) struct Private {
    _up: Up,
    pub(super) client: Client,
}

/// Its process and its directory, which go together.
struct Up {
    child: Child,
    directory: PathBuf,
}

impl Private {
    /// Starts it with the configuration that this command has.
    pub(super) async fn start(global: &Global) -> anyhow::Result<Private> {
        let name = format!("riacho-eval-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let directory = std::env::temp_dir().join(name);
        // One that is there is somebody else's.
        std::fs::create_dir(&directory).context("cannot make a directory for the servers")?;
        // PostgreSQL may run as an account of its own, which has to pass through here.
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o711))?;
        let log = directory.join("up.log");
        let started = command(global, &directory, &log).and_then(|command| {
            riacho_local::spawn_child(command, Signal::SIGTERM).context("cannot start `riacho up`")
        });
        let child = started.inspect_err(|_| _ = std::fs::remove_dir_all(&directory))?;
        let mut up = Up { child, directory };
        let client = ready(&mut up.child, &up.directory, &log).await?;
        Ok(Private { _up: up, client })
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        end(&mut self.child, &self.directory);
    }
}

fn command(global: &Global, directory: &Path, log: &Path) -> anyhow::Result<Command> {
    let log = std::fs::File::create(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["up", "--private", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.join("data"));
    if let Some(config) = &global.config {
        command.arg("--config").arg(config);
    }
    for (key, value) in &global.set {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.env_remove("RIACHO_DATA_DIR");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// Waits until it answers.
async fn ready(child: &mut Child, directory: &Path, log: &Path) -> anyhow::Result<Client> {
    let (start, data_dir) = (Instant::now(), DataDir::new(Some(&directory.join("data"))));
    loop {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let text = format!("`riacho up` ended with {status}: {}", said.trim());
            return Err(Failure::error(Kind::Failed, text));
        }
        if let (Some(running), Some(key)) = (data_dir.running(), DataDir::read(&data_dir.api_key())) {
            let client = Client::at(&running.url, &key)?;
            if client.is_ready().await {
                return Ok(client);
            }
        }
        if start.elapsed() > START {
            let text = format!("`riacho up` was not ready within {} s", START.as_secs());
            return Err(Failure::error(Kind::Failed, text));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn end(child: &mut Child, directory: &Path) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let start = Instant::now();
    while start.elapsed() < STOP && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    // What a start has begun, and a stop has broken off, may end a moment later.
    let mut removed = std::fs::remove_dir_all(directory);
    while removed.is_err() && directory.exists() && start.elapsed() < STOP {
        std::thread::sleep(Duration::from_millis(20));
        removed = std::fs::remove_dir_all(directory);
    }
}
