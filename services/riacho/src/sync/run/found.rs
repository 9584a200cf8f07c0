//! What is found in the folders: at the start, now and then, and where something changed.

use std::{collections::HashSet, path::Path, sync::Arc};

use riacho_domain::{DocumentId, State as DocumentState};
use tokio::time::Instant;

use super::Sync;
use crate::{
    client::Accepted,
    exit::{Failure, Kind},
    output::to_stderr,
    sync::scan::{Found, Looked, Unreadable, key_of, path_of},
};

impl Sync {
    /// Looks at everything.
    pub(super) async fn look_at_all(&mut self, is_first: bool) -> anyhow::Result<()> {
        let (scope, stop) = (Arc::clone(&self.scope), self.jobs.stop.clone());
        let (found, errors) = tokio::task::spawn_blocking(move || scope.walk(&stop)).await?;
        if self.jobs.stop.is_cancelled() {
            return Ok(());
        }
        let is_nothing = found.is_empty() && errors.is_empty();
        if is_first && is_nothing && !self.options.watch && !self.options.delete {
            return Err(Failure::error(Kind::Usage, "there are no files in what was named"));
        }
        errors.into_iter().for_each(|error| self.cannot_be_read(error));
        let empty = self.scope.empty_roots(&found);
        let mut there = HashSet::new();
        for file in found {
            // A folder and one below it may both be named.
            if there.insert(file.key()) {
                self.found(file, is_first);
            }
        }
        self.lately = 0;
        self.look_for_removed(&there, &empty, is_first);
        Ok(())
    }

    /// A folder or a file cannot be looked at. The others can.
    fn cannot_be_read(&mut self, (path, error): Unreadable) {
        if !self.unreadable.insert(path.clone()) {
            return;
        }
        if self.options.watch {
            return to_stderr(&format!("riacho: cannot read {}: {error}", path.display()));
        }
        self.progress.expect(1);
        let ended = crate::ingest::refused(path.display().to_string(), &error.into());
        self.progress.ended(&ended);
        self.summary.add(&ended);
    }

    /// Somebody says that something changed at a path.
    pub(super) fn changed(&mut self, path: &Path) {
        match self.scope.look(path) {
            Looked::File(found) => self.found(found, false),
            Looked::Folder(found) => found.into_iter().for_each(|file| self.found(file, false)),
            Looked::Absent => {
                let now = Instant::now();
                for key in self.state.below(&key_of(path)) {
                    self.resting.note(&path_of(key), None, now);
                }
            }
            Looked::NotMeant => {}
        }
    }

    /// A file as it looks now.
    fn found(&mut self, found: Found, is_first: bool) {
        let known = self.state.get(&found.key());
        if let Some(known) = known.filter(|known| known.stat() == found.stat && !known.sha256.is_empty()) {
            if is_first {
                let document = known.document;
                self.counted.insert(found.path);
                self.unchanged(found.shown, document);
            }
            return;
        }
        if self.refused.get(&found.path) == Some(&found.stat) {
            return;
        }
        if !self.options.watch || (is_first && found.stat.is_older(self.options.settle)) {
            self.take(found);
        } else {
            self.resting.note(&found.path, Some(found.stat), Instant::now());
        }
    }

    /// A file that was uploaded by an earlier ingest.
    pub(super) fn unchanged(&mut self, shown: String, document: DocumentId) {
        let state = self.ends.get(&document).copied().unwrap_or(DocumentState::Releasing);
        self.summary.unchanged += 1;
        if self.options.wait && state != DocumentState::Ready {
            self.progress.expect(1);
            self.to_follow.push_back((shown, Accepted { id: document, version: 0, state, duplicate: false }));
        } else {
            self.summary.files += 1;
            self.summary.ready += u64::from(state == DocumentState::Ready);
            self.summary.accepted += u64::from(state != DocumentState::Ready);
        }
    }

    pub(super) fn take(&mut self, found: Found) {
        if self.busy.insert(found.path.clone()) {
            self.progress.expect(1);
            self.waiting.push_back(found);
        }
    }

    /// Takes what has been at rest for long enough.
    pub(super) fn rested(&mut self) {
        let now = Instant::now();
        for (path, before) in self.resting.due(now) {
            if self.busy.contains(&path) {
                self.resting.note(&path, before, now);
                continue;
            }
            match self.scope.look(&path) {
                Looked::File(found) if Some(found.stat) == before => self.take(found),
                Looked::File(found) => self.resting.note(&path, Some(found.stat), now),
                Looked::Absent if before.is_none() => drop(self.gone.entry(path).or_insert(now)),
                Looked::Absent => self.resting.note(&path, None, now),
                // What was a file is a folder now.
                Looked::Folder(_) if self.state.get(&key_of(&path)).is_some() => {
                    self.gone.entry(path).or_insert(now);
                }
                Looked::Folder(_) | Looked::NotMeant => {}
            }
        }
    }
}
