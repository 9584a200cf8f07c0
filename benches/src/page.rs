//! What the page asks for, and how long its views take in a browser, for a tenant with few documents and one with many.

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{Target, api::Api, deployment::Deployment, figures::Figures};

/// Documents of one request.
const LINES: u64 = 1_000;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many documents the one tenant has.
    #[arg(long, default_value_t = 100_000)]
    documents: u64,
    /// How many the other has.
    #[arg(long, default_value_t = 100)]
    few: u64,
    /// How often each call is measured, for both in turn.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// The folder of Playwright and its Node.js, to measure the views in a browser too: `.riacho/tools/playwright` after `make setup`.
    #[arg(long, requires = "browser")]
    playwright: Option<PathBuf>,
    /// The browser: a path of Chromium.
    #[arg(long, requires = "playwright")]
    browser: Option<PathBuf>,
}

/// Fills two tenants, and times the same calls and views for both.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let few = deployment.another_tenant(target, "few")?;
    let many = deployment.another_tenant(target, "many")?;
    fill(&few, options.few).await?;
    fill(&many, options.documents).await?;
    let mut figures = Figures::default();
    figures.add("documents_many", options.documents);
    figures.add("documents_few", options.few);
    for (name, paths) in calls(&few, &many, options).await? {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            for ((api, path), took) in [&few, &many].into_iter().zip(&paths).zip(&mut took) {
                let begun = Instant::now();
                api.get(path).await?;
                took.push(begun.elapsed());
            }
        }
        let [few, many] = took;
        figures.add_latencies(&format!("{name}_few"), few);
        figures.add_latencies(&format!("{name}_many"), many);
    }
    if let (Some(playwright), Some(browser)) = (&options.playwright, &options.browser) {
        for (name, api) in [("few", &few), ("many", &many)] {
            for (view, took) in views(playwright, browser, api)? {
                figures.add(&format!("view_{view}_{name}_ms"), took);
            }
        }
    }
    Ok(figures)
}

/// Uploads small documents, and waits until all are ready.
async fn fill(api: &Api, documents: u64) -> anyhow::Result<()> {
    let api = api.clone().in_lane("bulk");
    for first in (0..documents).step_by(LINES.try_into()?) {
        let mut lines = String::new();
        for n in first..documents.min(first + LINES) {
            let text = format!("Reading {n}: the gauge at lock {} stood at {} cm.", n % 97, 100 + n % 313);
            let line = json!({"filename": format!("reading-{n}.txt"), "text": text, "external_id": format!("reading-{n}"),
                              "collection": format!("lock-{}", n % 10), "metadata": {"lock": n % 97}});
            writeln!(lines, "{line}")?;
        }
        api.upload_lines(lines).await?;
    }
    while api.unfinished().await? > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// What the views ask for: a name, and its address for the one and for the other.
async fn calls(few: &Api, many: &Api, options: &Options) -> anyhow::Result<Vec<(&'static str, [String; 2])>> {
    let mut calls: Vec<(&'static str, [String; 2])> = [
        ("figures", "/api/v1/queue/info"),
        ("history", "/api/v1/queue/history"),
        ("list", "/api/v1/documents?limit=50"),
        ("list_of_a_collection", "/api/v1/documents?limit=50&collection=lock-7"),
        ("list_of_a_state", "/api/v1/documents?limit=50&state=ready"),
        ("list_of_a_state_that_none_is_in", "/api/v1/documents?limit=50&state=failed"),
        ("list_of_an_external_id", "/api/v1/documents?limit=50&external_id=reading-50"),
        ("usage", "/api/v1/usage"),
        ("collections", "/api/v1/collections"),
        ("dead_letters", "/api/v1/queue/dead-letters"),
    ]
    .map(|(name, path)| (name, [path.to_owned(), path.to_owned()]))
    .into();
    let middle = [middle(few, options.few).await?, middle(many, options.documents).await?];
    calls.push(("list_in_the_middle", middle));
    let stores = [vector_store(few).await?, vector_store(many).await?];
    for (name, query) in [
        ("vector_store", String::new()),
        ("vector_store_files", "/files?limit=100".to_owned()),
        ("vector_store_files_completed", "/files?limit=100&filter=completed".to_owned()),
        ("vector_store_files_failed", "/files?limit=100&filter=failed".to_owned()),
    ] {
        calls.push((name, stores.each_ref().map(|(store, _)| format!("/v1/vector_stores/{store}{query}"))));
    }
    let after = stores.map(|(store, file)| format!("/v1/vector_stores/{store}/files?limit=100&after={file}"));
    calls.push(("vector_store_files_in_the_middle", after));
    let list = "/v1/vector_stores?limit=100".to_owned();
    calls.push(("vector_stores", [list.clone(), list]));
    Ok(calls)
}

/// A collection as OpenAI's facade has it, and a file in the middle of it.
async fn vector_store(api: &Api) -> anyhow::Result<(String, String)> {
    let id = |one: &Value| one["id"].as_str().map(str::to_owned).context("no id");
    let all = api.get("/v1/vector_stores?limit=100").await?;
    let found = all["data"].as_array().and_then(|all| all.iter().find(|store| store["name"] == "lock-7"));
    let store = found.context("no vector store")?;
    let (mut left, mut after) = (store["file_counts"]["total"].as_u64().unwrap_or(0) / 2, String::new());
    loop {
        let path = format!("/v1/vector_stores/{}/files?limit={}{after}", id(store)?, left.clamp(1, 100));
        let page = api.get(&path).await?;
        let files = page["data"].as_array().context("no files")?;
        let last = id(files.last().context("no file")?)?;
        left = left.saturating_sub(files.len() as u64);
        if left == 0 {
            return Ok((id(store)?, last));
        }
        after = format!("&after={last}");
    }
}

/// The address of a page in the middle of the list.
async fn middle(api: &Api, documents: u64) -> anyhow::Result<String> {
    let step = (documents / 2).clamp(1, 100);
    let (mut seen, mut path) = (0, format!("/api/v1/documents?limit={step}"));
    while seen < documents / 2 {
        let page = api.get(&path).await?;
        seen += page["documents"].as_array().map_or(0, Vec::len) as u64;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/documents?limit={step}&cursor={cursor}");
    }
    Ok(path.replace(&format!("limit={step}&"), "limit=50&"))
}

/// The median time of each view in a browser, from the click until it shows what it is about, in milliseconds.
fn views(
    playwright: &std::path::Path,
    browser: &std::path::Path,
    api: &Api,
) -> anyhow::Result<Map<String, Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page.mjs");
    // Node.js looks for what is required beside the script.
    let playwright =
        playwright.canonicalize().with_context(|| format!("no folder {}", playwright.display()))?;
    let (url, key) = api.address();
    let output = Command::new(playwright.join("node"))
        .arg(script)
        .args([playwright.join("package").as_os_str(), browser.as_os_str()])
        .arg(url)
        .env("RIACHO_API_KEY", key)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("no Node.js in {}", playwright.display()))?;
    if !output.status.success() {
        bail!("the browser's walk failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
