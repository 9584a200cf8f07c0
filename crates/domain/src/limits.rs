//! Defaults that several services must agree on.

/// The largest file that is taken, where the configuration does not say otherwise: 100 MiB. The
/// extractor holds several originals in memory, and a parser's process maps a few times a file's size.
pub const DEFAULT_MAX_FILE_BYTES: u64 = 100 << 20;
