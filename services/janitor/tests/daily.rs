//! What operators have of the janitor: the day in numbers, the canary, backups, and runs that they ask for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use riacho_domain::ReasonCode;
use riacho_janitor::{Backup, Config, Janitor, TaskName};
use riacho_store::{ListDocuments, Role, RunState};
use riacho_testkit::{Deployment, Pipeline, Shape, eventually};
use tokio_util::sync::CancellationToken;

fn janitor(deployment: &Deployment, config: Config) -> Janitor {
    let core = deployment.core().unwrap();
    Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap())
}

fn nonzero(mut counts: BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    counts.retain(|_, count| *count > 0);
    counts
}

/// The value of a metric without labels, or with these.
fn metric(deployment: &Deployment, name: &str) -> Option<f64> {
    let text = deployment.resources(Role::Janitor).unwrap().metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_goes_through_the_pipeline_is_timed_and_leaves_no_document() {
    let deployment = Deployment::start().await.unwrap();
    let core = deployment.core().unwrap();
    let shape = Shape { has_janitor: false, ..Shape::default() };
    let pipeline = Pipeline::start_with(&deployment, &core, &shape).unwrap();
    let janitor = janitor(&deployment, Config::default());
    let counts = janitor.run_task(TaskName::Canary, false).await.unwrap().counts;
    assert_eq!(counts["documents"], 1);
    // Metrics are of the whole process, in which other tests may run a canary too.
    assert!(metric(&deployment, "riacho_canary_seconds").is_some_and(|seconds| seconds > 0.0));
    let tenant = "riacho-canary".parse().unwrap();
    let left = deployment.janitor.documents(&tenant, &ListDocuments::default()).await.unwrap();
    assert!(left.items.is_empty());
    assert_eq!(
        deployment.sql("SELECT count(*) FROM documents")[0][0].as_deref(),
        Some("1"),
        "purge removes it"
    );
    // The day is that of the users.
    let day = janitor.run_task(TaskName::Summary, false).await.unwrap().counts;
    assert_eq!(nonzero(day), BTreeMap::new());
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn a_canary_that_does_not_come_through_says_where_it_is_and_is_deleted() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment, Config { canary_time_limit_seconds: 0, ..Config::default() });
    let error = janitor.run_task(TaskName::Canary, false).await.unwrap_err();
    assert!(error.to_string().starts_with("the canary's document is extracting after 0 s"), "{error}");
    let deleted = deployment.sql("SELECT count(*) FROM documents WHERE deleted_at IS NOT NULL");
    assert_eq!(deleted[0][0].as_deref(), Some("1"));
    let schedules = deployment.janitor.schedules().await.unwrap();
    let canary = schedules.iter().find(|schedule| schedule.task == "canary").unwrap();
    assert_eq!(
        (canary.last_outcome.as_deref(), canary.failures, canary.last_success),
        (Some("failed"), 1, None)
    );
}

#[tokio::test]
async fn the_summary_is_the_day_of_all_tenants_in_numbers() {
    let deployment = Deployment::start().await.unwrap();
    let failed = deployment.accept("a.txt", "a file").await.unwrap();
    let release = failed.release.unwrap().release();
    deployment.store.fail(&release, ReasonCode::Corrupt, "cannot be read").await.unwrap();
    let old = deployment.accept("b.txt", "a file of the day before").await.unwrap();
    deployment.sql(&format!(
        "UPDATE document_versions SET created_at = now() - interval '25 hours' WHERE document_id = '{}'",
        old.document
    ));
    let janitor = janitor(&deployment, Config::default());
    for dry_run in [true, false] {
        let counts = nonzero(janitor.run_task(TaskName::Summary, dry_run).await.unwrap().counts);
        let wanted = [("accepted", 1), ("bytes", 6), ("failed", 1), ("tenants", 1), ("unfinished", 1)];
        assert_eq!(counts, BTreeMap::from(wanted));
    }
    let summary = deployment.janitor.schedules().await.unwrap().remove(0);
    assert_eq!((summary.task.as_str(), summary.runs), ("summary", 1), "a dry run is none");
    assert_eq!(summary.last_summary.unwrap()["failed"], 1);
}

#[tokio::test]
async fn a_document_that_was_purged_counts_as_deleted_on_the_day_of_its_deletion() {
    let deployment = Deployment::start().await.unwrap();
    let janitor = janitor(&deployment, Config { purge_grace_seconds: 0, ..Config::default() });
    let mut documents = Vec::new();
    for name in ["purged.txt", "deleted.txt", "before.txt"] {
        documents.push(deployment.accept(name, format!("content of {name}")).await.unwrap().document);
    }
    for document in [documents[0], documents[2]] {
        assert!(deployment.store.delete_document(&deployment.tenant, document).await.unwrap());
    }
    deployment.sql(&format!(
        "UPDATE documents SET deleted_at = now() - interval '25 hours' WHERE id = '{}'",
        documents[2]
    ));
    let deleted = async || janitor.run_task(TaskName::Summary, true).await.unwrap().counts["deleted"];
    assert_eq!(deleted().await, 1);
    assert_eq!(janitor.run_task(TaskName::Purge, false).await.unwrap().counts["documents"], 2);
    assert_eq!(deleted().await, 1, "by its receipt, and that of the day before is not of today");
    assert!(deployment.store.delete_document(&deployment.tenant, documents[1]).await.unwrap());
    assert_eq!(deleted().await, 2);
}

fn backup(folder: &Path, script: &str) -> Config {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let backup = Backup { command, directory: Some(folder.to_owned()), ..Backup::default() };
    Config { backup, ..Config::default() }
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_backup_is_a_folder_that_its_command_filled_and_old_ones_go() {
    let deployment = Deployment::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("backups");
    std::fs::create_dir_all(folder.join("20200101T000000Z")).unwrap();
    let script = "echo saving; printf dump > \"$RIACHO_BACKUP_DIR/database.dump\"";
    let config = backup(&folder, script);
    let janitor = janitor(&deployment, config);
    let dry = janitor.run_task(TaskName::Backup, true).await.unwrap().counts;
    assert_eq!((nonzero(dry), folders(&folder).len()), (BTreeMap::from([("backups", 1)]), 1));
    janitor.run_task(TaskName::Health, false).await.unwrap();
    assert!(!deployment.janitor.schedules().await.unwrap().iter().any(|one| one.task == "backup"));

    let counts = janitor.run_task(TaskName::Backup, false).await.unwrap().counts;
    assert_eq!(counts, BTreeMap::from([("backups", 1), ("bytes", 4), ("files", 1), ("removed", 1)]));
    let made = folders(&folder);
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(std::fs::read_to_string(made[0].join("database.dump")).unwrap(), "dump");
    assert_eq!(std::fs::read_to_string(made[0].join("backup.log")).unwrap(), "saving\n");

    deployment.sql("UPDATE schedules SET last_success = now() - interval '2 days' WHERE task = 'backup'");
    janitor.run_task(TaskName::Health, false).await.unwrap();
    let age = metric(&deployment, "riacho_backup_age_seconds").unwrap();
    assert!((172_800.0..180_000.0).contains(&age), "{age}");
}

#[tokio::test]
async fn a_backup_whose_command_fails_or_hangs_is_none_and_the_others_stay() {
    let deployment = Deployment::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("20200101T000000Z")).unwrap();
    let janitor_of = |config| janitor(&deployment, config);
    let failing = janitor_of(backup(directory.path(), "echo no such database >&2; exit 3"));
    let error = failing.run_task(TaskName::Backup, false).await.unwrap_err().to_string();
    assert!(error.contains("exit code 3") && error.contains("it said: no such database"), "{error}");

    let pids = tempfile::tempdir().unwrap();
    let pid_file = pids.path().join("pid");
    let mut config = backup(directory.path(), &format!("sleep 600 & echo $! > {}; wait", pid_file.display()));
    config.backup.time_limit_seconds = 1;
    let error = janitor_of(config).run_task(TaskName::Backup, false).await.unwrap_err().to_string();
    assert!(error.contains("was ended after 1 s"), "{error}");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    // A process that nobody waits for any more has no command line left.
    let is_gone =
        || std::fs::read(format!("/proc/{}/cmdline", pid.trim())).map_or(true, |command| command.is_empty());
    eventually(|| async { is_gone().then_some(()) }).await;

    let missing = Config {
        backup: Backup {
            command: vec!["/no/such/program".into()],
            directory: Some(directory.path().to_owned()),
            ..Backup::default()
        },
        ..Config::default()
    };
    let error = janitor_of(missing).run_task(TaskName::Backup, false).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program") && error.contains("cannot be run"), "{error}");
    let whole: Vec<_> =
        folders(directory.path()).into_iter().filter(|folder| folder.extension().is_none()).collect();
    assert_eq!(whole, [directory.path().join("20200101T000000Z")]);
    let error = janitor_of(Config::default()).run_task(TaskName::Backup, false).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("janitor.backup.command"), "{error}");
}

#[tokio::test]
async fn of_backups_that_failed_only_what_they_said_takes_room() {
    let deployment = Deployment::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    // One whose janitor was killed, and one that another janitor may be making now.
    let cut_off = directory.path().join("20200101T000000Z.partial");
    let under_way = (chrono::Utc::now() - chrono::Duration::hours(1)).format("%Y%m%dT%H%M%SZ.partial");
    let under_way = directory.path().join(under_way.to_string());
    let older = directory.path().join("20191231T000000Z");
    for folder in [&cut_off, &under_way, &older] {
        std::fs::create_dir_all(folder.join("base")).unwrap();
        std::fs::write(folder.join("base/objects.tar"), "half of it").unwrap();
    }
    let mut config = backup(
        directory.path(),
        "echo no room; mkdir \"$RIACHO_BACKUP_DIR/base\"; printf dump > \"$RIACHO_BACKUP_DIR/base/dump\"; exit 1",
    );
    config.backup.keep_days = 36_500;
    let error = janitor(&deployment, config.clone()).run_task(TaskName::Backup, false).await.unwrap_err();
    assert!(error.to_string().contains("it said: no room"), "{error}");
    let left = folders(directory.path());
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left[..2] == [older.clone(), cut_off.clone()] && left.contains(&under_way), "{left:?}");
    assert_eq!(folders(&cut_off), Vec::<PathBuf>::new());
    assert!(under_way.join("base/objects.tar").exists() && older.join("base/objects.tar").exists());
    let failed = left[2..].iter().find(|folder| **folder != under_way).unwrap();
    assert_eq!(folders(failed), [failed.join("backup.log")]);

    // Those that are old go before the next run, which may be one that fails; backups that went well stay until there is another one.
    config.backup.keep_days = 1;
    janitor(&deployment, config).run_task(TaskName::Backup, false).await.unwrap_err();
    assert!(!cut_off.exists() && older.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_janitor_that_leads_says_what_it_has_and_runs_what_is_asked_for() {
    let deployment = Deployment::start().await.unwrap();
    let stop = CancellationToken::new();
    let (core, resources) = (deployment.core().unwrap(), deployment.resources(Role::Janitor).unwrap());
    let stopped = stop.clone();
    let running = tokio::spawn(async move {
        riacho_janitor::run(Config::default(), &core, resources, stopped).await.unwrap();
    });
    let schedules = eventually(|| async {
        let schedules = deployment.store.schedules().await.unwrap();
        schedules.iter().any(|task| task.task == "purge" && task.describes.is_some()).then_some(schedules)
    })
    .await;
    let known: Vec<_> = schedules.iter().filter(|task| task.describes.is_some()).collect();
    assert_eq!(known.len(), TaskName::ALL.len());
    let expression = |name: &str| known.iter().find(|task| task.task == name).unwrap().expression.as_deref();
    assert_eq!(
        (expression("summary"), expression("canary"), expression("backup")),
        (Some("0 18 * * *"), None, None)
    );

    let ask = async |task: &str, dry_run| {
        let id = deployment.store.request_run(task, dry_run, "0123456789abcdef").await.unwrap().id;
        eventually(|| async {
            let run = deployment.store.requested_run(id).await.unwrap().unwrap();
            run.state.is_over().then_some(run)
        })
        .await
    };
    let document = deployment.accept("a.txt", "text").await.unwrap().document;
    deployment.sql(&format!(
        "UPDATE documents SET expires_at = now() - interval '1 second' WHERE id = '{document}'"
    ));
    let dry = ask("expire-documents", true).await;
    assert_eq!((dry.state, &dry.summary.unwrap()["documents"]), (RunState::Ok, &serde_json::json!(1)));
    let done = ask("expire-documents", false).await;
    assert_eq!((done.state, &done.summary.unwrap()["documents"]), (RunState::Ok, &serde_json::json!(1)));
    assert!(deployment.store.status(&deployment.tenant, document).await.unwrap().is_none());
    let failed = ask("backup", false).await;
    assert_eq!(failed.state, RunState::Failed);
    assert!(failed.summary.unwrap()["error"].as_str().unwrap().contains("janitor.backup.command"));
    // No stage runs, so a canary lasts until the janitor stops, which is no end that was asked for.
    let canary = deployment.store.request_run("canary", false, "0123456789abcdef").await.unwrap().id;
    let state = async || deployment.store.requested_run(canary).await.unwrap().unwrap();
    eventually(async || (state().await.state == RunState::Running).then_some(())).await;
    stop.cancel();
    running.await.unwrap();
    let ended = state().await;
    assert_eq!(ended.state, RunState::Failed);
    assert!(ended.summary.unwrap()["error"].as_str().unwrap().contains("the janitor stopped"));
}
