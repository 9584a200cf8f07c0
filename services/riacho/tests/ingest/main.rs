//! `riacho ingest` of folders: interrupted and gone on with, and following what changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apart;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use riacho_testkit::{process::Process, within};
use serde_json::{Value, json};
use support::{Deployment, RIACHO, cluster::PATIENCE, errors_of, json_lines};

/// A folder with a file for each name, and each its own text.
fn folder(deployment: &Deployment, name: &str, files: impl IntoIterator<Item = String>) -> PathBuf {
    let folder = deployment.dir.path().join(name);
    for file in files {
        write(&folder, &file, &format!("The text of {name}/{file}.\n"));
    }
    folder
}

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Starts a command on the deployment that the test ends.
fn spawn(deployment: &Deployment, arguments: &[&str]) -> Process {
    let data = deployment.data_dir().to_str().unwrap();
    let state = deployment.dir.path().join("state");
    let all = [&["--data-dir", data], arguments].concat();
    Process::spawn(RIACHO, &all, &[("XDG_STATE_HOME", state.to_str().unwrap())]).unwrap()
}

/// The documents of a collection by their file's name: id, version, state, size.
async fn documents(deployment: &Deployment, collection: &str) -> BTreeMap<String, Value> {
    let (mut found, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let mut url = url::Url::parse(&deployment.up.url("/api/v1/documents")).unwrap();
        url.query_pairs_mut().append_pair("collection", collection).append_pair("limit", "200");
        if !cursor.is_empty() {
            url.query_pairs_mut().append_pair("cursor", &cursor);
        }
        let response = deployment.client().get(url).send().await.unwrap();
        if response.status() == 404 {
            return found;
        }
        let page: Value = response.json().await.unwrap();
        for document in page["documents"].as_array().unwrap() {
            let name = document["filename"].as_str().unwrap().to_owned();
            assert!(found.insert(name, document.clone()).is_none(), "two documents: {document}");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return found,
        }
    }
}

/// Waits until the documents of a collection are as wanted: names with versions, all ready.
async fn until(deployment: &Deployment, process: &Process, collection: &str, wanted: &[(&str, u64)]) {
    within(PATIENCE, || async {
        let found = documents(deployment, collection).await;
        let ready = |d: &Value| d["state"] == "ready" && d["live_version"] == d["version"];
        let seen: Vec<_> =
            found.iter().map(|(name, d)| (name.as_str(), d["version"].as_u64().unwrap())).collect();
        match seen == wanted && found.values().all(ready) {
            true => Ok(()),
            false => Err(format!("{seen:?}\n{}", process.log())),
        }
    })
    .await;
}

fn summary(lines: &[Value], keys: &[&str]) -> Vec<u64> {
    let summary = lines.last().unwrap();
    keys.iter().map(|key| summary[*key].as_u64().unwrap_or_else(|| panic!("{key}: {summary}"))).collect()
}

/// How many files were sent to the deployment so far, by any request.
async fn uploads(deployment: &Deployment) -> u64 {
    let text =
        deployment.client().get(deployment.up.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let counts = text.lines().filter(|line| line.starts_with("riacho_http_requests_total{"));
    let of_files = |line: &&str| {
        (line.contains("method=\"POST\"") && line.contains("route=\"/api/v1/documents\""))
            || (line.contains("method=\"PUT\"") && line.contains("route=\"/api/v1/documents/{id}/content\""))
    };
    counts.filter(of_files).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn an_ingest_that_is_killed_goes_on_where_it_was_and_sends_only_the_rest() {
    const FILES: usize = 600;
    let deployment = Deployment::shared().await;
    let files = (0..FILES).map(|n| format!("{}/{n}.txt", n % 7));
    let (path, state) = (folder(&deployment, "killed", files), deployment.dir.path().join("killed.state"));
    let (path, shown) = (path.to_str().unwrap(), state.to_str().unwrap());
    let arguments = ["ingest", path, "--collection", "killed", "--state", shown, "--concurrency", "4"];
    // Other tests of this file send files too: what counts is what the command says, and the state's lines.
    let mut first = spawn(&deployment, &arguments);
    let noted = || fs::read_to_string(&state).unwrap_or_default().matches("\"sha256\"").count();
    within(PATIENCE, || async { if noted() > 50 { Ok(()) } else { Err(first.log()) } }).await;
    first.kill9().unwrap();
    let noted = u64::try_from(noted()).unwrap();
    assert!(noted < FILES as u64, "it was killed amid its work");
    let rest = deployment.json(&arguments).await;
    let keys = ["files", "ready", "unchanged", "uploaded", "failed"];
    let all = FILES as u64;
    assert_eq!(summary(&rest, &keys), [all, all, noted, all - noted, 0]);
    // Uploads whose answer was lost are answered as the first time, so their documents are this ingest's own.
    assert_eq!(summary(&rest, &["duplicates"]), [0]);
    assert!(!fs::read_to_string(&state).unwrap().contains("\"was_there\":true"));
    assert_eq!(documents(&deployment, "killed").await.len(), FILES);
    assert!(documents(&deployment, "killed").await.values().all(|d| d["version"] == 1));
    let again = deployment.json(&arguments).await;
    assert_eq!(summary(&again, &keys), [all, all, all, 0, 0]);
}

#[tokio::test]
async fn what_is_unchanged_is_not_sent_and_what_changed_is_a_new_version_of_its_document() {
    let deployment = Deployment::start(&[], &[]).await;
    let path = folder(&deployment, "changing", ["a.txt", "b.txt", "c.txt", "d.txt"].map(str::to_owned));
    let shown = path.to_str().unwrap().to_owned();
    let ingest = async || deployment.json(&["ingest", &shown, "--collection", "C"]).await;
    let keys = ["files", "ready", "unchanged", "uploaded"];
    assert_eq!(summary(&ingest().await, &keys), [4, 4, 0, 4]);
    let before = documents(&deployment, "C").await;
    let sent = uploads(&deployment).await;
    assert_eq!(summary(&ingest().await, &keys), [4, 4, 4, 0]);
    assert_eq!(uploads(&deployment).await, sent, "nothing was sent");
    // The same bytes at another time, other bytes, bytes that another file has, and a document that is gone.
    let text = fs::read(path.join("a.txt")).unwrap();
    fs::write(path.join("a.txt"), text).unwrap();
    write(&path, "b.txt", "Another text of b.\n");
    fs::copy(path.join("c.txt"), path.join("copy-of-c.txt")).unwrap();
    let gone = format!("/api/v1/documents/{}", before["d.txt"]["id"].as_str().unwrap());
    deployment.client().delete(deployment.up.url(&gone)).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(summary(&ingest().await, &keys), [5, 5, 2, 3]);
    assert_eq!(uploads(&deployment).await, sent + 3);
    let after = documents(&deployment, "C").await;
    assert_eq!(after.len(), 4, "two files of the same bytes are one document");
    assert_eq!((&after["b.txt"]["id"], &after["b.txt"]["version"]), (&before["b.txt"]["id"], &json!(2)));
    assert_eq!((&after["a.txt"]["version"], &after["c.txt"]["version"]), (&json!(1), &json!(1)));
    assert_ne!(after["d.txt"]["id"], before["d.txt"]["id"]);
    // One of the two that are one document changes: the other keeps it.
    write(&path, "copy-of-c.txt", "No longer a copy.\n");
    assert_eq!(summary(&ingest().await, &keys), [5, 5, 4, 1]);
    let last = documents(&deployment, "C").await;
    assert_eq!((&last["c.txt"]["id"], &last["c.txt"]["version"]), (&before["c.txt"]["id"], &json!(1)));
    assert_eq!((last.len(), &last["copy-of-c.txt"]["version"]), (5, &json!(1)));
}

#[tokio::test]
async fn a_state_of_another_collection_or_a_damaged_one_is_not_used() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "states", ["a.txt", "b.txt"].map(str::to_owned));
    let state = deployment.dir.path().join("states.state");
    let (path, shown) = (path.to_str().unwrap(), state.to_str().unwrap());
    let ingest = async |collection: &str| {
        deployment.riacho(&["ingest", path, "--json", "--state", shown, "--collection", collection]).await
    };
    for collection in ["first", "second"] {
        let output = ingest(collection).await;
        assert_eq!(summary(&json_lines(&output), &["uploaded", "unchanged"]), [2, 0], "{collection}");
        let is_said = errors_of(&output).contains("is of another server, tenant or collection");
        assert_eq!(is_said, collection == "second", "{}", errors_of(&output));
        assert_eq!(documents(&deployment, collection).await.len(), 2);
    }
    fs::write(&state, "nonsense\n").unwrap();
    let output = ingest("second").await;
    assert_eq!(output.status.code(), Some(2));
    let error = errors_of(&output);
    assert!(error.contains("damaged") && error.contains("line 1") && error.contains("Remove it"), "{error}");
    fs::remove_file(&state).unwrap();
    let output = ingest("second").await;
    assert_eq!(summary(&json_lines(&output), &["duplicates", "ready"]), [2, 2]);
}

/// Stops a watch as Ctrl-C does.
async fn interrupt(process: &mut Process) {
    process.signal(Signal::SIGINT).unwrap();
    let status = process.wait().await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", process.log());
}
