//! A deployment goes from one model to another: the new space is filled beside the live one, compared,
//! switched to and back, while documents come and searches go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    process::Output,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use riacho_testkit::{
    eventually,
    openai::{OpenAi, vector_of},
    process::{self, Process, free_port},
    within,
};
use serde_json::{Value, json};
use support::{cluster::Cluster, errors_of, searches::Checker, text_of};

/// Values of the second model's vectors.
const DIMENSIONS: usize = 64;
/// How long documents may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Servers, a local model, and a provider that is the second one.
struct Spaces {
    cluster: Cluster,
    provider: OpenAi,
    gateway: Process,
    /// The stages; the janitor is another process.
    work: Process,
    janitor: Option<Process>,
    url: String,
    /// Address of the janitor's metrics.
    ops: String,
    client: Client,
}

impl Spaces {
    async fn start() -> Spaces {
        let provider = OpenAi::start(DIMENSIONS).await.unwrap();
        let mut cluster = Cluster::new();
        for (key, value) in [
            ("PROVIDER", "openai"),
            ("MODEL", "next"),
            ("DIMENSIONS", "64"),
            ("BASE_URL", &provider.base_url()),
            ("API_KEY", provider.api_key()),
        ] {
            cluster.set(&format!("RIACHO__MODELS__SPACES__NEXT__{key}"), value);
        }
        cluster.set("RIACHO__MODELS__PRICES__NEXT", "0.5");
        let key = cluster.prepare();
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let gateway = cluster.spawn(&["ingest-gateway", "--listen", &listen]);
        let work = cluster.spawn(&["work", "--stages", "extractor,embedder,indexer"]);
        let ops = format!("127.0.0.1:{}", free_port().unwrap());
        cluster.set("RIACHO__HTTP__OPS_LISTEN", &ops);
        let janitor = Some(cluster.spawn(&["janitor"]));
        let (url, client) = (format!("http://{listen}"), process::client(&key).unwrap());
        let spaces = Spaces { cluster, provider, gateway, work, janitor, url, ops, client };
        within(PATIENCE, || async {
            let answer = spaces.client.get(format!("{}/readyz", spaces.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        spaces
    }

    /// Uploads a document about a word, of some chunks, and gives its id.
    async fn upload(&self, word: &str, query: &str) -> String {
        let text = (0..6).fold(format!("# Log of {word}\n\n"), |text, part| {
            let line = format!("The {word} passed lock {part} and the keeper wrote down its draught. ");
            text + &format!("## Part {part}\n\n") + &line.repeat(12) + "\n\n"
        });
        let url = format!("{}/api/v1/documents?filename={word}.md{query}", self.url);
        let sent = self.client.post(url).header("content-type", "text/markdown").body(text).send();
        let answer: Value = sent.await.unwrap().json().await.unwrap();
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}\n{}", self.gateway.log())).to_owned()
    }

    async fn upload_all(&self, words: impl Iterator<Item = String>) -> Vec<String> {
        let mut ids = Vec::new();
        for word in words {
            ids.push(self.upload(&word, "").await);
        }
        ids
    }

    async fn ready(&self, ids: &[String]) {
        for id in ids {
            within(PATIENCE, || async {
                let url = format!("{}/api/v1/documents/{id}/status", self.url);
                let status: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
                if status["state"] == "ready" {
                    Ok(())
                } else {
                    Err(format!("{status}\n{}", self.work.log()))
                }
            })
            .await;
        }
    }

    /// Searches, and says whether the second model was asked for the query's vector.
    async fn asks_the_second_model(&self, query: &str) -> bool {
        let asked = json!({ "query": query, "mode": "vector" });
        let answer =
            self.client.post(format!("{}/api/v1/search", self.url)).json(&asked).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        self.provider.texts().iter().any(|text| text.contains(query))
    }

    /// A metric of the janitor.
    async fn metric(&self, name: &str) -> Option<f64> {
        let sent = self.client.get(format!("http://{}/metrics", self.ops)).send().await.ok()?;
        let text = sent.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    fn count(&self, sql: &str) -> u64 {
        self.cluster.database.run(sql)[0][0].as_ref().unwrap().parse().unwrap()
    }

    /// A space as `riacho space list` shows it.
    fn space(&self, id: u32) -> Value {
        let listed = self.cluster.run(&["space", "list", "--json"]);
        let found = support::json_lines(&listed).into_iter().find(|space| space["id"] == id);
        found.unwrap_or_else(|| panic!("{}{}", text_of(&listed), errors_of(&listed)))
    }

    fn must(&self, args: &[&str]) -> Output {
        let output = self.cluster.run(args);
        assert!(output.status.success(), "{args:?}: {}{}", text_of(&output), errors_of(&output));
        output
    }

    /// Waits until a space lacks nothing, fast.
    fn fill(&self, id: u32) {
        self.must(&["space", "fill", &id.to_string(), "--per-second", "100000", "--wait"]);
    }

    /// Live chunks without a vector in a space, and vectors of live versions that are no chunk's.
    fn differences(&self, id: u32) -> u64 {
        self.count(&format!(
            "WITH c AS (SELECT c.document_id, c.version, c.run_id, c.ordinal FROM documents d
                   JOIN chunks c ON (c.document_id, c.version, c.run_id) = (d.id, d.live_version, d.live_run) WHERE d.deleted_at IS NULL),
                v AS (SELECT v.document_id, v.version, v.run_id, v.ordinal FROM documents d
                   JOIN vectors_{id} v ON (v.document_id, v.version, v.run_id) = (d.id, d.live_version, d.live_run) WHERE d.deleted_at IS NULL)
             SELECT (SELECT count(*) FROM (TABLE c EXCEPT TABLE v) AS lacking) + (SELECT count(*) FROM (TABLE v EXCEPT TABLE c) AS strays)"
        ))
    }
}

/// Every chunk has the vector that the second model gives for the text that was sent to it.
fn vectors_are_of_their_texts(spaces: &Spaces, id: u32) {
    let texts = spaces.provider.texts();
    let rows = spaces.cluster.database.run(&format!(
        "SELECT c.text, v.embedding::text FROM vectors_{id} v JOIN chunks c USING (document_id, version, run_id, ordinal)"
    ));
    assert!(!rows.is_empty());
    for row in rows {
        let (text, vector) = (row[0].clone().unwrap(), row[1].clone().unwrap());
        let vector: Vec<f32> =
            vector.trim_matches(['[', ']']).split(',').map(|value| value.parse().unwrap()).collect();
        let is_of = |sent: &&String| {
            let right = vector_of(sent, DIMENSIONS);
            vector.iter().zip(&right).all(|(a, b)| (a - b).abs() < 2e-3)
        };
        let sent = texts
            .iter()
            .find(is_of)
            .unwrap_or_else(|| panic!("no text that was sent has this vector: {text}"));
        // What is embedded begins with the document's title, as it does in the pipeline.
        assert!(sent.ends_with(&text) && sent.contains(".md\nLog of "), "{sent:?} is not {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_space_is_filled_at_its_rate_and_goes_on_after_its_filler_was_killed() {
    const RATE: u64 = 20;
    let mut spaces = Spaces::start().await;
    let ids = spaces.upload_all((0..20).map(|n| format!("barge{n}"))).await;
    spaces.ready(&ids).await;
    let chunks = spaces.count("SELECT count(*) FROM chunks");
    assert!(chunks >= 3 * RATE, "{chunks} chunks");
    assert_eq!(spaces.provider.texts().len(), 0, "nobody has asked the second model");

    let begun = Instant::now();
    let made = spaces.must(&["space", "create", "--model", "next", "--per-second", &RATE.to_string()]);
    assert!(
        text_of(&made).contains("space 2: openai/next@64, 64 dimensions, building"),
        "{}",
        text_of(&made)
    );
    let written = |spaces: &Spaces| spaces.count("SELECT count(*) FROM vectors_2");
    let keeps_its_rate = |spaces: &Spaces| {
        let count = written(spaces);
        let most = begun.elapsed().as_secs_f64() * RATE as f64;
        assert!(count as f64 <= most, "{count} of {most:.1} allowed");
        count
    };
    within(PATIENCE, || async {
        let count = keeps_its_rate(&spaces);
        if count >= 2 * RATE { Ok(()) } else { Err(count) }
    })
    .await;
    let shown = spaces.space(2);
    let (filled, missing) = (shown["filled"].as_u64().unwrap(), shown["missing"]["chunks"].as_u64().unwrap());
    assert_eq!(filled + missing, chunks, "{shown}");
    let progress = shown["progress"].as_f64().unwrap();
    assert!(progress > 0.0 && progress < 1.0 && shown["state"] == "building", "{shown}");
    let url = format!("{}/api/v1/spaces", spaces.url);
    let listed: Value = spaces.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&listed["spaces"][0]["state"], &listed["spaces"][0]["missing_chunks"]),
        (&json!("live"), &json!(0))
    );
    let building = &listed["spaces"][1];
    assert!(
        building["missing_chunks"].as_u64().unwrap() <= missing && building["progress"].is_number(),
        "{listed}"
    );

    within(PATIENCE, || async {
        let lacks = spaces.metric("riacho_space_missing_chunks{state=\"building\"}").await;
        let filled = spaces.metric("riacho_space_filled_chunks_total{state=\"building\"}").await;
        if lacks > Some(0.0) && filled > Some(0.0) { Ok(()) } else { Err((lacks, filled)) }
    })
    .await;

    spaces.janitor.take().unwrap().kill9().unwrap();
    let before = written(&spaces);
    assert!(before < chunks, "the filler was killed in the middle");
    // Sessions of a killed process end with what they had committed.
    eventually(|| async { spaces.space(2)["filled"] == written(&spaces) }).await;
    let refused = spaces.cluster.run(&["space", "switch", "2", "--wait", "0"]);
    let complaint = errors_of(&refused);
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("the embedding space is not complete") && complaint.contains("are missing"),
        "{complaint}"
    );

    spaces.janitor = Some(spaces.cluster.spawn(&["janitor"]));
    within(PATIENCE, || async { keeps_its_rate(&spaces) > before }).await;
    spaces.fill(2);
    assert_eq!((written(&spaces), spaces.differences(2)), (chunks, 0));
    let mut asked: BTreeMap<String, u64> = BTreeMap::new();
    for text in spaces.provider.texts().into_iter().filter(|text| text.contains(".md\nLog of ")) {
        *asked.entry(text).or_default() += 1;
    }
    assert_eq!(asked.len() as u64, chunks, "each chunk was embedded");
    let again: u64 = asked.values().map(|count| count - 1).sum();
    assert!(again <= RATE, "{again} chunks were embedded again, and the killed filler held at most {RATE}");
    vectors_are_of_their_texts(&spaces, 2);
    assert_eq!(spaces.space(2)["progress"], 1.0);
    let switched = spaces.must(&["space", "switch", "2"]);
    assert!(text_of(&switched).contains("`riacho space switch 1` goes back"), "{}", text_of(&switched));
    assert_eq!((&spaces.space(1)["state"], &spaces.space(2)["state"]), (&json!("standby"), &json!("live")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_never_fail_while_documents_come_and_spaces_are_switched_and_switched_back() {
    let spaces = Spaces::start().await;
    spaces.provider.mean_words();
    let words = ["barge", "tug", "ferry", "dredger"];
    let kept = spaces.upload_all(words.iter().map(ToString::to_string)).await;
    let mut others = spaces.upload_all((0..8).map(|n| format!("raft{n}"))).await;
    spaces.ready(&kept).await;
    spaces.ready(&others).await;
    let checker = Checker::start(format!("{}/api/v1/search", spaces.url), spaces.client.clone(), &words);

    spaces.must(&["space", "create", "--model", "next", "--per-second", "40"]);
    churn(&spaces, &kept[0], &mut others, "filled").await;
    spaces.fill(2);
    // On their way while the space is switched under them.
    let mut during = spaces.upload_all((0..6).map(|n| format!("under{n}"))).await;
    let switched = spaces.must(&["space", "switch", "2"]);
    during.extend(spaces.upload_all((0..6).map(|n| format!("behind{n}"))).await);
    assert!(spaces.asks_the_second_model("barges of the second").await, "the gateway follows at once");
    spaces.ready(&during).await;
    others.extend(during);
    churn(&spaces, &kept[1], &mut others, "live").await;
    // What was pinned to the old space is filled into the new one, and what is new into the old one.
    for id in [1, 2] {
        spaces.fill(id);
        assert_eq!(spaces.differences(id), 0, "space {id}, {}", text_of(&switched));
    }
    spaces.must(&["space", "switch", "1"]);
    // The search in which it finds out may ask both models.
    spaces.asks_the_second_model("barges of both").await;
    assert!(!spaces.asks_the_second_model("barges of the first").await, "the gateway follows at once");
    churn(&spaces, &kept[2], &mut others, "back").await;
    for id in [1, 2] {
        spaces.fill(id);
        assert_eq!(spaces.differences(id), 0, "space {id}");
    }
    within(PATIENCE, || async { checker.searches() > 200 }).await;
    checker.stop().await.is_right();
    assert_eq!(spaces.count("SELECT count(*) FROM embedding_spaces WHERE state = 'live' AND id = 1"), 1);
    assert_eq!(spaces.count("SELECT count(*) FROM dead_letters"), 0, "{}", spaces.work.log());
}

/// Uploads, a new version of one document, and deletes of others.
async fn churn(spaces: &Spaces, document: &str, others: &mut Vec<String>, mark: &str) {
    let new = spaces.upload_all((0..4).map(|n| format!("{mark}{n}"))).await;
    let url = format!("{}/api/v1/documents/{document}/content", spaces.url);
    let text = |word: &str| format!("# Log of {word}\n\nThe {word} came back, {mark}, to the lock.\n");
    let known: Value = {
        let url = format!("{}/api/v1/documents/{document}", spaces.url);
        spaces.client.get(url).send().await.unwrap().json().await.unwrap()
    };
    let filename = known["filename"].as_str().unwrap_or_else(|| panic!("{known}")).to_owned();
    let word = filename.trim_end_matches(".md");
    let sent =
        spaces.client.put(format!("{url}?filename={filename}")).header("content-type", "text/markdown");
    let answer = sent.body(text(word)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await.unwrap());
    for gone in others.drain(..2) {
        let answer =
            spaces.client.delete(format!("{}/api/v1/documents/{gone}", spaces.url)).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }
    spaces.ready(&new).await;
    spaces.ready(&[document.to_owned()]).await;
    others.extend(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_says_what_two_spaces_find_for_the_same_queries() {
    let spaces = Spaces::start().await;
    let texts = [
        ("manometer", "The manometer of the boiler is calibrated every March by the fitter from the yard."),
        ("harbour", "Boats leave the harbour at noon and return with herring before the evening tide."),
        ("bread", "Knead the dough for ten minutes, let it rise overnight, and bake it in a hot oven."),
        ("comet", "The comet was seen above the northern horizon with a tail of dust and gas."),
        ("violin", "She tuned the violin, rubbed rosin on the bow and played a slow sonata."),
        ("tax", "Income tax returns are due in April unless an extension has been granted."),
    ];
    let mut ids = Vec::new();
    for (name, text) in texts {
        let url = format!("{}/api/v1/documents?filename={name}.txt", spaces.url);
        let answer: Value = spaces.client.post(url).body(text).send().await.unwrap().json().await.unwrap();
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    spaces.ready(&ids).await;
    spaces.must(&["space", "create", "--model", "openai/next@64"]);
    spaces.fill(2);
    let compare = |args: &[&str]| {
        let output = spaces.must(&[&["space", "compare"], args].concat());
        support::json_lines(&output).remove(0)
    };
    let same = compare(&["1", "1", "--sample", "6", "--json"]);
    assert_eq!(
        (&same["summary"]["overlap"], &same["summary"]["rank_correlation"]),
        (&json!(1.0), &json!(1.0))
    );

    // With more hits than there are chunks each space has them all, in an order of its own. A provider at its limit is asked
    // again.
    spaces.provider.script([riacho_testkit::openai::Answer::RateLimited { retry_after_seconds: 1 }]);
    let all = compare(&["1", "2", "--sample", "6", "--json"]);
    let queries = all["queries"].as_array().unwrap();
    assert_eq!((queries.len(), &all["summary"]["overlap"]), (6, &json!(1.0)), "{all}");
    for query in queries {
        let places = |side: &str| -> HashMap<String, f64> {
            let chunks = query[side]["chunks"].as_array().unwrap();
            chunks.iter().zip(0..).map(|(chunk, place)| (chunk.to_string(), f64::from(place))).collect()
        };
        let (a, b) = (places("a"), places("b"));
        let squares: f64 = a.iter().map(|(chunk, place)| (place - b[chunk]).powi(2)).sum();
        let right = 1.0 - 6.0 * squares / (6.0 * 35.0);
        assert!((query["rank_correlation"].as_f64().unwrap() - right).abs() < 1e-9, "{query}");
    }
    let [a, b] = ["a", "b"].map(|side| all["summary"][side].clone());
    assert_eq!((&a["space"], &b["space"], &b["model"]), (&json!(1), &json!(2), &json!("openai/next@64")));
    let rank = |side: &Value| side["mean_reciprocal_rank"].as_f64().unwrap();
    assert!(rank(&a) > 0.9, "the local model finds the chunk that the words are of: {a}");
    assert!(rank(&b) < rank(&a), "vectors of chance do not: {b}");
    assert_eq!(a["found_origin"], 1.0);
    assert!(b["search_p50_ms"].as_f64().unwrap() > 0.0 && b["embed_p95_ms"].as_f64().unwrap() > 0.0);

    let file = spaces.cluster.dir.path().join("queries.txt");
    std::fs::write(&file, "when is the manometer calibrated\n\nhow to bake bread\n").unwrap();
    let asked = compare(&["1", "2", "--queries", file.to_str().unwrap(), "-k", "1", "--json"]);
    let first = &asked["queries"][0];
    assert_eq!(
        (asked["queries"].as_array().unwrap().len(), &first["query"]),
        (2, &json!("when is the manometer calibrated"))
    );
    let is_same = first["a"]["chunks"] == first["b"]["chunks"];
    assert_eq!(first["overlap"], if is_same { 1.0 } else { 0.0 });
    assert!(first["a"]["best"].as_str().unwrap().starts_with("manometer.txt: The manometer"), "{first}");
    assert_eq!(asked["summary"]["a"]["found_origin"], Value::Null);
    let table = text_of(&spaces.must(&["space", "compare", "1", "2"]));
    assert!(
        table.contains("A: space 1")
            && table.contains("own chunk found")
            && table.contains("rank correlation"),
        "{table}"
    );
    let unknown = spaces.cluster.run(&["space", "compare", "1", "7"]);
    assert!(!unknown.status.success() && errors_of(&unknown).contains("no embedding space 7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_refuses_delays_the_filling_and_is_named_and_a_space_can_be_given_up() {
    let spaces = Spaces::start().await;
    let ids = spaces.upload_all(["barge".to_owned()].into_iter()).await;
    spaces.ready(&ids).await;
    spaces.provider.always(riacho_testkit::openai::Answer::Status(401));
    spaces.must(&["space", "create", "--model", "next", "--per-second", "7"]);
    let rate = |args: &[&str]| {
        spaces.must(&[&["space", "fill", "2"], args].concat());
        spaces.space(2)["per_second"].clone()
    };
    // Who only looks lifts no limit and ends no pause.
    assert_eq!((rate(&[]), rate(&["--pause"]), rate(&[])), (json!(7), json!(0), json!(0)));
    let waits = spaces.cluster.run(&["space", "fill", "2", "--wait"]);
    assert!(waits.status.code() == Some(1) && errors_of(&waits).contains("paused"), "{}", errors_of(&waits));
    assert_eq!((rate(&["--per-second", "9"]), rate(&["--usual-rate"])), (json!(9), Value::Null));
    within(PATIENCE, || async {
        let shown = spaces.space(2);
        let trouble = shown["trouble"].as_str().unwrap_or_default().to_owned();
        if trouble.contains("not configured right") { Ok(()) } else { Err(shown) }
    })
    .await;
    let refused = spaces.cluster.run(&["space", "switch", "2"]);
    assert!(errors_of(&refused).contains("not configured right"), "{}", errors_of(&refused));
    spaces.provider.normal();
    spaces.fill(2);
    assert_eq!((&spaces.space(2)["trouble"], spaces.differences(2)), (&Value::Null, 0));
    // What it cost stands with the tenant, and counts towards no budget.
    let spend = support::json_lines(&spaces.must(&["tenant", "spend", "--json"]));
    let of_the_space =
        spend.iter().find(|one| one["purpose"] == "spaces").unwrap_or_else(|| panic!("{spend:?}"));
    let chunks = spaces.count("SELECT count(*) FROM chunks");
    assert_eq!((&of_the_space["model"], &of_the_space["texts"]), (&json!("openai/next@64"), &json!(chunks)));
    let (tokens, money) =
        (of_the_space["tokens"].as_u64().unwrap(), of_the_space["money_nanos"].as_u64().unwrap());
    assert!(tokens > chunks && money == tokens * 500, "{of_the_space}");
    let limits = support::json_lines(&spaces.must(&["tenant", "limits", "default", "--json"]));
    assert_eq!(limits[0]["spent"]["money_nanos"], 0, "{limits:?}");
    // A space that was given up is not filled and not searched, and its vectors go.
    let live = spaces.cluster.run(&["space", "drop", "1", "--yes"]);
    assert!(errors_of(&live).contains("is live"), "{}", errors_of(&live));
    spaces.must(&["space", "drop", "2", "--yes"]);
    spaces.must(&["janitor", "run", "index", "--set", "janitor.purge_grace_seconds=0"]);
    assert_eq!(spaces.count("SELECT count(*) FROM pg_class WHERE relname = 'vectors_2'"), 0);
    assert_eq!(support::json_lines(&spaces.must(&["space", "list", "--json"])).len(), 1);
    let changed = ["models.provider=openai", "models.dimensions=32", "models.api_key=x"];
    let changed = changed.iter().flat_map(|key| ["--set", key]).collect::<Vec<_>>();
    let refused = spaces.cluster.run(&[&["migrate"], &changed[..]].concat());
    let complaint = errors_of(&refused);
    assert!(
        refused.status.code() == Some(2) && complaint.contains("is not configured: keep it as"),
        "{complaint}"
    );
    let wrong = spaces.cluster.run(&["space", "create", "--model", "nex"]);
    assert!(
        wrong.status.code() == Some(2) && errors_of(&wrong).contains("configured are next"),
        "{}",
        errors_of(&wrong)
    );
}
