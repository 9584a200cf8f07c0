//! `riacho eval` on a small set of the project's own making, in English and Portuguese.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use serde_json::Value;

/// The command, whose environment names servers that it must not touch, and that are not there.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riacho"));
    command
        .arg("eval")
        .args(arguments)
        .args(["--set", "database.read_url=postgres://nobody@127.0.0.1:1/none"]);
    command.env("RIACHO__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none");
    command.env("RIACHO__REDIS__URL", "redis://127.0.0.1:1").env("RIACHO__OBJECTS__STORE", "s3");
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none").env("S3_BUCKET", "nobodys");
    command
}

fn eval(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

#[test]
fn an_evaluation_that_is_stopped_leaves_nothing_and_touches_no_server_that_is_named() {
    let temporary = std::env::temp_dir().join(format!("riacho-eval-test-{}", std::process::id()));
    std::fs::create_dir(&temporary).unwrap();
    std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let entries =
        || std::fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let mut child = command(&[&set()]).env("TMPDIR", &temporary).spawn().unwrap();
    // Its own servers run when the address stands in their directory.
    while !entries().iter().any(|directory| directory.join("data/postgres").exists()) {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(entries(), Vec::<std::path::PathBuf>::new());
    std::fs::remove_dir(&temporary).unwrap();
}

fn set() -> String {
    format!("{}/tests/retrieval", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_hybrid_search_is_never_worse_than_its_better_leg_on_the_small_set() {
    let output = eval(&[&set(), "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(
        (&report["documents"], &report["failed"], &report["queries"]),
        (&38.into(), &0.into(), &38.into())
    );
    let of = |mode: &str, measure: &str| report["modes"][mode][measure].as_f64().expect("a number");
    for mode in ["keyword", "vector", "hybrid"] {
        for measure in ["ndcg@10", "recall@10", "recall@100", "mrr"] {
            assert!((0.0..=1.0).contains(&of(mode, measure)), "{report}");
        }
        assert!(of(mode, "ms_p50") > 0.0, "{report}");
    }
    // What a change of the ranking must not lose: today's values are a little higher.
    assert!(of("keyword", "ndcg@10") > KEYWORD && of("vector", "ndcg@10") > VECTOR, "{report}");
    assert!(of("hybrid", "ndcg@10") >= of("keyword", "ndcg@10").max(of("vector", "ndcg@10")), "{report}");
    assert!(of("hybrid", "ndcg@10") > HYBRID && of("hybrid", "recall@10") > 0.97, "{report}");
}

const KEYWORD: f64 = 0.93;
const VECTOR: f64 = 0.93;
const HYBRID: f64 = 0.97;

#[test]
fn a_folder_that_is_no_retrieval_set_is_refused_before_anything_starts() {
    let output = eval(&["/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("corpus.jsonl: cannot read") && said.trim().lines().count() == 1, "{said}");
}
