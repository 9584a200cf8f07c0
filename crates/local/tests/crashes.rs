//! What a killed process leaves behind is found and cleaned up, and nothing that belongs to others is touched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid};
use riacho_local::{Runtime, Servers};
use support::{Owner, data_dir, empty_dir, options, owner_program, redis, runs, send, sql, wait_until};

#[test]
fn servers_end_with_a_killed_owner_and_their_data_stay() {
    let dir = data_dir();
    let mut owner = Owner::start(owner_program(), dir.path(), |_| {});
    redis(&owner.redis_socket(), "SET kept yes");
    sql(owner.database_url(), "CREATE TABLE kept AS SELECT 'yes' AS value").unwrap();
    owner.kill9();
    let servers = owner.servers();
    wait_until("both servers have ended", || servers.map(runs) == [false, false]);

    let again = Servers::start_blocking(dir.path(), &options()).unwrap();
    assert_eq!(redis(&again.status().redis.unwrap().socket, "GET kept"), "$3 yes");
    assert_eq!(sql(&again.database_url().unwrap(), "SELECT value FROM kept").unwrap(), "yes");
}

#[test]
fn servers_that_outlived_their_owner_are_stopped_first() {
    let dir = data_dir();
    let mut owner = Owner::start(owner_program(), dir.path(), |_| {});
    let left = owner.servers();
    // Suspended, they do not see the signal that tells of their owner's death.
    for pid in left {
        send(pid, Signal::SIGSTOP);
    }
    owner.kill9();
    assert_eq!(left.map(runs), [true, true]);

    let again = Servers::start_blocking(dir.path(), &options()).unwrap();
    assert_eq!(left.map(runs), [false, false]);
    assert_eq!(sql(&again.database_url().unwrap(), "SELECT 1").unwrap(), "1");
}

#[test]
fn servers_that_were_killed_with_their_owner_recover() {
    let dir = data_dir();
    let mut owner = Owner::start(owner_program(), dir.path(), |_| {});
    sql(owner.database_url(), "CREATE TABLE kept AS SELECT 'yes' AS value").unwrap();
    let left = owner.servers();
    for pid in left {
        send(pid, Signal::SIGKILL);
    }
    owner.kill9();

    let again = Servers::start_blocking(dir.path(), &options()).unwrap();
    assert_eq!(sql(&again.database_url().unwrap(), "SELECT value FROM kept").unwrap(), "yes");
}

#[test]
fn a_stale_process_id_that_belongs_to_another_program_is_left_alone() {
    let dir = data_dir();
    drop(Servers::start_blocking(dir.path(), &options()).unwrap());
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    for file in ["redis/redis.pid", "postgres/postmaster.pid"] {
        fs::write(dir.path().join(file), format!("{}\n", stranger.id())).unwrap();
    }
    let again = Servers::start_blocking(dir.path(), &options()).unwrap();
    assert!(runs(stranger.id()));
    assert_eq!(sql(&again.database_url().unwrap(), "SELECT 1").unwrap(), "1");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_first_start_that_was_cut_off_is_begun_again() {
    let dir = empty_dir();
    let half = dir.path().join("postgres.new/base");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("half"), "made").unwrap();
    let servers = Servers::start_blocking(dir.path(), &options()).unwrap();
    assert_eq!(sql(&servers.database_url().unwrap(), "SELECT 1").unwrap(), "1");
    assert!(!dir.path().join("postgres.new").exists());
}

#[test]
fn ctrl_c_for_the_owner_stops_everything_in_good_order() {
    let dir = data_dir();
    let mut owner = Owner::start(owner_program(), dir.path(), |_| {});
    send(owner.process.id(), Signal::SIGINT);
    assert!(owner.process.wait().unwrap().success());
    assert_eq!(owner.servers().map(runs), [false, false]);
    let log = fs::read_to_string(dir.path().join("logs/postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}

#[test]
fn an_ordinary_account_runs_its_own_servers() {
    let dir = tempfile::Builder::new().prefix("riacho-").tempdir_in("/tmp").unwrap();
    let runtime = Runtime::find().postgres_bin().unwrap().join("../..").canonicalize().unwrap();
    let root = runtime.ancestors().find(|dir| dir.join("manifest.json").exists()).unwrap().to_owned();
    // The test's own program may be where that account cannot go.
    let program = dir.path().join("riacho-local");
    // Copied by another process: one that had it open for writing could not run it ("text file busy").
    assert!(Command::new("cp").args([owner_program(), &program]).status().unwrap().success());
    let account = if geteuid().is_root() { User::from_name("nobody").unwrap().unwrap() } else { myself() };
    chown(dir.path(), Some(account.uid), Some(account.gid)).unwrap();

    let data = dir.path().join("data");
    let owner = Owner::start(&program, &data, |command| {
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw()).current_dir("/");
        command.env("RIACHO_RUNTIME_DIR", root);
    });
    assert_eq!(owner.servers().map(owner_of), [account.uid.as_raw(); 2]);
    assert_eq!(sql(owner.database_url(), "SELECT 1").unwrap(), "1");
}

fn myself() -> User {
    User::from_uid(geteuid()).unwrap().unwrap()
}

/// The real user id of a process.
fn owner_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().to_owned();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
