//! Services as processes on servers that fail when the test says so.

use std::{
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use reqwest::{Client, Response, StatusCode};
use riacho_local::testing::{self, TestDatabase, TestPostgres, TestRedis};
use riacho_testkit::{
    Proxy,
    process::{self, Process, command, cpu_time, free_port},
    within,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{RIACHO, errors_of, json_lines};

/// How long documents may take to be ready once everything is there, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Servers with a proxy before each, and the environment that names the proxies.
pub struct Cluster {
    pub redis: TestRedis,
    pub database: TestDatabase,
    pub postgres: TestPostgres,
    pub to_redis: Proxy,
    pub to_postgres: Proxy,
    pub dir: TempDir,
    env: Vec<(String, String)>,
}

impl Cluster {
    pub fn new() -> Cluster {
        let (redis, postgres) = (testing::redis(), testing::private_postgres());
        let database = postgres.create_database();
        let to_redis = Proxy::before(&redis.url()).unwrap();
        let to_postgres = Proxy::before(&database.owner_url()).unwrap();
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let env = [
            ("REDIS_URL", to_redis.url().to_owned()),
            ("DATABASE_URL", to_postgres.url().to_owned()),
            ("RIACHO__OBJECTS__DIRECTORY", path("objects")),
            ("RIACHO_DATA_DIR", path("none")),
            ("RIACHO__LOG__FORMAT", "text".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Cluster { redis, database, postgres, to_redis, to_postgres, dir, env }
    }

    /// Sets a variable for the processes that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn spawn(&self, args: &[&str]) -> Process {
        self.spawn_program(RIACHO, args)
    }

    /// The same for a program that becomes the binary, or stands between.
    pub fn spawn_program(&self, program: &str, args: &[&str]) -> Process {
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>();
        Process::spawn(program, args, &env).unwrap()
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        command(Path::new(RIACHO)).args(args).envs(self.env.clone()).output().unwrap()
    }

    /// Runs a command to its end and gives the JSON it prints.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", errors_of(&output));
        json_lines(&output).remove(0)
    }

    /// Makes the schema, a tenant and a key, and gives the key.
    pub fn prepare(&self) -> String {
        self.json(&["migrate"]);
        self.json(&["tenant", "create", "default"]);
        self.json(&["key", "create"])["secret"].as_str().unwrap().to_owned()
    }

    /// Starts the gateway, and the stages with the janitor as another process.
    pub fn start(&self, key: &str) -> Services {
        self.start_with(key, "extractor,embedder,indexer,janitor")
    }

    /// The same with some of the stages.
    pub fn start_with(&self, key: &str, stages: &str) -> Services {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let gateway = self.spawn(&["ingest-gateway", "--listen", &listen]);
        let work = self.spawn(&["work", "--stages", stages]);
        let client = process::client(key).unwrap();
        let url = format!("http://{listen}");
        Services { gateway, work, url, client, usual: Duration::ZERO, accepted: Vec::new() }
    }

    /// Prepares, starts, and waits until a first document is ready, and a second one that is timed.
    pub async fn working(&self) -> Services {
        let mut services = self.start(&self.prepare());
        services.are_ready().await;
        services.upload("first").await;
        services.all_ready().await;
        let begin = Instant::now();
        services.upload("second").await;
        services.all_ready().await;
        services.usual = begin.elapsed();
        services
    }

    /// What must be so of all accepted documents in the end: live once, with each chunk of the sealed
    /// run once, and nothing condemned.
    pub fn check(&self, services: &Services) {
        let number = |sql: &str| -> i64 { self.database.run(sql)[0][0].as_ref().unwrap().parse().unwrap() };
        let accepted = i64::try_from(services.accepted.len()).unwrap();
        let live = "SELECT count(*) FROM documents WHERE live_version IS NOT NULL AND deleted_at IS NULL";
        assert_eq!(number(live), accepted, "one live document for each that was accepted");
        assert_eq!(number("SELECT count(*) FROM document_versions WHERE state <> 'ready'"), 0);
        let broken = "SELECT count(*) FROM document_versions v, LATERAL (
              SELECT count(*) AS many, count(DISTINCT ordinal) AS various, max(ordinal) + 1 AS next
              FROM chunks c WHERE c.document_id = v.document_id AND c.version = v.version AND c.run_id = v.run_id
            ) AS found
            WHERE many <> v.chunk_total OR various <> v.chunk_total OR next <> v.chunk_total";
        assert_eq!(number(broken), 0, "every ordinal of the sealed run once");
        assert_eq!(number("SELECT count(*) FROM dead_letters"), 0, "nothing was condemned");
    }
}

/// Running services, and what they have accepted.
pub struct Services {
    pub gateway: Process,
    pub work: Process,
    pub url: String,
    pub client: Client,
    /// How long a document takes here when nothing is wrong: much, on a busy machine.
    pub usual: Duration,
    /// The documents that are owed: id, and a word that is in no other.
    pub accepted: Vec<(String, String)>,
}

/// What processes did over a time.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    since: Instant,
    lines: usize,
    cpu: Duration,
}

impl Effort {
    /// Lines a second between an earlier moment and this one.
    #[allow(clippy::cast_precision_loss)] // a log has few lines
    pub fn lines_since(&self, before: Effort) -> f64 {
        (self.lines - before.lines) as f64 / (self.since - before.since).as_secs_f64()
    }
}

impl Services {
    pub async fn are_ready(&self) {
        within(PATIENCE, || async {
            let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
            answer.map_err(|error| error.to_string())?.error_for_status().map_err(|error| error.to_string())
        })
        .await;
    }

    /// Sends a document with a word of its own, and gives the answer.
    pub async fn send(&self, word: &str) -> Response {
        let paragraph = "The barge passed the lock and the keeper wrote down its name and its draught.\n\n";
        self.send_text(word, format!("# {word}\n\n{}{word} ends.\n", paragraph.repeat(60))).await
    }

    async fn send_text(&self, word: &str, text: String) -> Response {
        let url = format!("{}/api/v1/documents?filename={word}.md", self.url);
        self.client.post(url).header("content-type", "text/markdown").body(text).send().await.unwrap()
    }

    /// Sends a document that has to be accepted.
    pub async fn upload(&mut self, word: &str) {
        let answer = self.send(word).await;
        self.has_accepted(word, answer).await;
    }

    /// Sends a document with a text of its own that has to be accepted.
    pub async fn upload_text(&mut self, word: &str, text: String) {
        let answer = self.send_text(word, text).await;
        self.has_accepted(word, answer).await;
    }

    async fn has_accepted(&mut self, word: &str, answer: Response) {
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{body}\n{}", self.log());
        self.owe(word, &body);
    }

    /// Uploads a document for each word, some at once.
    pub async fn upload_all(&mut self, words: &[String]) {
        let mut answers = Vec::with_capacity(words.len());
        for some in words.chunks(8) {
            let sent = some.iter().map(async |word| self.send(word).await.json::<Value>().await.unwrap());
            answers.extend(futures::future::join_all(sent).await);
        }
        for (word, body) in words.iter().zip(&answers) {
            assert!(body["id"].is_string(), "{body}\n{}", self.log());
            self.owe(word, body);
        }
    }

    /// Sends a document that may be refused, in the way that a client can act on: says whether it was kept.
    pub async fn offer(&mut self, word: &str, code: &str) -> bool {
        let answer = self.send(word).await;
        if answer.status() == StatusCode::ACCEPTED {
            let body = answer.json().await.unwrap();
            self.owe(word, &body);
            return true;
        }
        is_refused_for_now(answer, code).await;
        false
    }

    fn owe(&mut self, word: &str, body: &Value) {
        self.accepted.push((body["id"].as_str().unwrap().to_owned(), word.to_owned()));
    }

    /// Waits until every accepted document is ready, and finds each by its word, once.
    pub async fn all_ready(&self) {
        for (id, _) in &self.accepted {
            within(PATIENCE, || async {
                let status = self.status(id).await?;
                if status["state"] == "ready" { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
            })
            .await;
        }
        for (id, word) in &self.accepted {
            let question = json!({ "query": word, "mode": "keyword", "top_k": 50 });
            let answer = self.client.post(format!("{}/api/v1/search", self.url)).json(&question);
            let answer: Value = answer.send().await.unwrap().json().await.unwrap();
            let hits = answer["hits"].as_array().unwrap_or_else(|| panic!("{answer}"));
            assert!(!hits.is_empty() && hits.iter().all(|hit| hit["document_id"] == id.as_str()), "{answer}");
            let chunks = hits.iter().map(|hit| hit["chunk_id"].to_string());
            let various = chunks.collect::<std::collections::BTreeSet<_>>();
            assert_eq!(various.len(), hits.len(), "no chunk is found twice: {answer}");
        }
    }

    /// Within what after a server's return work has to go on: two seconds, and what it takes anyway.
    pub fn soon(&self) -> Duration {
        Duration::from_secs(2) + self.usual
    }

    pub async fn status(&self, id: &str) -> Result<Value, String> {
        let url = format!("{}/api/v1/documents/{id}/status", self.url);
        let answer = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }

    pub fn log(&self) -> String {
        format!("gateway:\n{}\nwork:\n{}", self.gateway.log(), self.work.log())
    }

    /// What the processes have done so far.
    pub fn effort(&self) -> Effort {
        Effort {
            since: Instant::now(),
            lines: lines_beside_stories(&self.gateway.log()) + lines_beside_stories(&self.work.log()),
            cpu: cpu_time(self.gateway.pid()).unwrap() + cpu_time(self.work.pid()).unwrap(),
        }
    }

    /// Fails where the processes were not quiet since then: at most five lines a second, and a fifth of
    /// a core. That bounds loops without a pause; it is no measure of speed.
    pub fn were_quiet(&self, before: Effort) {
        let now = self.effort();
        let lines = now.lines_since(before);
        let cores = (now.cpu - before.cpu).as_secs_f64() / (now.since - before.since).as_secs_f64();
        assert!(lines <= 5.0 && cores <= 0.2, "{lines} lines a second, {cores} of a core\n{}", self.log());
    }

    /// Stops both, and fails where one did not end well.
    pub async fn stop(&mut self) {
        for process in [&mut self.gateway, &mut self.work] {
            let status = process.stop().await.unwrap();
            assert!(status.success(), "{status}: {}", process.log());
        }
    }
}

/// The lines of a log but those of a step in a document's life: of these there is one a step, whatever fails meanwhile, and
/// tests/traces says which.
fn lines_beside_stories(log: &str) -> usize {
    log.lines().filter(|line| !line.contains(" step=")).count()
}

/// Checks that an answer tells a client to come again: 503, when, and why.
pub async fn is_unavailable(answer: Response) {
    is_refused_for_now(answer, "unavailable").await;
}

/// The same with a reason of its own.
pub async fn is_refused_for_now(answer: Response, code: &str) {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(headers["content-type"], "application/problem+json", "{body}");
    let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(503)));
}
