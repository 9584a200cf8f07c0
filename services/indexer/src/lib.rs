//! Vectors to rows, versions and readiness.
