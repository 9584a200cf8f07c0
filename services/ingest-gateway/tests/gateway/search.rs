//! Hits say what they are and where they stand.

use std::sync::Arc;

use futures::future::BoxFuture;
use riacho_models::{Embeddings, Error, Kind, Model};
use riacho_testkit::LOCAL_MODEL;
use serde_json::{Value, json};

use crate::fixture::{Change, Gateway, id, json, model, problem};

const TEXT: &str =
    "The manometer is calibrated every March.\n\nBoats leave the harbour at noon.\n\nO café abre às oito.";

async fn with_text(gateway: &Gateway) -> String {
    let form =
        Gateway::form("handbook.txt", TEXT).text("metadata", r#"{"year": 2024}"#).text("external_id", "h-1");
    let id = id(&gateway.upload(form).await);
    gateway.publish(&id, TEXT).await;
    id
}

async fn search(gateway: &Gateway, body: Value) -> Value {
    json(gateway.post("/api/v1/search").json(&body), 200).await
}

#[tokio::test]
async fn a_hit_can_be_cited() {
    let gateway = Gateway::start().await;
    let id = with_text(&gateway).await;
    let found = search(&gateway, json!({"query": "when is the manometer calibrated", "top_k": 2})).await;
    let hit = &found["hits"][0];
    assert_eq!((&hit["document_id"], &hit["version"], &hit["pages"]), (&json!(id), &json!(1), &json!([1])));
    assert_eq!(hit["text"], "The manometer is calibrated every March.");
    assert_eq!((&hit["char_start"], &hit["char_end"]), (&json!(0), &json!(40)));
    assert_eq!((&hit["heading_path"], &hit["filename"]), (&json!(["Handbook"]), &json!("handbook.txt")));
    assert_eq!(
        (&hit["metadata"], &hit["external_id"], &hit["collection"]),
        (&json!({"year": 2024}), &json!("h-1"), &json!("default"))
    );
    assert_eq!((&hit["chunk_id"], &hit["language"]), (&json!(format!("{id}.1.0")), &json!("en")));
    assert!(hit["score"].as_f64().unwrap() > 0.0 && hit["score_parts"]["vector_rank"] == 1, "{hit}");
    assert_eq!((&found["mode"], &found["warnings"]), (&json!("hybrid"), &json!([])));
    assert!(found["hits"].as_array().unwrap().len() <= 2);
    let marked: Vec<&str> =
        hit["highlights"].as_array().unwrap().iter().map(|h| h["text"].as_str().unwrap()).collect();
    assert_eq!(marked, ["manometer", "calibrated"]);
}

#[tokio::test]
async fn a_search_whose_space_was_removed_goes_on_in_the_live_one() {
    let gateway = Gateway::start().await;
    let id = with_text(&gateway).await;
    let found = search(&gateway, json!({"query": "when is the manometer calibrated"})).await;
    assert_eq!(found["hits"][0]["score_parts"]["vector_rank"], 1);
    // The gateway remembers for seconds which space is live.
    let old = gateway.deployment.space.id;
    gateway.deployment.sql(&format!(
        "UPDATE embedding_spaces SET state = 'retired', dropped_at = now() WHERE id = {old}; DROP TABLE vectors_{old}"
    ));
    let (model, dimensions) = LOCAL_MODEL;
    let config = gateway.deployment.database_config();
    let live = riacho_store::ensure_space(&config, model, dimensions).await.unwrap();
    assert_ne!(live.id, old);
    let found = search(&gateway, json!({"query": "how is the manometer calibrated"})).await;
    assert_eq!((&found["mode"], &found["warnings"]), (&json!("hybrid"), &json!([])), "{found}");
    assert_eq!(found["hits"][0]["document_id"], json!(id), "by its words, while it has no vector");
    let spaces = json(gateway.get("/api/v1/spaces"), 200).await;
    assert_eq!(
        (spaces["spaces"].as_array().unwrap().len(), &spaces["spaces"][0]["state"]),
        (1, &json!("live"))
    );
}

#[tokio::test]
async fn each_mode_finds_and_a_filter_narrows() {
    let gateway = Gateway::start().await;
    let id = with_text(&gateway).await;
    for mode in ["hybrid", "vector", "keyword"] {
        let found = search(&gateway, json!({"query": "harbour boats", "mode": mode, "top_k": 1})).await;
        assert_eq!((&found["hits"][0]["ordinal"], &found["mode"]), (&json!(1), &json!(mode)), "{found}");
    }
    let narrowed = |extra: Value| {
        let mut body = json!({"query": "harbour"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for (extra, hits) in [
        (json!({"filter": {"year": 2024}}), true),
        (json!({"filter": {"year": {"gt": 2024}}}), false),
        (json!({"filter": null}), true),
        (json!({"collection": "default"}), true),
        (json!({"collection": "nowhere"}), false),
        (json!({"language": "en"}), true),
        (json!({"documents": [id]}), true),
        (json!({"documents": ["01890000-0000-7000-8000-000000000000"]}), false),
    ] {
        let found = search(&gateway, narrowed(extra.clone())).await;
        assert_eq!(!found["hits"].as_array().unwrap().is_empty(), hits, "{extra}: {found}");
    }
}

/// A model whose provider is away.
#[derive(Debug)]
struct Away(Arc<dyn Model>);

impl Model for Away {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn dimensions(&self) -> usize {
        self.0.dimensions()
    }

    fn max_batch_items(&self) -> usize {
        1
    }

    fn max_batch_tokens(&self) -> usize {
        1
    }

    fn embed(&self, _: Vec<String>, _: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
        Box::pin(async { Err(Error::Transient { reason: "connection refused by 10.0.0.7".into() }) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn while_the_model_is_away_hybrid_search_goes_on_by_keywords() {
    let gateway = Gateway::with(Change { model: Some(Arc::new(Away(model()))), ..Change::default() }).await;
    with_text(&gateway).await;
    let found = search(&gateway, json!({"query": "harbour"})).await;
    assert_eq!((&found["mode"], &found["hits"][0]["ordinal"]), (&json!("keyword"), &json!(1)));
    let warning = found["warnings"][0].as_str().unwrap();
    assert!(warning.contains("keyword") && !warning.contains("10.0.0.7"), "{warning}");
    let body = json!({"query": "harbour", "mode": "vector"});
    let refused = gateway.post("/api/v1/search").json(&body).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    problem(gateway.post("/api/v1/search").json(&body), 503, "unavailable").await;
}
