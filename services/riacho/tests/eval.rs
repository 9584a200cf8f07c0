//! `riacho eval` on a small set of the project's own making, in English and Portuguese.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use serde_json::Value;

fn eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_riacho")).arg("eval").args(arguments).output().unwrap()
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
