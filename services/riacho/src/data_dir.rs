//! The data directory of `riacho up`, and what other commands find in it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Where the data of `riacho up` are when nothing else is said.
const DEFAULT: &str = ".riacho/data";

/// A data directory. Everything in it is readable by its owner alone.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// What a running `riacho up` tells other commands. Only what `up` chose itself: addresses that were
/// configured are configured for the other commands too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Process id of `up`.
    pub(crate) pid: u32,
    /// Address of the HTTP interface, with its scheme.
    pub(crate) url: String,
    /// Keys of the configuration, to be used where nothing else sets them.
    pub(crate) settings: Vec<(String, String)>,
}

impl DataDir {
    /// The directory that was named, else the one of the current directory.
    pub(crate) fn new(named: Option<&Path>) -> DataDir {
        DataDir(named.map_or_else(|| PathBuf::from(DEFAULT), Path::to_path_buf))
    }

    /// Makes it, with an absolute path.
    pub(crate) fn create(&self) -> anyhow::Result<DataDir> {
        let make = || -> io::Result<PathBuf> {
            fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.0)?;
            self.0.canonicalize()
        };
        let path = make().with_context(|| format!("cannot make the data directory {}", self.0.display()))?;
        Ok(DataDir(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The development key's file.
    pub(crate) fn api_key(&self) -> PathBuf {
        self.0.join("api-key")
    }

    /// The secret that signs uploads to the local object store.
    pub(crate) fn signing_secret(&self) -> PathBuf {
        self.0.join("signing-secret")
    }

    /// Originals, texts and claim checks.
    pub(crate) fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    fn running_file(&self) -> PathBuf {
        self.0.join("running.json")
    }

    /// What the `up` that runs, or ran last, has written; none where there was none.
    pub(crate) fn running(&self) -> Option<Running> {
        serde_json::from_str(&fs::read_to_string(self.running_file()).ok()?).ok()
    }

    pub(crate) fn write_running(&self, running: &Running) -> anyhow::Result<()> {
        write_private(&self.running_file(), &serde_json::to_string_pretty(running)?)
    }

    /// Says that nothing runs any more.
    pub(crate) fn clear_running(&self) {
        let _ = fs::remove_file(self.running_file());
    }

    /// A file of the directory without the line end; none where it is absent or empty.
    pub(crate) fn read(path: &Path) -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// Writes a file that its owner alone may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let write = || -> io::Result<()> {
        // What a crash has left may have other permissions; a new file has ours.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", text.trim_end())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_readable_by_their_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::new(Some(&parent.path().join("a/b"))).create().unwrap();
        fs::write(dir.api_key(), "old").unwrap();
        write_private(&dir.api_key(), "secret").unwrap();
        assert_eq!(fs::metadata(dir.api_key()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(DataDir::read(&dir.api_key()).as_deref(), Some("secret"));
    }

    #[test]
    fn other_commands_find_what_up_has_written() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::new(Some(parent.path()));
        assert_eq!(dir.running(), None);
        let running = Running { pid: 7, url: "http://x".into(), settings: vec![("a.b".into(), "c".into())] };
        dir.write_running(&running).unwrap();
        assert_eq!(dir.running(), Some(running));
        dir.clear_running();
        assert_eq!(dir.running(), None);
    }
}
