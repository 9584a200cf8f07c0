//! What a run tells: its faults with the times of recovery, what was asked, and the story of what went wrong.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    checks::Wrong,
    cluster::Cluster,
    faults::Injected,
    history::{History, Recovery},
    oracle::Oracle,
    run::Length,
    schedule::Setup,
};

/// Stories of so many documents are told in full.
const STORIES: usize = 5;
/// So many lines of logs for each of them.
const LINES: usize = 60;

/// The outcome of a run.
pub(crate) struct Report<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) length: &'a Length,
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) faults: &'a [Injected],
    pub(crate) history: &'a History,
    pub(crate) oracle: &'a Oracle,
    pub(crate) ends: BTreeMap<String, usize>,
    pub(crate) notes: Vec<String>,
    pub(crate) errors: BTreeMap<String, usize>,
    pub(crate) wrong: Wrong,
}

fn seconds(time: Option<f64>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"))
}

impl Report<'_> {
    fn recoveries(&self) -> Vec<(&Injected, Recovery)> {
        self.faults.iter().map(|injected| (injected, self.history.recovery(injected))).collect()
    }

    /// The table, for people.
    pub(crate) fn text(&self) -> String {
        let Setup { seed, partitions, .. } = self.setup;
        let mut text = format!(
            "chaos: seed {seed}, {partitions} partitions, {:?}: {} rounds, {} documents, {} versions in {:.0} s\n\n",
            self.length,
            self.rounds,
            self.oracle.documents.len(),
            self.oracle.documents.values().map(|record| record.versions.len()).sum::<usize>(),
            self.seconds
        );
        let _ = writeln!(
            text,
            "{:>5}  {:<34} {:>7} {:>9} {:>8} {:>8}",
            "round", "fault", "lasted", "in flight", "progress", "done"
        );
        for (injected, recovery) in self.recoveries() {
            let _ = writeln!(
                text,
                "{:>5}  {:<34} {:>7.1} {:>9} {:>8} {:>8}",
                injected.round,
                injected.fault.to_string(),
                injected.ended - injected.began,
                recovery.in_flight,
                seconds(recovery.progress),
                seconds(recovery.done)
            );
        }
        text.push_str("seconds; progress and done count from the end of the fault, of what was in flight when it began\n\n");
        let _ = writeln!(text, "answers: {}", list(&self.oracle.counts));
        let _ = writeln!(text, "versions at the end: {}", list(&self.ends));
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        for (error, count) in &self.errors {
            let _ = writeln!(text, "logged as an error {count} times: {error}");
        }
        let _ = writeln!(text, "violations: {}", self.wrong.len());
        text
    }

    /// The same, for programs.
    pub(crate) fn json(&self) -> Value {
        let faults = self.recoveries().into_iter().map(|(injected, recovery)| {
            json!({
                "round": injected.round, "fault": injected.fault.to_string(),
                "lasted_seconds": injected.ended - injected.began, "in_flight": recovery.in_flight,
                "progress_seconds": recovery.progress, "done_seconds": recovery.done,
            })
        });
        json!({
            "seed": self.setup.seed, "partitions": self.setup.partitions, "seconds": self.seconds, "rounds": self.rounds,
            "documents": self.oracle.documents.len(), "faults": faults.collect::<Vec<_>>(),
            "answers": self.oracle.counts, "versions": self.ends, "notes": self.notes, "errors": self.errors,
            "violations": self.wrong.iter().map(|(id, text)| json!({"document": id, "what": text})).collect::<Vec<_>>(),
        })
    }

    /// Everything that is known of what went wrong.
    pub(crate) fn stories(&self, cluster: &Cluster) -> String {
        let mut text = String::from("\nviolations:\n");
        for (id, what) in self.wrong.iter().take(50) {
            let _ = writeln!(text, "  {} {what}", id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
        }
        let mut told: Vec<Uuid> = self.wrong.iter().filter_map(|(id, _)| *id).collect();
        told.dedup();
        for id in told.into_iter().take(STORIES) {
            text.push_str(&self.story(cluster, id));
        }
        text
    }

    fn story(&self, cluster: &Cluster, id: Uuid) -> String {
        let mut text = format!("\nstory of {id}:\n");
        if let Some(record) = self.oracle.documents.get(&id) {
            let _ =
                writeln!(text, "  right ends: {:?}\n  {}", record.right_ends(), record.story.join("\n  "));
        }
        for (table, column) in
            [("documents", "id"), ("document_versions", "document_id"), ("dead_letters", "document_id")]
        {
            let sql = format!(
                "SELECT (to_jsonb(t) - 'manifest' - 'original')::text FROM {table} AS t WHERE {column} = '{id}'"
            );
            for row in cluster.sql(&sql).unwrap_or_default() {
                let _ = writeln!(text, "  {table}: {}", row[0].as_deref().unwrap_or_default());
            }
        }
        let sql = format!(
            "SELECT (to_jsonb(h) - 'document')::text FROM chaos_history AS h WHERE document = '{id}' ORDER BY number"
        );
        for row in cluster.sql(&sql).unwrap_or_default() {
            let _ = writeln!(text, "  history: {}", row[0].as_deref().unwrap_or_default());
        }
        for line in lines_about(&cluster.logs(), &id.to_string()) {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

fn list<N: std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    let parts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    parts.join("; ")
}

fn lines_about(dir: &Path, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&bytes);
        found.extend(
            text.lines()
                .filter(|line| line.contains(id))
                .map(|line| (time_of(line), format!("{name}: {line}"))),
        );
    }
    found.sort();
    found.into_iter().map(|(_, line)| line).take(LINES).collect()
}

fn time_of(line: &str) -> String {
    line.split("\"timestamp\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default()
        .to_owned()
}
