//! `riacho ingest` as it is written.

use std::path::PathBuf;

use clap::Args;
use riacho_domain::Lane;

use super::Server;

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Files and folders; hidden files are left out
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Collection that the documents go to
    #[arg(long)]
    pub(crate) collection: Option<String>,
    /// Lane: interactive, bulk or background
    #[arg(long, default_value = "bulk")]
    pub(crate) lane: Lane,
    /// Uses each file's path as external id, so that a changed file becomes a new version also without the state
    #[arg(long)]
    pub(crate) by_path: bool,
    /// Goes on with files that are new or change, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Deletes the documents of files that were uploaded earlier and are gone
    #[arg(long, conflicts_with = "no_state")]
    pub(crate) delete: bool,
    /// With --delete, how many files may be gone at once; with more, their documents stay [default: half of those that are known, or 10]
    #[arg(long, value_name = "N", requires = "delete")]
    pub(crate) max_delete: Option<usize>,
    /// Takes documents that are there already for its own, as after the state was lost
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Only files that match; a pattern without a slash is for names at any depth, and may be given again
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leaves out files and folders that match
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// File that says what was uploaded [default: one for these paths and this collection in $XDG_STATE_HOME/riacho/ingest]
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Keeps and uses no state: everything is sent
    #[arg(long, conflicts_with = "state")]
    pub(crate) no_state: bool,
    /// With --watch, for how many seconds a file must not have changed before it is taken
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub(crate) settle: f64,
    /// With --watch, how often everything is looked at, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub(crate) rescan: f64,
    /// Returns when everything is accepted, before it is searchable
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Uploads at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
}

/// A time in seconds, with parts of a second.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.05 to 86400".to_owned()),
    }
}
