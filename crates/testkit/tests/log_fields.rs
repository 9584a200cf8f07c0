//! The names of fields in log lines are those of one list, in the whole workspace.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use riacho_service::telemetry::{FIELDS, OF_EVERY_LINE};

/// What writes a line, or opens a span that lines stand in.
const MACROS: [&str; 10] = [
    "error!(",
    "warn!(",
    "info!(",
    "debug!(",
    "trace!(",
    "error_span!(",
    "warn_span!(",
    "info_span!(",
    "debug_span!(",
    "trace_span!(",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The arguments of a macro whose opening bracket is before `text`, cut at commas that are inside nothing.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0_u32);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                part.push(c);
                while let Some(c) = chars.next() {
                    part.push(c);
                    match c {
                        '\\' => part.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part.trim().to_owned());
    parts
}

/// The field that an argument sets; none where it is a text.
fn field(argument: &str) -> Option<String> {
    let name = argument.trim_start_matches(['%', '?']);
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
    let rest = name[end..].trim_start();
    let is_field = end > 0 && (rest.is_empty() || rest.starts_with('=') && !rest.starts_with("=="));
    is_field.then(|| name[..end].to_owned())
}

/// The fields that a source's lines and spans have, with the line each stands in.
fn fields_of(source: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for name in MACROS {
        for (at, _) in source.match_indices(name) {
            let is_whole = source[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
            if !is_whole {
                continue;
            }
            let line = source[..at].matches('\n').count() + 1;
            let arguments = arguments(&source[at + name.len()..]);
            found.extend(arguments.iter().filter_map(|one| field(one)).map(|field| (field, line)));
        }
    }
    found
}

#[test]
fn every_field_is_in_the_list_and_the_list_has_no_other() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut files = Vec::new();
    for part in ["crates", "services"] {
        for entry in fs::read_dir(root.join(part)).unwrap().map(Result::unwrap) {
            // The tests' own lines are for nobody's collection of logs.
            if entry.file_name() != "testkit" && entry.path().join("src").is_dir() {
                sources(&entry.path().join("src"), &mut files);
            }
        }
    }
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        for (field, line) in fields_of(&fs::read_to_string(&file).unwrap()) {
            used.entry(field).or_insert_with(|| format!("{}:{line}", file.display()));
        }
    }
    let known: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    // What several services share says whose line it is.
    used.remove("service");
    let unknown: Vec<_> = used.iter().filter(|(name, _)| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "not in crates/service/src/telemetry/fields.rs: {unknown:#?}");
    let unused: Vec<_> = known.iter().filter(|name| !used.contains_key(**name)).collect();
    assert!(unused.is_empty(), "nobody uses {unused:?}");
    assert!(OF_EVERY_LINE.iter().all(|name| !used.contains_key(*name)), "a line has these already");
}

#[test]
fn fields_are_found_however_they_are_written() {
    let source = r#"
        tracing::info!(step = "a, b", %tenant, ?verb, count = list.iter().map(|x| x, 1).count(), "text {a}", left);
        let span = tracing::info_span!("event", stage = %line.stage, trace_id = meta.trace_id());
        my_info!(no = 1); format!("{x} = {y}", x = 1);
    "#;
    let names: Vec<String> = fields_of(source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["step", "tenant", "verb", "count", "left", "stage", "trace_id"]);
}
