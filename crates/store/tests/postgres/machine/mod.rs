//! Documents against a model: random sequences of commands, releases and writes, late ones too, on a real server. After
//! each step both have to be the same. A sequence that fails is shortened before it is shown.
//!
//! `RIACHO_MACHINE_CASES` sets how many sequences are tried.

mod check;
mod driver;
mod model;
mod op;

use std::sync::Mutex;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// How many sequences are tried by default: some ten seconds.
const CASES: u32 = 20;

#[test]
fn documents_do_what_the_model_says_whatever_is_asked_and_comes_late() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let driver =
        runtime.block_on(async { Mutex::new(driver::Driver::new(super::database::database().await)) });
    let cases = std::env::var("RIACHO_MACHINE_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 1_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&op::sequence(), |ops| {
        let mut driver = driver.lock().unwrap();
        runtime.block_on(driver.run(&ops)).map_err(TestCaseError::fail)
    });
    // Its connections end in the runtime that made them.
    let _guard = runtime.enter();
    drop(driver);
    if let Err(error) = result {
        panic!("{error}");
    }
}
