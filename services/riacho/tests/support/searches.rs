//! Searches that go on while something else happens, and what is wrong with their answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

/// Searches that are under way at most: a machine that is too busy for fifty a second does what it can.
const AT_ONCE: usize = 4;

/// Searches fifty times a second until it is stopped, and keeps what went wrong.
pub struct Checker {
    stop: watch::Sender<bool>,
    begun: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Checked>,
}

#[derive(Debug, Default)]
pub struct Checked {
    pub searches: usize,
    pub wrong: Vec<String>,
    /// Searches whose query was not embedded in time, and whose answer said so.
    pub late: usize,
}

impl Checked {
    fn add(&mut self, answer: Looked) {
        match answer {
            Looked::Right => {}
            Looked::Late => self.late += 1,
            Looked::Wrong(text) => self.wrong.push(text),
        }
    }

    /// No search was wrong, and no more than one in fifty was late: a machine that is too busy may not embed a query in
    /// time, a service that does not may not hide behind it.
    pub fn is_right(&self) {
        let Checked { searches, wrong, late } = self;
        assert!(wrong.is_empty(), "{} of {searches} searches: {:#?}", wrong.len(), &wrong[..1]);
        assert!(late * 50 <= *searches, "{late} of {searches} searches were late");
    }
}

/// What an answer looks like.
enum Looked {
    Right,
    Late,
    Wrong(String),
}

impl Checker {
    pub fn start(url: String, client: Client, words: &[&str]) -> Checker {
        let (stop, mut stopped) = watch::channel(false);
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = begun.clone();
        let words: Arc<[String]> = words.iter().map(ToString::to_string).collect();
        let task = tokio::spawn(async move {
            let (mut checked, mut running) = (Checked::default(), JoinSet::new());
            let mut every = tokio::time::interval(Duration::from_millis(20));
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = every.tick(), if running.len() < AT_ONCE => {}
                    Some(done) = running.join_next() => {
                        checked.add(done.unwrap());
                        continue;
                    }
                    _ = stopped.changed() => break,
                }
                let (word, mode) = (
                    words[checked.searches % words.len()].clone(),
                    ["hybrid", "vector"][checked.searches % 2],
                );
                // The word weighs most: the second model's vectors are sums of those of the words.
                let query = format!("{word}, {word}, {word} at the lock {}", checked.searches);
                let asked = json!({ "query": query, "mode": mode, "top_k": 5 });
                let request = client.post(&url).json(&asked);
                running.spawn(async move { look(request, &word, mode).await });
                checked.searches += 1;
                counter.store(checked.searches, Ordering::Relaxed);
            }
            while let Some(done) = running.join_next().await {
                checked.add(done.unwrap());
            }
            checked
        });
        Checker { stop, begun, task }
    }

    /// How many searches there were so far.
    pub fn searches(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub async fn stop(self) -> Checked {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Looks at a search's answer: it is wrong where it is an error, or has no hit of the word's document.
async fn look(request: reqwest::RequestBuilder, word: &str, mode: &str) -> Looked {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Looked::Wrong(error.to_string()),
    };
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    let hits = body["hits"].as_array().cloned().unwrap_or_default();
    let is_found = hits.iter().any(|hit| hit["filename"] == format!("{word}.md"));
    let is_late = |text: &Value| text.to_string().contains("in time");
    let is_told = body["warnings"] != json!([]);
    match mode {
        _ if status != StatusCode::OK || hits.is_empty() => {}
        _ if is_found && !is_told => return Looked::Right,
        _ if is_found && is_late(&body["warnings"]) => return Looked::Late,
        _ => {}
    }
    if mode == "vector" && status == StatusCode::SERVICE_UNAVAILABLE && is_late(&body["detail"]) {
        return Looked::Late;
    }
    let found: Vec<&Value> = hits.iter().map(|hit| &hit["filename"]).collect();
    let [warnings, problem] = [&body["warnings"], &body["detail"]];
    Looked::Wrong(format!("{mode} {word}: {status}, found {found:?}, {warnings} {problem}"))
}
