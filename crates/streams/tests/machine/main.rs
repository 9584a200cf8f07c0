//! The streams against a model: random sequences of what consumers, senders and failing servers do, on a real server.
//! After each step both have to be the same. A sequence that fails is shortened before it is shown.
//!
//! `RIACHO_MACHINE_CASES` sets how many sequences are tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod driver;
mod model;
mod op;
mod seen;
mod settle;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use riacho_local::testing;
use support::Server;

/// How many sequences are tried by default: some ten seconds.
const CASES: u32 = 150;
/// A stream's cap, so small that a few outputs fill it.
pub(crate) const CAP: usize = 160;

#[test]
fn streams_do_what_the_model_says_whatever_consumers_and_servers_do() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(async {
        let server = Server::with(testing::redis(), |config| config.stream_max_bytes = CAP as u64).await;
        Mutex::new(driver::Driver::new(server).await)
    });
    let cases = std::env::var("RIACHO_MACHINE_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&op::sequence(), |ops| {
        let mut driver = server.lock().unwrap();
        runtime.block_on(driver.run(&ops)).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
