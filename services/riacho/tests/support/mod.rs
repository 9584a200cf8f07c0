//! A `riacho up` that the tests of a file share, and the commands that talk to it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod canary;
pub mod cluster;
pub mod prometheus;
pub mod searches;
pub mod story;

use std::{
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Weak},
};

use reqwest::Client;
use riacho_domain::Metric;
use riacho_testkit::process::{self, Up};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// The binary under test.
pub const RIACHO: &str = env!("CARGO_BIN_EXE_riacho");

/// A running deployment in a directory of its own.
#[derive(Debug)]
pub struct Deployment {
    pub up: Up,
    pub dir: TempDir,
}

impl Deployment {
    pub async fn start(args: &[&str], env: &[(&str, &str)]) -> Deployment {
        let dir = TempDir::new().unwrap();
        let up = Up::start_with(RIACHO, &dir.path().join("data"), args, env).await.unwrap();
        Deployment { up, dir }
    }

    /// The deployment of this test file: started by the first test that wants it, ended by the last
    /// one that has it.
    pub async fn shared() -> Arc<Deployment> {
        static SHARED: Mutex<Weak<Deployment>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(deployment) = shared.upgrade() {
            return deployment;
        }
        // Revoked keys and suspended tenants are refused once the gateway has forgotten what it knew.
        let deployment = Arc::new(Deployment::start(&["--set", "gateway.key_cache_seconds=1"], &[]).await);
        *shared = Arc::downgrade(&deployment);
        deployment
    }

    pub fn data_dir(&self) -> &Path {
        self.up.data_dir()
    }

    /// A client of this test's own: connections belong to a test's runtime.
    pub fn client(&self) -> Client {
        process::client(&self.up.api_key().unwrap()).unwrap()
    }

    /// Runs a command of the binary on this deployment's data directory.
    pub async fn riacho(&self, args: &[&str]) -> Output {
        let dir = self.data_dir().to_str().unwrap().to_owned();
        let mut all = vec!["--data-dir".to_owned(), dir];
        all.extend(args.iter().map(ToString::to_string));
        run(all, self.dir.path().to_owned()).await
    }

    /// The same, for commands that have to work and print JSON.
    pub async fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.riacho(&[args, &["--json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {}", errors_of(&output));
        json_lines(&output)
    }

    /// Uploads bytes and gives the answer.
    pub async fn upload(&self, filename: &str, bytes: impl Into<Vec<u8>>) -> Value {
        self.upload_with(filename, bytes, &[]).await
    }

    pub async fn upload_with(
        &self,
        filename: &str,
        bytes: impl Into<Vec<u8>>,
        query: &[(&str, &str)],
    ) -> Value {
        let mut url = url::Url::parse(&self.up.url("/api/v1/documents")).unwrap();
        url.query_pairs_mut().append_pair("filename", filename).extend_pairs(query);
        let request =
            self.client().post(url).header("content-type", "application/octet-stream").body(bytes.into());
        let response = request.send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{status}: {body}");
        body
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.client().get(self.up.url(path)).send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path}: {status}: {body}");
        body
    }

    pub async fn search(&self, body: Value) -> Vec<Value> {
        let response = self.client().post(self.up.url("/api/v1/search")).json(&body).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{status}: {answer}");
        answer["hits"].as_array().unwrap().clone()
    }

    /// Waits until a document's state is final, and gives its status.
    pub async fn ended(&self, id: &str) -> Value {
        let path = format!("/api/v1/documents/{id}/status");
        riacho_testkit::eventually(|| async {
            let status = self.get(&path).await;
            let ended =
                matches!(status["state"].as_str(), Some("ready" | "failed" | "cancelled" | "expired"));
            if ended { Ok(status) } else { Err(format!("{status}\n{}", self.up.log())) }
        })
        .await
    }

    pub async fn ready(&self, accepted: &Value) -> Value {
        let status = self.ended(accepted["id"].as_str().unwrap()).await;
        assert_eq!(status["state"], "ready", "{status}\n{}", self.up.log());
        status
    }
}

/// Runs the binary without a deployment.
pub async fn riacho(args: &[&str]) -> Output {
    run(args.iter().map(ToString::to_string).collect(), std::env::temp_dir()).await
}

async fn run(args: Vec<String>, cwd: PathBuf) -> Output {
    tokio::task::spawn_blocking(move || {
        let mut command = process::command(Path::new(RIACHO));
        // What a command keeps for its user stays with the test.
        command.env("XDG_STATE_HOME", cwd.join("state"));
        command.args(args).current_dir(cwd).output().unwrap()
    })
    .await
    .unwrap()
}

pub fn json_lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

pub fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The sample documents of a format.
pub fn samples(format: &str) -> Vec<PathBuf> {
    let folder = workspace().join("docs/examples");
    let mut found = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == format) && !path.ends_with("README.md"))
        .collect::<Vec<_>>();
    found.sort();
    found
}

/// Files of a folder of the workspace, of one kind, in order.
pub fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(workspace().join(folder)).unwrap();
    let mut found = entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

/// What is measured, by who measures it.
pub fn declared() -> Vec<(&'static str, Vec<Metric>)> {
    let of_every_process = riacho_service::metrics::OF_EVERY_PROCESS.concat();
    vec![
        ("Every process", of_every_process),
        ("The gateway", riacho_ingest_gateway::metrics::METRICS.to_vec()),
        ("The extractor", riacho_extractor::metrics::METRICS.to_vec()),
        ("The embedder", riacho_embedder::metrics::METRICS.to_vec()),
        ("The janitor", riacho_janitor::metrics::METRICS.to_vec()),
    ]
}
