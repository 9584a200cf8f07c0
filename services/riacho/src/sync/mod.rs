//! Files and folders into a deployment: what is there once, and with `--watch` what changes from then on.
//!
//! What was uploaded stands in a state file (`state.rs`), so that an ingest which was interrupted goes on where it was.

mod changes;
mod job;
mod reading;
mod rest;
mod run;
mod scan;
mod start;
mod state;

use std::time::Duration;

pub(crate) use self::{
    scan::Scope,
    start::{StateAt, begin},
};
use crate::client::Target;

/// How an ingest works.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) target: Target,
    pub(crate) concurrency: usize,
    /// Follow documents to their end.
    pub(crate) wait: bool,
    pub(crate) by_path: bool,
    /// Go on with what changes, until a signal.
    pub(crate) watch: bool,
    /// Delete the documents of files that were removed.
    pub(crate) delete: bool,
    /// Take documents that are there already for this ingest's own.
    pub(crate) adopt: bool,
    /// When more files than this are gone at once, their documents stay; half of those that are known when not given.
    pub(crate) max_delete: Option<usize>,
    /// For how long a file that changed must have looked the same.
    pub(crate) settle: Duration,
    /// How often everything is looked at.
    pub(crate) rescan: Duration,
}
