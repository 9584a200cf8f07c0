//! How an ingest shows that it goes on: a bar on a terminal, a plain line now and then elsewhere, and
//! with `--json` one object a document.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::output::Output;

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// How often the bar moves while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// What became of one file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ended {
    pub(crate) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u32>,
    pub(crate) state: String,
    pub(crate) duplicate: bool,
    pub(crate) error: Option<crate::client::Reason>,
}

/// The progress of an ingest of a known number of files.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    /// Each file has a line, and there is no end to count to.
    lines: bool,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    total: u64,
    uploaded: u64,
    ended: u64,
    failed: u64,
    last_line: Instant,
}

impl Progress {
    pub(crate) fn new(output: Output, total: u64) -> Progress {
        let wants_bar = !output.is_json() && !output.is_quiet() && std::io::stderr().is_terminal();
        let bar = wants_bar.then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} done  {msg}  {elapsed}");
            let bar =
                ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(TICK);
            bar
        });
        let counts = Counts { total, uploaded: 0, ended: 0, failed: 0, last_line: Instant::now() };
        Progress { output, bar, lines: false, counts: Mutex::new(counts) }
    }

    /// The progress of what has no end: a line for each file.
    pub(crate) fn lines(output: Output) -> Progress {
        let counts = Counts { total: 0, uploaded: 0, ended: 0, failed: 0, last_line: Instant::now() };
        Progress { output, bar: None, lines: true, counts: Mutex::new(counts) }
    }

    /// More files are to be expected, or fewer.
    pub(crate) fn expect(&self, more: i64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_add_signed(more);
        if let Some(bar) = &self.bar {
            bar.set_length(counts.total);
        }
    }

    /// A file is gone, and its document was deleted.
    pub(crate) fn removed(&self, ended: &Ended) {
        self.output.result(ended, || format!("deleted: {}", ended.file));
    }

    /// A file was accepted.
    pub(crate) fn uploaded(&self) {
        self.update(|counts| counts.uploaded += 1);
    }

    /// A file is searchable, or failed.
    pub(crate) fn ended(&self, ended: &Ended) {
        if self.output.is_json() {
            self.output.result(ended, String::new);
        }
        if let Some(reason) = &ended.error
            && !self.output.is_json()
        {
            self.line(&format!("failed: {} ({}: {})", ended.file, reason.code, reason.message));
        }
        if self.lines && ended.error.is_none() && !self.output.is_json() {
            let version = ended.version.map_or_else(String::new, |version| format!(" (version {version})"));
            self.line(&format!("{}: {}{version}", ended.state, ended.file));
        }
        self.update(|counts| {
            counts.ended += 1;
            counts.failed += u64::from(ended.error.is_some());
        });
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        let text = format!("{} uploaded, {} failed", counts.uploaded, counts.failed);
        if let Some(bar) = &self.bar {
            bar.set_position(counts.ended);
            bar.set_message(text);
        } else if !self.lines && (counts.last_line.elapsed() >= LINE_EVERY || counts.ended == counts.total) {
            counts.last_line = Instant::now();
            self.output.note(&format!("{}/{} done, {text}", counts.ended, counts.total));
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }
}
