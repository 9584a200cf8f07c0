//! Fixtures, fault proxies and the process harness of the tests.

pub mod collector;
mod deployment;
mod eventually;
mod line_extractor;
mod memory;
pub mod openai;
mod pipeline;
pub mod process;
mod proxy;
pub mod s3;

pub use deployment::{Deployment, LOCAL_MODEL, local_model_directory};
pub use eventually::{PATIENCE, Seen, eventually, within};
pub use line_extractor::{LineExtractor, cut, release_of};
pub use memory::data_bytes;
pub use pipeline::{Pipeline, Shape};
pub use proxy::Proxy;
