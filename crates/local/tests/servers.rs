//! The servers of a data directory: what they promise, and how each obstacle is reported.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use riacho_local::{Error, Options, Runtime, Servers, Status};
use support::{ask_redis, data_dir, empty_dir, options, redis, runs, send, sql, wait_until};

fn pids(status: &Status) -> [u32; 2] {
    [status.redis.as_ref().unwrap().pid, status.postgres.as_ref().unwrap().pid]
}

#[tokio::test]
async fn data_are_there_after_a_restart_and_no_process_stays() {
    let dir = data_dir();
    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    let status = servers.status();
    redis(&status.redis.as_ref().unwrap().socket, "SET kept yes");
    sql(&servers.database_url().unwrap(), "CREATE TABLE kept AS SELECT 'yes' AS value").unwrap();
    servers.stop().await;
    assert_eq!(pids(&status).map(runs), [false, false]);

    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    assert_eq!(redis(&servers.status().redis.unwrap().socket, "GET kept"), "$3 yes");
    assert_eq!(sql(&servers.database_url().unwrap(), "SELECT value FROM kept").unwrap(), "yes");
    servers.stop().await;
}

#[tokio::test]
async fn redis_keeps_what_it_accepted_and_postgres_knows_unicode() {
    let dir = empty_dir();
    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    let socket = servers.status().redis.unwrap().socket;
    assert!(redis(&socket, "CONFIG GET appendonly").ends_with(" yes"));
    assert!(redis(&socket, "CONFIG GET appendfsync").ends_with(" everysec"));
    assert!(redis(&socket, "CONFIG GET maxmemory-policy").ends_with(" noeviction"));
    let url = servers.database_url().unwrap();
    assert_eq!(sql(&url, "SELECT upper('coração'), 'Z' < 'a'").unwrap(), "CORAÇÃO|t");
    assert_eq!(sql(&url, "SHOW data_checksums").unwrap(), "on");
    sql(&url, "CREATE EXTENSION vector; CREATE EXTENSION unaccent; CREATE EXTENSION pg_trgm").unwrap();
    assert_eq!(sql(&url, "SELECT '[1,2]'::halfvec(2) <-> '[1,4]'").unwrap(), "2");
    servers.stop().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_its_servers_go_on() {
    let dir = data_dir();
    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    let refused = Servers::start(dir.path(), &options()).await.unwrap_err();
    assert!(matches!(&refused, Error::InUse { owner, .. } if *owner == std::process::id().to_string()));
    assert_eq!(pids(&servers.status()).map(runs), [true, true]);
    servers.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_left() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    let dir = data_dir();
    for (redis_port, postgres_port, name) in
        [(Some(taken), None, "redis-server"), (None, Some(taken), "PostgreSQL")]
    {
        let wanted = Options { redis_port, postgres_port, ..options() };
        let error = Servers::start(dir.path(), &wanted).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {taken} for {name} is taken by another program; choose another port")
        );
        assert!(error.is_retryable());
    }
    assert!(!dir.path().join("redis/redis.pid").exists());
    assert!(!dir.path().join("postgres/postmaster.pid").exists());
}

#[tokio::test]
async fn a_port_asks_for_the_password_that_the_url_has() {
    let free = || TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let dir = data_dir();
    let wanted = Options { redis_port: Some(free()), postgres_port: Some(free()), ..options() };
    let servers = Servers::start(dir.path(), &wanted).await.unwrap();
    let socket = servers.status().redis.unwrap().socket;
    assert!(redis(&socket, "PING").starts_with("-NOAUTH"));
    let url = servers.redis_tcp_url().unwrap();
    let password = url.strip_prefix("redis://default:").unwrap().split('@').next().unwrap();
    assert_eq!(redis(&socket, &format!("AUTH {password}\r\nPING")), "+OK +PONG");
    assert_eq!(
        servers.redis_url().unwrap(),
        format!("redis+unix://default:{password}@localhost{}", socket.display())
    );
    let mode = fs::metadata(dir.path().join("redis-password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let url = servers.database_tcp_url().unwrap();
    assert_eq!(sql(&url, "SELECT 1").unwrap(), "1");
    let wrong = url.replace("riacho:", "riacho:0");
    assert!(sql(&wrong, "SELECT 1").unwrap_err().contains("password authentication failed"));
    servers.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_said_before_anything_starts() {
    let dir = empty_dir();
    let wanted = Options { min_free_bytes: u64::MAX, ..options() };
    let error = Servers::start(dir.path(), &wanted).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(!dir.path().join("postgres").exists());
}

#[tokio::test]
async fn data_of_another_major_version_are_refused_untouched() {
    let dir = empty_dir();
    let cluster = dir.path().join("postgres");
    fs::create_dir(&cluster).unwrap();
    fs::write(cluster.join("PG_VERSION"), "17\n").unwrap();
    let error = Servers::start(dir.path(), &Options { redis: false, ..options() }).await.unwrap_err();
    assert!(error.to_string().contains("was written by PostgreSQL 17, and this is PostgreSQL 18"), "{error}");
    assert_eq!(fs::read_dir(&cluster).unwrap().count(), 1);
}

#[tokio::test]
async fn a_missing_runtime_is_said_with_the_command_that_brings_it() {
    let (dir, empty) = (empty_dir(), empty_dir());
    let wanted = Options { runtime: Runtime::at(empty.path()), ..options() };
    let error = Servers::start(dir.path(), &wanted).await.unwrap_err();
    let place = empty.path().display();
    let expected = format!("redis-server not found (looked in {place}); `make setup` brings it");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_on_its_data() {
    let dir = data_dir();
    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    let before = servers.status();
    let old = pids(&before);
    let socket = before.redis.as_ref().unwrap().socket.clone();
    let url = servers.database_url().unwrap();
    redis(&socket, "SET kept yes");
    sql(&url, "CREATE TABLE kept AS SELECT 'yes' AS value").unwrap();
    let killed = async {
        for pid in [before.redis.unwrap().pid, before.postgres.unwrap().pid] {
            send(pid, Signal::SIGKILL);
        }
        until(|| ask_redis(&socket, "GET kept").is_ok_and(|answer| answer == "$3 yes")).await;
        until(|| sql(&url, "SELECT value FROM kept").is_ok_and(|value| value == "yes")).await;
        // A server answers a moment before its supervisor has seen that it does.
        until(|| {
            let after = pids(&servers.status());
            after.iter().zip(&old).all(|(new, old)| new != old && runs(*new))
        })
        .await;
    };
    tokio::select! {
        () = killed => {}
        error = servers.supervise() => panic!("{error}"),
    }
    servers.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_kept_running_is_reported() {
    let dir = data_dir();
    let servers = Servers::start(dir.path(), &options()).await.unwrap();
    // Nothing can be started in a directory that is a file.
    let redis = dir.path().join("redis");
    fs::rename(&redis, dir.path().join("away")).unwrap();
    fs::write(&redis, "").unwrap();
    send(servers.status().redis.unwrap().pid, Signal::SIGKILL);
    let error = servers.supervise().await;
    assert!(error.to_string().contains(redis.to_str().unwrap()), "{error}");
    servers.stop().await;
}

/// Waits without holding up the runtime's tasks, for thirty seconds at most.
async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("waited in vain");
}

#[tokio::test]
async fn a_directory_with_a_long_odd_name_below_a_closed_one_will_do() {
    let dir = empty_dir();
    // As root, the account of PostgreSQL cannot walk through it.
    close(dir.path());
    let long = dir.path().join("meus documentos à mão").join("x".repeat(120)).join("data");
    let servers = Servers::start(&long, &options()).await.unwrap();
    let status = servers.status();
    let socket = status.redis.as_ref().unwrap().socket.clone();
    assert!(socket.as_os_str().len() < 100);
    assert_eq!(redis(&socket, "PING"), "+PONG");
    assert_eq!(sql(&servers.database_url().unwrap(), "SELECT 1").unwrap(), "1");
    servers.stop().await;
    assert!(!socket.parent().unwrap().exists(), "the short link is gone");
}

#[tokio::test]
async fn a_runtime_behind_a_link_in_a_closed_directory_will_do() {
    let real = Runtime::find().postgres_bin().unwrap().canonicalize().unwrap();
    let root = real.ancestors().find(|dir| dir.join("manifest.json").exists()).unwrap();
    let (dir, closed) = (data_dir(), empty_dir());
    close(closed.path());
    let link = closed.path().join("runtime");
    std::os::unix::fs::symlink(root, &link).unwrap();
    let wanted = Options { runtime: Runtime::at(link), redis: false, ..options() };
    let servers = Servers::start(dir.path(), &wanted).await.unwrap();
    assert_eq!(sql(&servers.database_url().unwrap(), "SELECT 1").unwrap(), "1");
    servers.stop().await;
}

#[tokio::test]
async fn only_what_is_wanted_starts() {
    let dir = empty_dir();
    let wanted = Options { postgres: false, ..options() };
    let servers = Servers::start(dir.path(), &wanted).await.unwrap();
    assert_eq!(servers.database_url(), None);
    assert!(servers.status().postgres.is_none());
    assert!(!dir.path().join("postgres").exists());
    servers.stop().await;
}

#[test]
fn as_root_postgres_runs_under_another_account() {
    let dir = data_dir();
    let wanted = Options { redis: false, ..options() };
    let servers = Servers::start_blocking(dir.path(), &wanted).unwrap();
    let pid = servers.status().postgres.unwrap().pid;
    let uid = status_line(pid, "Uid:");
    let groups = status_line(pid, "Groups:");
    if nix::unistd::geteuid().is_root() {
        assert!(uid.iter().all(|id| *id != 0), "all ids of the process are dropped: {uid:?}");
        assert!(!groups.contains(&0), "so are the groups: {groups:?}");
    } else {
        assert!(uid.iter().all(|id| *id == nix::unistd::geteuid().as_raw()));
    }
}

fn close(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
}

/// The numbers of one line of a process's status.
fn status_line(pid: u32, name: &str) -> Vec<u32> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_start_on_existing_data_is_quick() {
    let dir = data_dir();
    drop(Servers::start_blocking(dir.path(), &options()).unwrap());
    wait_until("a start takes less than 1.5 s", || {
        let start = std::time::Instant::now();
        drop(Servers::start_blocking(dir.path(), &options()).unwrap());
        start.elapsed().as_millis() < 1500
    });
}
