//! What is done about one file: its hash, and if that is new an upload, however long the server is away.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::StatusCode;
use riacho_domain::DocumentId;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    scan::{Found, Stat},
    state::Known,
};
use crate::{
    client::{Accepted, Client, Content, Error, Target, Upload},
    output::to_stderr,
};

/// Files up to this size are read once, and sent from memory.
const IN_MEMORY: u64 = 1 << 20;
/// The pause while a server is away; it doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

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
    pub(super) away: Arc<AtomicBool>,
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
    /// It changed while it was read.
    Moving,
    /// The process is to end.
    Stopped,
}

impl Jobs {
    /// Uploads a file if its bytes are not those that are known. `replace` is the document that gets a new version.
    pub(super) async fn bring(
        &self,
        found: &Found,
        known: Option<Known>,
        replace: Option<DocumentId>,
    ) -> Result<Done, Error> {
        let path = found.path.clone();
        let large = found.stat.size > IN_MEMORY;
        let read = tokio::task::spawn_blocking(move || read(&path, large)).await;
        let (sha256, content) = match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(read) => read,
            Err(error) => return Ok(Done::Refused(error.into())),
        };
        if Stat::of(&found.path).ok() != Some(found.stat) {
            return Ok(Done::Moving);
        }
        let noted = |document, sha256| Known {
            size: found.stat.size,
            modified: found.stat.modified,
            sha256,
            document,
        };
        if let Some(known) = known.filter(|known| known.sha256 == sha256) {
            return Ok(Done::Same(noted(known.document, sha256)));
        }
        let filename = found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let external_id = self.by_path.then(|| found.named.clone());
        let content = content.map_or_else(|| Content::File(found.path.clone()), Content::Bytes);
        let upload = Upload { filename, content, external_id };
        let answer = match self.send(&upload, replace).await? {
            Some(answer) => answer,
            None => return Ok(Done::Stopped),
        };
        Ok(match answer {
            Ok(accepted) => {
                // A large file was read twice; if it changed in between, nobody knows what was sent.
                let is_same = !large || Stat::of(&found.path).ok() == Some(found.stat);
                Done::Uploaded(noted(accepted.id, if is_same { sha256 } else { String::new() }), accepted)
            }
            Err(error) => Done::Refused(error),
        })
    }

    /// Uploads, again and again while the server is away. The inner error is a refusal; none where the process is to end.
    async fn send(
        &self,
        upload: &Upload,
        mut replace: Option<DocumentId>,
    ) -> Result<Option<Result<Accepted, Error>>, Error> {
        loop {
            let request = || async {
                match replace {
                    Some(document) => self.client.replace(document, upload, &self.target).await,
                    None => self.client.upload(upload, &self.target).await,
                }
            };
            match self.patiently(request).await? {
                // Somebody deleted the document: the file becomes one again.
                Some(Err(Error::Refused { status: StatusCode::NOT_FOUND, .. })) if replace.is_some() => {
                    replace = None;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Deletes a document; false where the process is to end.
    pub(super) async fn delete(&self, document: DocumentId) -> Result<Option<Result<(), Error>>, Error> {
        self.patiently(|| self.client.delete(document)).await
    }

    /// Asks again while the server is away, and says so once.
    ///
    /// # Errors
    /// When it was away for longer than the patience.
    pub(super) async fn patiently<T, F>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<Option<Result<T, Error>>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (mut pause, mut since) = (PAUSE.0, None::<Instant>);
        loop {
            let Some(answer) = self.cut.run_until_cancelled(request()).await else { return Ok(None) };
            let error = match answer {
                Err(error) if self.is_away(&error) => error,
                answer => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        to_stderr("riacho: the server answers again");
                    }
                    return Ok(Some(answer));
                }
            };
            let since = *since.get_or_insert_with(Instant::now);
            if self.patience.is_some_and(|patience| since.elapsed() >= patience) {
                return Err(error);
            }
            if !self.away.swap(true, Ordering::Relaxed) {
                to_stderr(&format!("riacho: {error}; trying again"));
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(None);
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether a later attempt may go well. Who has no end to wait for waits for quotas and outages of servers too.
    fn is_away(&self, error: &Error) -> bool {
        match error {
            Error::Unreachable { .. } => true,
            Error::Refused { status, .. } => {
                self.patience.is_none()
                    && (status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS)
            }
            Error::File(_) | Error::Answer(_) => false,
        }
    }
}

/// The SHA-256 of a file in hexadecimal, and its bytes unless it is large.
fn read(path: &Path, large: bool) -> io::Result<(String, Option<Bytes>)> {
    if !large {
        let bytes = std::fs::read(path)?;
        return Ok((hex::encode(Sha256::digest(&bytes)), Some(bytes.into())));
    }
    let (mut file, mut hash) = (std::fs::File::open(path)?, Sha256::new());
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((hex::encode(hash.finalize()), None)),
            read => hash.update(&piece[..read]),
        }
    }
}
