//! The loop of an ingest: what is found becomes jobs, and what jobs say is noted.

mod removed;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use reqwest::StatusCode;
use riacho_domain::{DocumentId, State as DocumentState};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Options, Scope,
    changes::{Change, Changes},
    job::{Done, Jobs},
    rest::Resting,
    scan::{Found, Looked, Stat},
    start::Begun,
    state::{Known, State},
};
use crate::{
    client::{Accepted, Error},
    exit::{Failure, Kind},
    ingest::{Summary, end_of},
    output::{Output, to_stderr},
    progress::{Ended, Progress},
};

/// Documents that are followed at a time, the oldest first.
const FOLLOWED: usize = 32;
/// How long what is on its way may take after a signal.
const GRACE: Duration = Duration::from_secs(10);
/// How often a file is tried that changes while it is read, where nobody watches.
const TRIES: u32 = 3;

/// What a job did.
enum Outcome {
    Brought(Found, Result<Done, Error>),
    Deleted(String, DocumentId, Result<Option<Result<(), Error>>, Error>),
}

pub(super) struct Sync {
    jobs: Jobs,
    scope: std::sync::Arc<Scope>,
    options: Options,
    state: Option<State>,
    /// What the server said at the start of the documents that are known.
    ends: HashMap<DocumentId, DocumentState>,
    output: Output,
    progress: Progress,
    begun: Instant,
    summary: Summary,
    waiting: VecDeque<Found>,
    running: JoinSet<Outcome>,
    /// Paths that wait or are worked on.
    busy: HashSet<PathBuf>,
    /// Documents that are worked on: two files with one document take turns.
    documents: HashSet<DocumentId>,
    /// Files that were answered with a document while it was worked on.
    held: HashMap<DocumentId, Vec<Found>>,
    /// Documents that were deleted: an upload may have been answered with one just before.
    deleted: HashSet<DocumentId>,
    to_follow: VecDeque<(String, Accepted)>,
    following: JoinSet<Result<Ended, Error>>,
    resting: Resting,
    /// Files that are gone. Their documents are deleted when nothing else is to be done: what only has another name now
    /// is to be found under that first.
    gone: Vec<PathBuf>,
    /// Files that were refused as they are.
    refused: HashMap<PathBuf, Stat>,
    tries: HashMap<PathBuf, u32>,
}

impl Sync {
    pub(super) fn new(
        jobs: Jobs,
        scope: Scope,
        options: Options,
        state: Option<State>,
        ends: HashMap<DocumentId, DocumentState>,
        output: Output,
    ) -> Sync {
        let progress = if options.watch { Progress::lines(output) } else { Progress::new(output, 0) };
        Sync {
            jobs,
            scope: std::sync::Arc::new(scope),
            resting: Resting::new(options.settle),
            options,
            state,
            ends,
            output,
            progress,
            begun: Instant::now(),
            summary: Summary::default(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            busy: HashSet::new(),
            documents: HashSet::new(),
            held: HashMap::new(),
            deleted: HashSet::new(),
            to_follow: VecDeque::new(),
            following: JoinSet::new(),
            gone: Vec::new(),
            refused: HashMap::new(),
            tries: HashMap::new(),
        }
    }

    /// # Errors
    /// When the server or the state cannot be used any more.
    pub(super) async fn run(mut self) -> anyhow::Result<Begun> {
        // Listening begins before looking: what changes in between is heard.
        let folders = self.scope.folders();
        let mut changes = if self.options.watch {
            let (changes, trouble) = Changes::listen(&folders);
            if let Some(why) = trouble {
                let every = self.options.rescan.as_secs_f64();
                to_stderr(&format!(
                    "riacho: not all changes are heard ({why}); everything is looked at each {every} s"
                ));
            }
            Some(changes)
        } else {
            None
        };
        self.look_at_all(true).await?;
        if self.options.watch {
            self.output.note(&format!("watching {} folders; Ctrl-C ends it", folders.len()));
        }
        let ended = self.work(&mut changes).await;
        let was_interrupted = self.jobs.stop.is_cancelled();
        if was_interrupted || ended.is_err() {
            self.finish().await;
        }
        if let Some(state) = &self.state {
            state.sync().context("cannot keep the state")?;
        }
        self.progress.finish();
        ended?;
        self.summary.seconds = self.begun.elapsed().as_secs_f64();
        Ok(Begun { summary: self.summary, was_interrupted })
    }

    async fn work(&mut self, changes: &mut Option<Changes>) -> anyhow::Result<()> {
        let mut look_again = Instant::now() + self.options.rescan;
        loop {
            self.start()?;
            // What there was room for runs now, so nothing waits where nothing runs.
            if changes.is_none() && self.running.is_empty() && self.following.is_empty() {
                return Ok(());
            }
            let rest = self.resting.next();
            let rested = async {
                match rest {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                match changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let stop = self.jobs.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(outcome) = self.running.join_next() => self.note(outcome?)?,
                Some(ended) = self.following.join_next() => self.followed(ended?)?,
                change = changed => match change {
                    Change::At(path) => self.changed(&path),
                    Change::Anywhere => look_again = Instant::now(),
                },
                () = rested => self.rested(),
                () = tokio::time::sleep_until(look_again), if self.options.watch => {
                    self.look_at_all(false).await?;
                    look_again = Instant::now() + self.options.rescan;
                }
            }
        }
    }

    /// Starts what there is room for.
    fn start(&mut self) -> anyhow::Result<()> {
        let mut turns = self.waiting.len();
        while self.running.len() < self.options.concurrency.max(1) && turns > 0 {
            turns -= 1;
            let Some(found) = self.waiting.pop_front() else { break };
            let known = self.state.as_ref().and_then(|state| state.get(&found.key()).cloned());
            let document = known.as_ref().map(|known| known.document);
            if document.is_some_and(|document| !self.documents.insert(document)) {
                self.waiting.push_back(found);
                continue;
            }
            // A document of several files keeps the bytes of the others.
            let is_shared = |document| self.state.as_ref().is_some_and(|state| state.is_shared(document));
            let replace = document.filter(|document| !is_shared(*document));
            let jobs = self.jobs.clone();
            self.running.spawn(async move {
                let done = jobs.bring(&found, known, replace).await;
                Outcome::Brought(found, done)
            });
        }
        if self.waiting.is_empty() && self.running.is_empty() {
            for path in std::mem::take(&mut self.gone) {
                self.removed(path)?;
            }
        }
        while self.following.len() < FOLLOWED {
            let Some((file, accepted)) = self.to_follow.pop_front() else { break };
            let (client, wait) = (self.jobs.client.clone(), self.options.wait);
            self.following.spawn(async move { end_of(&client, file, Ok(accepted), wait).await });
        }
        Ok(())
    }

    /// Looks at everything.
    async fn look_at_all(&mut self, is_first: bool) -> anyhow::Result<()> {
        let scope = std::sync::Arc::clone(&self.scope);
        let (found, errors) = tokio::task::spawn_blocking(move || scope.walk()).await?;
        if is_first {
            match errors.first() {
                Some(error) if !self.options.watch => {
                    return Err(Failure::error(Kind::Usage, error.clone()));
                }
                _ => errors.iter().for_each(|error| to_stderr(&format!("riacho: {error}"))),
            }
            if found.is_empty() && !self.options.watch && !self.options.delete {
                return Err(Failure::error(Kind::Usage, "there are no files in what was named"));
            }
        }
        let there: HashSet<String> = found.iter().map(Found::key).collect();
        let empty = if is_first { self.scope.empty_roots(&found) } else { Vec::new() };
        for file in found {
            self.found(file, is_first);
        }
        if self.options.delete {
            self.look_for_removed(&there, &empty, is_first);
        }
        Ok(())
    }

    /// Somebody says that something changed at a path.
    fn changed(&mut self, path: &Path) {
        match self.scope.look(path) {
            Looked::File(found) => self.found(found, false),
            Looked::Folder(found) => found.into_iter().for_each(|file| self.found(file, false)),
            Looked::Absent if self.options.delete => {
                let below = self.state.iter().flat_map(|state| state.iter());
                let gone =
                    below.map(|(known, _)| PathBuf::from(known)).filter(|known| known.starts_with(path));
                for path in gone.collect::<Vec<_>>() {
                    self.resting.note(&path, None, Instant::now());
                }
            }
            Looked::Absent | Looked::NotMeant => {}
        }
    }

    /// A file as it looks now.
    fn found(&mut self, found: Found, is_first: bool) {
        let known = self.state.as_ref().and_then(|state| state.get(&found.key()));
        if let Some(known) = known.filter(|known| known.stat() == found.stat && !known.sha256.is_empty()) {
            if is_first {
                let document = known.document;
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
    fn unchanged(&mut self, shown: String, document: DocumentId) {
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

    fn take(&mut self, found: Found) {
        if self.busy.insert(found.path.clone()) {
            self.progress.expect(1);
            self.waiting.push_back(found);
        }
    }

    /// Takes what has been at rest for long enough.
    fn rested(&mut self) {
        let now = Instant::now();
        for (path, before) in self.resting.due(now) {
            if self.busy.contains(&path) {
                self.resting.note(&path, before, now);
                continue;
            }
            match self.scope.look(&path) {
                Looked::File(found) if Some(found.stat) == before => self.take(found),
                Looked::File(found) => self.resting.note(&path, Some(found.stat), now),
                Looked::Absent if before.is_none() => self.gone.push(path),
                Looked::Absent => self.resting.note(&path, None, now),
                Looked::Folder(_) | Looked::NotMeant => {}
            }
        }
    }

    /// Nobody works on a document any more: files that were answered with it meanwhile are looked at again.
    fn release(&mut self, document: DocumentId) {
        self.documents.remove(&document);
        self.waiting.extend(self.held.remove(&document).into_iter().flatten());
    }

    /// Whether a file was answered with a document that gets other bytes, or goes, at the same time: its own bytes are then
    /// nowhere. Such is a file that has another name now, while something new stands under its old one.
    fn is_overtaken(&mut self, found: &Found, known: &Known, accepted: &Accepted) -> bool {
        let document = accepted.id;
        if !accepted.duplicate {
            return false;
        }
        if self.documents.contains(&document) {
            self.held.entry(document).or_default().push(found.clone());
            return true;
        }
        let has_others = |state: &State| state.has_other_bytes(document, &known.sha256);
        let is_doubtful = self.deleted.contains(&document) || self.state.as_ref().is_some_and(has_others);
        let tries = self.tries.entry(found.path.clone()).or_insert(0);
        // Somebody else may have given the document these bytes.
        if !is_doubtful || *tries >= TRIES {
            return false;
        }
        *tries += 1;
        self.waiting.push_back(found.clone());
        true
    }

    fn note(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::Brought(found, done) => {
                let known = self.state.as_ref().and_then(|state| state.get(&found.key()));
                let document = known.map(|known| known.document);
                let done = done.map_err(Error::into_failure)?;
                let noted = match done {
                    Done::Uploaded(known, accepted)
                        if document != Some(accepted.id) && self.is_overtaken(&found, &known, &accepted) =>
                    {
                        Ok(())
                    }
                    done => {
                        self.busy.remove(&found.path);
                        self.brought(found, done)
                    }
                };
                // Only now: what waits for the document has to see what became of it.
                if let Some(document) = document {
                    self.release(document);
                }
                noted
            }
            Outcome::Deleted(key, document, answer) => self.note_deleted(key, document, answer),
        }
    }

    fn brought(&mut self, found: Found, done: Done) -> anyhow::Result<()> {
        match done {
            Done::Same(known) => {
                let document = known.document;
                self.keep(&found.key(), known)?;
                self.unchanged(found.shown, document);
                self.progress.expect(-1);
            }
            Done::Uploaded(known, accepted) => {
                let is_certain = !known.sha256.is_empty();
                self.keep(&found.key(), known)?;
                self.progress.uploaded();
                self.summary.uploaded += 1;
                if !is_certain && self.options.watch {
                    self.resting.note(&found.path, Some(found.stat), Instant::now());
                }
                self.to_follow.push_back((found.shown, accepted));
            }
            Done::Refused(error) => {
                self.is_fatal(&error)?;
                self.refused.insert(found.path, found.stat);
                let ended = crate::ingest::refused(found.shown, &error);
                self.progress.ended(&ended);
                self.summary.add(&ended);
            }
            Done::Moving => self.moving(found),
            Done::Stopped => {}
        }
        Ok(())
    }

    /// A file changed while it was read.
    fn moving(&mut self, found: Found) {
        self.progress.expect(-1);
        if self.options.watch {
            return self.resting.note(&found.path, Stat::of(&found.path).ok(), Instant::now());
        }
        let tries = self.tries.entry(found.path.clone()).or_insert(0);
        *tries += 1;
        let ended = match self.scope.look(&found.path) {
            Looked::File(found) if *tries < TRIES => return self.take(found),
            Looked::File(_) => "it changes while it is read",
            _ => "it is not there any more",
        };
        let ended = crate::ingest::refused(found.shown, &std::io::Error::other(ended).into());
        self.progress.expect(1);
        self.progress.ended(&ended);
        self.summary.add(&ended);
    }

    fn followed(&mut self, ended: Result<Ended, Error>) -> anyhow::Result<()> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) if self.options.watch => {
                // It is accepted; what becomes of it is in the server. It may have been deleted there.
                self.is_fatal(&error)?;
                to_stderr(&format!("riacho: {error}; a document is not followed any more"));
                return Ok(());
            }
            Err(error) => return Err(error.into_failure()),
        };
        self.progress.ended(&ended);
        self.summary.add(&ended);
        Ok(())
    }

    /// What no later attempt helps, and is no fault of a file.
    fn is_fatal(&self, error: &Error) -> anyhow::Result<()> {
        match error {
            Error::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }
                if self.options.watch =>
            {
                Err(Failure::error(Kind::Failed, error.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, key: &str, known: Known) -> anyhow::Result<()> {
        match &mut self.state {
            Some(state) => state.put(key, known).context("cannot keep the state"),
            None => Ok(()),
        }
    }

    fn forget(&mut self, key: &str) -> anyhow::Result<()> {
        match &mut self.state {
            Some(state) => state.remove(key).context("cannot keep the state"),
            None => Ok(()),
        }
    }

    /// After a signal: what is on its way is finished, and noted.
    async fn finish(&mut self) {
        self.jobs.stop.cancel();
        let cut = self.jobs.cut.clone();
        let mut grace = std::pin::pin!(tokio::time::sleep(GRACE));
        self.to_follow.clear();
        self.following.abort_all();
        loop {
            tokio::select! {
                outcome = self.running.join_next() => match outcome {
                    None => break,
                    Some(Ok(outcome)) => drop(self.note(outcome)),
                    Some(Err(_)) => {}
                },
                () = &mut grace, if !cut.is_cancelled() => cut.cancel(),
            }
        }
    }
}
