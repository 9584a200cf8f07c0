//! The layers of the workspace (docs/architecture.md): arrows point down only, siblings do not see
//! each other, and each server's client library has one importer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The crates of each layer, the lowest first.
const LAYERS: &[&[&str]] = &[
    &["riacho-proto"],
    &["riacho-domain", "riacho-confine"],
    &["riacho-streams", "riacho-store", "riacho-objects", "riacho-models", "riacho-traces"],
    &["riacho-stage"],
    &["riacho-service"],
    &["riacho-ingest-gateway", "riacho-extractor", "riacho-embedder", "riacho-indexer", "riacho-janitor"],
    &["riacho"],
];

/// Starts servers and knows none of ours; only the binary and the tests start servers.
const LOCAL: &str = "riacho-local";
/// For tests only.
const TESTKIT: &str = "riacho-testkit";
/// Measures a deployment from outside, and knows none of ours.
const BENCHES: &str = "riacho-benches";

/// Libraries that one crate hides from the others.
const SOLE_IMPORTERS: &[(&str, &str)] = &[
    ("fred", "riacho-streams"),
    ("tokio-postgres", "riacho-store"),
    ("deadpool-postgres", "riacho-store"),
    ("tokio-postgres-rustls", "riacho-store"),
    ("postgres-types", "riacho-store"),
    ("refinery", "riacho-store"),
    ("pgvector", "riacho-store"),
    ("object_store", "riacho-objects"),
    ("rig-core", "riacho-models"),
    ("metrics-exporter-prometheus", "riacho-service"),
    ("opentelemetry", "riacho-traces"),
    ("opentelemetry_sdk", "riacho-traces"),
    ("opentelemetry-otlp", "riacho-traces"),
    ("opentelemetry-http", "riacho-traces"),
];

/// What each crate depends on, without its dev-dependencies: a test may reach past its layer.
type Dependencies = BTreeMap<String, BTreeSet<String>>;

fn workspace() -> Dependencies {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let shipped = |kind: DependencyKind| kind != DependencyKind::Development;
    let members = metadata.workspace_packages().into_iter().map(|package| {
        let names = package.dependencies.iter().filter(|d| shipped(d.kind)).map(|d| d.name.to_string());
        (package.name.to_string(), names.collect())
    });
    members.collect()
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// Whether a crate may depend on another one of the workspace.
fn may_depend(from: &str, on: &str) -> bool {
    match (from, on) {
        (_, TESTKIT | BENCHES) | (LOCAL | BENCHES, _) => false,
        (TESTKIT, _) | ("riacho", LOCAL) => true,
        _ => matches!((layer_of(from), layer_of(on)), (Some(above), Some(below)) if above > below),
    }
}

fn violations(dependencies: &Dependencies) -> Vec<String> {
    let mut found = Vec::new();
    for (name, uses) in dependencies {
        if layer_of(name).is_none() && ![LOCAL, TESTKIT, BENCHES].contains(&name.as_str()) {
            found.push(format!("{name} has no layer"));
        }
        for used in uses {
            if dependencies.contains_key(used) && !may_depend(name, used) {
                found.push(format!("{name} depends on {used}"));
            }
            let importer = SOLE_IMPORTERS.iter().find(|(library, _)| library == used);
            if importer.is_some_and(|(_, importer)| importer != name) {
                found.push(format!("{name} imports {used}"));
            }
        }
    }
    found
}

#[test]
fn arrows_point_down_only_and_each_server_has_one_client() {
    let found = violations(&workspace());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_crate_of_the_layers_exists() {
    let dependencies = workspace();
    let missing: Vec<_> =
        LAYERS.iter().copied().flatten().filter(|name| !dependencies.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (library, importer) in SOLE_IMPORTERS {
        let uses = &dependencies[*importer];
        // A library that nobody imports under this name would leave its rule without effect.
        assert!(uses.contains(*library) || !dependencies.values().any(|d| d.contains(*library)), "{library}");
    }
}

#[test]
fn each_kind_of_violation_is_seen() {
    let graph = |edges: &[(&str, &[&str])]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut graph: Dependencies =
            edges.iter().map(|(from, to)| ((*from).to_owned(), owned(to))).collect();
        for name in ["riacho-proto", "riacho-domain", "riacho-store", "riacho-streams", "riacho-testkit"] {
            graph.entry(name.to_owned()).or_default();
        }
        graph
    };
    let good = graph(&[("riacho-stage", &["riacho-streams", "riacho-domain", "tokio"])]);
    assert!(violations(&good).is_empty());
    for (bad, said) in [
        (graph(&[("riacho-domain", &["riacho-store"])]), "riacho-domain depends on riacho-store"),
        (graph(&[("riacho-streams", &["riacho-store"])]), "riacho-streams depends on riacho-store"),
        (graph(&[("riacho-local", &["riacho-domain"])]), "riacho-local depends on riacho-domain"),
        (graph(&[("riacho", &["riacho-testkit"])]), "riacho depends on riacho-testkit"),
        (graph(&[("riacho-store", &["fred"])]), "riacho-store imports fred"),
        (graph(&[("riacho-newcomer", &[])]), "riacho-newcomer has no layer"),
    ] {
        assert_eq!(violations(&bad), [said]);
    }
}
