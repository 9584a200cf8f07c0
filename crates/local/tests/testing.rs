//! The servers that tests start for themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use riacho_local::testing::{self, Reply, TestServers, Topology};
use support::{redis, runs, sql, wait_until};
use tempfile::tempdir;

#[test]
fn a_redis_keeps_its_data_and_address_over_a_stop() {
    let server = testing::redis();
    assert_eq!(server.url(), format!("redis+unix://{}", server.socket().display()));
    assert_eq!(server.python_url(), format!("unix://{}", server.socket().display()));
    redis(&server.socket(), "SET kept yes");
    server.stop();
    assert_eq!(server.pid(), None);
    server.start();
    assert_eq!(redis(&server.socket(), "GET kept"), "$3 yes");
}

#[test]
fn a_killed_redis_starts_again() {
    let server = testing::redis_tcp();
    let url = server.url();
    let before = server.pid().unwrap();
    server.kill9();
    assert!(!runs(before));
    server.start();
    assert_eq!(server.url(), url);
    assert_eq!(redis(&server.socket(), "PING"), "+PONG");
}

#[test]
fn a_redis_takes_more_settings() {
    let server = testing::redis_with(&[("maxmemory", "20mb")]);
    assert!(redis(&server.socket(), "CONFIG GET maxmemory").ends_with(" 20971520"));
}

#[test]
fn a_replica_takes_over_what_it_has_of_a_primary_that_is_killed() {
    for topology in [Topology::Sentinel, Topology::Cluster] {
        let servers = TestServers::start(topology, &[]);
        let primary = servers.home_of("key");
        assert_eq!(servers.command(&["SET", "key", "replicated"]), Reply::Text("OK".to_owned()));
        primary.wait_until_replicated();
        primary.pause_replication();
        servers.command(&["SET", "key", "lost"]);
        primary.kill9();
        servers.wait_for_failover("key", primary);
        assert_eq!(servers.command(&["GET", "key"]).text(), "replicated");
        primary.start();
        servers.wait_until_whole();
        assert_eq!(servers.command(&["GET", "key"]).text(), "replicated", "it came back as a replica");
    }
}

#[test]
fn databases_of_many_threads_are_apart() {
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let database = testing::postgres().create_database();
                let made = database.run(&format!("CREATE TABLE own AS SELECT {number} AS value; TABLE own"));
                assert_eq!(made, [[Some(number.to_string())]]);
            });
        }
    });
}

#[test]
fn a_copy_has_what_its_template_has() {
    let template = testing::postgres().create_database();
    let _ = template.run("CREATE EXTENSION vector; CREATE TABLE kept AS SELECT '[1,2]'::vector AS value");
    let copy = testing::postgres().create_database_from(&template);
    assert_eq!(sql(&copy.owner_url(), "SELECT value FROM kept").unwrap(), "[1,2]");
    let _ = copy.run("DROP TABLE kept");
    assert_eq!(template.run("SELECT count(*) FROM kept"), [[Some("1".to_owned())]]);
}

#[test]
fn another_role_uses_the_same_database() {
    let database = testing::postgres().create_database();
    let _ = database.run("CREATE ROLE visitor LOGIN");
    assert_eq!(sql(&database.url_as("visitor"), "SELECT current_user").unwrap(), "visitor");
}

#[test]
fn a_dropped_database_is_gone() {
    let witness = testing::postgres().create_database();
    let database = testing::postgres().create_database();
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", database.name());
    assert_eq!(witness.run(&count), [[Some("1".to_owned())]]);
    drop(database);
    assert_eq!(witness.run(&count), [[Some("0".to_owned())]]);
}

#[test]
fn a_killed_postgres_recovers() {
    let server = testing::private_postgres();
    let database = server.create_database();
    let _ = database.run("CREATE TABLE kept AS SELECT 1 AS value");
    server.kill9();
    assert_eq!(server.pid(), None);
    server.start();
    assert_eq!(database.run("SELECT value FROM kept"), [[Some("1".to_owned())]]);
}

#[test]
fn nothing_stays_of_a_test_process() {
    let dir = tempdir().unwrap();
    // Another run of this very program, which starts the shared server in a directory of its own.
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "a_dropped_database_is_gone"]).env("TMPDIR", dir.path()).stdout(Stdio::null());
    assert!(test.status().unwrap().success());
    wait_until("its directory is empty", || fs::read_dir(dir.path()).unwrap().count() == 0);
}
