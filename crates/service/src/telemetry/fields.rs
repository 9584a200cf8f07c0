//! The names of fields in log lines: one for one thing, whoever writes the line.

/// Each name, and what it is.
pub const FIELDS: &[(&str, &str)] = &[];
