//! Providers, on a server on loopback that fails as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use riacho_domain::Secret;
use riacho_models::{Config, Error, Kind, Model, Provider, embed_each, load};
use riacho_testkit::openai::{Answer, OpenAi, RateLimit, vector_of};
use tokio::time::Instant;

const DIMENSIONS: usize = 32;

fn config(server: &OpenAi) -> Config {
    Config {
        provider: Provider::Openai,
        model: "test-model".to_owned(),
        dimensions: Some(DIMENSIONS),
        base_url: Some(server.base_url()),
        api_key: Some(Secret::from(server.api_key())),
        timeout_ms: 5_000,
        limit_wait_ms: 3_000,
        ..Config::default()
    }
}

async fn server_and_model() -> (OpenAi, Arc<dyn Model>) {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let model = load(&config(&server)).unwrap();
    (server, model)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("text number {n}")).collect()
}

fn assert_vectors(vectors: &[Vec<f32>], texts: &[String]) {
    assert_eq!(vectors.len(), texts.len());
    for (vector, text) in vectors.iter().zip(texts) {
        let cosine: f32 = vector.iter().zip(vector_of(text, DIMENSIONS)).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{text} has the vector of another text");
    }
}

/// What the model answers to one batch when the server answers so.
async fn error_when(answer: Answer) -> Error {
    let (server, model) = server_and_model().await;
    server.script([answer]);
    model.embed(texts(3), Kind::Passage).await.unwrap_err()
}

#[tokio::test]
async fn a_provider_gives_vectors_and_counts_tokens() {
    let (server, model) = server_and_model().await;
    let answer = model.embed(texts(5), Kind::Passage).await.unwrap();
    assert_vectors(&answer.vectors, &texts(5));
    assert_eq!(answer.tokens, 15);
    assert_eq!((model.id(), model.dimensions()), ("openai/test-model@32", DIMENSIONS));
    assert_eq!(server.requests(), 1);
    assert!(model.embed(Vec::new(), Kind::Passage).await.unwrap().vectors.is_empty());
    assert_eq!(server.requests(), 1, "nothing is sent for no texts");
}

#[tokio::test]
async fn a_rate_limit_tells_when_to_come_back_and_holds_the_next_requests() {
    let (server, model) = server_and_model().await;
    server.script([Answer::RateLimited { retry_after_seconds: 40 }]);
    for _ in 0..3 {
        let error = model.embed(texts(1), Kind::Passage).await.unwrap_err();
        assert!(error.is_retryable());
        let wait = error.retry_after().unwrap();
        assert!((35.0..=40.0).contains(&wait.as_secs_f64()), "{wait:?}");
    }
    assert_eq!(server.requests(), 1, "the provider asked for silence");
}

#[tokio::test]
async fn a_short_rate_limit_is_waited_for() {
    let (server, model) = server_and_model().await;
    server.script([Answer::RateLimited { retry_after_seconds: 1 }]);
    let start = Instant::now();
    assert!(model.embed(texts(1), Kind::Passage).await.is_err());
    model.embed(texts(1), Kind::Passage).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
}

#[tokio::test]
async fn limits_that_nobody_configured_are_learned_from_the_answers() {
    let (server, model) = server_and_model().await;
    assert_eq!(model.max_batch_tokens(), 100_000);
    server.limit(RateLimit { requests: 600, tokens: 60_000, window: Duration::from_secs(60) });
    let answer = embed_each(&*model, &texts(300), Kind::Passage).await.unwrap();
    assert_eq!(answer.vectors.len(), 300);
    // A thousand as the server counts them, and more as they are guessed.
    assert!((1_000..3_000).contains(&model.max_batch_tokens()), "{}", model.max_batch_tokens());
    let asked = server.asked();
    assert!(asked.iter().all(|request| !request.is_refused), "{asked:?}");
}

#[tokio::test]
async fn a_text_beyond_a_whole_minutes_tokens_is_refused_and_not_tried_for_ever() {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let model = load(&Config { tokens_per_minute: Some(600_000), ..config(&server) }).unwrap();
    server.limit(RateLimit { requests: 600, tokens: 10, window: Duration::from_secs(60) });
    let long = "word ".repeat(20);
    let answer = embed_each(&*model, &[long], Kind::Passage).await.unwrap();
    assert!(answer.vectors[0].as_ref().is_err_and(Error::is_about_the_text), "{:?}", answer.vectors);
}

#[tokio::test]
async fn failures_of_the_server_are_transient() {
    for answer in [Answer::Status(500), Answer::Status(503), Answer::HangUp, Answer::Garbage] {
        let error = error_when(answer.clone()).await;
        assert!(matches!(error, Error::Transient { .. }), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient() {
    let (server, _) = server_and_model().await;
    let config = config(&server);
    let address = config.base_url.clone().unwrap();
    drop(server);
    let model = load(&config).unwrap();
    let error = loop {
        // The port closes when the server's task has ended.
        match model.embed(texts(1), Kind::Passage).await {
            Err(error) => break error,
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    assert!(matches!(error, Error::Transient { .. }), "{error}");
    assert!(!error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn a_slow_server_ends_in_a_timeout() {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let model = load(&Config { timeout_ms: 100, ..config(&server) }).unwrap();
    server.script([Answer::Slow(Duration::from_secs(30))]);
    let error = model.embed(texts(1), Kind::Passage).await.unwrap_err();
    assert_eq!(error, Error::Transient { reason: "no answer in time".to_owned() });
}

#[tokio::test]
async fn a_wrong_key_is_a_matter_of_configuration_and_stays_secret() {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let key = "sk-very-secret-0123";
    let model = load(&Config { api_key: Some(Secret::from(key)), ..config(&server) }).unwrap();
    let error = model.embed(texts(1), Kind::Passage).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured { .. }), "{error}");
    assert!(!format!("{error} {error:?} {model:?}").contains(key));
}

#[tokio::test]
async fn no_message_repeats_the_key() {
    for status in [400, 404, 500] {
        let error = error_when(Answer::Status(status)).await;
        assert!(!error.to_string().contains("test-key"), "{error}");
        assert!(error.to_string().contains("***"), "{error}");
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    for answer in [Answer::Dimensions(DIMENSIONS * 2), Answer::Missing] {
        let error = error_when(answer.clone()).await;
        assert!(matches!(error, Error::Protocol { .. }), "{answer:?}: {error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn vectors_in_another_order_still_reach_their_texts() {
    let (server, model) = server_and_model().await;
    server.always(Answer::Reversed);
    let answer = model.embed(texts(7), Kind::Passage).await.unwrap();
    assert_vectors(&answer.vectors, &texts(7));
    model.verify().await.unwrap();
}

#[tokio::test]
async fn the_probe_finds_a_server_that_mixes_up_the_order() {
    let (server, model) = server_and_model().await;
    model.verify().await.unwrap();
    server.always(Answer::ReversedWithoutIndex);
    assert!(matches!(model.verify().await.unwrap_err(), Error::Protocol { .. }));
}

#[tokio::test]
async fn only_the_poisonous_text_is_refused() {
    let (server, model) = server_and_model().await;
    server.refuse_texts_with("poison");
    let mut all = texts(20);
    all[13].push_str(" poison");
    let answer = embed_each(&*model, &all, Kind::Passage).await.unwrap();
    for (index, vector) in answer.vectors.iter().enumerate() {
        match vector {
            Ok(vector) => assert_vectors(std::slice::from_ref(vector), &all[index..=index]),
            Err(error) => assert!(index == 13 && error.is_about_the_text(), "{index}: {error}"),
        }
    }
    assert!(answer.vectors[13].is_err());
    assert!(server.requests() <= 11, "{} requests", server.requests());
}

#[tokio::test]
async fn a_provider_that_refuses_everything_is_not_blamed_on_the_texts() {
    let (server, model) = server_and_model().await;
    server.always(Answer::Status(400));
    let error = embed_each(&*model, &texts(64), Kind::Passage).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured { .. }), "{error}");
    assert!(server.requests() < 30, "{} requests", server.requests());
}

#[tokio::test]
async fn a_failure_that_is_no_texts_ends_the_whole_call() {
    let (server, model) = server_and_model().await;
    server.always(Answer::Status(500));
    let error = embed_each(&*model, &texts(64), Kind::Passage).await.unwrap_err();
    assert!(error.is_retryable() && server.requests() == 1, "{error}");
}

#[tokio::test]
async fn batches_keep_the_configured_limits() {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let model = load(&Config { batch_items: 10, ..config(&server) }).unwrap();
    let answer = embed_each(&*model, &texts(35), Kind::Passage).await.unwrap();
    assert_eq!((answer.vectors.len(), server.requests(), server.texts()), (35, 4, texts(35)));
}

#[tokio::test]
async fn what_cannot_work_is_said_before_any_request() {
    let server = OpenAi::start(DIMENSIONS).await.unwrap();
    let wrong = [
        Config { dimensions: None, ..config(&server) },
        Config { base_url: Some("localhost:11434".to_owned()), ..config(&server) },
        Config { base_url: None, api_key: None, ..config(&server) },
        Config { api_key: Some(Secret::from("with\nbreak")), ..config(&server) },
    ];
    for config in wrong {
        let error = load(&config).unwrap_err();
        assert!(matches!(error, Error::Misconfigured { .. }), "{error}");
        assert!(!error.to_string().contains("break"), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn every_provider_can_be_configured() {
    use Provider::{Azure, Cohere, Gemini, Mistral, Ollama, Openai, Voyage};
    let expected = [
        (Openai, "openai/text-embedding-3-small@1536"),
        (Ollama, "ollama/nomic-embed-text@768"),
        (Cohere, "cohere/embed-multilingual-v3.0@1024"),
        (Mistral, "mistral/mistral-embed@1024"),
        (Gemini, "gemini/gemini-embedding-001@3072"),
        (Voyage, "voyage/voyage-3.5@1024"),
    ];
    let with_key = |provider| Config { provider, api_key: Some(Secret::from("key")), ..Config::default() };
    for (provider, id) in expected {
        assert_eq!(load(&with_key(provider)).unwrap().id(), id);
    }
    let named = |provider, model: &str| Config { model: model.to_owned(), ..with_key(provider) };
    for (provider, model, dimensions) in [
        (Openai, "text-embedding-3-large", 3072),
        (Cohere, "embed-v4.0", 1536),
        (Mistral, "codestral-embed", 1536),
        (Ollama, "bge-m3:latest", 1024),
        (Voyage, "voyage-3.5-lite", 1024),
    ] {
        assert_eq!(load(&named(provider, model)).unwrap().dimensions(), dimensions, "{model}");
    }
    assert!(load(&with_key(Azure)).is_err(), "Azure has no address of its own");
    let azure = Config { base_url: Some("https://one.openai.azure.com".to_owned()), ..with_key(Azure) };
    assert_eq!(load(&azure).unwrap().id(), "azure/text-embedding-3-small@1536");
}
