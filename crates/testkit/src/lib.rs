//! Fixtures, fault proxies and the process harness of the tests.

mod eventually;
pub mod openai;
pub mod process;
pub mod s3;

pub use eventually::{PATIENCE, Seen, eventually, within};
