//! The bytes of a file that was found: that file and no other, as it was when it was found.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::scan::{Found, Stat};
use crate::client::Content;

/// Files up to this size are read once, and sent from memory.
const IN_MEMORY: u64 = 1 << 20;
/// A file that changed so shortly before it was read may change again without its times telling: their clocks have ticks,
/// of two seconds on some file systems.
const TICK: Duration = Duration::from_secs(2);

/// A file that was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) sha256: String,
    pub(super) content: Content,
    /// Its times may not tell that it changes again.
    pub(super) is_fresh: bool,
    file: Arc<File>,
    stat: Stat,
}

impl Reading {
    /// Reads a file to its end; none where it is no longer as it was found.
    /// Gives up when `cut` is cancelled.
    pub(super) fn of(found: &Found, cut: &CancellationToken) -> io::Result<Option<Reading>> {
        let path = found.target.as_ref().unwrap_or(&found.path);
        // A link that took the file's place is not followed, and a pipe not waited for.
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
        let is_as_found = |metadata: &Metadata| metadata.is_file() && Stat::from(metadata) == found.stat;
        if !is_as_found(&file.metadata()?) {
            return Ok(None);
        }
        let is_fresh = !found.stat.is_older(TICK);
        let (sha256, content, file) = read(file, found.stat.size, cut)?;
        let reading = Reading { sha256, content, is_fresh, file, stat: found.stat };
        Ok((!reading.has_changed()).then_some(reading))
    }

    /// Whether the file changed since it was found.
    pub(super) fn has_changed(&self) -> bool {
        !self.file.metadata().is_ok_and(|metadata| Stat::from(&metadata) == self.stat)
    }
}

/// The SHA-256 of a file in hexadecimal, and its bytes unless it is large.
fn read(mut file: File, size: u64, cut: &CancellationToken) -> io::Result<(String, Content, Arc<File>)> {
    if size <= IN_MEMORY {
        let mut bytes = Vec::new();
        // One that grows meanwhile shows by its size.
        (&mut file).take(IN_MEMORY + 1).read_to_end(&mut bytes)?;
        return Ok((hex::encode(Sha256::digest(&bytes)), Content::Bytes(bytes.into()), Arc::new(file)));
    }
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        if cut.is_cancelled() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    let file = Arc::new(file);
    Ok((hex::encode(hash.finalize()), Content::File(Arc::clone(&file), size), file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::sync::scan::{Looked, Scope};

    fn found(folder: &Path, name: &str) -> Found {
        let scope = Scope::new(&[folder.to_owned()], &[], &[]).unwrap();
        match scope.look(&folder.canonicalize().unwrap().join(name)) {
            Looked::File(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_took_the_place_of_a_file_is_not_read() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, secret) = (folder.path().join("a.txt"), other.path().join("secret"));
        fs::write(&path, "text").unwrap();
        fs::write(&secret, "data").unwrap();
        let before = found(folder.path(), "a.txt");
        let reading = Reading::of(&before, &CancellationToken::new()).unwrap().unwrap();
        assert!(reading.is_fresh && !reading.has_changed());
        fs::remove_file(&path).unwrap();
        symlink(&secret, &path).unwrap();
        assert!(Reading::of(&before, &CancellationToken::new()).is_err(), "a link is not followed");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(
            Reading::of(&before, &CancellationToken::new()).unwrap().is_none(),
            "a pipe is not waited for"
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(
            Reading::of(&before, &CancellationToken::new()).unwrap().is_none(),
            "the same size is not the same file"
        );
    }

    #[test]
    fn a_file_that_changes_after_it_was_read_is_known_to_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(&path, vec![1; 3 << 20]).unwrap();
        let reading =
            Reading::of(&found(folder.path(), "a.bin"), &CancellationToken::new()).unwrap().unwrap();
        assert!(matches!(reading.content, Content::File(_, size) if size == 3 << 20));
        fs::write(&path, vec![1; 2 << 20]).unwrap();
        assert!(reading.has_changed());
    }
}
