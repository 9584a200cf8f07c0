//! Chunks to vectors.
