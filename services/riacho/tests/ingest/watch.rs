//! What follows changes, until a signal.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use riacho_testkit::{Proxy, process::Process, within};
use serde_json::{Value, json};

use crate::{
    documents, folder, interrupt, spawn, summary,
    support::{Deployment, cluster::PATIENCE, errors_of},
    until, write,
};

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
