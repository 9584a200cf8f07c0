//! Which files of the named files and folders are meant.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_util::sync::CancellationToken;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Size and times of a file: while they stay, so does its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    /// When its content changed, in nanoseconds since 1970. Whoever writes it can set that.
    pub(crate) modified: i64,
    /// When anything of it changed, its name too. Nobody can set that.
    pub(crate) changed: i64,
}

impl Stat {
    /// Of a file as it is now; links are followed.
    pub(crate) fn of(path: &Path) -> io::Result<Stat> {
        Ok(Stat::from(&fs::metadata(path)?))
    }

    /// Whether the file last changed longer ago than this.
    pub(crate) fn is_older(self, age: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(self.modified.max(self.changed)).unwrap_or(0);
        now.checked_sub(Duration::from_nanos(changed)).is_some_and(|since| since > age)
    }

    pub(crate) fn from(metadata: &fs::Metadata) -> Stat {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Stat {
            size: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// Where its bytes are, if it is a link.
    pub(crate) target: Option<PathBuf>,
    /// Its path as it is shown: below the folder that was named.
    pub(crate) shown: String,
    /// Its path as it was named, for `--by-path`; none where it is not UTF-8, so that two files could have the same one.
    pub(crate) named: Option<String>,
    pub(crate) stat: Stat,
}

impl Found {
    /// What the state knows it by.
    pub(crate) fn key(&self) -> String {
        key_of(&self.path)
    }
}

/// Whether there is no file at a path any more: nothing, or a folder. What cannot be looked at is not gone.
pub(crate) fn is_gone(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => is_absent(&error),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A path as text, from which it can be told again: bytes that are not UTF-8 stand as a zero and two digits, and no path
/// has a zero.
pub(crate) fn key_of(path: &Path) -> String {
    let mut key = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        key.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| key.push_str(&format!("\0{byte:02x}")));
    }
    key
}

/// The path of a key.
pub(crate) fn path_of(key: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::with_capacity(key.len()), key);
    while let Some(at) = rest.find('\0') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest.get(at + 1..at + 3).unwrap_or_default();
        bytes.extend(u8::from_str_radix(digits, 16));
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    OsString::from_vec(bytes).into()
}

/// A file or folder that was named.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    named: PathBuf,
    is_file: bool,
}

/// What is meant: the roots, and which files below them.
#[derive(Debug)]
pub(crate) struct Scope {
    roots: Vec<Root>,
    /// Files of the ingest itself, which are never meant.
    own: Vec<PathBuf>,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

/// A folder or a file that cannot be looked at, and why.
pub(crate) type Unreadable = (PathBuf, io::Error);

/// What a path turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    File(Found),
    /// Files below it, all of them.
    Folder(Vec<Found>),
    Absent,
    /// Hidden, excluded, outside, or no file.
    NotMeant,
}

impl Scope {
    /// # Errors
    /// When a path is not there, or a pattern cannot be read; with a text for the user.
    pub(crate) fn new(paths: &[PathBuf], include: &[String], exclude: &[String]) -> Result<Scope, String> {
        let root = |named: &PathBuf| {
            let unreadable = |error: io::Error| format!("cannot read {}: {error}", named.display());
            let path = named.canonicalize().map_err(unreadable)?;
            let is_file = !fs::metadata(&path).map_err(unreadable)?.is_dir();
            // `./docs` and `docs` are the same.
            let named = named.components().filter(|part| *part != Component::CurDir).collect();
            Ok::<_, String>(Root { path, named, is_file })
        };
        let roots = paths.iter().map(root).collect::<Result<_, _>>()?;
        let include = if include.is_empty() { None } else { Some(globs(include)?) };
        Ok(Scope { roots, own: Vec::new(), include, exclude: globs(exclude)? })
    }

    /// Leaves files of the ingest itself out.
    pub(crate) fn leave_out(&mut self, own: Vec<PathBuf>) {
        self.own = own;
    }

    /// The folders to be watched, with those of files that were named, and whether what lies in them is meant too.
    pub(crate) fn folders(&self) -> Vec<(PathBuf, bool)> {
        let folder = |root: &Root| match root.is_file {
            true => (root.path.parent().unwrap_or(&root.path).to_owned(), false),
            false => (root.path.clone(), true),
        };
        self.roots.iter().map(folder).collect()
    }

    /// The roots, for what distinguishes one ingest from another.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| root.path.as_path())
    }

    /// Whether the root of a path is there, with something in it: when a whole disk is away, nothing of it was removed.
    pub(crate) fn root_is_there(&self, path: &Path) -> bool {
        let root = self.root_of(path);
        root.is_some_and(|root| {
            let folder = if root.is_file { root.path.parent().unwrap_or(&root.path) } else { &root.path };
            fs::read_dir(folder).is_ok_and(|mut entries| root.is_file || entries.next().is_some())
        })
    }

    /// The folders that were named and have none of these files: that is how a disk looks that is not mounted.
    pub(crate) fn empty_roots(&self, found: &[Found]) -> Vec<PathBuf> {
        let folders = self.roots.iter().filter(|root| !root.is_file).map(|root| &root.path);
        folders.filter(|root| !found.iter().any(|file| file.path.starts_with(root))).cloned().collect()
    }

    /// All files, in the order of their names, and what could not be read. Links to folders are not followed, since
    /// they may lead in circles, and links to files only where these lie below the same root.
    /// Ends early when `stop` is cancelled.
    pub(crate) fn walk(&self, stop: &CancellationToken) -> (Vec<Found>, Vec<Unreadable>) {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for root in &self.roots {
            if root.is_file {
                match Stat::of(&root.path) {
                    Ok(stat) => found.push(root.found(root.path.clone(), None, stat)),
                    Err(error) => errors.push((root.path.clone(), error)),
                }
            } else {
                self.folder(root, &root.path, stop, &mut found, &mut errors);
            }
        }
        (found, errors)
    }

    fn folder(
        &self,
        root: &Root,
        folder: &Path,
        stop: &CancellationToken,
        found: &mut Vec<Found>,
        errors: &mut Vec<Unreadable>,
    ) {
        let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return errors.push((folder.to_owned(), error)),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if stop.is_cancelled() {
                return;
            }
            match self.one(root, &entry.path()) {
                Looked::File(file) => found.push(file),
                Looked::Folder(_) => self.folder(root, &entry.path(), stop, found, errors),
                Looked::Absent | Looked::NotMeant => {}
            }
        }
    }

    /// The root that a path is below, of several the innermost: what is named itself is meant.
    fn root_of(&self, path: &Path) -> Option<&Root> {
        let above = self.roots.iter().filter(|root| path.starts_with(&root.path));
        above.max_by_key(|root| root.path.components().count())
    }

    /// What is at a path of which somebody said that it changed.
    pub(crate) fn look(&self, path: &Path) -> Looked {
        let Some(root) = self.root_of(path) else { return Looked::NotMeant };
        let below = path.strip_prefix(&root.path).unwrap_or(path);
        let mut folder = root.path.clone();
        for part in below.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if self.is_left_out(root, &folder) || folder.is_symlink() {
                return Looked::NotMeant;
            }
        }
        match self.one(root, path) {
            Looked::Folder(_) => {
                let mut found = Vec::new();
                self.folder(root, path, &CancellationToken::new(), &mut found, &mut Vec::new());
                Looked::Folder(found)
            }
            looked => looked,
        }
    }

    /// What is at a path whose folder is meant; of a folder nothing below it.
    fn one(&self, root: &Root, path: &Path) -> Looked {
        if root.is_file && root.path != path || self.is_left_out(root, path) {
            return Looked::NotMeant;
        }
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Looked::Absent,
            Err(_) => return Looked::NotMeant,
        };
        if metadata.is_dir() {
            return Looked::Folder(Vec::new());
        }
        let (metadata, target) = if metadata.is_symlink() {
            match path.canonicalize().and_then(|target| Ok((fs::metadata(&target)?, target))) {
                Ok((metadata, target)) if self.is_within(root, &target) => (metadata, Some(target)),
                Err(error) if is_absent(&error) => return Looked::Absent,
                _ => return Looked::NotMeant,
            }
        } else {
            (metadata, None)
        };
        match metadata.is_file() && self.is_included(root, path) {
            true => Looked::File(root.found(path.to_owned(), target, Stat::from(&metadata))),
            false => Looked::NotMeant,
        }
    }

    /// Whether what a link leads to is below the root, and nothing on the way to it is left out.
    fn is_within(&self, root: &Root, target: &Path) -> bool {
        let below = target.ancestors().take_while(|path| *path != root.path);
        target.starts_with(&root.path) && below.into_iter().all(|path| !self.is_left_out(root, path))
    }

    fn is_left_out(&self, root: &Root, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&root.path) else { return true };
        let is_hidden = |part: Component<'_>| part.as_os_str().to_string_lossy().starts_with('.');
        below.components().next_back().is_some_and(is_hidden)
            || self.own.iter().any(|own| own == path)
            || (!below.as_os_str().is_empty() && self.exclude.is_match(below))
    }

    fn is_included(&self, root: &Root, path: &Path) -> bool {
        let below = path.strip_prefix(&root.path).unwrap_or(path);
        root.is_file || self.include.as_ref().is_none_or(|include| include.is_match(below))
    }
}

impl Root {
    fn found(&self, path: PathBuf, target: Option<PathBuf>, stat: Stat) -> Found {
        let (shown, named) = match path.strip_prefix(&self.path) {
            Ok(below) if !self.is_file => (below.to_owned(), self.named.join(below)),
            _ => (path.file_name().unwrap_or_default().into(), self.named.clone()),
        };
        let shown = shown.to_string_lossy().into_owned();
        Found { path, target, shown, named: named.to_str().map(str::to_owned), stat }
    }
}

/// Patterns as a set. One without a slash is for names at any depth, as in `.gitignore`.
fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let whole = if pattern.contains('/') {
            pattern.trim_start_matches('/').to_owned()
        } else {
            format!("**/{pattern}")
        };
        let glob = GlobBuilder::new(&whole).literal_separator(true).build();
        set.add(glob.map_err(|error| format!("`{pattern}` is not a pattern: {}", error.kind()))?);
    }
    set.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        root
    }

    fn shown(scope: &Scope) -> Vec<String> {
        let (found, errors) = scope.walk(&CancellationToken::new());
        assert!(errors.is_empty(), "{errors:?}");
        found.into_iter().map(|file| file.shown).collect()
    }

    fn scope(root: &Path, include: &[&str], exclude: &[&str]) -> Scope {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        Scope::new(&[root.to_owned()], &owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn folders_are_walked_in_order_without_hidden_files_and_links_that_lead_out() {
        let other = folder(&["secret.txt"]);
        let root = folder(&["b.txt", "a/2.md", "a/1.md", ".hidden/x", "a/.git"]);
        symlink(root.path(), root.path().join("a/circle")).unwrap();
        symlink(root.path().join("b.txt"), root.path().join("a/inside.txt")).unwrap();
        symlink(other.path().join("secret.txt"), root.path().join("a/outside.txt")).unwrap();
        symlink("nowhere", root.path().join("dangling")).unwrap();
        symlink(root.path().join(".hidden/x"), root.path().join("a/hidden.txt")).unwrap();
        assert_eq!(shown(&scope(root.path(), &[], &[])), ["a/1.md", "a/2.md", "a/inside.txt", "b.txt"]);
        let named = Scope::new(&[root.path().join("a/.git")], &["*.md".into()], &[]).unwrap();
        assert_eq!(shown(&named), [".git"], "what is named itself is meant");
    }

    #[test]
    fn a_path_can_be_told_from_its_key() {
        let of = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let paths =
            [of(b"/a/b.txt"), of(b"/a\xff.txt"), of(b"/a\xfe.txt"), of("/ç\u{fffd}".as_bytes()), of(b"\xe9")];
        let keys: Vec<_> = paths.iter().map(|path| key_of(path)).collect();
        assert_eq!((keys[0].as_str(), keys[1].as_str()), ("/a/b.txt", "/a\0ff.txt"));
        for (path, key) in paths.iter().zip(&keys) {
            assert_eq!(&path_of(key), path);
        }
    }

    #[test]
    fn patterns_choose_by_name_or_by_path() {
        let root = folder(&["a.txt", "a.md", "sub/b.txt", "sub/deep/c.txt", "tmp/d.txt"]);
        let with = |include: &[&str], exclude: &[&str]| shown(&scope(root.path(), include, exclude));
        assert_eq!(with(&["*.txt"], &[]), ["a.txt", "sub/b.txt", "sub/deep/c.txt", "tmp/d.txt"]);
        assert_eq!(with(&["sub/*.txt"], &[]), ["sub/b.txt"]);
        assert_eq!(with(&["sub/**"], &["*.md", "deep"]), ["sub/b.txt"]);
        assert_eq!(with(&[], &["tmp", "**/c.txt", "a.*"]), ["sub/b.txt"]);
        assert!(globs(&["a{".to_owned()]).unwrap_err().contains("`a{`"));
    }

    #[test]
    fn a_path_that_changed_is_looked_at_like_in_a_walk() {
        let root = folder(&["a/1.md", "a/.x/2.md", "tmp/3.md", "b.txt"]);
        let scope = scope(root.path(), &["*.md"], &["tmp"]);
        let path = root.path().canonicalize().unwrap();
        let look = |name: &str| scope.look(&path.join(name));
        assert!(matches!(look("a/1.md"), Looked::File(found) if found.shown == "a/1.md"));
        assert!(matches!(look("a"), Looked::Folder(found) if found.len() == 1));
        assert!(matches!(look(""), Looked::Folder(found) if found.len() == 1));
        for left_out in ["a/.x/2.md", "a/.x", "tmp/3.md", "b.txt", "../other"] {
            assert_eq!(look(left_out), Looked::NotMeant, "{left_out}");
        }
        let both = Scope::new(&[root.path().to_owned(), root.path().join("a/.x")], &[], &[]).unwrap();
        assert!(
            matches!(both.look(&path.join("a/.x/2.md")), Looked::File(_)),
            "a hidden folder that is named"
        );
        assert_eq!((look("a/gone.md"), look("b.txt/x.md")), (Looked::Absent, Looked::Absent));
        let gone = |name: &str| is_gone(&path.join(name));
        assert!(gone("a/gone.md") && gone("b.txt/x") && gone("a") && !gone("b.txt"));
    }
}
