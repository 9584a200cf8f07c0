//! The loop of an ingest: what is found becomes jobs, and what jobs say is noted.

mod found;
mod noted;
mod removed;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
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
    scan::{Found, Stat},
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
/// How long what is cut off may take to notice.
const AFTER_CUT: Duration = Duration::from_secs(2);
/// How often a file is tried that changes while it is read, where nobody watches.
const TRIES: u32 = 3;

/// For how long files that are gone wait for what else is to be done, at most.
const GONE_WAITS: Duration = Duration::from_secs(60);
/// How long nothing is started after a file was put off.
const PUT_OFF: Duration = Duration::from_secs(15);

/// What a job did.
enum Outcome {
    /// The document is the one that was worked on meanwhile.
    Brought(Found, Option<DocumentId>, Result<Done, Error>),
    Deleted(String, DocumentId, Result<Option<Result<(), Error>>, Error>),
}

pub(super) struct Sync {
    jobs: Jobs,
    scope: std::sync::Arc<Scope>,
    options: Options,
    state: State,
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
    following: JoinSet<(String, DocumentId, Result<Ended, Error>)>,
    resting: Resting,
    /// Files that are gone, and since when. Their documents are deleted when nothing else is to be done: what only has
    /// another name now is to be found under that first.
    gone: HashMap<PathBuf, Instant>,
    /// Documents to be deleted, with the keys of their files.
    to_delete: VecDeque<(String, DocumentId)>,
    /// Documents that were deleted since everything was looked at.
    lately: usize,
    /// What was said of files that are gone and whose documents stay, and which these are.
    said_of_gone: HashSet<String>,
    kept: HashSet<PathBuf>,
    /// Files that were refused as they are.
    refused: HashMap<PathBuf, Stat>,
    /// Folders and files that cannot be read, of which it was said.
    unreadable: HashSet<PathBuf>,
    tries: HashMap<PathBuf, u32>,
    /// Files that were refused for now, and refusals of which it was said.
    put_off: HashSet<PathBuf>,
    said_of_put_off: HashSet<String>,
    /// Files that the summary counts already.
    counted: HashSet<PathBuf>,
    /// Nothing is started before, since the server refuses everything for now.
    paused_until: Option<Instant>,
}

impl Sync {
    pub(super) fn new(
        jobs: Jobs,
        scope: Scope,
        options: Options,
        state: State,
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
            gone: HashMap::new(),
            to_delete: VecDeque::new(),
            lately: 0,
            said_of_gone: HashSet::new(),
            kept: HashSet::new(),
            refused: HashMap::new(),
            unreadable: HashSet::new(),
            tries: HashMap::new(),
            put_off: HashSet::new(),
            said_of_put_off: HashSet::new(),
            counted: HashSet::new(),
            paused_until: None,
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
        self.state.sync().context("cannot keep the state")?;
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
            if changes.is_none()
                && self.running.is_empty()
                && self.following.is_empty()
                && self.gone.is_empty()
            {
                return Ok(());
            }
            let now = Instant::now();
            let later =
                [self.resting.next(), self.paused_until, self.gone_due(now)].into_iter().flatten().min();
            let is_time = async {
                match later {
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
                () = is_time => self.rested(),
                () = tokio::time::sleep_until(look_again), if self.options.watch => {
                    self.look_at_all(false).await?;
                    look_again = Instant::now() + self.options.rescan;
                }
            }
        }
    }

    /// Starts what there is room for.
    fn start(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let mut turns = if self.paused_until.is_none() { self.waiting.len() } else { 0 };
        while self.running.len() < self.options.concurrency.max(1) && turns > 0 {
            turns -= 1;
            let Some(found) = self.waiting.pop_front() else { break };
            let key = found.key();
            let known = self.state.get(&key).cloned();
            let document = known.as_ref().map(|known| known.document);
            if document.is_some_and(|document| !self.documents.insert(document)) {
                self.waiting.push_back(found);
                continue;
            }
            // A document of several files keeps the bytes of the others, and one of somebody else keeps its own.
            let is_own = |known: &&Known| !known.was_there && !self.state.is_shared(known.document);
            let replace = known.as_ref().filter(is_own).map(|known| known.document);
            let key = self.state.begin(&key).context("cannot keep the state")?;
            let jobs = self.jobs.clone();
            self.running.spawn(async move {
                let done = jobs.bring(&found, known, replace, key).await;
                Outcome::Brought(found, document, done)
            });
        }
        self.delete_what_is_gone(now)?;
        while self.following.len() < FOLLOWED {
            let Some((file, accepted)) = self.to_follow.pop_front() else { break };
            let (client, wait) = (self.jobs.client.clone(), self.options.wait);
            self.following.spawn(async move {
                let document = accepted.id;
                (file.clone(), document, end_of(&client, file, Ok(accepted), wait).await)
            });
        }
        Ok(())
    }

    /// What no later attempt helps, and is no fault of a file.
    fn is_fatal(&self, error: &Error) -> anyhow::Result<()> {
        match error {
            Error::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
                Err(Failure::error(Kind::Failed, error.to_string()))
            }
            _ => Ok(()),
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
                    Some(Ok(outcome)) => {
                        if let Err(error) = self.note(outcome) {
                            to_stderr(&format!("riacho: {error:#}"));
                        }
                    }
                    Some(Err(_)) => {}
                },
                () = &mut grace => {
                    if cut.is_cancelled() {
                        return self.running.abort_all();
                    }
                    cut.cancel();
                    grace.as_mut().reset(Instant::now() + AFTER_CUT);
                }
            }
        }
    }
}
