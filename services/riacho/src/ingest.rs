//! Uploads many files at once and follows each until it is searchable or failed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use riacho_domain::{DocumentId, State};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    client::{Accepted, Client, DocumentStatus, Error, Reason, Target, Upload},
    output::table,
    progress::{Ended, Progress},
};

/// Documents that are followed at a time, the oldest first.
const FOLLOWED: usize = 32;
/// The pause before a document is looked at again; it doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(500));
/// How long a server may be away before following ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// How an ingest works.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) target: Target,
    pub(crate) concurrency: usize,
    pub(crate) wait: bool,
}

/// What became of all files.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) files: u64,
    /// Searchable, those that were there already included.
    pub(crate) ready: u64,
    /// Accepted and not followed.
    pub(crate) accepted: u64,
    /// Known before: the same bytes with the same settings.
    pub(crate) duplicates: u64,
    /// Uploaded by an earlier ingest, and unchanged since then.
    pub(crate) unchanged: u64,
    /// Uploaded by this one.
    pub(crate) uploaded: u64,
    /// Documents that were deleted, since their files are gone.
    pub(crate) deleted: u64,
    /// Files that are gone, whose documents stay, since so much seems to be gone at once.
    pub(crate) kept: u64,
    pub(crate) failed: u64,
    /// How many failed for which reason.
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
}

impl Summary {
    pub(crate) fn add(&mut self, ended: &Ended) {
        self.files += 1;
        self.duplicates += u64::from(ended.duplicate);
        match &ended.error {
            Some(reason) => {
                self.failed += 1;
                *self.reasons.entry(reason.code.clone()).or_default() += 1;
            }
            None if ended.state == State::Ready.as_str() => self.ready += 1,
            None => self.accepted += 1,
        }
    }

    /// The summary for people: a line, and a table of the reasons where something failed.
    pub(crate) fn text(&self) -> String {
        let mut parts = vec![format!("{} searchable", self.ready)];
        let counts = [
            (self.unchanged, "unchanged since an earlier ingest"),
            (self.duplicates, "of them known before"),
            (self.accepted, "accepted"),
            (self.failed, "failed"),
            (self.deleted, "deleted"),
            (self.kept, "gone, and their documents stay"),
        ];
        parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        let mut text = format!("{} files in {:.1} s: {}", self.files, self.seconds, parts.join(", "));
        if !self.reasons.is_empty() {
            let rows = self.reasons.iter().map(|(code, count)| vec![code.clone(), count.to_string()]);
            text = format!("{text}\n\n{}", table(&["reason", "files"], rows));
        }
        text
    }
}

/// Uploads everything and, if wanted, waits for the end of each document.
///
/// # Errors
///
/// When the server cannot be reached. A file that is refused or fails is counted, and no error.
pub(crate) async fn ingest(
    client: &Client,
    uploads: Vec<Upload>,
    options: &Options,
    progress: &Progress,
) -> Result<Summary, Error> {
    let start = Instant::now();
    let (sender, receiver) = mpsc::unbounded_channel();
    let uploading = upload_all(client, uploads, options, progress, sender);
    let following = follow_all(client, receiver, options.wait, progress);
    let ((), mut summary) = futures::future::try_join(uploading, following).await?;
    progress.finish();
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// An upload and its answer, on its way to be followed.
type Answered = (String, Result<Accepted, Error>);

async fn upload_all(
    client: &Client,
    uploads: Vec<Upload>,
    options: &Options,
    progress: &Progress,
    sender: mpsc::UnboundedSender<Answered>,
) -> Result<(), Error> {
    stream::iter(uploads)
        .map(|upload| async move {
            let answer = client.upload_put_off(&upload, &options.target).await;
            (upload.filename, answer)
        })
        .buffer_unordered(options.concurrency.max(1))
        .map(|(file, answer)| match answer {
            Err(error @ Error::Unreachable { .. }) => Err(error),
            answer => Ok((file, answer)),
        })
        .try_for_each(|(file, answer)| {
            if answer.is_ok() {
                progress.uploaded();
            }
            // The receiver goes first only when following failed, which ends both.
            let _ = sender.send((file, answer));
            futures::future::ready(Ok(()))
        })
        .await
}

async fn follow_all(
    client: &Client,
    receiver: mpsc::UnboundedReceiver<Answered>,
    wait: bool,
    progress: &Progress,
) -> Result<Summary, Error> {
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
        .map(|(file, answer)| end_of(client, file, answer, wait))
        .buffer_unordered(FOLLOWED)
        .try_fold(Summary::default(), |mut summary, ended| {
            progress.ended(&ended);
            summary.add(&ended);
            futures::future::ready(Ok(summary))
        })
        .await
}

/// What became of a file: the refusal, or the end of its document.
pub(crate) async fn end_of(
    client: &Client,
    file: String,
    answer: Result<Accepted, Error>,
    wait: bool,
) -> Result<Ended, Error> {
    let accepted = match answer {
        Ok(accepted) => accepted,
        Err(error) => return Ok(refused(file, &error)),
    };
    let status = if wait && !accepted.state.is_terminal() {
        follow(client, accepted.id).await?
    } else if accepted.state.is_terminal() && accepted.state != State::Ready {
        client.status(accepted.id).await?
    } else {
        DocumentStatus { version: accepted.version, state: accepted.state, error: None }
    };
    let id = Some(accepted.id.to_string());
    let error = status
        .error
        .or_else(|| (wait && status.state != State::Ready).then(|| ended_otherwise(status.state)));
    let state = status.state.as_str().to_owned();
    Ok(Ended { file, id, version: Some(status.version), state, duplicate: accepted.duplicate, error })
}

pub(crate) fn refused(file: String, error: &Error) -> Ended {
    let code = match error {
        Error::Refused { problem, .. } => problem.code().to_owned(),
        Error::File(_) => "unreadable".to_owned(),
        Error::Unreachable { .. } | Error::Answer(_) => "no_answer".to_owned(),
    };
    let reason = Reason { code, message: error.to_string() };
    Ended { file, id: None, version: None, state: "refused".into(), duplicate: false, error: Some(reason) }
}

fn ended_otherwise(state: State) -> Reason {
    Reason { code: state.to_string(), message: format!("the document is {state}") }
}

/// Asks until the document's state is final. A server that is away for a moment is waited for.
pub(crate) async fn follow(client: &Client, id: DocumentId) -> Result<DocumentStatus, Error> {
    let mut pause = PAUSE.0;
    let mut away_since: Option<Instant> = None;
    loop {
        match client.status(id).await {
            Ok(status) if status.state.is_terminal() => return Ok(status),
            Ok(_) => away_since = None,
            Err(error @ Error::Unreachable { .. }) => {
                if away_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(error);
                }
            }
            Err(Error::Refused { status, .. }) if status.as_u16() == 429 || status.is_server_error() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: &str, duplicate: bool, code: Option<&str>) -> Ended {
        let error = code.map(|code| Reason { code: code.into(), message: "m".into() });
        Ended { file: "f".into(), id: None, version: None, state: state.into(), duplicate, error }
    }

    #[test]
    fn the_summary_counts_every_file_once() {
        let mut summary = Summary::default();
        let all = [
            ended("ready", false, None),
            ended("ready", true, None),
            ended("failed", false, Some("encrypted")),
            ended("refused", false, Some("empty")),
            ended("failed", false, Some("encrypted")),
        ];
        all.iter().for_each(|one| summary.add(one));
        assert_eq!((summary.files, summary.ready, summary.duplicates, summary.failed), (5, 2, 1, 3));
        assert!(summary.text().contains("encrypted  2"), "{}", summary.text());
    }
}
