//! The page in a real browser.
//!
//! Screenshots of all views go to `target/page`, so that people can look at them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use riacho_testkit::{openai::OpenAi, process::Process};
use support::{Deployment, RIACHO};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

/// What Chromium is called.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| BROWSERS.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    found.expect("Chromium on the PATH; `make setup` says how to get it")
}

/// A deployment whose provider of embeddings refuses texts with "hemlock".
async fn deployment(provider: &OpenAi) -> (Deployment, Vec<String>) {
    provider.refuse_texts_with("hemlock");
    let base_url = format!("models.base_url={}", provider.base_url());
    let settings = [
        "models.provider=openai",
        &base_url,
        "models.dimensions=64",
        "gateway.history_seconds=1",
        // A key that was revoked is refused once the gateway has forgotten what it knew.
        "gateway.key_cache_seconds=1",
        // Nothing that a test does leaves the machine.
        "http.outbound_allow=[\"127.0.0.0/8\"]",
    ];
    let settings = settings.map(|setting| ["--set".to_owned(), setting.to_owned()]).concat();
    let args: Vec<&str> = settings.iter().map(String::as_str).collect();
    let deployment = Deployment::start(&args, &[("OPENAI_API_KEY", provider.api_key())]).await;
    (deployment, settings)
}

/// Where screenshots go.
fn screenshots() -> PathBuf {
    let folder = support::workspace().join("target/page");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Starts a walk in a browser.
fn walk(script: &str, deployment: &Deployment, args: &[&Path]) -> Child {
    let workspace = support::workspace();
    let tools = workspace.join(".riacho/tools/playwright");
    Command::new(tools.join("node"))
        .arg(workspace.join("services/riacho/tests/page").join(script))
        .arg(tools.join("package"))
        .arg(browser())
        .arg(deployment.up.url("").trim_end_matches('/'))
        .arg(deployment.up.api_key().unwrap())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_uploads_watches_searches_reads_the_cited_page_and_replays_in_a_browser() {
    let provider = OpenAi::start(64).await.unwrap();
    let (deployment, settings) = deployment(&provider).await;
    let mut walk =
        walk("walk.mjs", &deployment, &[&support::workspace().join("docs/examples"), &screenshots()]);
    let (mut answers, told) = (walk.stdin.take().unwrap(), walk.stdout.take().unwrap());
    let mut another: Option<Process> = None;
    let mut lines = BufReader::new(told).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        println!("{line}");
        match line.strip_prefix("ask: ") {
            Some("let the provider take every text") => provider.normal(),
            Some("start another embedder") => {
                let mut args = vec!["--data-dir", deployment.data_dir().to_str().unwrap(), "embedder"];
                args.extend(settings.iter().map(String::as_str));
                let key = [("OPENAI_API_KEY", provider.api_key())];
                another = Some(Process::spawn(RIACHO, &args, &key).unwrap());
            }
            Some("kill that embedder") => another.take().unwrap().kill9().unwrap(),
            Some(other) => panic!("nobody knows how to {other}"),
            None => continue,
        }
        answers.write_all(b"done\n").await.unwrap();
    }
    assert!(walk.wait().await.unwrap().success(), "{}", deployment.up.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_view_or_a_session_began_ends_with_it_in_a_browser() {
    let provider = OpenAi::start(64).await.unwrap();
    let (deployment, _) = deployment(&provider).await;
    deployment.json(&["tenant", "create", "other"]).await;
    let made = deployment
        .json(&["key", "create", "--tenant", "other", "--name", "other", "--scopes", "admin"])
        .await;
    let other = made[0]["secret"].as_str().unwrap();
    let mut walk = walk("sessions.mjs", &deployment, &[Path::new(other), &screenshots()]);
    let mut lines = BufReader::new(walk.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        println!("{line}");
    }
    assert!(walk.wait().await.unwrap().success(), "{}", deployment.up.log());
}
