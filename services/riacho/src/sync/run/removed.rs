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
    sync::scan::{Stat, is_gone, key_of, path_of},
};

/// So many files may be gone at once where few are known.
const FEW: usize = 10;

impl Sync {
    /// Looks for files that are known and gone. A folder that was named and has no files at all is left alone.
    pub(super) fn look_for_removed(&mut self, there: &HashSet<String>, empty: &[PathBuf], is_first: bool) {
        let (known, now) = (self.state.iter().map(|(key, _)| key), Instant::now());
        let gone = known.filter(|key| !there.contains(*key)).map(|key| path_of(key));
        let is_away = |path: &PathBuf| empty.iter().any(|root| path.starts_with(root));
        let (away, gone): (Vec<_>, Vec<_>) = gone.partition(is_away);
        self.stay(away, "nothing is left in what was named, as if its disk were not mounted");
        for path in gone {
            match is_first && !self.options.watch {
                true => drop(self.gone.insert(path, now)),
                false if is_gone(&path) => self.resting.note(&path, None, now),
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

    /// Deletes the documents of files that are gone, when no file may still turn out to be one of them under another name.
    pub(super) fn delete_what_is_gone(&mut self, now: Instant) -> anyhow::Result<()> {
        let (settle, watch) = (self.gone_settle(), self.options.watch);
        let has_rested = |since: Instant| now.saturating_duration_since(since) >= settle;
        let is_blocked = !self.gone.values().any(|since| has_rested(*since))
            || if watch {
                self.has_strangers()
            } else {
                !self.running.is_empty() || !self.waiting.is_empty()
            };
        if !is_blocked {
            // Something may be written without an end.
            let is_rest = !self.resting.has_files();
            let is_due = |since: Instant| {
                has_rested(since) && (is_rest || now.saturating_duration_since(since) >= GONE_WAITS)
            };
            let due = self.gone.extract_if(|_, since| is_due(*since)).map(|(path, _)| path).collect();
            self.delete(due, now)?;
        }
        while self.running.len() < self.options.concurrency.max(1) {
            let Some((key, document)) = self.to_delete.pop_front() else { break };
            let path = path_of(&key);
            // Meanwhile the file may be back, or another one be answered with its document.
            if !is_gone(&path) || self.held.contains_key(&document) {
                self.busy.remove(&path);
                self.release(document);
                self.resting.note(&path, None, now);
                continue;
            }
            let jobs = self.jobs.clone();
            self.running.spawn(async move { Outcome::Deleted(key, document, jobs.delete(document).await) });
        }
        Ok(())
    }

    /// Whether a file is worked on that is not known yet. One that a quota refused has bytes of its own.
    fn has_strangers(&self) -> bool {
        self.busy.iter().any(|path| !self.put_off.contains(path) && self.state.get(&key_of(path)).is_none())
    }

    /// Puts documents of files that are gone into the queue, unless so much is gone that something else is the matter.
    /// Without `--delete` only what has another name now is forgotten under the old one.
    fn delete(&mut self, mut gone: Vec<PathBuf>, now: Instant) -> anyhow::Result<()> {
        gone.retain(|path| is_gone(path) && self.state.get(&key_of(path)).is_some());
        let (gone, away): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|path| self.scope.root_is_there(path));
        self.stay(away, "what was named is not there, or empty, as if its disk were not mounted");
        let most = self.options.max_delete.unwrap_or((self.state.len() / 2).max(FEW));
        if self.options.delete && gone.len() + self.lately > most {
            self.stay(gone, "much is gone at once; --max-delete says how many files may be");
            return Ok(());
        }
        for path in gone {
            let key = key_of(&path);
            let Some(known) = self.state.get(&key).cloned() else { continue };
            let is_shared = self.state.is_shared(known.document);
            if self.busy.contains(&path) {
                self.gone.insert(path, now);
            } else if is_shared || (known.was_there && self.options.delete) {
                self.forget(&key)?;
            } else if self.options.delete && self.documents.insert(known.document) {
                self.lately += 1;
                self.busy.insert(path);
                self.to_delete.push_back((key, known.document));
            } else if self.options.delete {
                self.gone.insert(path, now);
            }
        }
        Ok(())
    }

    /// Documents of files that are gone stay. In a watch it is said once, and looked at again each time.
    fn stay(&mut self, gone: Vec<PathBuf>, why: &str) {
        if gone.is_empty() || !self.options.delete {
            return;
        }
        let files = gone.len();
        self.kept.extend(gone);
        self.summary.kept = self.kept.len() as u64;
        if self.said_of_gone.insert(why.to_owned()) {
            let known = self.state.len();
            to_stderr(&format!("riacho: {why}: the documents of {files} files of {known} stay"));
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
                self.kept.remove(&path);
                self.summary.kept = self.kept.len() as u64;
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
