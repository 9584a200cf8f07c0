//! What jobs say, and what is noted of it.

use std::io::ErrorKind;

use anyhow::Context;
use reqwest::StatusCode;
use riacho_domain::{DocumentId, State as DocumentState};
use tokio::time::Instant;

use super::{Outcome, PUT_OFF, Sync, TRIES};
use crate::{
    client::{Accepted, Error},
    ingest::refused,
    output::to_stderr,
    progress::Ended,
    sync::{
        job::Done,
        scan::{Found, Looked, Stat},
        state::Known,
    },
};

impl Sync {
    /// Nobody works on a document any more: files that were answered with it meanwhile are looked at again.
    pub(super) fn release(&mut self, document: DocumentId) {
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
        let has_others = self.state.has_other_bytes(document, &known.sha256);
        let is_doubtful = self.deleted.contains(&document) || has_others;
        let tries = self.tries.entry(found.path.clone()).or_insert(0);
        // Somebody else may have given the document these bytes.
        if !is_doubtful || *tries >= TRIES {
            return false;
        }
        *tries += 1;
        self.waiting.push_back(found.clone());
        true
    }

    pub(super) fn note(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::Brought(found, document, done) => {
                let done = done.map_err(Error::into_failure)?;
                let noted = match done {
                    Done::Uploaded(known, accepted)
                        if document != Some(accepted.id) && self.is_overtaken(&found, &known, &accepted) =>
                    {
                        self.state.begin_anew(&found.key());
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
                self.tries.remove(&found.path);
                self.keep(&found.key(), known)?;
                if self.counted.insert(found.path) {
                    self.unchanged(found.shown, document);
                }
                self.progress.expect(-1);
            }
            Done::Uploaded(mut known, accepted) => {
                let is_certain = !known.sha256.is_empty();
                // An external id is of one path.
                let is_own = self.jobs.by_path || self.options.adopt || self.state.is_ours(accepted.id);
                known.was_there &= !is_own;
                self.keep(&found.key(), known)?;
                self.put_off.remove(&found.path);
                self.progress.uploaded();
                self.summary.uploaded += 1;
                self.counted.insert(found.path.clone());
                if is_certain {
                    self.tries.remove(&found.path);
                    self.to_follow.push_back((found.shown, accepted));
                } else {
                    // What was sent of it may be half of the one and half of the other.
                    self.moving(found);
                }
            }
            Done::Refused(error) => {
                self.is_fatal(&error)?;
                self.state.end(&found.key()).context("cannot keep the state")?;
                if is_for_good(&error) {
                    self.refused.insert(found.path, found.stat);
                }
                let ended = refused(found.shown, &error);
                self.progress.ended(&ended);
                self.summary.add(&ended);
            }
            Done::PutOff(error) => {
                self.state.end(&found.key()).context("cannot keep the state")?;
                self.put_off.insert(found.path.clone());
                if self.said_of_put_off.insert(error.to_string()) {
                    to_stderr(&format!("riacho: {error}; what is refused is tried again"));
                }
                self.paused_until = Some(Instant::now() + PUT_OFF);
                self.progress.expect(-1);
                self.take(found);
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
        let ended = refused(found.shown, &std::io::Error::other(ended).into());
        self.progress.expect(1);
        self.progress.ended(&ended);
        self.summary.add(&ended);
    }

    /// What became of a document that was followed.
    pub(super) fn followed(
        &mut self,
        (file, document, ended): (String, DocumentId, Result<Ended, Error>),
    ) -> anyhow::Result<()> {
        let ended = match ended {
            Ok(ended) => ended,
            // It was accepted, and may have been deleted since. The others go on.
            Err(error @ Error::Refused { .. }) => {
                Ended { id: Some(document.to_string()), ..refused(file, &error) }
            }
            // The server is away: what became of it is asked later.
            Err(Error::Unreachable { .. }) if self.options.watch => {
                let state = DocumentState::Releasing;
                let accepted = Accepted { id: document, version: 0, state, duplicate: false };
                self.to_follow.push_back((file, accepted));
                return Ok(());
            }
            Err(error) if self.options.watch => {
                to_stderr(&format!("riacho: {error}; {file} is not followed any more"));
                return Ok(());
            }
            Err(error) => return Err(error.into_failure()),
        };
        self.progress.ended(&ended);
        self.summary.add(&ended);
        Ok(())
    }

    fn keep(&mut self, key: &str, known: Known) -> anyhow::Result<()> {
        self.state.put(key, known).context("cannot keep the state")
    }

    pub(super) fn forget(&mut self, key: &str) -> anyhow::Result<()> {
        self.state.remove(key).context("cannot keep the state")
    }
}

/// Whether a file that is refused so is refused as long as it stays as it is. Whoever changes its permissions changes
/// one of its times.
fn is_for_good(error: &Error) -> bool {
    match error {
        Error::Refused { status, .. } => matches!(
            *status,
            StatusCode::BAD_REQUEST
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNSUPPORTED_MEDIA_TYPE
                | StatusCode::UNPROCESSABLE_ENTITY
        ),
        Error::File(error) => matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput),
        Error::Unreachable { .. } | Error::Answer(_) => false,
    }
}
