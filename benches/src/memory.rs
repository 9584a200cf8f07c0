//! Memory of the processes of a deployment, at rest and at work.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use nix::{sys::signal::Signal, unistd::Pid};

use crate::{
    Target, corpus,
    deployment::{Deployment, binary, free_port},
    figures::Figures,
};

/// How much work to give.
#[derive(Args)]
pub(crate) struct Options {
    /// How many text files of 5 to 20 KB are the work.
    #[arg(long, default_value_t = 300)]
    documents: u64,
    /// Start each service as a process of its own too, which shares the work with `riacho up`.
    #[arg(long)]
    separate: bool,
}

/// The services that run as processes of their own.
const SERVICES: [&str; 5] = ["ingest-gateway", "extractor", "embedder", "indexer", "janitor"];

/// Measures each process of the deployment, by name: the proportional set size (shared pages are
/// counted once over all processes) at rest and after the work, and the peak resident set.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let (pid, directory) =
        deployment.process().context("memory is measured on a deployment of the measurement's own")?;
    let mut roots = vec![pid];
    let mut services = Vec::new();
    if options.separate {
        for service in SERVICES {
            let service = Running::start(&binary(target)?, service, &directory.join("data"))?;
            roots.push(service.child.id());
            services.push(service);
        }
    }
    // Enough that each process has had some.
    for seed in 0..20 {
        let body = Bytes::from(corpus::document(u64::MAX - seed, 5_000));
        let warm = deployment.api.upload(&format!("warm-{seed}.md"), "text/markdown", body).await?;
        deployment.api.finished(&warm, Duration::from_millis(10)).await?;
    }
    let mut figures = Figures::default();
    add(&mut figures, "rest", &roots);
    let mut ids = Vec::new();
    for seed in 1..=options.documents {
        let body = Bytes::from(corpus::document(seed, corpus::size(seed)));
        ids.push(deployment.api.upload(&format!("report-{seed}.md"), "text/markdown", body).await?);
    }
    for id in &ids {
        deployment.api.finished(id, Duration::from_millis(20)).await?;
    }
    add(&mut figures, "work", &roots);
    Ok(figures)
}

/// A service as a process of its own. Dropping it stops it.
struct Running {
    child: Child,
}

impl Running {
    /// Starts a service on the servers of the `riacho up` in `data_dir`.
    fn start(binary: &Path, service: &str, data_dir: &Path) -> anyhow::Result<Running> {
        let mut command = Command::new(binary);
        command.arg(service).arg("--data-dir").arg(data_dir);
        if service == "ingest-gateway" {
            command.args(["--listen", &format!("127.0.0.1:{}", free_port()?)]);
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running { child: command.spawn().with_context(|| format!("cannot start {service}"))? })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

fn add(figures: &mut Figures, moment: &str, roots: &[u32]) {
    let mut by_name = BTreeMap::<String, (usize, f64, f64)>::new();
    for pid in roots.iter().flat_map(|root| tree(*root)) {
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
    let words = || command.split(|byte| *byte == 0);
    if words().any(|word| word == b"parse-child") {
        return "parse-child".into();
    }
    if let Some(service) = SERVICES.iter().find(|service| words().nth(1) == Some(service.as_bytes())) {
        return (*service).to_owned();
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
