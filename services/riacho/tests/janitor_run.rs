//! `riacho janitor run`: what it says and how it ends when something goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use riacho_objects::Key;
use riacho_testkit::{Deployment, Proxy, eventually};
use tokio::process::{Child, Command};

const RIACHO: &str = env!("CARGO_BIN_EXE_riacho");

/// A run of a task in a process of its own, on servers without any service.
fn spawn(deployment: &Deployment, database: &str, task: &str) -> Child {
    let objects = deployment.objects_config().directory.unwrap();
    Command::new(RIACHO)
        .args(["janitor", "run", task])
        .current_dir(deployment.directory())
        .env("REDIS_URL", deployment.redis().url())
        .env("DATABASE_URL", database)
        .env("RIACHO__OBJECTS__DIRECTORY", objects)
        .env("RIACHO__JANITOR__PURGE_GRACE_SECONDS", "0")
        .env("RIACHO_DATA_DIR", deployment.directory().join("none"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn run(deployment: &Deployment, task: &str) -> Output {
    let database = deployment.database_config();
    spawn(deployment, database.url.expose(), task).wait_with_output().await.unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn deleted(deployment: &Deployment, filename: &str) -> String {
    let document = deployment.accept(filename, format!("content of {filename}")).await.unwrap().document;
    let original = deployment.store.original(&deployment.tenant, document, Some(1)).await.unwrap().unwrap();
    assert!(deployment.store.delete_document(&deployment.tenant, document).await.unwrap());
    original.object_key
}

/// Whether the canary's document is there: nothing reads it, so its run goes on until it is ended.
async fn sings(deployment: &Deployment) {
    eventually(|| async { deployment.sql("SELECT FROM documents").into_iter().next() }).await;
}

#[tokio::test]
async fn a_run_that_is_interrupted_ends_what_it_began() {
    let deployment = Deployment::start().await.unwrap();
    let child = spawn(&deployment, deployment.database_config().url.expose(), "canary");
    sings(&deployment).await;
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    let (code, _, errors) = said(&child.wait_with_output().await.unwrap());
    assert_eq!(code, Some(130), "{errors}");
    assert!(errors.contains("stopped before the end"), "{errors}");
    let left = deployment.sql("SELECT FROM documents WHERE deleted_at IS NULL");
    assert!(left.is_empty(), "the canary's document is deleted");
}

#[tokio::test]
async fn a_run_whose_server_goes_away_ends_with_the_code_for_that() {
    let deployment = Deployment::start().await.unwrap();
    let proxy = Proxy::before(deployment.database_config().url.expose()).unwrap();
    let child = spawn(&deployment, proxy.url(), "canary");
    sings(&deployment).await;
    proxy.refuse();
    let (code, _, errors) = said(&child.wait_with_output().await.unwrap());
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("task canary: "), "{errors}");
}

#[tokio::test]
async fn what_a_run_removed_is_said_although_a_part_failed_or_the_act_was_not_written_down() {
    let deployment = Deployment::start().await.unwrap();
    let stuck = deleted(&deployment, "stuck.txt").await;
    let path = deployment.objects.local_path(&Key::parse(&stuck).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("in-the-way")).unwrap();
    deleted(&deployment, "one.txt").await;
    let (code, shown, errors) = said(&run(&deployment, "purge").await);
    assert_eq!(code, Some(1), "{errors}");
    assert!(shown.contains("documents 1") && errors.contains("1 failed, the first with"), "{shown}{errors}");
    let act = deployment
        .sql("SELECT outcome, detail -> 'did' ->> 'documents' FROM audit WHERE action = 'janitor.run'");
    assert_eq!(act, [[Some("failed".to_owned()), Some("1".to_owned())]]);

    fs::remove_dir_all(&path).unwrap();
    deployment.sql("REVOKE INSERT ON audit FROM riacho_janitor");
    let (code, shown, errors) = said(&run(&deployment, "purge").await);
    assert_eq!(code, Some(1), "{errors}");
    assert!(shown.contains("documents 1") && errors.contains("could not be written down"), "{shown}{errors}");
}

/// Runs the target of the daily tasks with a program that fails for some of them.
async fn cleanup_daily(directory: &Path, codes: &str) -> (Output, String) {
    let (program, ran) = (directory.join("program"), directory.join("ran"));
    let script =
        format!("#!/bin/sh\nfor task; do last=$task; done\necho $last >>{}\n{codes}\n", ran.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new("make")
        .current_dir(workspace)
        .args(["--no-print-directory", "cleanup-daily", "ARGS="])
        .arg(format!("RIACHO={}", program.display()))
        .output()
        .await
        .unwrap();
    let ran = fs::read_to_string(&ran).unwrap();
    (output, ran.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn a_daily_task_that_fails_keeps_no_other_from_its_run_and_an_interrupted_one_does() {
    let all = "expire-uploads expire-documents purge orphans consumers housekeep";
    for (codes, expected, failed) in [
        ("case $last in purge|orphans) exit 1;; esac", all, Some("failed: purge orphans")),
        ("exit 0", all, None),
        ("[ $last != purge ] || exit 130", "expire-uploads expire-documents purge", Some("")),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (output, ran) = cleanup_daily(directory.path(), codes).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((ran.as_str(), output.status.success()), (expected, failed.is_none()), "{errors}");
        assert!(errors.contains(failed.unwrap_or_default()), "{errors}");
    }
}
