//! A Prometheus of a test's own with the rules of the project, and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::Stdio,
};

use reqwest::Client;
use riacho_testkit::{
    process::{self, Process, free_port},
    within,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::{cluster::PATIENCE, workspace};

/// A program that the setup installs for the tests.
pub fn tool(name: &str) -> PathBuf {
    let path = workspace().join(".riacho/tools/bin").join(name);
    assert!(path.exists(), "{} is not there: run `make setup`", path.display());
    path
}

/// What Prometheus scrapes: job, service (empty where it is none of ours) and address.
pub type Target<'a> = (&'a str, &'a str, String);

/// A running Prometheus that looks every two seconds. It ends when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    url: String,
    client: Client,
    _dir: TempDir,
}

/// A series of an answer: its labels, and its value.
pub type Sample = (BTreeMap<String, String>, f64);

impl Prometheus {
    pub async fn start(targets: &[Target<'_>]) -> Prometheus {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, configuration(targets)).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        let process = Process::spawn(tool("prometheus"), &args, &[]).unwrap();
        let (url, client) = (format!("http://{address}"), process::client("").unwrap());
        let prometheus = Prometheus { process, url, client, _dir: dir };
        within(PATIENCE, || async {
            let answer = prometheus.client.get(format!("{}/-/ready", prometheus.url)).send().await;
            let is_ready = answer.is_ok_and(|answer| answer.status().is_success());
            if is_ready { Ok(()) } else { Err(prometheus.process.log()) }
        })
        .await;
        prometheus
    }

    /// What a path of the API answers.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let mut url = url::Url::parse(&format!("{}/api/v1/{path}", self.url)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The series that an expression has now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let data = self.get("query", &[("query", expression)]).await?;
        let series = data["result"].as_array().ok_or_else(|| data.to_string())?;
        let sample = |series: &Value| {
            let labels = serde_json::from_value(series["metric"].clone()).unwrap();
            (labels, series["value"][1].as_str().unwrap().parse().unwrap())
        };
        Ok(series.iter().map(sample).collect())
    }

    /// Waits until the one series of an expression has a value that is wanted.
    pub async fn shows(&self, expression: &str, wanted: impl Fn(f64) -> bool) {
        within(PATIENCE, || async {
            let found = self.query(expression).await?;
            let holds = found.len() == 1 && wanted(found[0].1);
            if holds { Ok(()) } else { Err(format!("{expression}: {found:?}")) }
        })
        .await;
    }

    /// The names of all series.
    pub async fn names(&self) -> BTreeSet<String> {
        serde_json::from_value(self.get("label/__name__/values", &[]).await.unwrap()).unwrap()
    }
}

fn configuration(targets: &[Target<'_>]) -> String {
    let rules = workspace().join("compose/prometheus/rules/*.yml");
    let mut text = format!(
        "global: {{ scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s }}\n\
         rule_files: ['{}']\nscrape_configs:\n",
        rules.display()
    );
    let jobs: BTreeSet<&str> = targets.iter().map(|(job, ..)| *job).collect();
    for job in jobs {
        write!(text, "  - job_name: {job}\n    static_configs:\n").unwrap();
        for (_, service, address) in targets.iter().filter(|(of, ..)| *of == job) {
            writeln!(text, "      - targets: ['{address}']").unwrap();
            if !service.is_empty() {
                writeln!(text, "        labels: {{ service: {service} }}").unwrap();
            }
        }
    }
    text
}

/// What promtool has to say of metrics in the text format: nothing, where they are as they should be.
pub async fn complaints(metrics: &str) -> String {
    let mut command = tokio::process::Command::new(tool("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    if output.status.success() { said } else { format!("{}: {said}", output.status) }
}

/// The series of metrics in the text format: name, and the names of the labels.
pub fn series(metrics: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let lines = metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series = lines.map(|line| {
        let name = line.split(['{', ' ']).next().unwrap().to_owned();
        (name, selectors(line).into_iter().flat_map(|(_, labels)| labels).collect())
    });
    series.collect()
}

/// What is no metric in an expression, besides functions and what stands behind `by` and its like.
const WORDS: [&str; 13] = [
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "Inf",
    "NaN",
];

/// The metrics of an expression, each with the labels that it is selected by.
pub fn selectors(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let text = without_strings(expression);
    let (mut found, mut rest) = (Vec::new(), text.as_str());
    while let Some(start) = rest.find(|c: char| is_word(c) || c == '[') {
        rest = &rest[start..];
        if rest.starts_with('[') {
            rest = &rest[rest.find(']').map_or(rest.len(), |end| end + 1)..];
            continue;
        }
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        let next = behind.trim_start();
        if ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&word) {
            // Labels, in brackets.
            if next.starts_with('(') {
                rest = &next[next.find(')').map_or(next.len(), |end| end + 1)..];
            }
        } else if !word.starts_with(|c: char| c.is_ascii_digit())
            && !WORDS.contains(&word)
            // A function, or an aggregation.
            && !["(", "by ", "by(", "without ", "without("].iter().any(|then| next.starts_with(then))
        {
            let inside = behind.strip_prefix('{').and_then(|inside| inside.split('}').next());
            let labels = inside.unwrap_or_default().split(',');
            let labels = labels.map(|label| label.split(['=', '!']).next().unwrap().trim().to_owned());
            found.push((word.to_owned(), labels.filter(|label| !label.is_empty()).collect()));
            rest = inside.map_or(behind, |inside| &behind[inside.len() + 2..]);
        }
    }
    found
}

/// Strings may hold anything, a bracket too.
fn without_strings(expression: &str) -> String {
    let (mut text, mut is_inside, mut is_escaped) = (String::new(), false, false);
    for c in expression.chars() {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        if ends {
            is_inside = !is_inside;
        } else if !is_inside {
            text.push(c);
        }
    }
    text
}
