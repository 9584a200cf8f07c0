//! Searches that go on while something else happens, and what is wrong with their answers.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

/// Searches that are under way at most: a machine that is too busy for fifty a second does what it can.
const AT_ONCE: usize = 4;

/// Searches fifty times a second until it is stopped, and keeps what went wrong.
pub struct Checker {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Checked>,
}

#[derive(Debug, Default)]
pub struct Checked {
    pub searches: usize,
    pub wrong: Vec<String>,
}

impl Checker {
    pub fn start(url: String, client: Client, words: &[&str]) -> Checker {
        let (stop, mut stopped) = watch::channel(false);
        let words: Arc<[String]> = words.iter().map(ToString::to_string).collect();
        let task = tokio::spawn(async move {
            let (mut checked, mut running) = (Checked::default(), JoinSet::new());
            let mut every = tokio::time::interval(Duration::from_millis(20));
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = every.tick(), if running.len() < AT_ONCE => {}
                    Some(done) = running.join_next() => {
                        checked.wrong.extend(done.unwrap());
                        continue;
                    }
                    _ = stopped.changed() => break,
                }
                let (word, mode) = (
                    words[checked.searches % words.len()].clone(),
                    ["hybrid", "vector"][checked.searches % 2],
                );
                let asked = json!({ "query": format!("the {word} at the lock {}", checked.searches), "mode": mode, "top_k": 5 });
                let request = client.post(&url).json(&asked);
                running.spawn(async move { looks_wrong(request, &word, mode).await });
                checked.searches += 1;
            }
            while let Some(done) = running.join_next().await {
                checked.wrong.extend(done.unwrap());
            }
            checked
        });
        Checker { stop, task }
    }

    pub async fn stop(self) -> Checked {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// What is wrong with a search's answer: an error, no hits, or, by words too, none of the word's document.
async fn looks_wrong(request: reqwest::RequestBuilder, word: &str, mode: &str) -> Option<String> {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    let hits = body["hits"].as_array().cloned().unwrap_or_default();
    let is_found = hits.iter().any(|hit| hit["filename"] == format!("{word}.md"));
    // A machine that is too busy may not embed a query in time; hybrid searches say so and go on.
    let warnings = body["warnings"].to_string();
    let is_told = warnings == "[]" || warnings.contains("in time");
    let is_right = status == StatusCode::OK && !hits.is_empty() && (is_found || mode == "vector") && is_told;
    let is_excused = mode == "vector"
        && status == StatusCode::SERVICE_UNAVAILABLE
        && body["detail"].to_string().contains("in time");
    (!is_right && !is_excused).then(|| format!("{status} {body}"))
}
