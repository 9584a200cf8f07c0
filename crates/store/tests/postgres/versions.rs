//! What a version brings (metadata, collection, name, time to live) is the document's when the version
//! goes live, and not before.

use std::time::Duration;

use riacho_domain::{DocumentId, ReasonCode};
use riacho_store::{Accept, Accepted, Body, Conflict, Document, Error, Filter, Mode, SearchRequest, Target};
use serde_json::json;

use crate::database::{Database, database, sha256, upload};

/// An upload of the one document of a test, with metadata and collection, or as the document has them.
fn described(db: &Database, text: &str, settings: Option<&str>) -> Accept {
    Accept {
        external_id: Some("e".into()),
        filename: format!("{text}.txt"),
        collection: settings.map(str::to_owned),
        metadata: settings.and_then(|k| json!({ "k": k }).as_object().cloned()),
        ttl: settings.map(|_| Duration::from_secs(text.len() as u64 * 3_600)),
        ..upload(&db.acme, text)
    }
}

fn awaited(accept: Accept) -> Accept {
    let expires_at = chrono::Utc::now() + Duration::from_secs(600);
    Accept { body: Body::Awaited { expires_at }, ..accept }
}

async fn live(db: &Database, text: &str, settings: Option<&str>) -> DocumentId {
    let accepted = db.store.accept(&described(db, text, settings)).await.unwrap();
    db.finish(&accepted, "en", &[text]).await;
    accepted.document
}

async fn read(db: &Database, document: DocumentId) -> Document {
    db.store.document(&db.acme, document).await.unwrap().unwrap()
}

/// Which of the settings the live text is found under, and the name that the hit carries.
async fn found(db: &Database, query: &str, settings: &str) -> Vec<String> {
    let words = SearchRequest { mode: Mode::Keyword, ..SearchRequest::new(db.acme.clone(), query) };
    let filter = Filter::parse(&json!({ "k": settings })).unwrap();
    let by_metadata = SearchRequest { filter: Some(filter), ..words.clone() };
    let by_collection = SearchRequest { collection: Some(settings.into()), ..words };
    let mut names = Vec::new();
    for request in [by_metadata, by_collection] {
        let hits = db.store.search(&request).await.unwrap();
        names.extend(hits.into_iter().map(|hit| {
            format!("{} {} {}", hit.filename, hit.metadata["k"].as_str().unwrap_or_default(), hit.collection)
        }));
    }
    names
}

#[tokio::test]
async fn a_version_that_does_not_go_live_changes_nothing_that_is_seen() {
    let db = database().await;
    let document = live(&db, "first", Some("old")).await;
    let before = read(&db, document).await;
    for end in ["failed", "cancelled", "awaited"] {
        let accept = described(&db, &format!("second {end}"), Some("new"));
        let accept = if end == "awaited" { awaited(accept) } else { accept };
        let accepted = db.store.accept(&accept).await.unwrap();
        assert_eq!(accepted.document, document);
        match end {
            "failed" => {
                let release = Database::release_of(&accepted);
                assert!(db.store.fail(&release, ReasonCode::Corrupt, "broken").await.unwrap());
            }
            "cancelled" => {
                db.store.cancel(&db.acme, document).await.unwrap();
            }
            _ => {}
        }
        let after = read(&db, document).await;
        assert_eq!((after.version, after.live_version), (accepted.version, Some(1)));
        let seen = Document {
            version: before.version,
            state: before.state,
            error: None,
            updated_at: before.updated_at,
            ..after
        };
        assert_eq!(seen, before, "{end}");
        assert_eq!(found(&db, "first", "old").await, ["first.txt old old"; 2], "{end}");
        assert!(found(&db, "first", "new").await.is_empty(), "{end}");
        let original = db.store.original(&db.acme, document, None).await.unwrap().unwrap();
        assert_eq!((original.version, original.filename.as_str()), (1, "first.txt"), "{end}");
    }
}

#[tokio::test]
async fn what_a_version_brings_is_seen_with_its_text() {
    let db = database().await;
    let document = live(&db, "first", Some("old")).await;
    let first = read(&db, document).await;
    let accepted = db.store.accept(&described(&db, "second", Some("new"))).await.unwrap();
    assert_eq!(read(&db, document).await.collection_name, "old");
    db.finish(&accepted, "en", &["second"]).await;
    let second = read(&db, document).await;
    assert_eq!((second.metadata["k"].as_str(), second.collection_name.as_str()), (Some("new"), "new"));
    assert_eq!((second.filename.as_str(), second.size), ("second.txt", Some(6)));
    assert!(second.expires_at > first.expires_at);
    assert_eq!(found(&db, "second", "new").await, ["second.txt new new"; 2]);
    assert!(found(&db, "second", "old").await.is_empty());
}

#[tokio::test]
async fn before_a_version_is_live_the_latest_says_what_the_document_is() {
    let db = database().await;
    let first = db.store.accept(&described(&db, "first", Some("old"))).await.unwrap();
    db.store.fail(&Database::release_of(&first), ReasonCode::Corrupt, "broken").await.unwrap();
    let second = db.store.accept(&described(&db, "second", Some("new"))).await.unwrap();
    let seen = read(&db, second.document).await;
    assert_eq!((seen.metadata["k"].as_str(), seen.collection_name.as_str()), (Some("new"), "new"));
    assert_eq!((seen.filename.as_str(), seen.error), ("second.txt", None));
    assert_eq!(db.store.original(&db.acme, second.document, None).await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_version_in_flight_is_known_again_by_its_own_settings() {
    let db = database().await;
    live(&db, "first", Some("old")).await;
    let accept = described(&db, "second", Some("new"));
    let second = db.store.accept(&accept).await.unwrap();
    let again = db.store.accept(&accept).await.unwrap();
    assert!(again.duplicate && again.version == second.version);
    db.finish(&second, "en", &["second"]).await;
    let again = db.store.accept(&accept).await.unwrap();
    assert!(again.duplicate && again.version == second.version);
    // The same bytes as the document has them, and with other metadata.
    assert!(db.store.accept(&described(&db, "second", None)).await.unwrap().duplicate);
    assert!(!db.store.accept(&described(&db, "second", Some("newer"))).await.unwrap().duplicate);
}

async fn complete(db: &Database, document: DocumentId, text: &str) -> Accepted {
    let bytes = (text.len() as u64, sha256(text));
    db.store.complete_upload(&db.acme, document, bytes, "", false).await.unwrap()
}

#[tokio::test]
async fn a_signed_upload_keeps_what_the_document_has_when_its_bytes_come() {
    let db = database().await;
    let document = live(&db, "first", Some("old")).await;
    let second = db.store.accept(&described(&db, "second", Some("new"))).await.unwrap();
    db.store.accept(&awaited(described(&db, "third", None))).await.unwrap();
    db.finish(&second, "en", &["second"]).await;
    let third = complete(&db, document, "third").await;
    db.finish(&third, "en", &["third"]).await;
    let seen = read(&db, document).await;
    assert_eq!((seen.metadata["k"].as_str(), seen.collection_name.as_str()), (Some("new"), "new"));
    assert_eq!((seen.filename.as_str(), seen.live_version), ("third.txt", Some(3)));
    // It is known again by what it kept.
    assert!(db.store.accept(&described(&db, "third", Some("new"))).await.unwrap().duplicate);
    assert!(!db.store.accept(&described(&db, "third", Some("old"))).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_collection_that_a_version_is_on_its_way_to_is_not_empty() {
    let db = database().await;
    let document = live(&db, "first", Some("old")).await;
    let second = db.store.accept(&described(&db, "second", Some("new"))).await.unwrap();
    let collections = db.store.collections(&db.acme).await.unwrap();
    let new = collections.iter().find(|collection| collection.name == "new").unwrap().id;
    let refused = db.store.delete_collection(&db.acme, new).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::NotEmpty))), "{refused:?}");
    // A version that ended keeps no collection; run again, it leaves the document where it is.
    db.store.fail(&Database::release_of(&second), ReasonCode::Corrupt, "broken").await.unwrap();
    db.store.delete_collection(&db.acme, new).await.unwrap();
    let retried = db.store.retry(&db.acme, document, None, false).await.unwrap();
    db.finish(&retried, "en", &["second"]).await;
    assert_eq!(read(&db, document).await.collection_name, "old");
}

#[tokio::test]
async fn a_document_does_not_end_while_a_version_that_lives_longer_is_on_its_way() {
    let db = database().await;
    let document = live(&db, "first", Some("old")).await;
    let longer = Accept { target: Target::NewVersionOf(document), ..described(&db, "second", Some("new")) };
    let second = db.store.accept(&longer).await.unwrap();
    let _ = db.raw.run("UPDATE documents SET expires_at = now() - interval '1 s'");
    assert_eq!(db.janitor.expire_documents(10).await.unwrap().len(), 0);
    assert!(found(&db, "first", "old").await.is_empty(), "what is past its time is not found");
    db.finish(&second, "en", &["second"]).await;
    assert_eq!(found(&db, "second", "new").await.len(), 2);
    let _ = db.raw.run("UPDATE documents SET expires_at = now() - interval '1 s'");
    assert_eq!(db.janitor.expire_documents(10).await.unwrap().len(), 1);
}
