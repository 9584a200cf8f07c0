//! What is embedded when a document changes, and when it comes again: counted at the model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use riacho_testkit::{openai::OpenAi, process};
use serde_json::{Value, json};
use support::Deployment;

/// 300 pages of text: chapters of paragraphs, each of two to six sentences.
fn book() -> Vec<String> {
    let words: Vec<&str> = "the water level of the river is measured every hour by radar at the old bridge and a warden \
        reads the staff gauge twice a day when rain falls on the hills it takes four hours until the station sees it"
        .split_whitespace()
        .collect();
    let mut state = 42_u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let mut blocks = Vec::new();
    for page in 0..300 {
        if page % 20 == 0 {
            blocks.push(format!("# Chapter {}", page / 20 + 1));
        }
        let mut bytes = 0;
        while bytes < 2_400 {
            let sentences = 2 + below(5);
            let paragraph: Vec<String> = (0..sentences)
                .map(|_| {
                    let count = 8 + below(16);
                    let text: Vec<&str> = (0..count).map(|_| words[below(words.len())]).collect();
                    format!("Reading {} of page {page} says that {}.", below(100_000), text.join(" "))
                })
                .collect();
            bytes += paragraph.iter().map(String::len).sum::<usize>();
            blocks.push(paragraph.join(" "));
        }
    }
    blocks
}

/// A deployment whose model counts what it is asked for.
async fn counted() -> (OpenAi, Deployment) {
    let provider = OpenAi::start(16).await.unwrap();
    let base_url = format!("models.base_url={}", provider.base_url());
    let settings = ["--set", "models.provider=openai", "--set", &base_url, "--set", "models.dimensions=16"];
    let deployment = Deployment::start(&settings, &[("OPENAI_API_KEY", provider.api_key())]).await;
    (provider, deployment)
}

/// How many texts of documents the model was asked for until now.
fn embedded(provider: &OpenAi) -> usize {
    provider.texts().iter().filter(|text| text.contains("Reading ")).count()
}

/// Waits until a document is ready: of three hundred pages, on a busy machine.
async fn ready(deployment: &Deployment, accepted: &Value) -> Value {
    let path = format!("/api/v1/documents/{}/status", accepted["id"].as_str().unwrap());
    let status = || async {
        let status = deployment.get(&path).await;
        if status["state"] == "ready" { Ok(status) } else { Err(status) }
    };
    riacho_testkit::within(Duration::from_secs(180), status).await
}

/// Uploads a text, waits until it is searchable, and gives its status with the texts that were embedded.
async fn ingest(
    deployment: &Deployment,
    provider: &OpenAi,
    blocks: &[String],
    query: &[(&str, &str)],
) -> (Value, usize) {
    let before = embedded(provider);
    let accepted = deployment.upload_with("book.md", blocks.join("\n\n"), query).await;
    let status = ready(deployment, &accepted).await;
    (status, embedded(provider) - before)
}

#[tokio::test]
async fn an_edited_paragraph_of_three_hundred_pages_embeds_at_most_three_chunks() {
    let (provider, deployment) = counted().await;
    let book = book();
    let name = [("external_id", "book")];
    let (status, all) = ingest(&deployment, &provider, &book, &name).await;
    let chunks = usize::try_from(status["progress"]["chunks_total"].as_u64().unwrap()).unwrap();
    assert!(chunks > 500 && all == chunks, "{all} of {chunks}");
    let place = book.len() / 2;
    let mut edited = book.clone();
    edited[place] = edited[place].replacen("Reading", "The corrected reading", 1) + " It was wrong before.";
    let (status, new) = ingest(&deployment, &provider, &edited, &name).await;
    assert_eq!(status["version"], 2, "{status}");
    assert!((1..=3).contains(&new), "an edited paragraph: {new}");
    edited.insert(place / 2, "Reading 7 was added later. It is a paragraph of its own.".to_owned());
    let (_, new) = ingest(&deployment, &provider, &edited, &name).await;
    assert!((1..=3).contains(&new), "an inserted paragraph: {new}");
    // It needs no common document, only a common tenant.
    let mut edited = book.clone();
    edited.remove(book.len() / 3);
    let (status, new) = ingest(&deployment, &provider, &edited, &[]).await;
    assert!(status["version"] == 1 && new <= 3, "{new}: {status}");
    let hits = deployment.search(json!({ "query": "the corrected reading", "mode": "keyword" })).await;
    assert!(!hits.is_empty());
}

#[tokio::test]
async fn a_chunk_is_embedded_with_its_title_and_headings_and_anew_under_another_heading() {
    let (provider, deployment) = counted().await;
    let pages = book();
    let section =
        |heading: &str, from: usize| format!("## {heading}\n\n{}", pages[from..from + 20].join("\n\n"));
    let text = |second: &str| vec!["# Handbook".to_owned(), section("Pumps", 2), section(second, 40)];
    let (status, _) = ingest(&deployment, &provider, &text("Valves"), &[]).await;
    let id = status["id"].as_str().unwrap();
    let chunks = deployment.get(&format!("/api/v1/documents/{id}/chunks")).await;
    let chunks = chunks["chunks"].as_array().unwrap();
    let sent = provider.texts();
    for chunk in chunks {
        let path: Vec<&str> =
            chunk["heading_path"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let input = format!("book.md\n{}\n{}", path.join("\n"), chunk["text"].as_str().unwrap());
        assert!(sent.contains(&input), "{input}");
    }
    let below = |heading: &str| {
        chunks.iter().filter(|c| c["heading_path"].as_array().unwrap().contains(&json!(heading))).count()
    };
    assert!(
        below("Pumps") > 2 && below("Valves") > 2 && below("Pumps") + below("Valves") >= chunks.len() - 1
    );
    // The words below the heading stay as they are, and what is embedded of them does not.
    let (_, new) = ingest(&deployment, &provider, &text("Taps"), &[]).await;
    assert_eq!(new, below("Valves"));
}

#[tokio::test]
async fn what_another_tenant_has_is_embedded_anew() {
    let (provider, deployment) = counted().await;
    let book = &book()[..40];
    let (_, all) = ingest(&deployment, &provider, book, &[]).await;
    let (_, again) = ingest(&deployment, &provider, book, &[("collection", "copies")]).await;
    assert!(all > 5 && again == 0, "{all}, {again}");
    deployment.json(&["tenant", "create", "other"]).await;
    let key = deployment.json(&["key", "create", "--tenant", "other", "--scopes", "admin"]).await;
    let other = process::client(key[0]["secret"].as_str().unwrap_or_else(|| panic!("{key:?}"))).unwrap();
    let before = embedded(&provider);
    let url = deployment.up.url("/api/v1/documents?filename=book.md");
    let request = other.post(url).header("content-type", "application/octet-stream");
    let response = request.body(book.join("\n\n")).send().await.unwrap();
    assert_eq!(response.status(), 202);
    riacho_testkit::eventually(|| async { embedded(&provider) - before == all }).await;
    let accepted: Value = response.json().await.unwrap();
    let status = deployment.up.url(&format!("/api/v1/documents/{}/status", accepted["id"].as_str().unwrap()));
    riacho_testkit::eventually(|| async {
        let status: Value = other.get(&status).send().await.unwrap().json().await.unwrap();
        status["state"] == "ready"
    })
    .await;
    assert_eq!(embedded(&provider) - before, all);
}

/// The sum of a metric over its labels.
async fn metric(deployment: &Deployment, name: &str) -> f64 {
    let text =
        deployment.client().get(deployment.up.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let of_name = text.lines().filter(|line| line.starts_with(name));
    of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn with_the_local_model_only_what_changed_is_embedded_and_for_the_same_bytes_nothing_runs() {
    let deployment = Deployment::shared().await;
    let book = book();
    let name = [("external_id", "local-book")];
    let accepted = deployment.upload_with("book.md", book.join("\n\n"), &name).await;
    ready(&deployment, &accepted).await;
    let texts = metric(&deployment, "riacho_model_texts_total{").await;
    let mut edited = book.clone();
    edited[700] += " Reading 8 was added.";
    let accepted = deployment.upload_with("book.md", edited.join("\n\n"), &name).await;
    ready(&deployment, &accepted).await;
    let new = metric(&deployment, "riacho_model_texts_total{").await - texts;
    assert!((1.0..=3.0).contains(&new), "{new}");

    let events = metric(&deployment, "riacho_events_processed_total{").await;
    let mut fastest = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let answer = deployment.upload_with("book.md", edited.join("\n\n"), &name).await;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        assert_eq!((&answer["id"], &answer["duplicate"]), (&accepted["id"], &json!(true)), "{answer}");
        assert_eq!(answer["state"], "ready", "answered with what is there: {answer}");
    }
    assert_eq!(metric(&deployment, "riacho_events_processed_total{").await, events, "nothing ran");
    assert!(fastest < 2.0, "{fastest} s");
}

/// A name that is in no other row.
fn station(number: usize) -> String {
    let letter = |at: u32| char::from(b'a' + u8::try_from(number / 26_usize.pow(at) % 26).unwrap());
    format!("q{}{}x", letter(0), letter(1))
}

#[tokio::test]
async fn a_row_deep_in_a_long_table_is_found_by_the_name_of_its_column_and_shows_it() {
    const HEADER: &str = "| station | turbidity | remark |";
    let (provider, deployment) = counted().await;
    let row = |n: usize| [station(n), format!("{n}.5"), "read by the warden at noon".to_owned()];
    let csv = (0..300).map(|n| row(n).join(";") + "\n");
    let html = (0..300).map(|n| format!("<tr><td>{}</td></tr>\n", row(n).join("</td><td>")));
    let csv = "station;turbidity;remark\n".to_owned() + &csv.collect::<String>();
    let html = format!(
        "<!DOCTYPE html><html><body><table><tr><th>station</th><th>turbidity</th><th>remark</th></tr>\n{}</table></body></html>",
        html.collect::<String>()
    );
    for (name, text) in [("levels.csv", csv), ("levels.html", html)] {
        let accepted = deployment.upload(name, text).await;
        deployment.ready(&accepted).await;
        let id = accepted["id"].as_str().unwrap();
        let question = format!("turbidity {}", station(250));
        let body = json!({ "query": question, "mode": "keyword", "documents": [id] });
        let hits = deployment.search(body).await;
        let hit = &hits[0];
        let text = hit["text"].as_str().unwrap();
        assert!(text.contains(&station(250)) && !text.contains("turbidity"), "{name}: {hit}");
        assert_eq!(hit["table_header"], HEADER, "{name}");
        let chunks = deployment.get(&format!("/api/v1/documents/{id}/chunks?limit=200")).await;
        let chunks = chunks["chunks"].as_array().unwrap();
        assert!(chunks.len() > 5 && chunks[0]["table_header"].is_null(), "{name}: {}", chunks[0]);
        let sent = provider.texts();
        for chunk in &chunks[1..] {
            assert_eq!(chunk["table_header"], HEADER, "{name}: {chunk}");
            let input = format!("{HEADER}\n{}", chunk["text"].as_str().unwrap());
            assert!(sent.iter().any(|text| text.ends_with(&input)), "{name}: {input}");
        }
    }
}
