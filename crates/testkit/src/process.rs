//! The process harness: the real binary, started, watched, killed and stopped.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a process may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Variables that would change what a process under test does.
const FOREIGN: [&str; 7] =
    ["RIACHO__", "REDIS_URL", "DATABASE_URL", "OPENAI_API_KEY", "S3_", "AWS_", "OTEL_"];

/// A running process of a binary under test. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    _directory: Option<TempDir>,
}

impl Process {
    /// Starts a binary without the settings of the caller's environment. What it prints goes to a log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(binary: impl AsRef<Path>, args: &[&str], env: &[(&str, &str)]) -> Result<Process> {
        let directory = TempDir::new()?;
        let mut process = Self::spawn_into(directory.path().join("log"), binary, args, env)?;
        process._directory = Some(directory);
        Ok(process)
    }

    /// The same with a log that stays.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_into(
        log: PathBuf,
        binary: impl AsRef<Path>,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Process> {
        let file = File::create(&log)?;
        let mut command = command(binary.as_ref());
        command.args(args).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A test that is killed leaves nothing behind, whatever state its processes are in.
        let child = riacho_local::spawn_child(command, Signal::SIGKILL)
            .with_context(|| format!("starting {}", binary.as_ref().display()))?;
        Ok(Process { child, log, _directory: None })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, to standard output and standard error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).context("the process is gone")
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits until it did.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait().await
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(5)).await;
        }
        bail!("process {} did not end within {PATIENCE:?}:\n{}", self.pid(), self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `riacho up` and a client of its API.
#[derive(Debug)]
pub struct Up {
    process: Process,
    base_url: String,
    data_dir: PathBuf,
    client: reqwest::Client,
}

impl Up {
    /// Starts `riacho up` on a data directory and a free port, and waits until it is ready.
    /// `binary` is the caller's `env!("CARGO_BIN_EXE_riacho")`.
    ///
    /// # Errors
    /// When it ends, or does not become ready in time; with what it printed.
    pub async fn start(binary: &str, data_dir: &Path) -> Result<Up> {
        Self::start_with(binary, data_dir, &[], &[]).await
    }

    /// [`Up::start`] with more arguments and environment variables.
    ///
    /// # Errors
    /// As [`Up::start`].
    pub async fn start_with(
        binary: &str,
        data_dir: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Up> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let directory = data_dir.to_str().context("the data directory's path is not UTF-8")?;
        let mut all = vec!["up", "--data-dir", directory, "--listen", &listen];
        all.extend(args);
        let mut process = Process::spawn(binary, &all, env)?;
        let base_url = format!("http://{listen}");
        wait_until_ready(&mut process, &base_url).await?;
        let key = fs::read_to_string(data_dir.join("api-key")).context("reading the development key")?;
        let client = client(key.trim())?;
        Ok(Up { process, base_url, data_dir: data_dir.to_owned(), client })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The development key.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn api_key(&self) -> Result<String> {
        Ok(fs::read_to_string(self.data_dir.join("api-key"))?.trim().to_owned())
    }

    /// The address of a path, for example `/api/v1/search`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    /// A client that presents the development key.
    #[must_use]
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Asks it to stop and waits until it did.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop().await
    }
}

async fn wait_until_ready(process: &mut Process, base_url: &str) -> Result<()> {
    let client = client("")?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = process.child.try_wait()? {
            bail!("it ended with {status}:\n{}", process.log());
        }
        let answer = client.get(format!("{base_url}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!("not ready within {PATIENCE:?}:\n{}", process.log())
}

/// An HTTP client that presents a key; none when it is empty.
///
/// # Errors
/// When the key cannot stand in a header.
pub fn client(key: &str) -> Result<reqwest::Client> {
    install_tls();
    let mut headers = reqwest::header::HeaderMap::new();
    if !key.is_empty() {
        headers.insert(reqwest::header::AUTHORIZATION, format!("Bearer {key}").parse()?);
    }
    Ok(reqwest::Client::builder().default_headers(headers).no_proxy().timeout(PATIENCE).build()?)
}

/// Chooses the process's TLS provider; once is enough, more is harmless.
pub fn install_tls() {
    // An error means that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A binary under test without the settings of the caller's environment.
#[must_use]
pub fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| FOREIGN.iter().any(|foreign| name.starts_with(foreign))) {
            command.env_remove(name);
        }
    }
    command
}

/// A port of the loopback address that nothing listens on at the moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The processes that work in a directory or name it in their command line: id and command line.
#[must_use]
pub fn processes_of(directory: &Path) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let wanted = directory.to_string_lossy();
    let inspect = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        // A process that has ended and was not waited for has no command line.
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        let is_its = !command.is_empty() && (works_there || command.contains(&*wanted));
        (is_its && pid != std::process::id()).then_some((pid, command))
    };
    entries.filter_map(Result::ok).filter_map(inspect).collect()
}

/// The processor time that a process has used, with that of its children that have ended.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name, in brackets, may hold anything; the times are the 12th to 15th fields behind it.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
    let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(a_second)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_processor_time_of_a_process_grows_while_it_computes() {
        let process = Process::spawn("/bin/sh", &["-c", "while :; do :; done"], &[]).unwrap();
        crate::eventually(|| async { cpu_time(process.pid()).unwrap() >= Duration::from_millis(100) }).await;
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[tokio::test]
    async fn a_process_is_seen_signalled_and_gone() {
        let directory = TempDir::new().unwrap();
        let mark = directory.path().to_str().unwrap().to_owned();
        let script = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let mut process = Process::spawn("/bin/sh", &["-c", script, &mark], &[]).unwrap();
        crate::eventually(|| async { process.log().contains("ready") }).await;
        assert_eq!(processes_of(directory.path())[0].0, process.pid());
        assert_eq!(process.stop().await.unwrap().code(), Some(7));
        assert!(process.log().contains("stopping"));
        assert!(processes_of(directory.path()).is_empty());
    }
}
