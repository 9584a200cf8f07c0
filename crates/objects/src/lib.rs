//! The object store behind typed keys: originals, texts, claim checks and presigned uploads.
