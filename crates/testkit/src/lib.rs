//! Fixtures, fault proxies and the process harness of the tests.

mod eventually;
pub mod openai;
pub mod process;

pub use eventually::{PATIENCE, Seen, eventually, within};
