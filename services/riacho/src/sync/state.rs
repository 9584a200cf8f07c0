//! What an ingest has uploaded already, in a file that outlives it.
//!
//! A line of JSON before each upload and one after it, the newest last, so that a killed process loses none. The first
//! has the upload's key: sent again with it, an upload whose answer was lost is answered as the first time. At the start
//! the file is written anew, whole or not at all.

use std::{
    collections::{BTreeMap, HashMap},
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
    /// The same; 0 where it is not certain that the file did not change just afterwards.
    #[serde(default)]
    pub(crate) changed: i64,
    /// The SHA-256 of what was uploaded; empty where that is not certain.
    pub(crate) sha256: String,
    pub(crate) document: DocumentId,
    /// The version that was accepted; 0 where it is not known.
    #[serde(default)]
    pub(crate) version: u32,
    /// The document was there before, made by somebody else: it is neither changed nor deleted. So it is taken to be where
    /// it is not known.
    #[serde(default = "yes")]
    pub(crate) was_there: bool,
}

const fn yes() -> bool {
    true
}

impl Known {
    pub(crate) fn stat(&self) -> Stat {
        Stat { size: self.size, modified: self.modified, changed: self.changed }
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
    /// None where the file was forgotten, or is sent for the first time.
    known: Option<Known>,
    /// The key of an upload that begins; what is known stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sending: Option<Uuid>,
}

/// What the lines say of a path.
type Paths = BTreeMap<String, (Option<Known>, Option<Uuid>)>;

/// The files that a document is of.
#[derive(Debug, Default)]
struct Files {
    count: usize,
    /// The SHA-256 that was noted last.
    sha256: String,
    /// It was made by this ingest.
    is_ours: bool,
    /// Files that were noted before it was known that it was.
    doubtful: usize,
}

/// The state of an ingest.
#[derive(Debug)]
pub(crate) struct State {
    /// None where nothing is kept.
    file: Option<Lines>,
    known: BTreeMap<String, Known>,
    sending: HashMap<String, Uuid>,
    /// Files with the same bytes are one document.
    documents: HashMap<DocumentId, Files>,
}

/// The file, locked, and how much of it is whole.
#[derive(Debug)]
struct Lines {
    file: File,
    whole: u64,
    is_broken: bool,
    _lock: File,
}

impl Lines {
    /// Writes a line, in one call. Behind one that could not be written to its end nothing is written: it would not be read.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.is_broken {
            return Err(io::Error::other("an earlier line could not be written"));
        }
        let written = self.file.write_all(&text);
        match &written {
            Ok(()) => self.whole += text.len() as u64,
            Err(_) => self.is_broken = self.file.set_len(self.whole).is_err(),
        }
        written
    }
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

/// A state, and where one was put that is of something else.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) of_another: Option<PathBuf>,
}

impl State {
    /// A state that is kept nowhere.
    pub(crate) fn in_memory() -> State {
        State { file: None, known: BTreeMap::new(), sending: HashMap::new(), documents: HashMap::new() }
    }

    /// The files of a state, which are no files to ingest.
    pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (Ok(folder), Some(name)) = (folder.canonicalize(), path.file_name()) else { return Vec::new() };
        let path = folder.join(name);
        ["", ".lock", ".new", ".old"].iter().map(|ending| with_ending(&path, ending)).collect()
    }

    /// Opens the state of an ingest into a collection. One that is of another server, tenant or collection is not used: it
    /// is renamed, and a new one takes its place.
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
        let (paths, of_another) = match parse(&text, &header) {
            Ok(Some(paths)) => (paths, None),
            Ok(None) => {
                let old = with_ending(path, ".old");
                fs::rename(path, &old).map_err(|error| failed(error.to_string()))?;
                (Paths::new(), Some(old))
            }
            Err(what) => return Err(Error::Damaged { path: shown, what }),
        };
        rewrite(path, &header, &paths).map_err(|error| failed(format!("{error:#}")))?;
        let opened = OpenOptions::new().append(true).open(path);
        let file = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (whole, file) = file.map_err(|error| failed(error.to_string()))?;
        let mut state = State::in_memory();
        for (path, (known, sending)) in paths {
            state.sending.extend(sending.map(|key| (path.clone(), key)));
            known.into_iter().for_each(|known| state.learn(path.clone(), known));
        }
        state.file = Some(Lines { file, whole, is_broken: false, _lock: lock });
        Ok(Opened { state, of_another })
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Known> {
        self.known.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter()
    }

    /// How many files are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The files that are known below a path, or at it.
    pub(crate) fn below<'s>(&'s self, path: &'s str) -> impl Iterator<Item = &'s String> {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let inside = self.known.range(folder.clone()..).map(|(key, _)| key);
        let inside = inside.take_while(move |key| key.starts_with(&folder));
        self.known.get_key_value(path).map(|(key, _)| key).into_iter().chain(inside)
    }

    /// Whether the answer to the last upload of a path was lost.
    pub(crate) fn is_sending(&self, path: &str) -> bool {
        self.sending.contains_key(path)
    }

    /// The key of the upload of a path that begins: that of the one whose answer was lost, or a new one.
    pub(crate) fn begin(&mut self, path: &str) -> io::Result<Uuid> {
        if let Some(key) = self.sending.get(path) {
            return Ok(*key);
        }
        let key = Uuid::new_v4();
        self.write(path, self.known.get(path).cloned(), Some(key))?;
        self.sending.insert(path.to_owned(), key);
        Ok(key)
    }

    /// An upload of a path came to nothing: what is known stays.
    pub(crate) fn end(&mut self, path: &str) -> io::Result<()> {
        match self.sending.remove(path) {
            Some(_) => self.write(path, self.known.get(path).cloned(), None),
            None => Ok(()),
        }
    }

    /// What was sent last of a path is not certain.
    pub(crate) fn doubt(&mut self, path: &str) {
        if let Some(known) = self.known.get_mut(path) {
            known.sha256.clear();
        }
    }

    /// The next upload of a path is another one: the answer to the last is known, and no good any more.
    pub(crate) fn begin_anew(&mut self, path: &str) {
        self.sending.remove(path);
    }

    /// Whether this ingest made a document.
    pub(crate) fn is_ours(&self, document: DocumentId) -> bool {
        self.documents.get(&document).is_some_and(|files| files.is_ours)
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
        self.write(path, Some(known.clone()), None)?;
        let document = known.document;
        self.forget(path);
        self.learn(path.to_owned(), known);
        self.settle_doubts(document)
    }

    /// A document that this ingest made is its own for each of its files, in whatever order their uploads were answered.
    fn settle_doubts(&mut self, document: DocumentId) -> io::Result<()> {
        let Some(files) = self.documents.get_mut(&document) else { return Ok(()) };
        if !files.is_ours || std::mem::take(&mut files.doubtful) == 0 {
            return Ok(());
        }
        let is_doubtful = |known: &Known| known.document == document && known.was_there;
        let paths: Vec<String> =
            self.known.iter().filter(|(_, known)| is_doubtful(known)).map(|(path, _)| path.clone()).collect();
        for path in paths {
            let Some(known) = self.known.get_mut(&path) else { continue };
            known.was_there = false;
            let known = known.clone();
            self.write(&path, Some(known), None)?;
        }
        Ok(())
    }

    fn learn(&mut self, path: String, known: Known) {
        let files = self.documents.entry(known.document).or_default();
        files.count += 1;
        files.sha256.clone_from(&known.sha256);
        files.is_ours |= !known.was_there;
        files.doubtful += usize::from(known.was_there);
        self.known.insert(path, known);
    }

    /// Notes that a file is of no document any more.
    pub(crate) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.write(path, None, None)?;
        self.forget(path);
        Ok(())
    }

    fn forget(&mut self, path: &str) {
        self.sending.remove(path);
        let Some(before) = self.known.remove(path) else { return };
        if let Some(files) = self.documents.get_mut(&before.document) {
            files.count -= 1;
            files.doubtful = files.doubtful.saturating_sub(usize::from(before.was_there));
            if files.count == 0 {
                self.documents.remove(&before.document);
            }
        }
    }

    fn write(&mut self, path: &str, known: Option<Known>, sending: Option<Uuid>) -> io::Result<()> {
        let line = Line { path: path.to_owned(), known, sending };
        self.file.as_mut().map_or(Ok(()), |file| file.write(&line))
    }

    /// Sees to it that what was noted outlives the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.file.sync_all())
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Holds a file beside the state; none where another process does.
fn lock(path: &Path) -> Result<File, Option<io::Error>> {
    let name = with_ending(path, ".lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(name);
    let file = opened.map_err(Some)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(None),
        Err(fs::TryLockError::Error(error)) => Err(Some(error)),
    }
}

/// What a state file says; none where it is of something else, and an error where a line cannot be read. A last line
/// without its end was cut off by a kill, and is left out.
fn parse(text: &str, wanted: &Header) -> Result<Option<Paths>, String> {
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut lines = whole.lines().enumerate();
    let Some((_, first)) = lines.next() else {
        return if text.is_empty() {
            Ok(Some(Paths::new()))
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
    let mut found = Paths::new();
    for (number, line) in lines {
        let line: Line = serde_json::from_str(line).map_err(|error| at(number, error))?;
        match (&line.known, line.sending) {
            (None, None) => drop(found.remove(&line.path)),
            _ => drop(found.insert(line.path, (line.known, line.sending))),
        }
    }
    Ok((header == *wanted).then_some(found))
}

fn rewrite(path: &Path, header: &Header, paths: &Paths) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(header)?;
    for (path, (known, sending)) in paths {
        let line = Line { path: path.clone(), known: known.clone(), sending: *sending };
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
mod tests;
