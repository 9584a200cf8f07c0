//! What is done about one file: its hash, and if that is new an upload, however long the server is away.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use riacho_domain::DocumentId;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{reading::Reading, scan::Found, state::Known};
use crate::{
    client::{Accepted, Client, Content, Error, Target, Upload},
    output::to_stderr,
};

/// The pause while a server is away; it doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// The longest pause that a server's Retry-After is obeyed for.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What jobs share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Jobs {
    pub(super) client: Client,
    pub(super) target: Target,
    pub(super) by_path: bool,
    /// For how long a server may be away; none for ever.
    pub(super) patience: Option<Duration>,
    /// No new attempt is made from here on.
    pub(super) stop: CancellationToken,
    /// What is on its way is dropped from here on.
    pub(super) cut: CancellationToken,
    /// What was said of the server.
    pub(super) said: Arc<Said>,
}

/// What was said once, since all jobs meet the same.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The server is away.
    away: AtomicBool,
    /// Uploads wait for the tenant's rate.
    rate: AtomicBool,
    /// A quota was used up for as long as was waited.
    full: AtomicBool,
}

/// What became of a file.
#[derive(Debug)]
pub(super) enum Done {
    /// Its bytes are those that are known.
    Same(Known),
    /// It was accepted.
    Uploaded(Known, Accepted),
    /// It was refused, or cannot be read.
    Refused(Error),
    /// It is refused for now: a quota is used up, or the server had a fault.
    PutOff(Error),
    /// It changed while it was read.
    Moving,
    /// The process is to end.
    Stopped,
}

impl Jobs {
    /// Uploads a file if its bytes are not those that are known. `replace` is the document that gets a new version, `key`
    /// what tells this upload from others of the same bytes.
    pub(super) async fn bring(
        &self,
        found: &Found,
        known: Option<Known>,
        replace: Option<DocumentId>,
        key: Uuid,
    ) -> Result<Done, Error> {
        if self.by_path && found.named.is_none() {
            let why = "its path is not UTF-8, so that it cannot be an external id (--by-path)";
            return Ok(Done::Refused(io::Error::new(io::ErrorKind::InvalidInput, why).into()));
        }
        let (to_read, cut) = (found.clone(), self.cut.clone());
        let read = tokio::task::spawn_blocking(move || Reading::of(&to_read, &cut)).await;
        let reading = match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(Some(reading)) => reading,
            Ok(None) => return Ok(Done::Moving),
            Err(_) if self.cut.is_cancelled() => return Ok(Done::Stopped),
            Err(error) => return Ok(Done::Refused(error.into())),
        };
        let noted = |document, version, was_there| Known {
            size: found.stat.size,
            modified: found.stat.modified,
            changed: if reading.is_fresh { 0 } else { found.stat.changed },
            sha256: reading.sha256.clone(),
            document,
            version,
            was_there,
        };
        if let Some(known) = known.filter(|known| known.sha256 == reading.sha256) {
            return Ok(Done::Same(noted(known.document, known.version, known.was_there)));
        }
        let upload = Upload {
            filename: found.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            content: reading.content.clone(),
            external_id: found.named.clone().filter(|_| self.by_path),
            idempotency_key: Some(self.idempotency_key(key, found, replace, &reading.sha256)),
        };
        let answer = self.send(upload, found, replace, &reading).await;
        let has_changed = reading.has_changed();
        Ok(match answer? {
            None => Done::Stopped,
            Some(Ok(accepted)) => {
                let mut known = noted(accepted.id, accepted.version, accepted.duplicate);
                // Of a file that is read while it is sent nobody knows then what was sent.
                if has_changed && matches!(reading.content, Content::File(..)) {
                    known.sha256.clear();
                }
                Done::Uploaded(known, accepted)
            }
            // It may have become shorter than what was announced.
            Some(Err(_)) if has_changed => Done::Moving,
            Some(Err(error)) if self.patience.is_none() && is_for_now(&error) => Done::PutOff(error),
            Some(Err(error)) => Done::Refused(error),
        })
    }

    /// Uploads, again and again while the server is away. The inner error is a refusal; none where the process is to end.
    async fn send(
        &self,
        mut upload: Upload,
        found: &Found,
        mut replace: Option<DocumentId>,
        reading: &Reading,
    ) -> Result<Option<Result<Accepted, Error>>, Error> {
        let mut has_gone = false;
        loop {
            let request = || async {
                let answer = match replace {
                    Some(document) => self.client.replace(document, &upload, &self.target).await,
                    None => self.client.upload(&upload, &self.target).await,
                };
                match answer {
                    // It may be shorter than what was announced, and no attempt would end.
                    Err(Error::Unreachable { .. }) if reading.has_changed() => {
                        Err(io::Error::other("it changed while it was sent").into())
                    }
                    answer => answer,
                }
            };
            match self.patiently(request).await? {
                // Somebody deleted the document: the file becomes one again. So may have been what the key was answered with.
                Some(Err(Error::Refused { status: StatusCode::NOT_FOUND, .. })) if !has_gone => {
                    (has_gone, replace) = (true, None);
                    let key = self.idempotency_key(Uuid::new_v4(), found, None, &reading.sha256);
                    upload.idempotency_key = Some(key);
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Deletes a document. The inner error is a refusal; none where the process is to end.
    pub(super) async fn delete(&self, document: DocumentId) -> Result<Option<Result<(), Error>>, Error> {
        self.patiently(|| self.client.delete(document)).await
    }

    /// Asks again while the server is away, and says so once. What the server refuses for now only is asked again for as
    /// long as a server may be away, and for a rate, which is never used up for good, for ever.
    ///
    /// # Errors
    /// When the server was away for longer than the patience.
    pub(super) async fn patiently<T, F>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<Option<Result<T, Error>>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (mut pause, mut since) = (PAUSE.0, None::<(Trouble, Instant)>);
        loop {
            let Some(answer) = self.cut.run_until_cancelled(request()).await else { return Ok(None) };
            let (error, trouble) = match answer {
                Err(error) => match Trouble::of(&error) {
                    Some(trouble) => (error, trouble),
                    None => return Ok(Some(self.answered(Err(error)))),
                },
                answer => return Ok(Some(self.answered(answer))),
            };
            // Of this trouble alone: a server that says that it is asked too often is there.
            let began = match since {
                Some((before, began)) if before == trouble => began,
                _ => Instant::now(),
            };
            since = Some((trouble, began));
            let is_over = self.patience.is_some_and(|patience| began.elapsed() >= patience);
            match trouble {
                Trouble::Away if is_over => return Err(error),
                Trouble::Full
                    if is_over || self.patience.is_none() || self.said.full.load(Ordering::Relaxed) =>
                {
                    self.said.full.store(self.patience.is_some(), Ordering::Relaxed);
                    return Ok(Some(Err(error)));
                }
                Trouble::Away => say_once(&self.said.away, &format!("{error}; trying again")),
                Trouble::Rate => say_once(&self.said.rate, &format!("{error}; what is left waits")),
                Trouble::Full => {}
            }
            let asked = if let Error::Refused { retry_after, .. } = &error { *retry_after } else { None };
            let wait = asked.map_or(pause, |asked| asked.min(MAX_PAUSE));
            if self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(None);
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The same for the same upload of the same bytes to the same document, and for no other.
    fn idempotency_key(&self, key: Uuid, found: &Found, replace: Option<DocumentId>, sha256: &str) -> String {
        let target = replace.map(|document| document.to_string()).unwrap_or_default();
        let external_id = found.named.as_deref().filter(|_| self.by_path).unwrap_or_default();
        let request = format!("{key} {target} {sha256} {} {external_id}", self.target.lane);
        hex::encode(Sha256::digest(request))
    }

    fn answered<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if self.said.away.swap(false, Ordering::Relaxed) {
            to_stderr("riacho: the server answers again");
        }
        answer
    }
}

/// Why a later attempt may go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The server, or what it needs, is not there.
    Away,
    /// The tenant sends too quickly.
    Rate,
    /// A quota is used up.
    Full,
}

impl Trouble {
    fn of(error: &Error) -> Option<Trouble> {
        let (status, problem) = match error {
            Error::Unreachable { .. } => return Some(Trouble::Away),
            Error::Refused { status, problem, .. } => (*status, problem),
            Error::File(_) | Error::Answer(_) => return None,
        };
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Some(Trouble::Away)
            }
            StatusCode::TOO_MANY_REQUESTS if problem.code() == "quota_exceeded" => Some(Trouble::Full),
            StatusCode::TOO_MANY_REQUESTS => Some(Trouble::Rate),
            _ => None,
        }
    }
}

/// Whether a refusal is none of the file: later the same may be taken.
fn is_for_now(error: &Error) -> bool {
    matches!(error, Error::Refused { status: StatusCode::TOO_MANY_REQUESTS, .. })
}

fn say_once(was_said: &AtomicBool, text: &str) {
    if !was_said.swap(true, Ordering::Relaxed) {
        to_stderr(&format!("riacho: {text}"));
    }
}
