//! A `riacho up` of the measurement's own, in an empty data directory.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Target, api::Api};

/// How long a first start may take: it makes the database.
const START: Duration = Duration::from_secs(60);

/// The deployment that is measured; one that was started here is stopped when this is dropped.
pub(crate) struct Deployment {
    /// A client of it.
    pub(crate) api: Api,
    started: Option<Started>,
}

struct Started {
    child: Child,
    directory: TempDir,
}

impl Deployment {
    /// The deployment that `target` names, or a new one.
    pub(crate) async fn of(target: &Target) -> anyhow::Result<Deployment> {
        if let (Some(url), Some(key)) = (&target.url, &target.key) {
            return Ok(Deployment { api: Api::new(url, key)?, started: None });
        }
        let binary = binary(target)?;
        let directory = tempfile::Builder::new().prefix("riacho-bench-").tempdir()?;
        // PostgreSQL runs as an account of its own, which has to pass through here.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let log = std::fs::File::create(directory.path().join("up.log"))?;
        let child = Command::new(&binary)
            .args(["up", "--listen", &listen, "--data-dir"])
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut started = Started { child, directory };
        started.wait_ready(&format!("http://{listen}")).await?;
        let key = std::fs::read_to_string(started.directory.path().join("data/api-key"))?;
        Ok(Deployment { api: Api::new(&format!("http://{listen}"), key.trim())?, started: Some(started) })
    }

    /// The process that was started here, and its data directory.
    #[must_use]
    pub(crate) fn process(&self) -> Option<(u32, &Path)> {
        self.started.as_ref().map(|s| (s.child.id(), s.directory.path()))
    }
}

impl Deployment {
    /// A client of another tenant, which is made for it.
    pub(crate) fn another_tenant(&self, target: &Target, name: &str) -> anyhow::Result<Api> {
        let (_, directory) = self.process().context("this measurement starts its own deployment")?;
        let riacho = |args: &[&str]| -> anyhow::Result<Value> {
            let mut command = Command::new(binary(target)?);
            command.args(args).args(["--json", "--data-dir"]).arg(directory.join("data"));
            let output = command.output()?;
            if !output.status.success() {
                bail!("riacho {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
            }
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        riacho(&["tenant", "create", name])?;
        let key = riacho(&["key", "create", "--tenant", name])?;
        Ok(self.api.with_key(key["secret"].as_str().context("a key without a secret")?))
    }
}

impl Started {
    async fn wait_ready(&mut self, url: &str) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.directory.path().join("up.log")).unwrap_or_default();
                bail!("riacho up ended with {status}:\n{log}");
            }
            let answer = http.get(format!("{url}/readyz")).send().await;
            if answer.is_ok_and(|a| a.status().is_success()) {
                return Ok(());
            }
            if start.elapsed() > START {
                bail!("riacho up was not ready within {} s", START.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// The binary to measure.
pub(crate) fn binary(target: &Target) -> anyhow::Result<PathBuf> {
    if let Some(path) = &target.riacho {
        return Ok(path.clone());
    }
    let beside = std::env::current_exe()?.with_file_name("riacho");
    if !beside.exists() {
        bail!(
            "{} is not built; run `cargo build --release -p riacho`, or name it with --riacho",
            beside.display()
        );
    }
    Ok(beside)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
