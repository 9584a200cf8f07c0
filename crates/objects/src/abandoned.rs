//! What uploads leave in a local store when their process is killed.
//!
//! The store writes `<name>#<number>` beside the object and renames it at the end. On S3 the same
//! is left to a lifecycle rule of the bucket (abort incomplete multipart uploads).

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{Error, Objects, connect::Kind, metrics::measured};

impl Objects {
    /// Deletes the parts of uploads that nobody has written to for so long, and tells how many there were.
    ///
    /// # Errors
    /// Some may still be there; the call can be repeated.
    pub async fn remove_abandoned(&self, older_than: Duration) -> Result<u64, Error> {
        self.sweep("remove_abandoned", older_than, true).await
    }

    /// How many [`Objects::remove_abandoned`] would delete.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn count_abandoned(&self, older_than: Duration) -> Result<u64, Error> {
        self.sweep("count_abandoned", older_than, false).await
    }

    async fn sweep(
        &self,
        operation: &'static str,
        older_than: Duration,
        removes: bool,
    ) -> Result<u64, Error> {
        measured(operation, async {
            let Kind::Local { directory, .. } = &*self.kind else { return Ok(0) };
            let Some(before) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
            let directory = directory.join("t");
            let sweep = tokio::task::spawn_blocking(move || sweep(&directory, before, removes));
            let ended = |error| Error::Unavailable { reason: format!("the sweep ended: {error}") };
            sweep.await.map_err(ended)?.map_err(|error| Error::from_io(&error))
        })
        .await
    }
}

fn sweep(directory: &Path, before: SystemTime, removes: bool) -> io::Result<u64> {
    let mut found = 0;
    for entry in absent_is(fs::read_dir(directory).map(Some), None)?.into_iter().flatten() {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            found += sweep(&path, before, removes)?;
        } else if is_part(&path) && absent_is(modified_before(&path, before), false)? {
            if removes {
                absent_is(fs::remove_file(&path), ())?;
            }
            found += 1;
        }
    }
    Ok(found)
}

/// What others delete meanwhile is no error.
fn absent_is<T>(result: io::Result<T>, absent: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(absent),
        other => other,
    }
}

fn modified_before(path: &Path, before: SystemTime) -> io::Result<bool> {
    Ok(fs::metadata(path)?.modified()? < before)
}

/// No key has a `#`, so no object can be taken for a part.
fn is_part(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('#')
        .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}
