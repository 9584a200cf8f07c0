//! What belongs together and what does not: files that moved, files with the same bytes, names, disks that are away.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use riacho_testkit::within;
use serde_json::json;

use crate::{
    documents, folder, interrupt, spawn, summary,
    support::{Deployment, cluster::PATIENCE, errors_of, json_lines},
    until, uploads, write,
};

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

#[tokio::test]
async fn a_watch_that_begins_before_its_disk_is_mounted_deletes_nothing() {
    let deployment = Deployment::shared().await;
    let names: Vec<String> = (10..22).map(|n| format!("{n}.txt")).collect();
    let wanted: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (disk, away) = (folder(&deployment, "disk", names.clone()), deployment.dir.path().join("away"));
    let shown = disk.to_str().unwrap().to_owned();
    let arguments = ["ingest", &shown, "--collection", "disk", "--delete"];
    deployment.json(&arguments).await;
    let ids = async || {
        let found = documents(&deployment, "disk").await;
        found.values().map(|d| d["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = ids().await;
    let watch = [&arguments[..], &["--watch", "--settle", "0.2", "--rescan", "0.2"]].concat();
    for left in [None, Some("lost+found/x.txt")] {
        fs::rename(&disk, &away).unwrap();
        fs::create_dir(&disk).unwrap();
        if let Some(left) = left {
            write(&disk, left, "");
        }
        let mut process = spawn(&deployment, &watch);
        within(PATIENCE, || async {
            let log = process.log();
            // An empty file is refused, which shows that everything was looked at.
            let is_seen =
                log.contains("documents of 12 files of 12 stay") && (left.is_none() || log.contains("x.txt"));
            if is_seen { Ok(()) } else { Err(log) }
        })
        .await;
        fs::remove_dir_all(&disk).unwrap();
        fs::rename(&away, &disk).unwrap();
        interrupt(&mut process).await;
        let mut process = spawn(&deployment, &watch);
        let log = || async { if process.log().contains("watching") { Ok(()) } else { Err(process.log()) } };
        within(PATIENCE, log).await;
        until(&deployment, &process, "disk", &wanted).await;
        interrupt(&mut process).await;
        assert_eq!(ids().await, before, "{}", process.log());
    }
}

#[tokio::test]
async fn a_document_of_somebody_else_is_neither_changed_nor_deleted() {
    let deployment = Deployment::shared().await;
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder(&deployment, name, [format!("{name}.txt")]));
    for folder in [&theirs, &ours] {
        write(folder, "changed.txt", "The same licence.\n");
        write(folder, "removed.txt", "The same notice.\n");
    }
    let ingest = async |folder: &std::path::Path| {
        let arguments = ["ingest", folder.to_str().unwrap(), "--collection", "shared", "--delete"];
        summary(&deployment.json(&arguments).await, &["uploaded", "duplicates", "deleted", "unchanged"])
    };
    assert_eq!(ingest(&theirs).await, [3, 0, 0, 0]);
    let before = documents(&deployment, "shared").await;
    assert_eq!(ingest(&ours).await, [3, 2, 0, 0]);
    write(&ours, "changed.txt", "Our own licence.\n");
    fs::rename(ours.join("changed.txt"), ours.join("own.txt")).unwrap();
    fs::remove_file(ours.join("removed.txt")).unwrap();
    assert_eq!(ingest(&ours).await, [1, 0, 0, 1]);
    let after = documents(&deployment, "shared").await;
    assert_eq!(after.len(), 5, "{after:?}");
    for name in ["changed.txt", "removed.txt"] {
        assert_eq!((&after[name]["id"], &after[name]["version"]), (&before[name]["id"], &json!(1)));
    }
    assert_eq!(ingest(&theirs).await, [0, 0, 0, 3]);
    // One that somebody gave other bytes is no longer the file's.
    let url = deployment.up.url(&format!(
        "/api/v1/documents/{}/content?filename=theirs.txt",
        before["theirs.txt"]["id"].as_str().unwrap()
    ));
    let other = deployment.client().put(url).header("content-type", "text/plain").body("Another text.");
    assert!(other.send().await.unwrap().status().is_success());
    assert_eq!(ingest(&theirs).await, [1, 0, 0, 2]);
}

#[tokio::test]
async fn names_that_are_not_utf_8_are_told_apart() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "names", []);
    fs::create_dir_all(&path).unwrap();
    let name = |byte: u8| path.join(OsStr::from_bytes(&[b'n', byte, b'.', b't', b'x', b't']));
    for byte in [0xfe, 0xff] {
        fs::write(name(byte), format!("The text of {byte}.\n")).unwrap();
    }
    let arguments = ["ingest", path.to_str().unwrap(), "--collection", "names"];
    let ingest =
        async || summary(&deployment.json(&arguments).await, &["uploaded", "unchanged", "duplicates"]);
    assert_eq!(ingest().await, [2, 0, 0]);
    assert_eq!(ingest().await, [0, 2, 0]);
    fs::write(name(0xff), "Another text.\n").unwrap();
    assert_eq!(ingest().await, [1, 1, 0]);
    let output = deployment.riacho(&[&arguments[..], &["--by-path", "--json"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(summary(&json_lines(&output), &["failed", "uploaded"]), [2, 0], "{}", errors_of(&output));
}

#[tokio::test]
async fn a_watch_without_a_state_sends_nothing_twice_and_leaves_its_own_files_alone() {
    let deployment = Deployment::start(&[], &[]).await;
    let path = folder(&deployment, "stateless", ["a.txt", "b.txt"].map(str::to_owned));
    let shown = path.to_str().unwrap();
    let watch =
        ["ingest", shown, "--watch", "--settle", "0.2", "--rescan", "0.2", "--collection", "stateless"];
    let mut process = spawn(&deployment, &[&watch[..], &["--no-state"]].concat());
    until(&deployment, &process, "stateless", &[("a.txt", 1), ("b.txt", 1)]).await;
    write(&path, "a.txt", "Another text of a.\n");
    until(&deployment, &process, "stateless", &[("a.txt", 2), ("b.txt", 1)]).await;
    write(&path, "c.txt", "A third file.\n");
    until(&deployment, &process, "stateless", &[("a.txt", 2), ("b.txt", 1), ("c.txt", 1)]).await;
    assert_eq!(uploads(&deployment).await, 4, "{}", process.log());
    interrupt(&mut process).await;
    // The state lies in the folder itself.
    let state = path.join("ingest.state");
    let mut process = spawn(&deployment, &[&watch[..], &["--state", state.to_str().unwrap()]].concat());
    let noted = || fs::read_to_string(&state).unwrap_or_default().matches("\"sha256\"").count();
    within(PATIENCE, || async { if noted() >= 3 { Ok(()) } else { Err(process.log()) } }).await;
    write(&path, "d.txt", "A fourth file.\n");
    until(&deployment, &process, "stateless", &[("a.txt", 2), ("b.txt", 1), ("c.txt", 1), ("d.txt", 1)])
        .await;
    interrupt(&mut process).await;
}

#[tokio::test]
async fn the_documents_of_a_folder_that_is_renamed_stay() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "renamed", (0..40).map(|n| format!("old/{n}.txt")));
    let shown = path.to_str().unwrap();
    let state = deployment.dir.path().join("renamed.state");
    let arguments = [
        "ingest",
        shown,
        "--watch",
        "--delete",
        "--state",
        state.to_str().unwrap(),
        "--max-delete",
        "100",
        "--settle",
        "0.3",
        "--rescan",
        "3600",
    ];
    let mut watch = spawn(&deployment, &[&arguments[..], &["--collection", "renamed"]].concat());
    let ids = async || {
        let found = documents(&deployment, "renamed").await;
        found.values().map(|d| d["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    within(PATIENCE, || async { if ids().await.len() == 40 { Ok(()) } else { Err(watch.log()) } }).await;
    let before = ids().await;
    fs::rename(path.join("old"), path.join("new")).unwrap();
    // Each is known by its new name, and no more by its old one.
    let is_moved = || {
        let text = fs::read_to_string(&state).unwrap();
        let known = |name: &str, mark: &str| {
            text.lines().filter(|line| line.contains(name) && line.contains(mark)).count()
        };
        known("/new/", "\"sha256\"") >= 40 && known("/old/", "\"known\":null}") >= 40
    };
    within(PATIENCE, || async { if is_moved() { Ok(()) } else { Err(watch.log()) } }).await;
    assert_eq!(ids().await, before, "{}", watch.log());
    write(&path, "last.txt", "Something is left.\n");
    fs::remove_dir_all(path.join("new")).unwrap();
    within(PATIENCE, || async { if ids().await.len() == 1 { Ok(()) } else { Err(watch.log()) } }).await;
    interrupt(&mut watch).await;
    let log = watch.log();
    assert_eq!(log.matches("deleted: ").count(), 40, "each once, by its new name: {log}");
    assert!(
        !log.contains("deleted: ")
            || log.lines().filter(|line| line.starts_with("deleted: ")).all(|line| line.contains("/new/")),
        "{log}"
    );
}

#[tokio::test]
async fn without_delete_no_document_is_deleted_and_a_renamed_file_keeps_its_own() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "kept", ["a.txt", "b.txt"].map(str::to_owned));
    let shown = path.to_str().unwrap();
    let state = deployment.dir.path().join("kept.state");
    let common = ["ingest", shown, "--collection", "kept", "--state", state.to_str().unwrap()];
    let watch = [&common[..], &["--watch", "--settle", "0.5", "--rescan", "3600"]].concat();
    let mut process = spawn(&deployment, &watch);
    until(&deployment, &process, "kept", &[("a.txt", 1), ("b.txt", 1)]).await;
    let before = documents(&deployment, "kept").await;
    // Written, and gone before it is at rest.
    write(&path, "a.txt", "Another text of a.\n");
    fs::remove_file(path.join("a.txt")).unwrap();
    fs::rename(path.join("b.txt"), path.join("c.txt")).unwrap();
    let forgotten = || fs::read_to_string(&state).unwrap().contains("/b.txt\",\"known\":null}");
    within(PATIENCE, || async { if forgotten() { Ok(()) } else { Err(process.log()) } }).await;
    write(&path, "c.txt", "Another text of what was b.\n");
    // A new version under its new name of the document that it was.
    until(&deployment, &process, "kept", &[("a.txt", 1), ("c.txt", 2)]).await;
    interrupt(&mut process).await;
    let after = documents(&deployment, "kept").await;
    assert_eq!(
        (&after["a.txt"]["id"], &after["c.txt"]["id"]),
        (&before["a.txt"]["id"], &before["b.txt"]["id"])
    );
    assert!(!process.log().contains("deleted"), "{}", process.log());
}

#[tokio::test]
async fn documents_that_are_adopted_are_changed_and_deleted_with_their_files() {
    let deployment = Deployment::shared().await;
    let path = folder(&deployment, "adopted", ["a.txt", "b.txt", "c.txt"].map(str::to_owned));
    let (shown, state) = (path.to_str().unwrap(), deployment.dir.path().join("adopted.state"));
    let ingest = async |more: &[&str]| {
        let common =
            ["ingest", shown, "--collection", "adopted", "--delete", "--state", state.to_str().unwrap()];
        summary(&deployment.json(&[&common[..], more].concat()).await, &["uploaded", "duplicates", "deleted"])
    };
    assert_eq!(ingest(&[]).await, [3, 0, 0]);
    fs::remove_file(&state).unwrap();
    assert_eq!(ingest(&["--adopt"]).await, [3, 3, 0]);
    write(&path, "a.txt", "Another text of a.\n");
    fs::remove_file(path.join("b.txt")).unwrap();
    assert_eq!(ingest(&[]).await, [1, 0, 1]);
    let found = documents(&deployment, "adopted").await;
    assert_eq!((found.len(), &found["a.txt"]["version"]), (2, &json!(2)), "{found:?}");
}
