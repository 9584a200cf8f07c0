//! Short, plain paths to the directories of sockets.
//!
//! A socket address holds about a hundred bytes and a URL takes few characters as they are, but a data directory
//! may be anywhere. Where its own path does not do, a symbolic link in the system's temporary directory does.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::{Error, Result};

/// The longest directory that leaves room for "/.s.PGSQL.65535" and the final zero in 108 bytes.
const LIMIT: usize = 90;

/// A path by which clients reach a directory; it goes away with this value.
#[derive(Debug)]
pub(crate) struct Address {
    path: PathBuf,
    is_link: bool,
}

impl Address {
    /// The directory's own path if that will do, else a link to it. `dir` has to be absolute and exist.
    pub(crate) fn of(dir: &Path) -> Result<Address> {
        if dir.as_os_str().len() <= LIMIT && dir.to_str().is_some_and(is_plain) {
            return Ok(Address { path: dir.to_owned(), is_link: false });
        }
        let base = PathBuf::from(format!("/tmp/riacho-{}", geteuid()));
        make_private(&base)?;
        let mut hasher = DefaultHasher::new();
        dir.hash(&mut hasher);
        let path = base.join(format!("{:016x}", hasher.finish()));
        let _ = fs::remove_file(&path);
        symlink(dir, &path).map_err(Error::io("link", &path))?;
        Ok(Address { path, is_link: true })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if self.is_link {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
}

/// Makes a directory that nobody else can write; anybody may have made one of that name before us.
fn make_private(base: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(base) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make", base)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(base).map_err(Error::io("read", base))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Error::Foreign { path: base.to_owned(), owner: found.uid() });
    }
    Ok(())
}
