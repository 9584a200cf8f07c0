//! `riacho ingest PATH..`: files and folders into the deployment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cli,
    client::{Client, Content, Target, Upload},
    commands::Context,
    exit::{Failure, Kind},
    ingest::{Options, ingest},
    progress::Progress,
};

pub(super) async fn run(context: &Context, arguments: cli::Ingest) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server, &context.data_dir())?;
    let files = files_of(&arguments.paths)?;
    if files.is_empty() {
        return Err(Failure::error(Kind::Usage, "there are no files in what was named"));
    }
    let uploads = files.into_iter().map(|file| upload_of(file, arguments.by_path)).collect::<Vec<_>>();
    let options = Options {
        target: Target { collection: arguments.collection, lane: arguments.lane },
        concurrency: usize::from(arguments.concurrency),
        wait: !arguments.no_wait,
    };
    let progress = Progress::new(context.output, uploads.len() as u64);
    let summary =
        ingest(&client, uploads, &options, &progress).await.map_err(crate::client::Error::into_failure)?;
    context.output.result(&summary, || summary.text());
    if summary.failed > 0 { Err(Failure::silent(Kind::Failed)) } else { Ok(()) }
}

fn upload_of(file: PathBuf, by_path: bool) -> Upload {
    let filename = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let external_id = by_path.then(|| file.to_string_lossy().into_owned());
    Upload { filename, content: Content::File(file), external_id }
}

/// All files below the paths, in the order of their names. What is hidden is left out, unless it is
/// named; links to folders are not followed, since they may lead in circles.
fn files_of(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |error: std::io::Error| {
            Failure::error(Kind::Usage, format!("cannot read {}: {error}", path.display()))
        };
        if fs::metadata(path).map_err(unreadable)?.is_dir() {
            walk(path, &mut files).map_err(unreadable)?;
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() || (kind.is_symlink() && entry.path().is_file()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_are_walked_in_order_without_hidden_files() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a/2.md", "a/1.md", ".hidden/x", "a/.git"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("a/circle")).unwrap();
        let files = files_of(&[root.path().to_owned(), root.path().join("a/.git")]).unwrap();
        let names =
            files.iter().map(|f| f.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(names, ["a/1.md", "a/2.md", "b.txt", "a/.git"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_a_wrong_usage() {
        assert!(files_of(&["/nowhere/at/all".into()]).unwrap_err().is::<Failure>());
    }
}
