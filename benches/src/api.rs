//! The deployment's HTTP interface, as far as measurements use it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use serde_json::{Value, json};

/// The longest a document may take before a measurement gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A client with a key.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
    key: String,
    lane: &'static str,
}

/// Where a document stands.
pub(crate) struct Status {
    /// The state's name.
    pub(crate) state: String,
    /// The answer as it came.
    pub(crate) body: Value,
}

impl Status {
    fn is_terminal(&self) -> bool {
        ended(&self.state)
    }

    /// Chunks of the version.
    #[must_use]
    pub(crate) fn chunks(&self) -> u64 {
        self.body["progress"]["chunks_total"].as_u64().unwrap_or_default()
    }
}

fn ended(state: &str) -> bool {
    matches!(state, "ready" | "failed" | "cancelled" | "expired")
}

impl Api {
    /// A client of the deployment at `url`.
    pub(crate) fn new(url: &str, key: &str) -> anyhow::Result<Api> {
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(60)).pool_max_idle_per_host(64).build()?;
        Ok(Api { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned(), lane: "interactive" })
    }

    /// The same with another key.
    #[must_use]
    pub(crate) fn with_key(&self, key: &str) -> Api {
        Api { key: key.to_owned(), ..self.clone() }
    }

    /// The same with uploads in another lane.
    #[must_use]
    pub(crate) fn in_lane(self, lane: &'static str) -> Api {
        Api { lane, ..self }
    }

    /// Uploads a file as a raw body; answers the document's id.
    pub(crate) async fn upload(
        &self,
        filename: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<String> {
        let answer = self
            .http
            .post(format!("{}/api/v1/documents", self.url))
            .query(&[("filename", filename), ("lane", self.lane)])
            .bearer_auth(&self.key)
            .header("content-type", content_type)
            .body(body)
            .send()
            .await?;
        let code = answer.status();
        let text = answer.text().await?;
        if code != 202 && code != 200 {
            bail!("upload of {filename} answered {code}: {text}");
        }
        let body: Value = serde_json::from_str(&text)?;
        Ok(body["id"].as_str().context("the answer has no id")?.to_owned())
    }

    /// Uploads files as an archive; answers the documents' ids.
    pub(crate) async fn upload_archive(&self, zip: Vec<u8>) -> anyhow::Result<Vec<String>> {
        let request = self.http.post(format!("{}/api/v1/documents/bulk", self.url));
        let request = request.query(&[("lane", self.lane)]).bearer_auth(&self.key);
        let answer = request.header("content-type", "application/zip").body(zip).send().await?;
        let code = answer.status();
        let text = answer.text().await?;
        if code != 200 || !text.contains("\"complete\":true") {
            bail!("the archive's upload answered {code}: {text}");
        }
        let items = text.lines().filter(|line| !line.starts_with("{\"summary\""));
        let id = |line: &str| {
            let item: Value = serde_json::from_str(line)?;
            Ok(item["id"].as_str().with_context(|| format!("no id: {line}"))?.to_owned())
        };
        items.map(id).collect()
    }

    /// Uploads texts in one request, a line each.
    pub(crate) async fn upload_lines(&self, lines: String) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/api/v1/documents/bulk", self.url));
        let request = request.query(&[("lane", self.lane)]).bearer_auth(&self.key);
        let answer = request.header("content-type", "application/x-ndjson").body(lines).send().await?;
        let code = answer.status();
        let text = answer.text().await?;
        if code != 200 || !text.contains("\"complete\":true") || text.contains("\"problem\"") {
            bail!("the upload of lines answered {code}: {}", text.lines().last().unwrap_or_default());
        }
        Ok(())
    }

    /// What an address answers.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// The address and the key, for another client.
    pub(crate) fn address(&self) -> (&str, &str) {
        (&self.url, &self.key)
    }

    /// The document's status.
    pub(crate) async fn status(&self, id: &str) -> anyhow::Result<Status> {
        let url = format!("{}/api/v1/documents/{id}/status", self.url);
        let body: Value =
            self.http.get(url).bearer_auth(&self.key).send().await?.error_for_status()?.json().await?;
        Ok(Status { state: body["state"].as_str().context("the answer has no state")?.to_owned(), body })
    }

    /// Waits until the document is ready, failed, cancelled or expired.
    pub(crate) async fn finished(&self, id: &str, poll: Duration) -> anyhow::Result<Status> {
        let start = Instant::now();
        loop {
            let status = self.status(id).await?;
            if status.is_terminal() {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!("document {id} is still {} after {} s", status.state, PATIENCE.as_secs());
            }
            tokio::time::sleep(poll).await;
        }
    }

    /// How many of the tenant's documents are not yet ready, failed, cancelled or expired.
    pub(crate) async fn unfinished(&self) -> anyhow::Result<u64> {
        let url = format!("{}/api/v1/queue/info", self.url);
        let body: Value =
            self.http.get(url).bearer_auth(&self.key).send().await?.error_for_status()?.json().await?;
        let states = body["documents"].as_object().context("the answer has no documents")?;
        Ok(states.iter().filter(|(state, _)| !ended(state)).filter_map(|(_, count)| count.as_u64()).sum())
    }

    /// The documents that a search finds.
    pub(crate) async fn search(&self, query: &str, top_k: usize) -> anyhow::Result<Vec<String>> {
        let url = format!("{}/api/v1/search", self.url);
        let request =
            self.http.post(url).bearer_auth(&self.key).json(&json!({"query": query, "top_k": top_k}));
        let body: Value = request.send().await?.error_for_status()?.json().await?;
        let hits = body["hits"].as_array().context("the answer has no hits")?;
        Ok(hits.iter().filter_map(|hit| Some(hit["document_id"].as_str()?.to_owned())).collect())
    }
}
