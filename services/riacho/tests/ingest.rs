//! `riacho ingest` of folders: interrupted and gone on with, and following what changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use riacho_testkit::{Proxy, process::Process, within};
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

#[tokio::test]
async fn a_file_that_moved_and_what_stands_in_its_place_are_two_documents() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "moved", []);
    let shown = path.to_str().unwrap().to_owned();
    // The last of them is answered first, with the document that the first one changes.
    let (old, fresh) = ("<p>The old barge.</p>", "<p>The new barge.</p>");
    for round in 0..3 {
        let (from, to) = (format!("a{round}.html"), format!("b{round}.html"));
        write(&path, &from, &format!("{round} {old}"));
        deployment.json(&["ingest", &shown, "--collection", "moved"]).await;
        fs::rename(path.join(&from), path.join(&to)).unwrap();
        write(&path, &from, &format!("{round} {fresh} <!-- {} -->", "x".repeat(8 << 20)));
        deployment.json(&["ingest", &shown, "--collection", "moved"]).await;
        let found = documents(&deployment, "moved").await;
        let versions = [&from, &to].map(|name| found[name.as_str()]["version"].as_u64().unwrap());
        assert_eq!((versions, found.len()), ([2, 1], 2 * (round + 1)), "{found:?}");
    }
}

#[tokio::test]
async fn documents_of_removed_files_are_deleted_unless_nothing_is_left() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "emptied", ["stays.txt".to_owned()]);
    for name in ["same1.txt", "same2.txt", "same3.txt"] {
        write(&path, name, "The text of three files.\n");
    }
    let shown = path.to_str().unwrap().to_owned();
    let arguments = ["ingest", &shown, "--collection", "emptied", "--delete", "--json"];
    deployment.riacho(&arguments).await;
    assert_eq!(documents(&deployment, "emptied").await.len(), 2);
    let remove = |name: &str| fs::remove_file(path.join(name)).unwrap();
    remove("same1.txt");
    let lines = json_lines(&deployment.riacho(&arguments).await);
    assert_eq!((summary(&lines, &["deleted"]), documents(&deployment, "emptied").await.len()), (vec![0], 2));
    remove("same2.txt");
    remove("same3.txt");
    let lines = json_lines(&deployment.riacho(&arguments).await);
    assert_eq!((summary(&lines, &["deleted"]), documents(&deployment, "emptied").await.len()), (vec![1], 1));
    // So looks a folder whose disk is not mounted.
    remove("stays.txt");
    let output = deployment.riacho(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(errors_of(&output).contains("nothing is left in"), "{}", errors_of(&output));
    assert_eq!(documents(&deployment, "emptied").await.len(), 1);
    write(&path, "other.txt", "Something is there again.\n");
    let lines = json_lines(&deployment.riacho(&arguments).await);
    assert_eq!(summary(&lines, &["deleted", "ready"]), [1, 1]);
}

/// Stops a watch as Ctrl-C does.
async fn interrupt(process: &mut Process) {
    process.signal(Signal::SIGINT).unwrap();
    let status = process.wait().await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", process.log());
}

#[tokio::test]
async fn a_watch_follows_files_that_are_new_changed_renamed_and_removed() {
    let deployment = Deployment::shared().await;
    let path =
        folder(&deployment, "watched", ["a.txt", "b.txt", ".hidden.txt", "skip/x.txt"].map(str::to_owned));
    let outside = folder(&deployment, "outside", ["secret.txt".to_owned()]);
    symlink(outside.join("secret.txt"), path.join("link.txt")).unwrap();
    let shown = path.to_str().unwrap();
    // Looking at everything is so rare that each change has to be heard.
    let arguments = [
        "ingest",
        shown,
        "--watch",
        "--delete",
        "--collection",
        "watched",
        "--exclude",
        "skip",
        "--settle",
        "0.3",
        "--rescan",
        "3600",
    ];
    let mut watch = spawn(&deployment, &arguments);
    until(&deployment, &watch, "watched", &[("a.txt", 1), ("b.txt", 1)]).await;
    let before = documents(&deployment, "watched").await;
    write(&path, "sub/deep/c.txt", "A file in folders that are new.\n");
    write(&path, ".hidden/d.txt", "Hidden.\n");
    write(&path, "skip/y.txt", "Left out.\n");
    until(&deployment, &watch, "watched", &[("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]).await;
    write(&path, "a.txt", "Another text of a.\n");
    until(&deployment, &watch, "watched", &[("a.txt", 2), ("b.txt", 1), ("c.txt", 1)]).await;
    assert_eq!(documents(&deployment, "watched").await["a.txt"]["id"], before["a.txt"]["id"]);
    // As editors write: another file takes the place of the first.
    write(&path, ".a.txt.new", "A third text of a.\n");
    fs::rename(path.join(".a.txt.new"), path.join("a.txt")).unwrap();
    until(&deployment, &watch, "watched", &[("a.txt", 3), ("b.txt", 1), ("c.txt", 1)]).await;
    // Under another name the same bytes stay the document that they are.
    fs::rename(path.join("b.txt"), path.join("renamed.txt")).unwrap();
    fs::remove_dir_all(path.join("sub")).unwrap();
    until(&deployment, &watch, "watched", &[("a.txt", 3), ("b.txt", 1)]).await;
    interrupt(&mut watch).await;
    // What changed while nobody watched, is found.
    write(&path, "e.txt", "Written while nobody watched.\n");
    fs::remove_file(path.join("a.txt")).unwrap();
    let mut again = spawn(&deployment, &[&arguments[..], &["--json"]].concat());
    until(&deployment, &again, "watched", &[("b.txt", 1), ("e.txt", 1)]).await;
    assert_eq!(documents(&deployment, "watched").await["b.txt"]["id"], before["b.txt"]["id"]);
    within(PATIENCE, || async { if again.log().contains("e.txt") { Ok(()) } else { Err(again.log()) } })
        .await;
    interrupt(&mut again).await;
    let log = again.log();
    let last: Value = serde_json::from_str(log.lines().rfind(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!((&last["uploaded"], &last["deleted"]), (&json!(1), &json!(1)), "{log}");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_taken_when_it_is_whole() {
    const SETTLE: Duration = Duration::from_secs(2);
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "written", ["first.txt".to_owned()]);
    let arguments = [
        "ingest",
        path.to_str().unwrap(),
        "--watch",
        "--collection",
        "written",
        "--settle",
        "2",
        "--rescan",
        "0.5",
    ];
    let mut watch = spawn(&deployment, &arguments);
    until(&deployment, &watch, "written", &[("first.txt", 1)]).await;
    let mut wanted = vec![("first.txt".to_owned(), 1)];
    for attempt in 0.. {
        let name = format!("slow{attempt}.txt");
        let mut file = fs::File::create(path.join(&name)).unwrap();
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let begun = Instant::now();
        while begun.elapsed() < 2 * SETTLE {
            writeln!(file, "A line of {name} after {:?}.", begun.elapsed()).unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(file);
        let size = fs::metadata(path.join(&name)).unwrap().len();
        let whole = within(PATIENCE, || async {
            let found = documents(&deployment, "written").await;
            let document = found.get(&name).filter(|d| d["size"] == size && d["state"] == "ready");
            document.cloned().ok_or_else(|| watch.log())
        })
        .await;
        // A machine that held the writer up for so long proves nothing: then once more.
        if longest < SETTLE / 2 {
            assert_eq!(whole["version"], 1, "no part of it was taken before\n{}", watch.log());
            wanted.push((name, 1));
            break;
        }
    }
    assert_eq!(wanted.len(), 2);
    interrupt(&mut watch).await;
}

#[tokio::test]
async fn a_watch_outlasts_a_server_that_is_away_and_says_so() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "away", ["a.txt".to_owned()]);
    let proxy = Proxy::before(&deployment.up.url("/")).unwrap();
    let (url, key) = (format!("http://{}", proxy.address()), deployment.up.api_key().unwrap());
    proxy.refuse();
    let arguments = [
        "ingest",
        path.to_str().unwrap(),
        "--watch",
        "--collection",
        "away",
        "--settle",
        "0.2",
        "--url",
        &url,
        "--api-key",
        &key,
    ];
    // It is away from the start, comes, and goes again.
    let mut watch = spawn(&deployment, &arguments);
    let says = async |watch: &Process, what: &str, times: usize| {
        within(PATIENCE, || async {
            let log = watch.log();
            if log.matches(what).count() >= times { Ok(()) } else { Err(log) }
        })
        .await;
    };
    says(&watch, "trying again", 1).await;
    proxy.pass();
    until(&deployment, &watch, "away", &[("a.txt", 1)]).await;
    proxy.refuse();
    proxy.cut();
    write(&path, "b.txt", "Written while the server was away.\n");
    says(&watch, "trying again", 2).await;
    proxy.pass();
    until(&deployment, &watch, "away", &[("a.txt", 1), ("b.txt", 1)]).await;
    proxy.refuse();
    proxy.cut();
    write(&path, "c.txt", "Never sent by this one.\n");
    says(&watch, "trying again", 3).await;
    interrupt(&mut watch).await;
    // Without watching there is an end to it, with a code of its own.
    let output =
        deployment.riacho(&["ingest", path.to_str().unwrap(), "--url", &url, "--api-key", &key]).await;
    assert_eq!(output.status.code(), Some(3), "{}", errors_of(&output));
    proxy.pass();
    let lines = deployment.json(&["ingest", path.to_str().unwrap(), "--collection", "away"]).await;
    assert_eq!(summary(&lines, &["files", "unchanged", "uploaded"]), [3, 2, 1]);
}
