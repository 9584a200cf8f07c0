//! The events that producers and stages exchange, generated from the .proto files.
//!
//! The contract is the .proto files beside this crate; nothing here adds to it. Compression,
//! claim checks and size limits belong to `riacho-stage`, keys to `riacho-streams`.

/// The events of version 1.
pub mod v1 {
    #![allow(missing_docs, clippy::doc_lazy_continuation, clippy::large_enum_variant)] // generated
    include!(concat!(env!("OUT_DIR"), "/riacho.events.v1.rs"));
}

/// The version of the envelope's format that this build writes, and the newest that it reads.
pub const ENVELOPE_VERSION: u32 = 1;

pub use prost::Message;
