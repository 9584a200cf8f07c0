//! The local model gives the vectors of the Python package that it comes from (see golden/make.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use proptest::{prelude::*, test_runner::TestRunner};
use riacho_models::{Config, Error, Kind, LocalConfig, Model, load};
use serde_json::Value;

fn config() -> Config {
    let directory = riacho_local::Runtime::find().wordllama_dir().unwrap();
    Config {
        local: LocalConfig { directory: Some(directory), ..LocalConfig::default() },
        ..Config::default()
    }
}

fn model() -> Arc<dyn Model> {
    load(&config()).unwrap()
}

fn golden() -> Vec<Value> {
    serde_json::from_str(include_str!("golden/wordllama.json")).unwrap()
}

async fn embed_one(model: &dyn Model, text: &str) -> (Vec<f32>, u64) {
    let mut answer = model.embed(vec![text.to_owned()], Kind::Passage).await.unwrap();
    (answer.vectors.pop().unwrap(), answer.tokens)
}

#[tokio::test]
async fn vectors_are_those_of_the_python_package() {
    let model = model();
    for entry in golden() {
        let text = entry["text"].as_str().unwrap();
        let (vector, tokens) = embed_one(&*model, text).await;
        assert_eq!(tokens, entry["tokens"].as_u64().unwrap(), "tokens of {text:?}");
        for (ours, theirs) in vector.iter().zip(entry["values"].as_array().unwrap()) {
            assert!((f64::from(*ours) - theirs.as_f64().unwrap()).abs() < 1e-4, "{text:?}");
        }
        let weighted: f64 = vector.iter().zip(1..).map(|(v, n)| f64::from(*v) * f64::from(n).sin()).sum();
        assert!((weighted - entry["weighted_sum"].as_f64().unwrap()).abs() < 1e-3, "{text:?}: {weighted}");
    }
}

#[tokio::test]
async fn the_first_golden_vector_agrees_in_all_values() {
    let entry = &golden()[0];
    let (vector, _) = embed_one(&*model(), entry["text"].as_str().unwrap()).await;
    let theirs: Vec<f32> = serde_json::from_value(entry["values"].clone()).unwrap();
    assert_eq!(vector.len(), theirs.len());
    let cosine: f32 = vector.iter().zip(&theirs).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.999_99, "{cosine}");
}

#[test]
fn words_encoded_by_themselves_give_the_tokens_of_the_whole_text() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let model = model();
    let file = config().local.directory.unwrap().join("tokenizer.json");
    let reference = tokenizers::Tokenizer::from_file(file).unwrap();
    let text =
        proptest::string::string_regex("([ \\n\\t▁<>/sunk.,a-zA-Z0-9áçõ川🏞]|</s>|the |\\PC){0,60}").unwrap();
    TestRunner::new(ProptestConfig::with_cases(2000))
        .run(&text, |text| {
            let expected = reference.encode_fast(text.as_str(), false).unwrap().len() as u64;
            let answer = runtime.block_on(model.embed(vec![text.clone()], Kind::Query));
            match answer {
                Ok(answer) => prop_assert_eq!(answer.tokens, expected),
                Err(error) => {
                    prop_assert!(text.is_empty() && error.is_about_the_text(), "{:?}: {}", text, error)
                }
            }
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_batch_over_several_threads_keeps_its_order() {
    let texts: Vec<String> = (0..500).map(|n| format!("document number {n} of {} words", n * 7)).collect();
    let many = load(&Config { local: LocalConfig { threads: 4, ..config().local }, ..config() }).unwrap();
    let batch = many.embed(texts.clone(), Kind::Passage).await.unwrap();
    assert_eq!(batch.vectors.len(), texts.len());
    for n in [0, 1, 124, 125, 250, 499] {
        let (alone, _) = embed_one(&*many, &texts[n]).await;
        assert_eq!(batch.vectors[n], alone, "text {n}");
    }
}

#[tokio::test]
async fn a_long_text_is_cut_at_the_limit_and_an_empty_one_refused() {
    let config = Config { local: LocalConfig { max_text_tokens: 3, ..config().local }, ..config() };
    let model = load(&config).unwrap();
    let (_, tokens) = embed_one(&*model, &"word ".repeat(10_000)).await;
    assert_eq!(tokens, 3);
    let texts = vec!["fine".to_owned(), String::new()];
    let refusal = model.embed(texts, Kind::Passage).await.unwrap_err();
    assert!(matches!(refusal, Error::Rejected { item: Some(1), .. }), "{refusal}");
}

#[tokio::test]
async fn the_model_is_named_by_its_weights_and_verifies_itself() {
    let model = model();
    assert_eq!((model.id(), model.dimensions()), ("wordllama-l2-supercat-256", 256));
    model.verify().await.unwrap();
}

#[test]
fn missing_or_damaged_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let told = |config: &Config| match load(config).unwrap_err() {
        Error::Files { path, reason } => format!("{}: {reason}", path.display()),
        other => panic!("{other}"),
    };
    let here = LocalConfig { directory: Some(directory.path().to_owned()), ..LocalConfig::default() };
    let config = Config { local: here, ..config() };
    assert!(told(&config).contains("model.safetensors"));
    std::fs::write(directory.path().join("model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7fjunk")
        .unwrap();
    assert!(told(&config).contains("model.safetensors"));
    let unset = Config { local: LocalConfig::default(), ..config };
    assert!(told(&unset).contains("models.local.directory"));
}
