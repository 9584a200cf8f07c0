//! What becomes of every file of a folder: each has to end ready, or failed with a reason.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::{Target, deployment::Deployment, figures::Figures};

/// What to send.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder; its subfolders too.
    folder: PathBuf,
}

/// Uploads every file and counts the outcomes by state and reason.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let mut files = Vec::new();
    walk(&options.folder, &mut files)?;
    files.sort();
    let start = Instant::now();
    let (mut accepted, mut outcomes) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
    for file in &files {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match deployment
            .api
            .upload(&name, "application/octet-stream", Bytes::from(std::fs::read(file)?))
            .await
        {
            Ok(id) => accepted.push((name, id)),
            Err(error) => {
                outcomes.entry("refused at the door".into()).or_default().push(format!("{name}: {error}"))
            }
        }
    }
    for (name, id) in &accepted {
        let status = deployment.api.finished(id, Duration::from_millis(20)).await?;
        let reason =
            status.body["error"]["code"].as_str().map(|code| format!(": {code}")).unwrap_or_default();
        let message = status.body["error"]["message"].as_str().map(|m| format!(": {m}")).unwrap_or_default();
        outcomes.entry(format!("{}{reason}", status.state)).or_default().push(format!("{name}{message}"));
    }
    let mut figures = Figures::default();
    figures.add("files", files.len());
    figures.add_number("seconds", start.elapsed().as_secs_f64());
    for (outcome, names) in outcomes {
        figures.add(&outcome, names.len());
        if outcome != "ready" {
            figures.add(&format!("{outcome} (files)"), json!(names));
        }
    }
    Ok(figures)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
