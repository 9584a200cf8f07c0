//! A deleted document leaves nothing behind: not in PostgreSQL, not in Redis, not in the object store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use riacho_proto::v1::{self, document_uploaded::Body, envelope::Payload};
use riacho_testkit::{eventually, openai::OpenAi, within};
use serde_json::{Value, json};
use support::{
    canary::{Canary, files},
    cluster::{Cluster, PATIENCE, Services},
};

/// A word that is in no other document, and that is its own stem.
const MARK: &str = "zyqvox7";
/// What the provider of embeddings refuses.
const REFUSED: &str = "hemlock";
const STAGES: [&str; 3] = ["extract", "embed", "index"];
const LANES: [&str; 3] = ["interactive", "bulk", "background"];
/// A delivery count that says that the event ended each process that ran it, the last time alone.
const LAST_RUN: &str = "1000000";

/// A deployment of which this test decides which stages run.
struct Watched {
    cluster: Cluster,
    services: Services,
}

impl Watched {
    fn places(&self) -> BTreeSet<String> {
        places(&self.cluster)
    }

    /// Fails where the canary is not seen at each of these kinds of places: they are what a place begins with, and
    /// what is in it.
    fn is_seen(&self, kinds: &[(&str, &str)]) {
        let places = self.places();
        for (begin, part) in kinds {
            let is_of = |place: &String| place.starts_with(begin) && place.contains(part);
            assert!(places.iter().any(is_of), "{begin}..{part}: {places:?}\n{}", self.services.log());
        }
    }

    /// Lets these stages run from now on, and no others.
    async fn run_only(&mut self, stages: &str) {
        let status = self.services.work.stop().await.unwrap();
        assert!(status.success(), "{status}: {}", self.services.work.log());
        self.services.work = self.cluster.spawn(&["work", "--stages", stages]);
    }

    /// Entries of a stage, in all lanes.
    fn entries(&self, stage: &str) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        for lane in LANES {
            let key = format!("riacho:{{0}}:{stage}:{lane}");
            for entry in self.cluster.redis.command(&["XRANGE", &key, "-", "+"]).list() {
                let [id, fields] = entry.list() else { panic!("{entry:?}") };
                all.push((key.clone(), id.text().to_owned(), fields.list()[1].text().to_owned()));
            }
        }
        all
    }

    fn number(&self, sql: &str) -> usize {
        self.cluster.database.run(sql)[0][0].as_ref().unwrap().parse().unwrap()
    }

    /// Waits until so many versions were cut and the extractor has no more to do.
    async fn are_cut(&self, versions: usize) {
        within(PATIENCE, || async {
            let cut = self.number("SELECT count(*) FROM document_versions WHERE sealed_at IS NOT NULL");
            let left = self.entries("extract").len();
            if cut == versions && left == 0 { Ok(()) } else { Err(format!("{cut} cut, {left} left")) }
        })
        .await;
    }

    async fn upload(&self, name: &str, body: &str) -> String {
        let url = format!("{}/api/v1/documents", self.services.url);
        let metadata = json!({"mark": MARK}).to_string();
        let (filename, external_id) = (format!("{MARK}-{name}.md"), format!("{MARK}/{name}"));
        let query = [("filename", &filename), ("external_id", &external_id), ("metadata", &metadata)];
        let accepted = call(self.services.client.post(url).query(&query).body(body.to_owned())).await;
        accepted["id"].as_str().unwrap().to_owned()
    }

    /// The id of the document with this file name.
    fn document(&self, filename: &str) -> String {
        let sql = format!("SELECT DISTINCT document_id FROM document_versions WHERE filename = '{filename}'");
        let rows = self.cluster.database.run(&sql);
        assert_eq!(rows.len(), 1, "{filename}: {rows:?}");
        rows[0][0].clone().unwrap()
    }

    async fn is_ready(&self, id: &str, version: u64) {
        within(PATIENCE, || async {
            let status = self.services.status(id).await?;
            let ready = status["state"] == "ready" && status["version"] == version;
            if ready { Ok(()) } else { Err(format!("{status}\n{}", self.services.log())) }
        })
        .await;
    }

    async fn search(&self, query: &str) -> Vec<Value> {
        let body = json!({ "query": query, "mode": "keyword" });
        let url = format!("{}/api/v1/search", self.services.url);
        call(self.services.client.post(url).json(&body)).await["hits"].as_array().unwrap().clone()
    }

    /// Hands all that the embedder has to do to a consumer that is dead, and says of the entry of one document that it
    /// ended each process that ran it.
    fn poison(&self, document: &str) {
        let redis = &self.cluster.redis;
        for (key, id, envelope) in self.entries("embed") {
            // The first entry of a stream finds no group, each further one does.
            let _ = redis.command(&["XGROUP", "CREATE", &key, "embed", "0"]);
            redis.command(&["XREADGROUP", "GROUP", "embed", "gone-1-0", "COUNT", "1", "STREAMS", &key, ">"]);
            let count = if envelope.contains(document) { LAST_RUN } else { "1" };
            let claim =
                ["XCLAIM", &key, "embed", "gone-1-0", "0", &id, "RETRYCOUNT", count, "FORCE", "JUSTID"];
            redis.command(&claim);
        }
    }
}

fn places(cluster: &Cluster) -> BTreeSet<String> {
    Canary(MARK).places(&cluster.database, &cluster.redis, &cluster.dir.path().join("objects"))
}

async fn call(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// A message with these files, each with its name and its media type.
fn mail(subject: &str, files: &[(&str, &str, &str)]) -> String {
    let boundary = format!("b{}", subject.len());
    let part = |(name, kind, body): &(&str, &str, &str)| {
        format!(
            "--{boundary}\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename={name}\r\n\r\n{body}\r\n"
        )
    };
    let parts: String = files.iter().map(part).collect();
    format!(
        "From: a@b\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{parts}--{boundary}--\r\n"
    )
}

/// A message, in which a file and a message with a file lie.
fn mail_in_a_mail() -> String {
    let note = format!("The {MARK} gauge stood at the weir.");
    let deep = format!("Deeper the {MARK} gauge stood.");
    let inner = mail(&format!("Inner {MARK}"), &[("deep.txt", "text/plain", &deep)]);
    let files =
        [("note.txt", "text/plain", note.as_str()), ("inner.eml", "application/octet-stream", &inner)];
    mail(&format!("The outer {MARK}"), &files)
}

/// A text that is stored compressed on a stream.
fn report(part: &str) -> String {
    format!("# The {MARK} report\n\nThe {part} {MARK} gauge stood at the weir.\n").repeat(40)
}

/// A text of which hardly anything can be compressed away, so that its chunks do not fit onto a stream.
fn noise(mut state: u64) -> String {
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let letters = (0..9).map(|at| char::from(b'a' + u8::try_from((state >> (9 + 6 * at)) % 26).unwrap()));
        letters.collect::<String>() + " "
    };
    let mut text = format!("# The {MARK} noise\n\n");
    for line in 0..4_000 {
        text.extend((0..14).map(|_| word()));
        text.push_str(if line % 50 == 0 { MARK } else { "end" });
        text.push_str(".\n");
    }
    text
}

/// What a producer puts onto the intake.
fn event() -> Vec<u8> {
    let upload = v1::DocumentUploaded {
        filename: format!("{MARK}-produced.txt"),
        body: Some(Body::Content(format!("The {MARK} barge was built upstream.").into_bytes().into())),
        external_id: format!("{MARK}/produced"),
        metadata_json: json!({"mark": MARK}).to_string(),
        ..v1::DocumentUploaded::default()
    };
    let envelope = v1::Envelope {
        envelope_version: 1,
        id: "event-1".to_owned(),
        source: "producer".to_owned(),
        payload: Some(Payload::DocumentUploaded(upload)),
        ..v1::Envelope::default()
    };
    envelope.encode_to_vec()
}

/// A deployment with a provider that refuses a text. Its events may be larger than a stream takes, answers are kept for some
/// seconds, and purges wait for an hour.
async fn deployment(provider: &OpenAi) -> Watched {
    provider.refuse_texts_with(REFUSED);
    let mut cluster = Cluster::new();
    for (name, value) in [
        ("RIACHO__MODELS__PROVIDER", "openai"),
        ("RIACHO__MODELS__MODEL", "test-embedding"),
        ("RIACHO__MODELS__DIMENSIONS", "16"),
        ("RIACHO__MODELS__BASE_URL", &provider.base_url()),
        ("OPENAI_API_KEY", provider.api_key()),
        ("RIACHO__EXTRACTOR__BATCH_CHUNKS", "4096"),
        ("RIACHO__EXTRACTOR__BATCH_BYTES", "1048576"),
        ("RIACHO__GATEWAY__SEARCH_CACHE_SECONDS", "5"),
        ("RIACHO__JANITOR__PURGE_GRACE_SECONDS", "3600"),
        ("RIACHO__JANITOR__SCHEDULES__PURGE", "* * * * * *"),
    ] {
        cluster.set(name, value);
    }
    let key = cluster.prepare();
    // Nobody reads it yet.
    let added = cluster.redis.command(&[
        b"XADD".as_slice(),
        b"riacho:{intake}:default",
        b"*",
        b"e",
        event().as_slice(),
    ]);
    let seen = places(&cluster);
    assert_eq!(seen, BTreeSet::from(["redis riacho:{intake}:default".to_owned()]), "{added:?}");
    let services = cluster.start_with(&key, "janitor");
    services.are_ready().await;
    Watched { cluster, services }
}

/// The documents with the canary in their content and their names, each at its end: some ready, two failed for good.
async fn documents(watched: &mut Watched) -> BTreeMap<&'static str, String> {
    watched.services.upload("neighbour").await;
    let mut documents = BTreeMap::new();
    let refused = format!("The {MARK} {REFUSED} grew at the weir.");
    let poison = format!("The {MARK} poison ended its process.");
    for (name, text) in
        [("small", report("first")), ("large", noise(1)), ("refused", refused), ("poison", poison)]
    {
        documents.insert(name, watched.upload(name, &text).await);
    }
    let url = format!("{}/api/v1/documents?filename=outer.eml", watched.services.url);
    call(watched.services.client.post(url).body(mail_in_a_mail())).await;
    eventually(|| async { watched.entries("extract").len() == 7 }).await;
    watched.is_seen(&[("redis riacho:{0}:extract:", ""), ("object ", "/originals/")]);

    watched.run_only("extractor,janitor").await;
    // With three files that are attached.
    watched.are_cut(10).await;
    watched.is_seen(&[
        ("redis riacho:{0}:embed:", ""),
        ("object ", "/claims/"),
        ("object ", "/texts/"),
        ("object ", "/attachments/"),
        ("postgresql document_versions.manifest", ""),
    ]);
    watched.poison(&documents["poison"]);
    watched.run_only("extractor,embedder").await;
    within(PATIENCE, || async {
        let dead = watched.cluster.redis.command(&["XLEN", "riacho:{0}:dead"]).int();
        let left = watched.entries("embed").len();
        if dead == 2 && left == 0 {
            Ok(())
        } else {
            Err(format!("{dead} {left}\n{}", watched.services.log()))
        }
    })
    .await;
    watched.is_seen(&[("redis riacho:{0}:dead", ""), ("redis riacho:{0}:index:", "")]);

    watched.run_only("extractor,embedder,indexer,janitor").await;
    for (name, filename) in [
        ("produced", format!("{MARK}-produced.txt")),
        ("outer", "outer.eml".to_owned()),
        ("inner", "inner.eml".to_owned()),
        ("note", "note.txt".to_owned()),
        ("deep", "deep.txt".to_owned()),
    ] {
        documents.insert(name, watched.document(&filename));
    }
    for (name, id) in &documents {
        if ["refused", "poison"].contains(name) {
            within(PATIENCE, || async { watched.services.status(id).await.unwrap()["state"] == "failed" })
                .await;
        } else {
            watched.is_ready(id, 1).await;
        }
    }
    let reasons = watched.cluster.database.run("SELECT reason_code FROM dead_letters ORDER BY reason_code");
    assert_eq!(reasons, [[Some("poison".to_owned())], [Some("provider_refused".to_owned())]]);
    documents
}

/// What a receipt has to say of a document that is about to be purged, but for its objects: versions, chunks, vectors, entries and
/// dead letters.
fn expected(watched: &Watched, id: &str) -> Vec<usize> {
    let space = watched.number("SELECT id FROM embedding_spaces");
    let tables = ["document_versions".to_owned(), "chunks".to_owned(), format!("vectors_{space}")];
    let mut counts: Vec<usize> = tables
        .iter()
        .map(|table| watched.number(&format!("SELECT count(*) FROM {table} WHERE document_id = '{id}'")))
        .collect();
    let entries = STAGES.iter().flat_map(|stage| watched.entries(stage));
    counts.push(entries.filter(|(.., envelope)| envelope.contains(id)).count());
    counts.push(watched.number(&format!("SELECT count(*) FROM dead_letters WHERE document_id = '{id}'")));
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_document_leaves_nothing_in_postgresql_redis_and_the_object_store() {
    let provider = OpenAi::start(16).await.unwrap();
    let mut watched = deployment(&provider).await;
    let documents = documents(&mut watched).await;
    let (small, large) = (&documents["small"], &documents["large"]);
    // Versions that were replaced stay for an hour.
    assert_eq!(&watched.upload("small", &report("second")).await, small);
    watched.is_ready(small, 2).await;
    assert!(!watched.search(&format!("{MARK} gauge")).await.is_empty());
    watched.is_seen(&[
        ("redis riacho:answer:", ""),
        ("postgresql documents.external_id", ""),
        ("postgresql documents.metadata", ""),
        ("postgresql document_versions.filename", ""),
        ("postgresql chunks.text", ""),
        ("postgresql chunks.tsv", ""),
        ("postgresql chunks.heading_path", ""),
        ("postgresql dead_letters.original", ""),
    ]);
    let replaced = format!("SELECT count(*) FROM chunks WHERE version = 1 AND document_id = '{small}'");
    assert!(watched.number(&replaced) > 0);

    // Further versions are on their way when all is deleted, and no stage is there that would find them superseded.
    watched.run_only("extractor,janitor").await;
    assert_eq!(&watched.upload("small", &report("third")).await, small);
    assert_eq!(&watched.upload("large", &noise(2)).await, large);
    watched.are_cut(13).await;
    let expected: BTreeMap<_, _> =
        documents.iter().map(|(name, id)| (*name, expected(&watched, id))).collect();
    assert_eq!((expected["small"][0], expected["large"][0], expected["note"][0]), (3, 2, 1));
    assert!(expected["small"][3] > 0 && expected["large"][3] > 0, "{expected:?}");
    assert_eq!((expected["refused"][4], expected["poison"][4]), (1, 1));
    let directory = watched.cluster.dir.path().join("objects");
    let before = files(&directory).len();
    for (name, id) in &documents {
        // Files that are attached go with their message.
        if !["inner", "note", "deep"].contains(name) {
            let url = format!("{}/api/v1/documents/{id}", watched.services.url);
            call(watched.services.client.delete(url)).await;
        }
    }
    assert_eq!(watched.search(&format!("{MARK} gauge")).await, Vec::<Value>::new());

    watched.cluster.set("RIACHO__JANITOR__PURGE_GRACE_SECONDS", "1");
    watched.run_only("janitor").await;
    let receipts =
        "SELECT document_id, versions, chunks, vectors, entries, dead_letters, objects FROM receipts";
    within(PATIENCE, || async {
        let found = watched.cluster.database.run(receipts).len();
        if found == documents.len() { Ok(()) } else { Err(format!("{found}\n{}", watched.services.log())) }
    })
    .await;
    let mut left = watched.places();
    // Answers are found by nobody any more, and end by themselves.
    left.retain(|place| !place.starts_with("redis riacho:answer:"));
    assert_eq!(left, BTreeSet::new());
    eventually(|| async {
        let left = watched.places();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;

    let mut objects = 0;
    for row in watched.cluster.database.run(receipts) {
        let id = row[0].clone().unwrap();
        let counts: Vec<usize> =
            row[1..].iter().map(|count| count.as_ref().unwrap().parse().unwrap()).collect();
        let (name, _) = documents.iter().find(|(_, document)| **document == id).unwrap();
        assert_eq!(counts[..5], expected[name], "{name}");
        objects += counts[5];
    }
    assert_eq!(objects, before - files(&directory).len(), "every object once");
    watched.services.all_ready().await;
    watched.cluster.check(&watched.services);
}
