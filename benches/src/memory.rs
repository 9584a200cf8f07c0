//! Memory of the processes of a deployment, at rest and at work.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use crate::{Target, corpus, deployment::Deployment, figures::Figures};

/// How much work to give.
#[derive(Args)]
pub(crate) struct Options {
    /// How many text files of 5 to 20 KB are the work.
    #[arg(long, default_value_t = 300)]
    documents: u64,
}

/// Measures each process below `riacho up`, by name: the proportional set size (shared pages are
/// counted once over all processes) at rest and after the work, and the peak resident set.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let (pid, _) =
        deployment.process().context("memory is measured on a deployment of the measurement's own")?;
    let warm =
        deployment.api.upload("warm.md", "text/markdown", Bytes::from(corpus::document(0, 5_000))).await?;
    deployment.api.finished(&warm, Duration::from_millis(10)).await?;
    let mut figures = Figures::default();
    add(&mut figures, "rest", pid);
    let mut ids = Vec::new();
    for seed in 1..=options.documents {
        let body = Bytes::from(corpus::document(seed, corpus::size(seed)));
        ids.push(deployment.api.upload(&format!("report-{seed}.md"), "text/markdown", body).await?);
    }
    for id in &ids {
        deployment.api.finished(id, Duration::from_millis(20)).await?;
    }
    add(&mut figures, "work", pid);
    Ok(figures)
}

fn add(figures: &mut Figures, moment: &str, root: u32) {
    let mut by_name = BTreeMap::<String, (usize, f64, f64)>::new();
    for pid in tree(root) {
        let entry = by_name.entry(name(pid)).or_default();
        entry.0 += 1;
        entry.1 += proportional_mb(pid);
        entry.2 += peak_mb(pid);
    }
    for (name, (processes, proportional, peak)) in by_name {
        figures.add(&format!("{moment}_{name}_processes"), processes);
        figures.add_number(&format!("{moment}_{name}_proportional_mb"), proportional);
        figures.add_number(&format!("{moment}_{name}_peak_mb"), peak);
    }
}

/// The process and everything below it.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, status(pid, "PPid")?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn name(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.split(|b| *b == 0).any(|word| word == b"parse-child") {
        return "parse-child".into();
    }
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The largest resident set that the process has had.
#[must_use]
pub(crate) fn peak_mb(pid: u32) -> f64 {
    f64::from(status(pid, "VmHWM").unwrap_or_default()) / 1024.0
}

fn proportional_mb(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}
