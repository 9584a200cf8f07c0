//! A private S3 server that checks signatures: SeaweedFS, as the setup installs it.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use riacho_domain::{Secret, TenantId, UploadId};
use riacho_objects::{Config, Key, Objects, S3Config, Store};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const BUCKET: &str = "riacho";
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "test-access";
const SECRET_KEY: &str = "test-secret-0123456789";

/// The services of the server.
const SERVICES: [&str; 4] = ["s3", "master", "volume", "filer"];

/// How long a start may take: 3 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A free port can be taken by somebody else before the server has it.
const STARTS: usize = 3;

/// A running server with an empty bucket. It stops when it is dropped.
#[derive(Debug)]
pub struct S3 {
    /// S3, master, volume and filer, each with one for gRPC.
    ports: Vec<u16>,
    directory: TempDir,
    /// Ends the thread that holds the server.
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl S3 {
    /// Starts a server.
    ///
    /// # Errors
    /// Where the setup has not installed it, or it does not come up.
    pub async fn start() -> anyhow::Result<S3> {
        let program = program()?;
        let mut failure = anyhow!("the S3 server was not started");
        for _ in 0..STARTS {
            let server = S3::spawn(&program)?;
            match server.make_bucket().await {
                Ok(()) => return Ok(server),
                Err(error) => failure = error.context(server.log()),
            }
        }
        Err(failure)
    }

    /// A server that the tests of this process share. It stops when none of them has it any more.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub async fn shared() -> anyhow::Result<Arc<S3>> {
        static SHARED: tokio::sync::Mutex<Weak<S3>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(S3::start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// The address of the server.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The id of the key that may do everything.
    #[must_use]
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Its secret.
    #[must_use]
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The configuration section `objects` for this server.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            store: Store::S3,
            s3: S3Config {
                bucket: BUCKET.to_owned(),
                region: REGION.to_owned(),
                endpoint: Some(self.endpoint()),
                access_key_id: Some(Secret::from(ACCESS_KEY)),
                secret_access_key: Some(Secret::from(SECRET_KEY)),
                path_style: true,
                allow_http: true,
                ..S3Config::default()
            },
            ..Config::default()
        }
    }

    fn spawn(program: &Path) -> anyhow::Result<S3> {
        let directory = TempDir::with_prefix("riacho-s3-")?;
        let ports = free_ports()?;
        let command = command(program, directory.path(), &ports)?;
        let (stop, stopped) = mpsc::channel();
        let keeper = keep(command, stopped)?;
        Ok(S3 { ports, directory, stop: Some(stop), keeper: Some(keeper) })
    }

    /// The first object makes the bucket, and shows that the server works.
    async fn make_bucket(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while TcpListener::bind(("127.0.0.1", self.ports[0])).is_ok() {
            let ended = self.keeper.as_ref().is_none_or(thread::JoinHandle::is_finished);
            if ended || start.elapsed() > PATIENCE {
                bail!("the S3 server does not listen");
            }
            sleep(Duration::from_millis(20)).await;
        }
        let objects = Objects::connect(&self.config()).await?;
        let probe = Key::original(&"probe".parse::<TenantId>()?, UploadId::new());
        while let Err(error) = objects.put(&probe, Bytes::from_static(b"probe")).await {
            if start.elapsed() > PATIENCE {
                return Err(error).context("the S3 server does not store");
            }
            sleep(Duration::from_millis(20)).await;
        }
        objects.delete(&probe).await.context("the S3 server does not delete")
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(20).collect();
        end.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // It only waits for the killed server.
            let _ = keeper.join();
        }
        for (name, pair) in SERVICES.into_iter().zip(self.ports.chunks_exact(2)) {
            // The server puts its gRPC sockets there whatever its settings, and leaves them.
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{}.sock", pair[1]));
        }
    }
}

/// The program of the setup, or one on the PATH.
fn program() -> anyhow::Result<PathBuf> {
    let here = env::current_dir()?;
    let installed = here.ancestors().map(|directory| directory.join(".riacho/tools/bin/weed"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("weed")).collect::<Vec<_>>();
    installed
        .chain(on_path)
        .find(|program| program.is_file())
        .context("no S3 server for tests (weed): run `make setup`")
}

/// Two ports for each of [`SERVICES`].
fn free_ports() -> anyhow::Result<Vec<u16>> {
    let listeners = (0..8)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()
        .context("find free ports")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn command(program: &Path, directory: &Path, ports: &[u16]) -> anyhow::Result<Command> {
    let data = directory.join("data");
    fs::create_dir(&data)?;
    let keys = directory.join("keys.json");
    let identity = serde_json::json!({ "identities": [{
        "name": "test",
        "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    fs::write(&keys, identity.to_string())?;
    let log = File::create(directory.join("log"))?;
    // The server is killed with the thread that keeps it, and so with this process.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("server");
    command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", keys.display()));
    command.args([
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        "-volume.max=16",
        "-master.volumeSizeLimitMB=64",
    ]);
    command.args([
        "-master.telemetry=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=true",
    ]);
    for (name, pair) in SERVICES.into_iter().zip(ports.chunks_exact(2)) {
        command.arg(format!("-{name}.port={}", pair[0])).arg(format!("-{name}.port.grpc={}", pair[1]));
    }
    for name in ["s3", "filer"] {
        command.arg(format!("-{name}.localSocket={}", directory.join(name).display()));
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(directory);
    Ok(command)
}

/// Starts the server from a thread of its own, which lives until the server is to stop or has ended.
fn keep(mut command: Command, stopped: mpsc::Receiver<()>) -> anyhow::Result<thread::JoinHandle<()>> {
    let (answer, started) = mpsc::channel();
    let keeper = thread::Builder::new().name("s3-keeper".to_owned()).spawn(move || {
        let child = command.spawn();
        let _ = answer.send(child.as_ref().map(Child::id).map_err(ToString::to_string));
        let Ok(mut child) = child else { return };
        while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(50)) {
            if let Ok(Some(_)) = child.try_wait() {
                return;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    })?;
    match started.recv()? {
        Ok(_) => Ok(keeper),
        Err(reason) => bail!("start the S3 server: {reason}"),
    }
}
