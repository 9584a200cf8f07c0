//! The object store behind typed keys: originals, texts, claim checks and presigned uploads.
//!
//! Objects live in a local directory or in a bucket of an S3 server. A stored object is durable
//! before its call returns. Nothing here knows why an object is stored or when it may go.

mod abandoned;
mod config;
mod connect;
mod error;
mod key;
pub mod metrics;
mod owner;
mod presign;
mod read;
mod write;

pub use config::{Config, S3Config, Store};
pub use connect::Objects;
pub use error::Error;
pub use key::{InvalidKey, Key, KeyKind, Prefix};
pub use owner::OWNER_OBJECT;
pub use presign::{LocalUploadQuery, PresignPut, Presigned, UploadGrant};
pub use read::{Download, Entry};
pub use write::Stored;
