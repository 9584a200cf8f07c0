//! Files that are gone, and with `--delete` their documents.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use riacho_domain::DocumentId;
use tokio::time::Instant;

use super::{Outcome, Sync};
use crate::{client::Error, output::to_stderr, progress::Ended, sync::scan::Stat};

impl Sync {
    /// Looks for files that are known and gone.
    pub(super) fn look_for_removed(&mut self, there: &HashSet<String>, empty: &[PathBuf], is_first: bool) {
        let known = self.state.iter().flat_map(|state| state.iter().map(|(path, _)| PathBuf::from(path)));
        let mut gone: Vec<_> = known.filter(|path| !there.contains(&*path.to_string_lossy())).collect();
        for root in empty {
            let before = gone.len();
            gone.retain(|path| !path.starts_with(root));
            if gone.len() < before {
                to_stderr(&format!(
                    "riacho: nothing is left in {}, as if its disk were not mounted: the documents of {} files stay",
                    root.display(),
                    before - gone.len()
                ));
            }
        }
        for path in gone {
            match is_first && !self.options.watch {
                true => self.gone.push(path),
                false => self.resting.note(&path, Stat::of(&path).ok(), Instant::now()),
            }
        }
    }

    /// A file is gone. Only with `--delete`.
    pub(super) fn removed(&mut self, path: PathBuf) -> anyhow::Result<()> {
        // One that cannot be looked at is not gone.
        if !self.options.delete || !matches!(path.try_exists(), Ok(false)) {
            return Ok(());
        }
        if !self.scope.root_is_there(&path) {
            to_stderr(&format!(
                "riacho: {} is not there, nor its folder: its document stays",
                path.display()
            ));
            return Ok(());
        }
        let key = path.to_string_lossy().into_owned();
        let Some(known) = self.state.as_ref().and_then(|state| state.get(&key).cloned()) else {
            return Ok(());
        };
        if self.state.as_ref().is_some_and(|state| state.is_shared(known.document)) {
            return self.forget(&key);
        }
        if self.busy.insert(path) {
            let (jobs, document) = (self.jobs.clone(), known.document);
            self.documents.insert(document);
            self.running.spawn(async move { Outcome::Deleted(key, document, jobs.delete(document).await) });
        }
        Ok(())
    }

    /// What came of a deletion.
    pub(super) fn note_deleted(
        &mut self,
        key: String,
        document: DocumentId,
        answer: Result<Option<Result<(), Error>>, Error>,
    ) -> anyhow::Result<()> {
        self.busy.remove(Path::new(&key));
        if matches!(answer, Ok(Some(Ok(())))) {
            self.deleted.insert(document);
        }
        self.release(document);
        match answer.map_err(Error::into_failure)? {
            None => Ok(()),
            Some(Ok(())) => {
                self.forget(&key)?;
                self.summary.deleted += 1;
                let id = Some(document.to_string());
                let state = "deleted".into();
                self.progress.removed(&Ended {
                    file: key,
                    id,
                    version: None,
                    state,
                    duplicate: false,
                    error: None,
                });
                Ok(())
            }
            Some(Err(error)) => {
                self.is_fatal(&error)?;
                to_stderr(&format!("riacho: the document of {key} was not deleted: {error}"));
                Ok(())
            }
        }
    }
}
