//! A 202 is a debt: what accepting writes, and what it answers when it writes nothing.

use std::time::Duration;

use riacho_domain::State;
use riacho_store::{Accept, Body, Conflict, Error, EventAnswer, EventKey, Idempotency, Target};
use serde_json::json;

use crate::database::{Database, database, sha256, upload};

fn with_key(accept: &Accept, key: &str, hash: u8) -> Accept {
    Accept { idempotency: Some(Idempotency { key: key.into(), request_hash: [hash; 32] }), ..accept.clone() }
}

#[tokio::test]
async fn accepting_writes_the_version_with_its_release_at_once() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "hello")).await.unwrap();
    assert_eq!((accepted.version, accepted.state), (1, State::Releasing));
    let plan = accepted.release.clone().unwrap();
    assert_eq!((plan.space, plan.partition, plan.size), (db.space, 0, 5));
    assert_eq!(plan.sha256, sha256("hello"));
    // What the janitor would send again is the same release.
    let stale = db.janitor.stale_releasing(Duration::ZERO, 10).await.unwrap();
    assert_eq!(stale, std::slice::from_ref(&plan));
    let releases = [plan.release()];
    assert_eq!(db.store.released(&releases).await.unwrap(), [plan.release].into());
    assert!(db.store.released(&releases).await.unwrap().is_empty(), "only once");
    assert_eq!(db.state(accepted.document).await, State::Extracting);
    let document = db.store.document(&db.acme, accepted.document).await.unwrap().unwrap();
    assert_eq!((document.collection_name.as_str(), document.filename.as_str()), ("default", "note.txt"));
}

#[tokio::test]
async fn the_same_bytes_with_the_same_settings_are_the_document_that_is_there() {
    let db = database().await;
    let first = db.store.accept(&upload(&db.acme, "same")).await.unwrap();
    let second = db.store.accept(&upload(&db.acme, "same")).await.unwrap();
    assert!(second.duplicate && second.release.is_none());
    assert_eq!((second.document, second.version), (first.document, 1));
    db.finish(&first, "en", &["same"]).await;
    assert_eq!(db.store.accept(&upload(&db.acme, "same")).await.unwrap().document, first.document);

    let elsewhere = Accept { collection: Some("other".into()), ..upload(&db.acme, "same") };
    let described = Accept { metadata: json!({"a": 1}).as_object().cloned(), ..upload(&db.acme, "same") };
    let of_other = upload(&db.other, "same");
    for different in [elsewhere, described, of_other] {
        let accepted = db.store.accept(&different).await.unwrap();
        assert!(!accepted.duplicate && accepted.document != first.document);
    }
}

#[tokio::test]
async fn a_document_that_failed_or_was_deleted_answers_for_no_upload() {
    let db = database().await;
    let failed = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&failed);
    assert!(db.store.fail(&release, riacho_domain::ReasonCode::Corrupt, "broken").await.unwrap());
    let next = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    assert!(!next.duplicate && next.document != failed.document);
    db.store.delete_document(&db.acme, next.document).await.unwrap();
    let third = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    assert!(!third.duplicate && third.document != next.document);
}

#[tokio::test]
async fn uploads_of_the_same_bytes_at_the_same_time_become_one_document() {
    let db = database().await;
    let uploads: Vec<_> = (0..8).map(|_| upload(&db.acme, "race")).collect();
    let answers = futures::future::join_all(uploads.iter().map(|upload| db.store.accept(upload))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.document == answers[0].document));
    assert_eq!(answers.iter().filter(|answer| answer.release.is_some()).count(), 1);
}

#[tokio::test]
async fn an_external_id_that_is_known_is_a_new_version_and_supersedes_the_one_in_flight() {
    let db = database().await;
    let named = |text: &str| Accept { external_id: Some("doc-1".into()), ..upload(&db.acme, text) };
    let first = db.store.accept(&named("one")).await.unwrap();
    let second = db.store.accept(&named("two")).await.unwrap();
    assert_eq!((second.document, second.version), (first.document, 2));
    assert!(second.release.is_some());
    let superseded = Database::release_of(&first);
    assert!(db.store.begin_extraction(&superseded).await.unwrap().is_none());
    assert_eq!(
        db.value("SELECT state || ' ' || ended_by FROM document_versions WHERE version = 1"),
        "cancelled superseded"
    );
    // The latest version again is no new one, and an older one is.
    assert!(db.store.accept(&named("two")).await.unwrap().duplicate);
    assert_eq!(db.store.accept(&named("one")).await.unwrap().version, 3);
}

#[tokio::test]
async fn external_ids_that_arrive_at_the_same_time_become_versions_of_one_document() {
    let db = database().await;
    let uploads: Vec<_> = (0..6)
        .map(|n| Accept { external_id: Some("e".into()), ..upload(&db.acme, &format!("text {n}")) })
        .collect();
    let answers = futures::future::join_all(uploads.iter().map(|upload| db.store.accept(upload))).await;
    let mut versions: Vec<u32> = answers.iter().map(|answer| answer.as_ref().unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    assert_eq!(db.value("SELECT count(*) FROM document_versions WHERE state = 'releasing'"), "1");
}

#[tokio::test]
async fn a_new_version_keeps_collection_and_metadata_unless_it_brings_its_own() {
    let db = database().await;
    let first = Accept {
        collection: Some("manuals".into()),
        metadata: json!({"author": "Ana"}).as_object().cloned(),
        ..upload(&db.acme, "one")
    };
    let document = db.store.accept(&first).await.unwrap().document;
    let next = Accept { target: Target::NewVersionOf(document), ..upload(&db.acme, "two") };
    assert_eq!(db.store.accept(&next).await.unwrap().version, 2);
    let read = db.store.document(&db.acme, document).await.unwrap().unwrap();
    assert_eq!((read.collection_name.as_str(), &read.metadata["author"]), ("manuals", &json!("Ana")));
    assert!(db.store.accept(&next).await.unwrap().duplicate);
    let missing =
        Accept { target: Target::NewVersionOf(riacho_domain::DocumentId::new()), ..upload(&db.acme, "x") };
    assert!(matches!(db.store.accept(&missing).await, Err(Error::NotFound("document"))));
}

#[tokio::test]
async fn an_idempotency_key_answers_the_same_and_refuses_another_request() {
    let db = database().await;
    let first = db.store.accept(&with_key(&upload(&db.acme, "a"), "key", 1)).await.unwrap();
    let again = db.store.accept(&with_key(&upload(&db.acme, "a"), "key", 1)).await.unwrap();
    assert!(again.replayed && again.release.is_none());
    assert_eq!((again.document, again.version), (first.document, first.version));
    let other = db.store.accept(&with_key(&upload(&db.acme, "b"), "key", 2)).await;
    assert!(matches!(other, Err(Error::Conflict(Conflict::IdempotencyKeyReused))));
    // That the bytes were known is a part of the answer.
    for is_repeated in [false, true] {
        let known = db.store.accept(&with_key(&upload(&db.acme, "a"), "another", 1)).await.unwrap();
        assert_eq!((known.duplicate, known.replayed, known.document), (true, is_repeated, first.document));
    }
    assert!(!again.duplicate);
    assert!(!db.store.accept(&with_key(&upload(&db.other, "a"), "key", 1)).await.unwrap().replayed);
}

#[tokio::test]
async fn a_held_document_waits_for_the_janitor() {
    let db = database().await;
    let mut wakeups = db.janitor.listen().await.unwrap();
    let held = db.store.accept(&Accept { hold: true, ..upload(&db.acme, "later") }).await.unwrap();
    assert_eq!((held.state, held.release.is_none()), (State::Waiting, true));
    wakeups.next().await.expect("the janitor is woken");
    let plans = db.janitor.release_waiting(10, riacho_store::ReleaseCaps::default()).await.unwrap();
    assert_eq!(plans.len(), 1);
    assert_eq!(db.state(held.document).await, State::Releasing);
    assert!(db.store.back_to_waiting(&plans[0].release()).await.unwrap());
    assert_eq!(db.state(held.document).await, State::Waiting);
}

#[tokio::test]
async fn a_presigned_upload_is_released_when_its_bytes_are_there() {
    let db = database().await;
    let expires_at = chrono::Utc::now() + Duration::from_secs(600);
    let awaited = Accept { body: Body::Awaited { expires_at }, ..upload(&db.acme, "") };
    let accepted = db.store.accept(&awaited).await.unwrap();
    assert_eq!((accepted.state, accepted.release.is_none()), (State::AwaitingUpload, true));
    let found = db.store.awaited_upload(&db.acme, accepted.document).await.unwrap().unwrap();
    assert_eq!(found.object_key, awaited.object_key);
    let bytes = (3, sha256("abc"));
    let done = db.store.complete_upload(&db.acme, accepted.document, bytes, "", false).await.unwrap();
    let plan = done.release.unwrap();
    assert_eq!((done.state, plan.size, plan.sha256), (State::Releasing, 3, sha256("abc")));
    let again = db.store.complete_upload(&db.acme, accepted.document, bytes, "", false).await.unwrap();
    assert!(again.release.is_none());
    let stored = db.store.accept(&upload(&db.acme, "plain")).await.unwrap();
    let refused = db.store.complete_upload(&db.acme, stored.document, bytes, "", false).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::NoUploadAwaited(_)))));
}

#[tokio::test]
async fn an_event_is_accepted_once_and_answered_the_same() {
    let db = database().await;
    let event = EventKey { tenant: db.acme.clone(), source: "crm".into(), event_id: "1".into() };
    assert!(db.store.known_event(&event).await.unwrap().is_none());
    let first = db.store.accept_event(&event, &upload(&db.acme, "event")).await.unwrap();
    let again = db.store.accept_event(&event, &upload(&db.acme, "something else")).await.unwrap();
    assert_eq!(again.answer, first.answer);
    assert!(again.accepted.is_none());
    assert_eq!(db.store.known_event(&event).await.unwrap(), Some(first.answer.clone()));
    assert_eq!(db.store.reject_event(&event, "too_large", "no").await.unwrap(), first.answer);

    let bad = EventKey { event_id: "2".into(), ..event.clone() };
    let rejected = EventAnswer::Rejected { code: "too_large".into(), message: "over 1 MiB".into() };
    assert_eq!(db.store.reject_event(&bad, "too_large", "over 1 MiB").await.unwrap(), rejected);
    assert_eq!(db.store.accept_event(&bad, &upload(&db.acme, "y")).await.unwrap().answer, rejected);

    let races = EventKey { event_id: "3".into(), ..event };
    let uploads: Vec<_> = (0..6).map(|n| upload(&db.acme, &format!("race {n}"))).collect();
    let answers = futures::future::join_all(uploads.iter().map(|u| db.store.accept_event(&races, u))).await;
    let accepted = answers.iter().filter(|answer| answer.as_ref().unwrap().accepted.is_some()).count();
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn a_suspended_or_unknown_tenant_is_refused() {
    let db = database().await;
    db.janitor.suspend_tenant(&db.acme).await.unwrap();
    let unknown = "nobody".parse().unwrap();
    for tenant in [&db.acme, &unknown] {
        let refused = db.store.accept(&upload(tenant, "x")).await;
        assert!(matches!(refused, Err(Error::Conflict(Conflict::TenantNotActive))));
    }
}
