//! The documentation against the code: what it names has to exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Files below some folders of the workspace, of one kind.
fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut open = folders.iter().map(|folder| workspace().join(folder)).collect::<Vec<_>>();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

/// The functions that are marked as tests.
fn tests_of_the_workspace() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(&["crates", "services", "proto"], "rs") {
        let text = fs::read_to_string(file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.insert(rest.split('(').next().unwrap().to_owned());
                is_test = false;
            }
        }
    }
    names
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The tests that a text names: what is quoted and reads as a sentence.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let is_name =
        |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    quoted(text).filter(is_name).filter(|name| name.matches('_').count() >= 3).collect()
}

/// A page of the documentation, after a look whether the tests that it names exist.
fn page_with_tests(page: &str) -> String {
    let tests = tests_of_the_workspace();
    let text = fs::read_to_string(workspace().join(page)).unwrap();
    let missing = named_tests(&text).into_iter().filter(|name| !tests.contains(*name)).collect::<Vec<_>>();
    assert!(missing.is_empty(), "{page} names tests that are not there: {missing:?}");
    text
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = page_with_tests("docs/delivery.md");
    let promises = text.lines().filter(|line| line.starts_with("- **")).count();
    let named = named_tests(&text).len();
    assert!(promises > 10 && named >= promises, "{promises} promises, {named} tests");
}

#[test]
fn every_way_to_break_names_tests_that_exist() {
    let text = page_with_tests("docs/proofs.md");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| what would go wrong");
    let rows: Vec<&str> = text.lines().filter(is_row).collect();
    assert!(rows.len() > 50, "{} rows", rows.len());
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        assert!(!named_tests(tests).is_empty(), "no test: {row}");
    }
}

#[test]
fn the_pages_name_paths_that_exist() {
    let root = workspace();
    let mut pages = files(&["docs"], "md");
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| root.join(page)));
    let is_path = |text: &&str| {
        let first = text.split('/').next().unwrap_or_default();
        text.contains('/')
            && matches!(first, "crates" | "services" | "proto" | "schemas" | "docs" | "benches")
    };
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for path in quoted(&text).filter(is_path) {
            let path = path.split(['{', '*', ' ']).next().unwrap_or_default().trim_end_matches('/');
            assert!(root.join(path).exists(), "{} names {path}", page.display());
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            assert!(
                outside || page.parent().unwrap().join(target).exists(),
                "{} links to {link}",
                page.display()
            );
        }
    }
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_hold() {
    for file in files(&["crates", "services", "proto"], "rs") {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 520, "{} has {lines} lines", file.display());
    }
}
