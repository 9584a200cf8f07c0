//! Files that are gone, and with `--delete` their documents.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use riacho_domain::DocumentId;
use tokio::time::Instant;

use super::{GONE_WAITS, Outcome, Sync};
use crate::{
    client::Error,
    ingest::refused,
    output::to_stderr,
    progress::Ended,
    sync::scan::{Stat, key_of, path_of},
};

/// So many files may be gone at once where few are known.
const FEW: usize = 10;

impl Sync {
    /// Looks for files that are known and gone. A folder that was named and has no files at all is left alone.
    pub(super) fn look_for_removed(&mut self, there: &HashSet<String>, empty: &[PathBuf], is_first: bool) {
        let (known, now) = (self.state.iter().map(|(key, _)| key), Instant::now());
        let mut gone: Vec<PathBuf> =
            known.filter(|key| !there.contains(*key)).map(|key| path_of(key)).collect();
        for root in empty {
            let before = gone.len();
            gone.retain(|path| !path.starts_with(root));
            self.stay(
                before - gone.len(),
                &format!("nothing is left in {}, as if its disk were not mounted", root.display()),
            );
        }
        for path in gone {
            match is_first && !self.options.watch {
                true => drop(self.gone.insert(path, now)),
                false => self.resting.note(&path, Stat::of(&path).ok(), now),
            }
        }
    }

    /// When files that are gone may be due next.
    pub(super) fn gone_due(&self, now: Instant) -> Option<Instant> {
        let times = self.gone.values().flat_map(|since| [*since + self.gone_settle(), *since + GONE_WAITS]);
        times.filter(|time| *time > now).min()
    }

    /// For how long a file has to be gone: another name of it may be heard of a moment later.
    fn gone_settle(&self) -> Duration {
        if self.options.watch { self.options.settle } else { Duration::ZERO }
    }

    /// Deletes the documents of files that are gone, when nothing else is to be done.
    pub(super) fn delete_what_is_gone(&mut self, now: Instant) -> anyhow::Result<()> {
        let is_idle = self.running.is_empty() && self.waiting.is_empty() && !self.resting.has_files();
        let (settle, watch) = (self.gone_settle(), self.options.watch);
        let is_due = |since: Instant| {
            let waited = now.saturating_duration_since(since);
            waited >= settle && (is_idle || (watch && waited >= GONE_WAITS))
        };
        let due: Vec<PathBuf> =
            self.gone.extract_if(|_, since| is_due(*since)).map(|(path, _)| path).collect();
        if !due.is_empty() {
            self.delete(due, now)?;
        }
        while self.running.len() < self.options.concurrency.max(1) {
            let Some((key, document)) = self.to_delete.pop_front() else { break };
            let jobs = self.jobs.clone();
            self.running.spawn(async move { Outcome::Deleted(key, document, jobs.delete(document).await) });
        }
        Ok(())
    }

    /// Puts documents of files that are gone into the queue, unless so much is gone that something else is the matter.
    fn delete(&mut self, mut gone: Vec<PathBuf>, now: Instant) -> anyhow::Result<()> {
        // One that cannot be looked at is not gone.
        gone.retain(|path| matches!(path.try_exists(), Ok(false)) && self.state.get(&key_of(path)).is_some());
        let before = gone.len();
        gone.retain(|path| self.scope.root_is_there(path));
        self.stay(
            before - gone.len(),
            "what was named is not there, or empty, as if its disk were not mounted",
        );
        let most = self.options.max_delete.unwrap_or((self.state.len() / 2).max(FEW));
        if gone.len() > most {
            let why = format!(
                "{} of {} files are gone at once; --max-delete says how many may be",
                gone.len(),
                self.state.len()
            );
            self.stay(gone.len(), &why);
            return Ok(());
        }
        for path in gone {
            let key = key_of(&path);
            let Some(known) = self.state.get(&key).cloned() else { continue };
            if known.was_there || self.state.is_shared(known.document) {
                self.forget(&key)?;
            } else if !self.busy.contains(&path) && self.documents.insert(known.document) {
                self.busy.insert(path);
                self.to_delete.push_back((key, known.document));
            } else {
                self.gone.insert(path, now);
            }
        }
        Ok(())
    }

    /// Documents of files that are gone stay. In a watch it is said once, and looked at again each time.
    fn stay(&mut self, files: usize, why: &str) {
        if files == 0 {
            return;
        }
        if self.said_of_gone.insert(why.to_owned()) {
            self.summary.kept += files as u64;
            to_stderr(&format!("riacho: {why}: the documents of {files} files stay"));
        }
    }

    /// What came of a deletion.
    pub(super) fn note_deleted(
        &mut self,
        key: String,
        document: DocumentId,
        answer: Result<Option<Result<(), Error>>, Error>,
    ) -> anyhow::Result<()> {
        let path = path_of(&key);
        self.busy.remove(&path);
        if matches!(answer, Ok(Some(Ok(())))) {
            self.deleted.insert(document);
        }
        self.release(document);
        match answer.map_err(Error::into_failure)? {
            None => Ok(()),
            Some(Ok(())) => {
                self.forget(&key)?;
                self.summary.deleted += 1;
                self.progress.removed(&ended(&path, document));
                Ok(())
            }
            Some(Err(error)) => {
                self.is_fatal(&error)?;
                let ended =
                    Ended { id: Some(document.to_string()), ..refused(path.display().to_string(), &error) };
                self.progress.expect(1);
                self.progress.ended(&ended);
                self.summary.add(&ended);
                Ok(())
            }
        }
    }
}

fn ended(path: &Path, document: DocumentId) -> Ended {
    let (file, id) = (path.display().to_string(), Some(document.to_string()));
    Ended { file, id, version: None, state: "deleted".into(), duplicate: false, error: None }
}
