//! Bytes to text with structure, and text to chunks.
//!
//! `parse` runs in child processes only (`child`), which `pool` keeps and kills; `chunk` cuts what
//! they answer; `stage` joins the two to the pipeline.

pub mod child;
pub mod chunk;
pub mod detect;
pub mod encoding;
mod error;
pub mod extracted;
pub mod language;
pub mod parse;
pub mod pool;
pub mod wire;

pub use error::Error;
