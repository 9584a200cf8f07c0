//! The five services, and a client of theirs.

use reqwest::{Client, Response};
use riacho_testkit::{
    Proxy,
    openai::OpenAi,
    process::{self, Process, free_port},
    within,
};
use serde_json::{Value, json};

use crate::{
    SERVICES,
    support::{
        cluster::{Cluster, PATIENCE},
        story::{self, Line},
    },
};

/// The five services, a process each, with all that they talk to.
pub(crate) struct Five {
    pub(crate) cluster: Cluster,
    /// The gateway's own way to Redis.
    pub(crate) gateway_to_redis: Proxy,
    pub(crate) provider: OpenAi,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) client: Client,
    pub(crate) processes: Vec<Process>,
}

impl Five {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Five {
        let provider = OpenAi::start(64).await.unwrap();
        let mut cluster = Cluster::new();
        cluster.set("OPENAI_API_KEY", provider.api_key());
        for (name, value) in [
            ("MODELS__PROVIDER", "openai"),
            ("MODELS__MODEL", "text-embedding-3-small"),
            ("MODELS__DIMENSIONS", "64"),
            ("MODELS__BASE_URL", &provider.base_url()),
            ("HTTP__OUTBOUND_ALLOW", "[\"127.0.0.0/8\"]"),
            ("JANITOR__PURGE_GRACE_SECONDS", "0"),
            // When the test asks for it.
            ("JANITOR__SCHEDULES__PURGE", "0 0 1 1 *"),
        ] {
            cluster.set(&format!("RIACHO__{name}"), value);
        }
        for (name, value) in settings {
            cluster.set(name, value);
        }
        cluster.prepare();
        let key = cluster.json(&["key", "create", "--scopes", "admin,operator"])["secret"]
            .as_str()
            .unwrap()
            .to_owned();
        let client = process::client(&key).unwrap();
        let gateway_to_redis = Proxy::before(&cluster.redis.url()).unwrap();
        let mut five = Five {
            cluster,
            gateway_to_redis,
            provider,
            url: String::new(),
            key,
            client,
            processes: Vec::new(),
        };
        five.begin().await;
        five
    }

    /// Starts the processes.
    pub(crate) async fn begin(&mut self) {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        self.url = format!("http://{listen}");
        self.cluster.set("REDIS_URL", self.gateway_to_redis.url());
        self.processes = vec![self.cluster.spawn(&["ingest-gateway", "--listen", &listen])];
        let to_redis = self.cluster.to_redis.url().to_owned();
        self.cluster.set("REDIS_URL", &to_redis);
        self.processes.extend(SERVICES[1..].iter().map(|service| self.cluster.spawn(&[service])));
        within(PATIENCE, || async {
            let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
            let ready = answer.map_err(|error| error.to_string())?.error_for_status();
            ready.map_err(|error| format!("{error}\n{}", self.log()))
        })
        .await;
    }

    /// Stops them; they must end well, and then all they had to say is said. What they said.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        for process in &mut self.processes {
            let status = process.stop().await.unwrap();
            assert!(status.success(), "{status}: {}", process.log());
        }
        self.processes.iter().map(Process::log).collect()
    }

    pub(crate) fn log(&self) -> String {
        self.processes.iter().map(Process::log).collect::<Vec<_>>().join("\n")
    }

    pub(crate) async fn post(&self, path: &str, parent: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(format!("{}{path}", self.url)).header("traceparent", parent);
        request.header("content-type", "text/markdown").body(body).send().await.unwrap()
    }

    /// Uploads a document below a span of the client's, and gives its id.
    pub(crate) async fn upload(&self, name: &str, parent: &str, body: impl Into<reqwest::Body>) -> String {
        let answer = self.post(&format!("/api/v1/documents?filename={name}"), parent, body).await;
        let answer: Value = answer.json().await.unwrap();
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}\n{}", self.log())).to_owned()
    }

    pub(crate) async fn is(&self, id: &str, state: &str) {
        within(PATIENCE, || async {
            let url = format!("{}/api/v1/documents/{id}/status", self.url);
            let status: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
            if status["state"] == state { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await;
    }

    /// Asks for something and gives the answer, which must be a good one.
    pub(crate) async fn call(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{status} {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(self.client.get(format!("{}{path}", self.url))).await
    }

    /// Sends JSON.
    pub(crate) async fn send(&self, path: &str, body: &Value) -> Value {
        self.call(self.client.post(format!("{}{path}", self.url)).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.call(self.client.delete(format!("{}{path}", self.url))).await;
    }

    /// Puts an event onto Redis as a producer does.
    pub(crate) fn publish(&self, event: &[u8]) {
        let command: [&[u8]; 5] = [b"XADD", b"riacho:{intake}:default", b"*", b"e", event];
        self.cluster.redis.command(&command);
    }

    /// The document with a name; waits until there is one.
    pub(crate) async fn document(&self, filename: &str) -> String {
        within(PATIENCE, || async {
            let page = self.get("/api/v1/documents?limit=100").await;
            let documents = page["documents"].as_array().unwrap();
            let found = documents.iter().find(|document| document["filename"] == filename);
            found.map(|document| document["id"].as_str().unwrap().to_owned()).ok_or_else(|| page.to_string())
        })
        .await
    }

    /// Makes a webhook that is told of documents at a collector's address: whoever listens there will do.
    pub(crate) async fn webhook(&self, url: &str) {
        let body = json!({ "url": url, "events": ["document.ready", "document.failed", "document.deleted"] });
        let answer =
            self.client.post(format!("{}/api/v1/webhooks", self.url)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Removes what is left of what was deleted or has failed.
    pub(crate) async fn purge(&self) {
        self.run_task("purge").await;
    }

    /// Lets the janitor run a task.
    pub(crate) async fn run_task(&self, task: &str) {
        let url = format!("{}/api/v1/janitor/tasks/{task}/run", self.url);
        let answer = self.client.post(url).json(&json!({ "dry_run": false })).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Waits until a line of the log says a step of a document.
    pub(crate) async fn says(&self, id: &str, step: &str) {
        self.tells(id, |line| line.step == step).await;
    }

    /// Waits until there is such a line of a document's story.
    pub(crate) async fn tells(&self, id: &str, is_it: impl Fn(&Line) -> bool) {
        within(PATIENCE, || async {
            let logs: Vec<String> = self.processes.iter().map(Process::log).collect();
            let story = story::of(&logs, id);
            if story.iter().any(&is_it) { Ok(()) } else { Err(format!("{story:#?}")) }
        })
        .await;
    }
}

/// A client's span: trace, span, and the header.
pub(crate) fn client_span(number: u8, sampled: bool) -> (String, String, String) {
    let (trace, span) = (format!("{number:02x}").repeat(16), format!("{number:02x}").repeat(8));
    let header = format!("00-{trace}-{span}-0{}", u8::from(sampled));
    (trace, span, header)
}
