//! Recognition of text in pictures, by tesseract.
//!
//! The library is loaded by a child process of its own (see `child`) with its trained data, before the
//! last door of that process closes: the readers of pictures are old C, and pictures come from strangers.

mod config;
mod tesseract;

pub use config::Config;
pub use tesseract::Tesseract;
