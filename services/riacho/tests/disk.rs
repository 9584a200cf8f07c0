//! Disks without room: below the object store, below Redis, below PostgreSQL. What cannot be kept is refused in a
//! way that a client can act on, what was kept is not lost, and with room work goes on by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use reqwest::Response;
use riacho_testkit::{
    eventually,
    process::{self, free_port},
    within,
};
use serde_json::Value;
use support::{
    RIACHO,
    cluster::{Cluster, Services, is_refused_for_now, is_unavailable},
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// How long all documents may take once there is room, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Offers a document again and again until it is kept, as a client does that is told to come again.
async fn insist(services: &mut Services, word: &str, code: &str) {
    let begun = Instant::now();
    while !services.offer(word, code).await {
        assert!(begun.elapsed() < PATIENCE, "{word} was never kept\n{}", services.log());
    }
}

fn count(cluster: &Cluster, condition: &str) -> i64 {
    let rows = cluster.database.run(&format!("SELECT count(*) FROM document_versions WHERE {condition}"));
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

/// A small disk below the object store.
enum Disk {
    /// A file system of some megabytes, which only the services see. This is it from outside.
    Small(PathBuf),
    /// Where a test may not mount one: the largest file that the services may write is smaller than a document.
    Limit(Vec<u32>),
}

/// Mounts a small file system where the first argument says, and becomes the rest of them.
const ON_A_SMALL_DISK: &str = r#"mkdir -p "$0" && mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@""#;
/// Becomes its arguments, with writes that are refused at the limit instead of ending the process. What it prints
/// goes through another process, which has no limit.
const WITH_A_LIMIT: &str = r#"trap '' XFSZ; exec "$0" "$@" > >(cat) 2>&1"#;

impl Disk {
    /// Starts the gateway and the work on such a disk.
    fn start(cluster: &Cluster, key: &str) -> (Services, Disk) {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let objects = cluster.dir.path().join("objects");
        let probe = cluster.dir.path().join("probe");
        let probe = ["-Urm", "sh", "-c", ON_A_SMALL_DISK, probe.to_str().unwrap(), "true"];
        let may_mount =
            Command::new("unshare").args(probe).output().is_ok_and(|output| output.status.success());
        let gateway = ["ingest-gateway", "--listen", &listen];
        let work = ["work", "--stages", "extractor,embedder,indexer,janitor"];
        let begin = |wrapper: &[&str], args: &[&str]| {
            cluster.spawn_program(wrapper[0], &[&wrapper[1..], &[RIACHO], args].concat())
        };
        let (gateway, work) = if may_mount {
            let inside = ["unshare", "-Urm", "sh", "-c", ON_A_SMALL_DISK, objects.to_str().unwrap()];
            let gateway = begin(&inside, &gateway);
            let pid = gateway.pid().to_string();
            let is_mounted = || {
                let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
                mounts.contains(objects.to_str().unwrap())
            };
            wait_for(is_mounted);
            let beside = ["nsenter", "--target", &pid, "--user", "--mount", "--preserve-credentials"];
            (gateway, begin(&beside, &work))
        } else {
            let inside = ["bash", "-c", WITH_A_LIMIT];
            (begin(&inside, &gateway), begin(&inside, &work))
        };
        let disk = if may_mount {
            let root = Path::new("/proc").join(gateway.pid().to_string()).join("root");
            Disk::Small(root.join(objects.strip_prefix("/").unwrap()))
        } else {
            Disk::Limit(vec![gateway.pid(), work.pid()])
        };
        let client = process::client(key).unwrap();
        let url = format!("http://{listen}");
        (Services { gateway, work, url, client, usual: Duration::ZERO, accepted: Vec::new() }, disk)
    }

    /// What a client is told while there is none: a limit is not known as such.
    fn code(&self) -> &'static str {
        match self {
            Disk::Small(_) => "out_of_space",
            Disk::Limit(_) => "unavailable",
        }
    }

    /// Leaves no room.
    fn fill(&self) {
        match self {
            Disk::Small(dir) => {
                let mut ballast = File::create(dir.join("ballast")).unwrap();
                while ballast.write_all(&[7; 4096]).is_ok() {}
            }
            Disk::Limit(pids) => limit(pids, "1024:"),
        }
    }

    fn make_room(&self) {
        match self {
            Disk::Small(dir) => fs::remove_file(dir.join("ballast")).unwrap(),
            Disk::Limit(pids) => limit(pids, "unlimited:"),
        }
    }
}

/// Sends a document in an archive that has more bytes than are free by chance.
async fn send_archive(services: &Services, word: &str) -> Response {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(format!("{word}.md"), stored).unwrap();
    write!(zip, "# {word}\n\n{}", "The level at the gauge was written down.\n".repeat(3_000)).unwrap();
    let archive = zip.finish().unwrap().into_inner();
    let request = services.client.post(format!("{}/api/v1/documents/bulk", services.url));
    request.header("content-type", "application/zip").body(archive).send().await.unwrap()
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Changes the limit on the size of files of running processes.
fn limit(pids: &[u32], bytes: &str) {
    for pid in pids {
        let status =
            Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={bytes}")]).status();
        assert!(status.unwrap().success());
    }
}

#[tokio::test]
async fn while_the_object_store_has_no_room_uploads_are_refused_with_503_and_what_was_kept_is_finished() {
    let mut cluster = Cluster::new();
    cluster.set("RUST_LOG", "info,riacho_stage=debug");
    // On the same disk.
    cluster.set("RIACHO__GATEWAY__BULK__DIRECTORY", cluster.dir.path().join("objects").to_str().unwrap());
    let (mut services, disk) = Disk::start(&cluster, &cluster.prepare());
    services.are_ready().await;
    services.upload("first").await;
    services.all_ready().await;
    // What is accepted while the stages stand still meets the full disk in the extractor.
    services.work.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    for number in 0..3 {
        services.upload(&format!("gauge{number}")).await;
    }
    disk.fill();
    services.work.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    is_refused_for_now(services.send("refused").await, disk.code()).await;
    eventually(|| async { services.work.log().contains("waits for a server") }).await;
    is_refused_for_now(services.send("refused").await, disk.code()).await;
    is_refused_for_now(send_archive(&services, "archived").await, "out_of_space").await;
    assert_eq!(count(&cluster, "state = 'failed'"), 0, "{}", services.log());
    disk.make_room();
    let answer = send_archive(&services, "archived").await.text().await.unwrap();
    let line: Value = serde_json::from_str(answer.lines().next().unwrap()).unwrap();
    services.accepted.push((line["id"].as_str().unwrap().to_owned(), "archived".to_owned()));
    insist(&mut services, "kept", disk.code()).await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn while_redis_cannot_write_its_file_uploads_are_kept_and_with_room_work_goes_on() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    // The next file that Redis writes is on a disk without room.
    let files = cluster.redis.socket().with_file_name("appendonlydir");
    std::os::unix::fs::symlink("/dev/full", files.join("appendonly.aof.2.incr.aof")).unwrap();
    cluster.redis.command(&["BGREWRITEAOF"]);
    eventually(|| async {
        let reply = cluster.redis.command(&["SET", "probe", "1"]);
        matches!(&reply, riacho_local::testing::Reply::Error(text) if text.contains("No space left"))
    })
    .await;
    let before = services.effort();
    for number in 0..10 {
        services.upload(&format!("heron{number}")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    services.were_quiet(before);
    assert_eq!(count(&cluster, "state = 'failed'"), 0);
    // With room, Redis goes on by itself; here it needs another file for that.
    eventually(|| async {
        cluster.redis.command(&["BGREWRITEAOF"]);
        cluster.redis.command(&["SET", "probe", "1"]) == riacho_local::testing::Reply::Text("OK".to_owned())
    })
    .await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

/// PostgreSQL refuses to grow a table as it does without room, in any transaction that adds a row.
const NO_ROOM: &str = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER no_room BEFORE INSERT ON document_versions EXECUTE FUNCTION no_room();
CREATE TRIGGER no_room BEFORE INSERT ON chunks EXECUTE FUNCTION no_room();";
const ROOM: &str = "DROP FUNCTION no_room CASCADE";

#[tokio::test]
async fn while_postgresql_has_no_room_uploads_are_refused_with_503_and_what_was_kept_is_finished() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    services.work.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    for number in 0..3 {
        services.upload(&format!("weir{number}")).await;
    }
    let _ = cluster.database.run(NO_ROOM);
    services.work.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    is_unavailable(services.send("refused").await).await;
    // The indexer has work that it cannot write down.
    within(PATIENCE, || async { services.work.log().contains("No space left on device") }).await;
    is_unavailable(services.send("refused").await).await;
    assert_eq!(count(&cluster, "state = 'failed'"), 0, "{}", services.log());
    let _ = cluster.database.run(ROOM);
    insist(&mut services, "kept", "unavailable").await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}
