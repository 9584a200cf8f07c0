//! Sentence transformers give the vectors of the Python package `sentence-transformers` (see golden/transformer.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use riacho_models::{Config, Error, Kind, LocalConfig, Model, Pooling, from_f16_le, load};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The promise is 0.999; what is measured is 0.999999, so anything less is a mistake.
const ALIKE: f32 = 0.99999;

fn minilm() -> PathBuf {
    riacho_local::Runtime::find().model_dir("all-minilm-l6-v2").unwrap()
}

fn small(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn of(directory: PathBuf) -> Config {
    Config {
        local: LocalConfig { directory: Some(directory), ..LocalConfig::default() },
        ..Config::default()
    }
}

/// A copy of a small model, with some keys of one of its files set.
fn changed(name: &str, file: &str, values: &Value) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(&small(name), copy.path());
    let path = copy.path().join(file);
    let mut contents: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in values.as_object().unwrap() {
        contents[key] = value.clone();
    }
    fs::write(&path, contents.to_string()).unwrap();
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

struct Golden {
    kind: Kind,
    text: String,
    tokens: u64,
    vector: Vec<f32>,
}

fn golden(name: &str) -> Vec<Golden> {
    let all: Value = serde_json::from_str(include_str!("golden/transformer.json")).unwrap();
    let entries = all[name].as_array().unwrap();
    let read = |entry: &Value| Golden {
        kind: if entry["kind"] == "query" { Kind::Query } else { Kind::Passage },
        text: match &entry["text"] {
            Value::String(text) => text.clone(),
            repeated => repeated[0].as_str().unwrap().repeat(repeated[1].as_u64().unwrap() as usize),
        },
        tokens: entry["tokens"].as_u64().unwrap(),
        vector: from_f16_le(&base64(entry["vector"].as_str().unwrap())).unwrap(),
    };
    entries.iter().map(read).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|letter| *letter != b'=').map(value).collect();
    let bits = |four: &[u8]| four.iter().fold(0_u32, |bits, letter| bits << 6 | u32::from(*letter));
    let bytes = letters.chunks(4).flat_map(|four| {
        let bits = bits(four) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

async fn embed_one(model: &dyn Model, text: &str, kind: Kind) -> (Vec<f32>, u64) {
    let mut answer = model.embed(vec![text.to_owned()], kind).await.unwrap();
    (answer.vectors.pop().unwrap(), answer.tokens)
}

async fn agrees(model: &dyn Model, name: &str) {
    for Golden { kind, text, tokens, vector } in golden(name) {
        let (ours, counted) = embed_one(model, &text, kind).await;
        let start: String = text.chars().take(60).collect();
        assert_eq!(counted, tokens, "tokens of {start:?}");
        let cosine = cosine(&ours, &vector);
        assert!(cosine > ALIKE, "{name}, {kind:?} {start:?}: {cosine}");
    }
}

#[tokio::test]
async fn a_sentence_transformer_gives_the_vectors_of_the_reference() {
    let model = load(&of(minilm())).unwrap();
    assert_eq!(model.dimensions(), 384);
    assert!(model.id().starts_with("MiniLM-L6-H384-uncased-"), "{}", model.id());
    model.verify().await.unwrap();
    assert!(golden("all-minilm-l6-v2").len() > 20);
    agrees(&*model, "all-minilm-l6-v2").await;
}

#[tokio::test]
async fn pooling_prefixes_positions_and_types_are_those_of_the_directory() {
    for name in ["small-bert", "small-roberta"] {
        agrees(&*load(&of(small(name))).unwrap(), name).await;
    }
}

#[tokio::test]
async fn a_batch_gives_each_text_the_vector_it_has_alone() {
    let golden = golden("all-minilm-l6-v2");
    let texts: Vec<String> = golden.iter().chain(&golden).map(|entry| entry.text.clone()).collect();
    for threads in [1, 3] {
        let local = LocalConfig { threads, ..of(minilm()).local };
        let model = load(&Config { local, ..Config::default() }).unwrap();
        let batch = model.embed(texts.clone(), Kind::Passage).await.unwrap();
        assert_eq!(batch.tokens, 2 * golden.iter().map(|entry| entry.tokens).sum::<u64>());
        for (ours, entry) in batch.vectors.iter().zip(golden.iter().chain(&golden)) {
            assert!(cosine(ours, &entry.vector) > ALIKE, "{:?}", &entry.text);
        }
        assert!(model.embed(Vec::new(), Kind::Passage).await.unwrap().vectors.is_empty());
    }
}

#[tokio::test]
async fn the_configuration_goes_before_the_directory() {
    let text = "the river and the lock";
    let plain: Arc<dyn Model> = load(&of(small("small-bert"))).unwrap();
    let (query, _) = embed_one(&*plain, text, Kind::Query).await;
    let (passage, _) = embed_one(&*plain, text, Kind::Passage).await;

    let mut config = of(small("small-bert"));
    config.local.query_prefix = Some("passage: ".to_owned());
    let model = load(&config).unwrap();
    assert_ne!(model.id(), plain.id());
    assert_eq!(embed_one(&*model, text, Kind::Query).await.0, passage);

    let mut config = of(small("small-bert"));
    config.local.passage_prefix = Some("query: ".to_owned());
    config.local.pooling = Some(Pooling::Cls);
    assert_eq!(embed_one(&*load(&config).unwrap(), text, Kind::Passage).await.0, query);

    config.local.pooling = Some(Pooling::Mean);
    assert!(cosine(&embed_one(&*load(&config).unwrap(), text, Kind::Passage).await.0, &query) < 0.999);

    let mut config = of(small("small-bert"));
    config.local.max_text_tokens = 7;
    assert_eq!(embed_one(&*load(&config).unwrap(), text, Kind::Passage).await.1, 7);
    assert_eq!(load(&of(small("small-bert"))).unwrap().id(), plain.id());
}

#[test]
fn what_a_model_is_not_is_refused_with_its_file() {
    let refusals = [
        ("config.json", json!({ "model_type": "t5" }), "config.json: models of the type t5"),
        ("config.json", json!({ "position_embedding_type": "relative_key" }), "config.json: only absolute"),
        ("config.json", json!({ "hidden_act": "silu" }), "config.json: the activation silu"),
        ("config.json", json!({ "num_attention_heads": 5 }), "config.json: its sizes do not fit"),
        ("config.json", json!({ "num_hidden_layers": 4 }), "model.safetensors: there is no encoder.layer.3"),
        (
            "config.json",
            json!({ "intermediate_size": 41 }),
            "model.safetensors: encoder.layer.0.intermediate",
        ),
        ("config.json", json!({ "vocab_size": 17 }), "tokenizer.json: its tokens go up to 17"),
        ("config.json", json!({ "vocab_size": "many" }), "config.json: invalid type"),
        ("1_Pooling/config.json", json!({ "pooling_mode": "max" }), "1_Pooling/config.json: pooling by"),
        ("1_Pooling/config.json", json!({ "include_prompt": false }), "pooling without the prefix"),
    ];
    for (file, values, expected) in refusals {
        let directory = changed("small-bert", file, &values);
        match load(&of(directory.path().to_owned())).unwrap_err() {
            Error::Files { path, reason } => {
                let told = format!("{}: {reason}", path.display());
                assert!(told.contains(expected), "{told}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn missing_files_and_names_are_told() {
    let told = |config: &Config| load(config).unwrap_err().to_string();
    for missing in ["tokenizer.json", "model.safetensors", "config.json", "1_Pooling/config.json"] {
        let directory = changed("small-bert", "config.json", &json!({}));
        fs::remove_file(directory.path().join(missing)).unwrap();
        let error = told(&of(directory.path().to_owned()));
        assert!(error.contains(missing), "{error}");
    }
    let unknown = Config { model: "all-minilm-l7".to_owned(), ..Config::default() };
    assert!(told(&unknown).contains("no model `all-minilm-l7`"), "{}", told(&unknown));
    let other = Config { dimensions: Some(256), ..of(small("small-bert")) };
    assert!(told(&other).contains("has 24 dimensions"));
}
