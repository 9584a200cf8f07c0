//! What the services measure, and what the alerts and pages say of it, without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use riacho_domain::{Metric, MetricKind};
use serde_json::Value;
use support::{declared, files_of, workspace};

/// The generated page.
const PAGE: &str = "docs/operations/metrics.md";

/// The metrics, by who measures them, as a page for operators.
fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\nMade from the declarations in the code; a test keeps it so, and writes it anew with\n\
         `RIACHO_UPDATE=1 cargo test -p riacho --test metrics`.\n\nEach process shows its metrics in the text format of \
         Prometheus under `/metrics`: the gateway on its own port, every service where `http.ops_listen` says. Where\n\
         `http.metrics_token` is set, it has to come as a bearer token. Values of labels are from fixed sets, never an id. A \
         series appears with its first\nvalue. Of a histogram there are `_bucket`, `_sum` and \
         `_count`. How to watch a deployment with them stands in [monitoring.md](monitoring.md).\n",
    );
    for (who, metrics) in declared() {
        write!(page, "\n## {who}\n\n| metric | kind | unit | labels | what it is |\n|---|---|---|---|---|\n")
            .unwrap();
        let mut metrics = metrics;
        metrics.sort_unstable_by_key(|metric| metric.name);
        for metric in metrics {
            let Metric { name, kind, labels, help } = metric;
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            let (kind, unit) = (kind.as_str(), metric.unit().unwrap_or_default());
            writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {help} |").unwrap();
        }
    }
    page
}

/// Run with `RIACHO_UPDATE=1` to write the file anew.
#[test]
fn the_page_of_metrics_is_that_of_the_code() {
    let (file, page) = (workspace().join(PAGE), page());
    if std::env::var_os("RIACHO_UPDATE").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    assert!(checked_in == page, "{PAGE} is out of date; run this test with RIACHO_UPDATE=1");
}

/// What `promtool check metrics` does not see: it looks at one process at a time, and knows no rules of ours.
#[test]
fn metrics_are_declared_once_and_have_no_label_for_an_id() {
    let all: Vec<Metric> = declared().into_iter().flat_map(|(_, metrics)| metrics).collect();
    let names: BTreeSet<&str> = all.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), all.len(), "a metric is declared twice");
    for metric in all {
        let (name, labels) = (metric.name, metric.labels);
        assert!(name.starts_with("riacho_"), "{name}");
        assert_eq!(metric.kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        assert!(metric.kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name} has no buckets");
        assert!(metric.help.ends_with('.') && !metric.help.contains(['|', '\n']), "{name}: {}", metric.help);
        let ids = ["tenant", "document", "release", "key", "id", "consumer", "path", "url", "filename"];
        assert!(!labels.iter().any(|label| ids.contains(label)), "{name}: {labels:?}");
    }
}

/// The constants for names of metrics in a crate, and where the code measures with which of them: constant and labels.
type Measured = (BTreeMap<String, String>, BTreeSet<(String, Vec<String>)>);

fn measured_in(folder: &Path) -> Measured {
    let (mut names, mut uses, mut open) = (BTreeMap::new(), BTreeSet::new(), vec![folder.join("src")]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for constant in text.split("pub const ").skip(1) {
            let Some((name, value)) = constant.split_once(": &str = \"riacho_") else { continue };
            let value = value.split('"').next().unwrap();
            names.insert(name.to_owned(), format!("riacho_{value}"));
        }
        for call in ["counter!(", "gauge!(", "histogram!("].iter().flat_map(|call| text.split(call).skip(1)) {
            // The arguments end where the call of a method, or a new statement, begins.
            let arguments = call.split([';', '{']).next().unwrap().split(")\n").next().unwrap();
            let arguments = arguments.split(").").next().unwrap();
            let constant = arguments.split([',', ')']).next().unwrap().trim();
            let constant = constant.rsplit("::").next().unwrap().to_owned();
            let labels = arguments.split('"').collect::<Vec<_>>();
            let labels = labels.windows(2).filter(|pair| pair[1].trim_start().starts_with("=>"));
            uses.insert((constant, labels.map(|pair| pair[0].to_owned()).collect()));
        }
    }
    (names, uses)
}

/// Also of what the test with a real Prometheus does not come by.
#[test]
fn the_code_measures_with_the_labels_that_are_declared() {
    let all: BTreeMap<&str, Metric> =
        declared().into_iter().flat_map(|(_, metrics)| metrics).map(|metric| (metric.name, metric)).collect();
    let (shared, _) = measured_in(&workspace().join("crates/service"));
    let mut found = BTreeSet::new();
    let crates = ["crates", "services"].map(|folder| fs::read_dir(workspace().join(folder)).unwrap());
    for folder in crates.into_iter().flatten().map(|entry| entry.unwrap().path()) {
        let (names, uses) = measured_in(&folder);
        for (constant, labels) in uses {
            // What is no constant is a variable, for several metrics of the same labels.
            let Some(name) = names.get(&constant).or_else(|| shared.get(&constant)) else { continue };
            let metric = all.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not declared"));
            // Some are built before.
            assert!(labels.is_empty() || labels == metric.labels, "{name}: {labels:?}, {:?}", metric.labels);
            if labels == metric.labels {
                found.insert(metric.name);
            }
        }
    }
    let others: BTreeSet<&str> = all.into_keys().filter(|name| !found.contains(name)).collect();
    let of_variables = |name: &&str| name.starts_with("riacho_stage_") || name.contains("_spend_");
    assert!(others.iter().all(of_variables), "declared, and nowhere measured: {others:?}");
}

#[test]
fn the_panels_of_the_dashboard_have_places_and_ids_of_their_own_and_the_provisioned_source() {
    let source =
        fs::read_to_string(workspace().join("compose/grafana/provisioning/datasources/prometheus.yml"));
    assert!(source.unwrap().contains("uid: prometheus\n"));
    for file in files_of("compose/grafana/dashboards", "json") {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(dashboard["uid"].is_string() && dashboard["title"].is_string());
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
            let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
            assert!(cells.into_iter().all(|cell| taken.insert(cell)), "{title} lies on another panel");
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "prometheus", "{title}");
                assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
            }
        }
    }
}

/// The alerts of the rules, each with the path of its runbook.
fn alerts() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in files_of("compose/prometheus/rules", "yml") {
        let text = fs::read_to_string(&file).unwrap();
        for rule in text.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().to_owned();
            let runbook = rule.lines().find_map(|line| line.trim().strip_prefix("runbook: "));
            found.insert(name.clone(), runbook.unwrap_or_else(|| panic!("{name} has no runbook")).to_owned());
        }
    }
    found
}

#[test]
fn every_alert_has_a_section_in_a_runbook_and_every_section_an_alert() {
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    let mut sections = BTreeSet::new();
    for page in files_of("docs/operations/runbooks", "md") {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.file_name().unwrap().to_str().unwrap().to_owned();
        for title in text.lines().filter_map(|line| line.strip_prefix("## ")) {
            sections.insert(format!(
                "docs/operations/runbooks/{name}#{}",
                title.to_lowercase().replace(' ', "-")
            ));
        }
    }
    let runbooks: BTreeSet<String> = alerts.values().cloned().collect();
    assert_eq!(runbooks, sections, "left: what alerts name; right: what there is");
    for (alert, runbook) in alerts {
        assert!(runbook.ends_with(&format!("#{}", alert.to_lowercase())), "{alert}: {runbook}");
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let mut seen: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for file in files_of("compose/prometheus/tests", "yml") {
        let text = fs::read_to_string(&file).unwrap();
        for check in text.split("alertname: ").skip(1) {
            let alert = check.lines().next().unwrap().to_owned();
            let expected = check.lines().find_map(|line| line.trim().strip_prefix("exp_alerts:"));
            let fires = expected.unwrap_or_else(|| panic!("{alert} expects nothing")).trim() != "[]";
            seen.entry(alert).or_default().insert(fires);
        }
    }
    let both = alerts().into_keys().map(|alert| (alert, BTreeSet::from([false, true]))).collect();
    assert_eq!(seen, both, "left: what is tested; right: what has to be");
}
