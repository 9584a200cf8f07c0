//! What an ingest has uploaded already, in a file that outlives it.
//!
//! A line of JSON for each file, the newest last, so that an upload costs a line and a killed process loses none that
//! it had written. At the start the file is written anew, whole or not at all.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use riacho_domain::DocumentId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::scan::{Scope, Stat};
use crate::data_dir::write_private;

/// The form of the file.
const VERSION: u32 = 1;

/// What is known of a file that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) modified: i64,
    /// The SHA-256 of what was uploaded; empty where that is not certain.
    pub(crate) sha256: String,
    pub(crate) document: DocumentId,
}

impl Known {
    pub(crate) fn stat(&self) -> Stat {
        Stat { size: self.size, modified: self.modified }
    }
}

/// The first line: whose documents these are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    riacho_ingest_state: u32,
    /// A collection's id is that of one server, tenant and collection.
    collection: Uuid,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    path: String,
    /// None where the file was forgotten.
    known: Option<Known>,
}

/// The files that a document is of.
#[derive(Debug, Default)]
struct Files {
    count: usize,
    /// The SHA-256 that was noted last.
    sha256: String,
}

/// The state of an ingest.
#[derive(Debug)]
pub(crate) struct State {
    file: File,
    known: HashMap<String, Known>,
    /// Files with the same bytes are one document.
    documents: HashMap<DocumentId, Files>,
    _lock: File,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "the state file {path} is damaged ({what}). Remove it, or name another one with --state: files are then sent again, and known ones are answered as duplicates"
    )]
    Damaged { path: String, what: String },
    #[error("another ingest uses the state file {0}; wait for it, or name another one with --state")]
    InUse(String),
    #[error("cannot use the state file {path}: {reason}")]
    File { path: String, reason: String },
}

/// A state, and whether one was found that is of something else.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) was_of_another: bool,
}

impl State {
    /// Opens the state of an ingest into a collection. One that is of another server, tenant or collection is not used, and a
    /// new one takes its place.
    pub(crate) fn open(path: &Path, collection: Uuid) -> Result<Opened, Error> {
        let shown = path.display().to_string();
        let failed = |reason: String| Error::File { path: shown.clone(), reason };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed(error.to_string()))?;
        }
        let lock = lock(path).map_err(|error| match error {
            None => Error::InUse(shown.clone()),
            Some(error) => failed(error.to_string()),
        })?;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::Damaged { path: shown, what: "it is no text".to_owned() });
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let header = Header { riacho_ingest_state: VERSION, collection };
        let (known, was_of_another) = match parse(&text, &header) {
            Ok(Some(known)) => (known, false),
            Ok(None) => (HashMap::new(), true),
            Err(what) => return Err(Error::Damaged { path: shown, what }),
        };
        rewrite(path, &header, &known).map_err(|error| failed(format!("{error:#}")))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| failed(error.to_string()))?;
        let mut state = State { file, known: HashMap::new(), documents: HashMap::new(), _lock: lock };
        known.into_iter().for_each(|(path, known)| state.learn(path, known));
        Ok(Opened { state, was_of_another })
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Known> {
        self.known.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter()
    }

    /// Whether a document is of other files too.
    pub(crate) fn is_shared(&self, document: DocumentId) -> bool {
        self.documents.get(&document).is_some_and(|files| files.count > 1)
    }

    /// Whether a document is known by other bytes.
    pub(crate) fn has_other_bytes(&self, document: DocumentId, sha256: &str) -> bool {
        self.documents.get(&document).is_some_and(|files| files.sha256 != sha256)
    }

    /// Notes what was uploaded. It outlives this process when this returns.
    pub(crate) fn put(&mut self, path: &str, known: Known) -> io::Result<()> {
        self.write(path, Some(&known))?;
        self.forget(path);
        self.learn(path.to_owned(), known);
        Ok(())
    }

    fn learn(&mut self, path: String, known: Known) {
        let files = self.documents.entry(known.document).or_default();
        files.count += 1;
        files.sha256.clone_from(&known.sha256);
        self.known.insert(path, known);
    }

    /// Notes that a file is of no document any more.
    pub(crate) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.write(path, None)?;
        self.forget(path);
        Ok(())
    }

    fn forget(&mut self, path: &str) {
        let Some(before) = self.known.remove(path) else { return };
        if let Some(files) = self.documents.get_mut(&before.document) {
            files.count -= 1;
            if files.count == 0 {
                self.documents.remove(&before.document);
            }
        }
    }

    /// Writes a line, in one call.
    fn write(&mut self, path: &str, known: Option<&Known>) -> io::Result<()> {
        let mut text = serde_json::to_vec(&Line { path: path.to_owned(), known: known.cloned() })?;
        text.push(b'\n');
        self.file.write_all(&text)
    }

    /// Sees to it that what was noted outlives the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Holds a file beside the state; none where another process does.
fn lock(path: &Path) -> Result<File, Option<io::Error>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let opened =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(PathBuf::from(name));
    let file = opened.map_err(Some)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(None),
        Err(fs::TryLockError::Error(error)) => Err(Some(error)),
    }
}

/// What a state file says; none where it is of something else, and an error where a line cannot be read. A last line
/// without its end was cut off by a kill, and is left out.
fn parse(text: &str, wanted: &Header) -> Result<Option<HashMap<String, Known>>, String> {
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut lines = whole.lines().enumerate();
    let Some((_, first)) = lines.next() else {
        return if text.is_empty() {
            Ok(Some(HashMap::new()))
        } else {
            Err("line 1: it has no end".to_owned())
        };
    };
    let at = |line: usize, error: serde_json::Error| format!("line {}: {error}", line + 1);
    let header: Header = serde_json::from_str(first).map_err(|error| at(0, error))?;
    if header.riacho_ingest_state != VERSION {
        return Err(format!(
            "it is of version {}, and this program knows {VERSION}",
            header.riacho_ingest_state
        ));
    }
    let mut found = HashMap::new();
    for (number, line) in lines {
        let line: Line = serde_json::from_str(line).map_err(|error| at(number, error))?;
        match line.known {
            Some(known) => found.insert(line.path, known),
            None => found.remove(&line.path),
        };
    }
    Ok((header == *wanted).then_some(found))
}

fn rewrite(path: &Path, header: &Header, known: &HashMap<String, Known>) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(header)?;
    for (path, known) in known {
        let line = Line { path: path.clone(), known: Some(known.clone()) };
        text.push('\n');
        text.push_str(&serde_json::to_string(&line)?);
    }
    write_private(path, &text)
}

/// Where the state of an ingest is that names none: by collection and by what is ingested, in the user's folder for
/// state (XDG Base Directory Specification).
pub(crate) fn default_path(collection: Uuid, scope: &Scope, by_path: bool) -> Result<PathBuf, String> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder =
        absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let folder = folder
        .ok_or("neither XDG_STATE_HOME nor HOME names a folder for the state; name a file with --state")?;
    let mut hash = Sha256::new();
    let mut roots: Vec<_> = scope.roots().map(|root| root.to_string_lossy().into_owned()).collect();
    roots.sort();
    hash.update(format!("{collection} {by_path} {roots:?}"));
    Ok(folder.join("riacho/ingest").join(format!("{}.ndjson", &hex::encode(hash.finalize())[..32])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn known(size: u64) -> Known {
        Known {
            size,
            modified: 7,
            sha256: "ab".into(),
            document: DocumentId(Uuid::from_u128(u128::from(size))),
        }
    }

    #[test]
    fn what_was_noted_is_there_again_also_after_a_kill_amid_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let (path, collection) = (folder.path().join("sub/state"), Uuid::from_u128(1));
        let mut state = State::open(&path, collection).unwrap().state;
        state.put("/a", known(1)).unwrap();
        state.put("/b", known(2)).unwrap();
        state.put("/a", known(3)).unwrap();
        state.put("/c", known(3)).unwrap();
        state.remove("/b").unwrap();
        assert!(state.is_shared(known(3).document) && !state.is_shared(known(1).document));
        assert!(
            state.has_other_bytes(known(3).document, "cd") && !state.has_other_bytes(known(3).document, "ab")
        );
        assert!(!state.has_other_bytes(known(1).document, "cd"), "nothing is of it any more");
        assert!(matches!(State::open(&path, collection), Err(Error::InUse(_))), "one at a time");
        drop(state);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"path\": \"/d\", \"kno");
        fs::write(&path, text).unwrap();
        for _ in 0..2 {
            let opened = State::open(&path, collection).unwrap();
            assert!(!opened.was_of_another);
            let (a, c) = (opened.state.get("/a"), opened.state.get("/c"));
            assert_eq!((a, c, opened.state.iter().count()), (Some(&known(3)), Some(&known(3)), 2));
        }
    }

    #[test]
    fn a_state_of_another_collection_is_not_used_and_a_damaged_one_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        State::open(&path, Uuid::from_u128(1)).unwrap().state.put("/a", known(1)).unwrap();
        let opened = State::open(&path, Uuid::from_u128(2)).unwrap();
        assert!(opened.was_of_another && opened.state.iter().next().is_none());
        drop(opened);
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            "nonsense".to_owned(),
            format!("{good}nonsense\n"),
            good.replace("state\":1", "state\":99"),
            format!("{good}{{\"path\": \"/a\", \"known\": {{}}}}\n"),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = State::open(&path, Uuid::from_u128(2)).unwrap_err().to_string();
            assert!(
                error.contains("damaged") && error.contains("Remove it") && error.contains("--state"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), bad, "it is not touched");
        }
    }
}
