//! The documentation against the code: what it names has to exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// The functions that are marked as tests, and whether they are ignored.
fn tests_of_the_workspace() -> BTreeMap<String, bool> {
    let paths = files(&["crates", "services", "proto"], "rs");
    paths.into_iter().flat_map(|path| tests_in(&fs::read_to_string(path).unwrap())).collect()
}

fn tests_in(source: &str) -> Vec<(String, bool)> {
    let (mut found, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in source.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        is_ignored |=
            line.starts_with("#[ignore") || line.starts_with("#[cfg_attr") && line.contains("ignore");
        let Some((_, rest)) = line.split_once("fn ").filter(|_| !line.starts_with("//")) else { continue };
        if std::mem::take(&mut is_test) {
            found.push((rest.split('(').next().unwrap().to_owned(), is_ignored));
        }
        is_ignored = false;
    }
    found
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

/// What a test is followed by that runs only when somebody asks for it.
const BY_HAND: &str = " (by hand)";

/// Tests that a text names and does not mark as they are: a reader takes what is not marked for run each time.
fn marked_wrongly<'a>(text: &'a str, tests: &BTreeMap<String, bool>) -> Vec<&'a str> {
    let is_wrong = |name: &&str| {
        let is_ignored = tests.get(*name).copied().unwrap_or(false);
        let quote = format!("`{name}`");
        let mut rests = text.match_indices(&quote).map(|(at, quote)| &text[at + quote.len()..]);
        rests.any(|rest| rest.starts_with(BY_HAND) != is_ignored)
    };
    named_tests(text).into_iter().filter(is_wrong).collect()
}

/// Whether a text names a test that runs each time.
fn is_proved(text: &str, tests: &BTreeMap<String, bool>) -> bool {
    named_tests(text).into_iter().any(|name| tests.get(name) == Some(&false))
}

/// A page of the documentation, after a look whether the tests that it names exist and are marked as they are.
fn page_with_tests(page: &str) -> String {
    let tests = tests_of_the_workspace();
    let text = fs::read_to_string(workspace().join(page)).unwrap();
    let missing =
        named_tests(&text).into_iter().filter(|name| !tests.contains_key(*name)).collect::<Vec<_>>();
    assert!(missing.is_empty(), "{page} names tests that are not there: {missing:?}");
    let wrong = marked_wrongly(&text, &tests);
    assert!(
        wrong.is_empty(),
        "{page} has to mark with{BY_HAND:?} those that are ignored, and no others: {wrong:?}"
    );
    text
}

/// The promises of a page: items that begin with a sentence in bold, each with its lines.
fn promises(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        if line.starts_with("- **") {
            found.push(String::new());
        }
        is_open = line.starts_with("- **") || is_open && line.starts_with("  ");
        if let Some(promise) = found.last_mut().filter(|_| is_open) {
            promise.push_str(line);
            promise.push('\n');
        }
    }
    found
}

#[test]
fn every_promise_names_tests_that_exist() {
    let (text, tests) = (page_with_tests("docs/delivery.md"), tests_of_the_workspace());
    let promises = promises(&text);
    assert!(promises.len() > 10, "{} promises", promises.len());
    for promise in promises {
        assert!(is_proved(&promise, &tests), "no test that runs each time: {promise}");
    }
}

#[test]
fn a_promise_that_rests_on_an_ignored_test_is_refused() {
    let source = "#[test]\nfn a_test_of_each_time() {}\n#[test]\n#[ignore = \"long\"]\nfn a_test_that_takes_long() {}\n";
    let tests: BTreeMap<String, bool> = tests_in(source).into_iter().collect();
    assert_eq!(tests.values().copied().collect::<Vec<_>>(), [false, true]);
    let (each, long, marked) =
        ("`a_test_of_each_time`", "`a_test_that_takes_long`", "`a_test_that_takes_long` (by hand)");
    assert!(is_proved(each, &tests) && !is_proved(marked, &tests));
    assert!(marked_wrongly(each, &tests).is_empty() && marked_wrongly(marked, &tests).is_empty());
    assert_eq!(marked_wrongly(long, &tests).len(), 1);
    assert_eq!(marked_wrongly("`a_test_of_each_time` (by hand)", &tests).len(), 1);
    let page =
        "- **One.** Text\n  `a_test_of_each_time`\n- **Two**\n\n`a_test_of_each_time`\n- three\n  text\n";
    assert_eq!(promises(page), ["- **One.** Text\n  `a_test_of_each_time`\n", "- **Two**\n"]);
}

#[test]
fn every_way_to_break_names_tests_that_exist() {
    let (text, all) = (page_with_tests("docs/proofs.md"), tests_of_the_workspace());
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| what would go wrong");
    let rows: Vec<&str> = text.lines().filter(is_row).collect();
    assert!(rows.len() > 50, "{} rows", rows.len());
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        assert!(is_proved(tests, &all), "no test that runs each time: {row}");
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
