//! A real Prometheus beside running services: what it scrapes, what the rules and the dashboard ask it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use reqwest::Client;
use riacho_domain::{Metric, MetricKind};
use riacho_testkit::{
    process::{self, Process, free_port},
    within,
};
use serde_json::{Value, json};
use support::{
    cluster::{Cluster, PATIENCE},
    declared, files_of,
    prometheus::{Prometheus, complaints, selectors, series, tool},
    workspace,
};
use tempfile::TempDir;

/// The services, each as a process, in the order of their start.
const SERVICES: [&str; 5] = ["ingest-gateway", "extractor", "embedder", "indexer", "janitor"];

/// What a short and happy run with the local model does not measure. Labels of these are checked in the code alone.
const SELDOM: [&str; 20] = [
    "riacho_attachments_accepted_total",
    "riacho_backpressure_rejections_total",
    "riacho_backup_age_seconds",
    "riacho_trace_spans_total",
    "riacho_canary_seconds",
    "riacho_database_retries_total",
    "riacho_dead_letters_total",
    "riacho_extraction_replays_total",
    "riacho_fenced_total",
    "riacho_handoffs_full_total",
    "riacho_intake_events_total",
    "riacho_model_limiter_turns_total",
    "riacho_model_limiter_wait_seconds",
    "riacho_object_errors_total",
    "riacho_recognition_seconds",
    "riacho_redeliveries_total",
    "riacho_space_filled_chunks_total",
    "riacho_stage_paused",
    "riacho_superseded_total",
    "riacho_superseded_writes_total",
];

/// Of the exporter's user on Redis.
const PASSWORD: &str = "of-the-exporter";

/// All services of a deployment, each with its operations endpoints.
struct Services {
    cluster: Cluster,
    running: BTreeMap<&'static str, Process>,
    ports: BTreeMap<&'static str, u16>,
    url: String,
    client: Client,
}

impl Services {
    async fn start() -> Services {
        let cluster = Cluster::new();
        let key = cluster.prepare();
        let ports = SERVICES.map(|service| (service, free_port().unwrap())).into();
        let url = format!("http://127.0.0.1:{}", free_port().unwrap());
        let client = process::client(&key).unwrap();
        let mut services = Services { cluster, running: BTreeMap::new(), ports, url, client };
        SERVICES.into_iter().for_each(|service| services.start_one(service));
        within(PATIENCE, || async {
            let answer = services.client.get(format!("{}/readyz", services.url)).send().await;
            answer.map_err(|error| error.to_string())?.error_for_status().map_err(|error| error.to_string())
        })
        .await;
        services
    }

    fn start_one(&mut self, service: &'static str) {
        let operations = format!("http.ops_listen=127.0.0.1:{}", self.ports[service]);
        let listen = self.url.trim_start_matches("http://").to_owned();
        let mut args = vec![service, "--set", &operations];
        if service == "ingest-gateway" {
            args.extend(["--listen", &listen]);
        }
        let process = self.cluster.spawn(&args);
        self.running.insert(service, process);
    }

    async fn stop_one(&mut self, service: &str) {
        let mut process = self.running.remove(service).unwrap();
        assert!(process.stop().await.unwrap().success(), "{}", process.log());
    }

    async fn upload(&self, filename: &str, content: String) -> String {
        let url = format!("{}/api/v1/documents?filename={filename}", self.url);
        let answer = self.client.post(url).body(content).send().await.unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        answer["id"].as_str().unwrap().to_owned()
    }

    async fn reaches(&self, document: &str, state: &str) {
        let url = format!("{}/api/v1/documents/{document}/status", self.url);
        within(PATIENCE, || async {
            let answer = self.client.get(&url).send().await.map_err(|error| error.to_string())?;
            let status: Value = answer.json().await.map_err(|error| error.to_string())?;
            if status["state"] == state { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await;
    }

    fn log(&self) -> String {
        self.running.iter().map(|(name, process)| format!("{name}:\n{}\n", process.log())).collect()
    }

    /// What a service shows to Prometheus.
    async fn metrics(&self, service: &str) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[service]);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }
}

/// The exporters of the monitoring profile, on the servers of a deployment.
struct Exporters {
    _processes: Vec<Process>,
    _textfiles: TempDir,
    addresses: Vec<(&'static str, String)>,
}

impl Exporters {
    fn start(cluster: &Cluster) -> Exporters {
        let textfiles = TempDir::new().unwrap();
        for (script, figures) in [("backup", &[][..]), ("certificate", &["0", "7776000", "0"])] {
            let script = workspace().join(format!("compose/scripts/{script}-metric.sh"));
            let told =
                std::process::Command::new(script).args(figures).arg(textfiles.path()).status().unwrap();
            assert!(told.success(), "{told}");
        }
        let jobs = ["node", "redis", "postgres"];
        let addresses = jobs.map(|job| (job, format!("127.0.0.1:{}", free_port().unwrap())));
        let listen = |job: usize| format!("--web.listen-address={}", addresses[job].1);
        let folder = format!("--collector.textfile.directory={}", textfiles.path().display());
        // With the rights that the page for operators gives them.
        let page = page("docs/operations/monitoring.md");
        let line = |start: &str| page.lines().map(str::trim).find(|line| line.starts_with(start)).unwrap();
        let role = line("CREATE ROLE riacho_monitor").replace("PASSWORD :'password' ", "");
        assert!(cluster.database.run(&role).is_empty());
        let user = line("ACL SETUSER riacho_monitor").replace("PASSWORD", PASSWORD);
        assert_eq!(cluster.redis.command(&user.split(' ').collect::<Vec<_>>()).text(), "OK");
        let mut database = url::Url::parse(cluster.to_postgres.url()).unwrap();
        database.set_username("riacho_monitor").unwrap();
        database.set_query(Some("sslmode=disable"));
        let redis = ["-redis.user", "riacho_monitor", "-redis.password", PASSWORD, "-config-command", "-"];
        let processes = vec![
            Process::spawn(tool("node_exporter"), &[&listen(0), &folder], &[]).unwrap(),
            Process::spawn(
                tool("redis_exporter"),
                &[&[&*listen(1), "-redis.addr", cluster.to_redis.url()], &redis[..]].concat(),
                &[],
            )
            .unwrap(),
            Process::spawn(
                tool("postgres_exporter"),
                &[&listen(2)],
                &[("DATA_SOURCE_NAME", database.as_str())],
            )
            .unwrap(),
        ];
        Exporters { _processes: processes, _textfiles: textfiles, addresses: addresses.to_vec() }
    }
}

fn page(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap()
}

async fn prometheus_of(services: &Services, exporters: &Exporters) -> Prometheus {
    let mut targets = Vec::new();
    for (service, port) in &services.ports {
        let service = if *service == "ingest-gateway" { "gateway" } else { service };
        targets.push(("riacho", service, format!("127.0.0.1:{port}")));
    }
    targets.extend(exporters.addresses.iter().map(|(job, address)| (*job, "", address.clone())));
    Prometheus::start(&targets).await
}

#[tokio::test]
async fn prometheus_shows_a_backlog_and_what_goes_through() {
    let mut services = Services::start().await;
    let exporters = Exporters::start(&services.cluster);
    let prometheus = prometheus_of(&services, &exporters).await;
    prometheus.shows("count(up == 1)", |targets| targets == 8.0).await;
    prometheus.shows("count(riacho_build_info)", |processes| processes == 5.0).await;
    rules_are_loaded(&prometheus).await;
    let first = services.upload("first.md", text("first")).await;
    services.reaches(&first, "ready").await;

    // Without an indexer, what comes stays before it.
    services.stop_one("indexer").await;
    let mut documents = Vec::new();
    for number in 0..3 {
        documents.push(services.upload(&format!("{number}.md"), text(&format!("number {number}"))).await);
    }
    let corrupt = services.upload("corrupt.pdf", "%PDF-1.7\nnothing of a PDF follows".to_owned()).await;
    services.reaches(&corrupt, "failed").await;
    prometheus.shows("up{service=\"indexer\"}", |up| up == 0.0).await;
    prometheus.shows("stage:riacho_stage_backlog:max{stage=\"index\"}", |entries| entries == 3.0).await;
    prometheus.shows("riacho_stage_lag{stage=\"index\"}", |entries| entries == 3.0).await;
    prometheus.shows("riacho_stage_oldest_age_seconds{stage=\"index\"}", |seconds| seconds > 0.0).await;
    prometheus.shows("sum(riacho_documents_failed_total)", |documents| documents == 1.0).await;
    // Pending, or firing already where the machine is slow.
    let alert = "ALERTS{alertname=\"RiachoStageDown\",stage=\"index\"}";
    prometheus.shows(alert, |is_active| is_active == 1.0).await;

    services.start_one("indexer");
    for document in &documents {
        services.reaches(document, "ready").await;
    }
    prometheus.shows("up{service=\"indexer\"}", |up| up == 1.0).await;
    prometheus.shows("riacho_document_seconds_count{service=\"indexer\"}", |ready| ready == 3.0).await;
    prometheus.shows("stage:riacho_stage_backlog:max{stage=\"index\"}", |entries| entries == 0.0).await;
    prometheus.shows("riacho_stage_lag{stage=\"index\"}", |entries| entries == 0.0).await;
    prometheus.shows(&format!("sum({alert}) or vector(0)"), |active| active == 0.0).await;
    let done = "sum(riacho_events_processed_total{stage=\"embed\",outcome=\"emitted\"})";
    prometheus.shows(done, |events| events == 4.0).await;

    search(&services).await;
    the_metrics_are_as_declared(&services).await;
    what_is_asked_for_is_there(&prometheus).await;
    for service in SERVICES {
        services.stop_one(service).await;
    }
}

fn text(word: &str) -> String {
    format!("# A log of the lock\n\nThe barge {word} passed the lock.\n")
}

async fn search(services: &Services) {
    for mode in ["hybrid", "vector", "keyword"] {
        let question = json!({ "query": "which barge passed", "mode": mode });
        let answer = services.client.post(format!("{}/api/v1/search", services.url)).json(&question);
        let answer: Value = answer.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        assert!(!answer["hits"].as_array().unwrap().is_empty(), "{answer}");
    }
}

/// Every rule was evaluated, and none with an error.
async fn rules_are_loaded(prometheus: &Prometheus) {
    within(PATIENCE, || async {
        let rules = rules(prometheus).await?;
        let bad = rules.iter().find(|rule| rule["health"] != "ok");
        if rules.len() > 30 && bad.is_none() {
            Ok(())
        } else {
            Err(format!("{} rules: {bad:?}", rules.len()))
        }
    })
    .await;
}

async fn rules(prometheus: &Prometheus) -> Result<Vec<Value>, String> {
    let data = prometheus.get("rules", &[]).await?;
    let groups = data["groups"].as_array().ok_or("no groups")?;
    Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
}

/// What each series of a declared metric is named, and which labels it has.
fn forms(metric: &Metric) -> Vec<(String, BTreeSet<String>)> {
    let labels: BTreeSet<String> = metric.labels.iter().map(ToString::to_string).collect();
    if metric.kind != MetricKind::Histogram {
        return vec![(metric.name.to_owned(), labels)];
    }
    let mut of_buckets = labels.clone();
    of_buckets.insert("le".to_owned());
    vec![
        (format!("{}_bucket", metric.name), of_buckets),
        (format!("{}_sum", metric.name), labels.clone()),
        (format!("{}_count", metric.name), labels),
    ]
}

/// What the services show is what they declare, and promtool finds nothing to say of it.
async fn the_metrics_are_as_declared(services: &Services) {
    let declared: Vec<Metric> = declared().into_iter().flat_map(|(_, metrics)| metrics).collect();
    let known: BTreeSet<_> = declared.iter().flat_map(forms).collect();
    let mut seen = BTreeSet::new();
    for service in SERVICES {
        let shown = services.metrics(service).await;
        assert_eq!(complaints(&shown).await, "", "{service}");
        seen.extend(series(&shown));
    }
    let unknown: Vec<_> = seen.difference(&known).collect();
    assert!(unknown.is_empty(), "shown, and not so declared: {unknown:?}");
    let absent = declared.iter().filter(|metric| forms(metric).iter().all(|form| !seen.contains(form)));
    let absent: BTreeSet<&str> = absent.map(|metric| metric.name).collect();
    let unexpected: Vec<_> = absent.iter().filter(|name| !SELDOM.contains(name)).collect();
    assert!(unexpected.is_empty(), "declared, and not shown: {unexpected:?}");
}

/// The expressions of the dashboards, with the variables as Grafana would put them in.
fn dashboards() -> Vec<String> {
    let mut found = Vec::new();
    for file in files_of("compose/grafana/dashboards", "json") {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        expressions(&dashboard, &mut found);
    }
    assert!(found.len() > 70, "{}", found.len());
    let filled = found.iter().map(|text| text.replace("$__rate_interval", "1m").replace("$stage", ".*"));
    filled.inspect(|text| assert!(!text.contains('$'), "{text}")).collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Every expression of the rules and of the dashboard can be read, and every metric in it exists with its labels.
async fn what_is_asked_for_is_there(prometheus: &Prometheus) {
    let of_rules = rules(prometheus).await.unwrap();
    // What is recorded may have nothing to say yet.
    let is_recorded = |rule: &&Value| rule["type"] == "recording";
    let recorded: BTreeSet<String> =
        of_rules.iter().filter(is_recorded).map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
    let of_rules = of_rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned());
    let asked: Vec<String> = dashboards().into_iter().chain(of_rules).collect();
    let declared: Vec<Metric> = declared().into_iter().flat_map(|(_, metrics)| metrics).collect();
    let known: BTreeMap<_, _> = declared.iter().flat_map(forms).collect();
    // Prometheus adds these.
    let added = ["job", "instance", "service"].map(str::to_owned);
    for expression in &asked {
        let answer = prometheus.query(expression).await;
        assert!(answer.is_ok(), "{expression}: {answer:?}");
        let metrics = selectors(expression);
        assert!(!metrics.is_empty(), "{expression}");
        for (metric, labels) in metrics {
            if let Some(has) = known.get(&metric) {
                assert!(
                    labels.iter().all(|l| has.contains(l) || added.contains(l)),
                    "{metric} in {expression}"
                );
            } else if !recorded.contains(&metric) {
                // Those that scripts leave for the node exporter.
                let is_a_scripts =
                    ["riacho_backup_", "riacho_certificate_"].iter().any(|p| metric.starts_with(p));
                assert!(!metric.starts_with("riacho_") || is_a_scripts, "{expression}");
                within(PATIENCE, || async {
                    let exists = prometheus.names().await.contains(&metric);
                    if exists { Ok(()) } else { Err(format!("{metric} in {expression}")) }
                })
                .await;
            }
        }
    }
}

#[test]
fn the_metrics_of_an_expression_are_found_with_their_labels() {
    let found = selectors(
        "1 - sum by (le, stage) (rate(a_total{stage=~\"x|y{z}\",job!=\"b\"}[5m] offset 1h)) / ignoring (c) group_left d:e:max > 2 or vector(0)",
    );
    let labels = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(found, [("a_total".into(), labels(&["stage", "job"])), ("d:e:max".into(), labels(&[]))]);
}

#[tokio::test]
async fn promtool_is_heard_when_it_has_something_to_say() {
    let bad = "# TYPE riacho_things counter\nriacho_things 1\n";
    let said = complaints(bad).await;
    assert!(said.contains("_total") && said.contains("help"), "{said}");
}
