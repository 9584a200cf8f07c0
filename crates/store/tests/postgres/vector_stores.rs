//! Collections as vector stores.

use riacho_domain::State;
use riacho_store::{
    ChangedVectorStore, Comparison, Condition, Error, Filter, NewVectorStore, SearchRequest, VectorStore,
    Window,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    database::{Database, axis, database, upload},
    files::{file, made_of},
};

async fn store(db: &Database, title: Option<&str>) -> VectorStore {
    let id = Uuid::now_v7();
    let new = NewVectorStore { title: title.map(str::to_owned), ..NewVectorStore::default() };
    db.store.create_vector_store(&db.acme, (id, &format!("vs_{}", id.simple())), &new).await.unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn a_title_is_the_name_where_it_is_free_and_can_be_one() {
    let db = database().await;
    assert_eq!(store(&db, Some("manuals")).await.collection, "manuals");
    for title in [Some("manuals"), Some(""), None] {
        let made = store(&db, title).await;
        assert_eq!((made.title.as_deref(), made.collection.len()), (title, 35), "{}", made.collection);
    }
    let taken =
        db.store.create_vector_store(&db.acme, (Uuid::now_v7(), "manuals"), &NewVectorStore::default()).await;
    assert!(taken.is_err());
}

#[tokio::test]
async fn a_change_changes_what_it_names() {
    let db = database().await;
    let id = store(&db, Some("before")).await.id;
    let change = async |changed: ChangedVectorStore| {
        assert!(db.store.change_vector_store(&db.acme, id, &changed).await.unwrap());
        let now = db.store.vector_store(&db.acme, id).await.unwrap().unwrap();
        (now.title, Value::Object(now.metadata), now.expires_after_days)
    };
    let days = ChangedVectorStore { expires_after_days: Some(Some(2)), ..ChangedVectorStore::default() };
    assert_eq!(change(days).await, (Some("before".into()), json!({}), Some(2)));
    let metadata =
        ChangedVectorStore { metadata: Some(map(json!({"a": "b"}))), ..ChangedVectorStore::default() };
    assert_eq!(change(metadata).await, (Some("before".into()), json!({"a": "b"}), Some(2)));
    let none = ChangedVectorStore {
        title: Some(None),
        expires_after_days: Some(None),
        ..ChangedVectorStore::default()
    };
    assert_eq!(change(none).await, (None, json!({"a": "b"}), None));
    let nothing = ChangedVectorStore::default();
    assert!(!db.store.change_vector_store(&db.other, id, &nothing).await.unwrap(), "it is another tenant's");
}

#[tokio::test]
async fn documents_are_counted_by_what_became_of_them() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let accept = async |text: &str| {
        let mut accept = upload(&db.acme, text);
        accept.collection = Some("a".into());
        db.store.accept(&accept).await.unwrap()
    };
    let (ready, cancelled) = (accept("ready").await, accept("cancelled").await);
    accept("on its way").await;
    db.finish(&ready, "en", &["ready"]).await;
    db.store.cancel(&db.acme, cancelled.document).await.unwrap();
    let now = db.store.vector_store(&db.acme, made.id).await.unwrap().unwrap();
    let counts = now.counts;
    assert_eq!((counts.in_progress, counts.completed, counts.failed, counts.cancelled), (1, 1, 0, 1));
    assert_eq!((counts.total(), now.bytes), (3, 5));
    let all = Window { ascending: true, after: None, before: None, limit: 10 };
    let listed = db.store.vector_stores(&db.acme, &all).await.unwrap().items;
    assert_eq!(listed.iter().map(|store| (store.id, store.counts)).collect::<Vec<_>>(), [(made.id, counts)]);
    let ready_ones =
        db.store.members(&db.acme, made.id, None, Some(&[State::Ready]), &all).await.unwrap().items;
    assert_eq!(ready_ones.iter().map(|member| member.id).collect::<Vec<_>>(), [ready.document.0]);
}

#[tokio::test]
async fn a_deleted_collection_takes_its_documents_and_frees_its_name() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let file = file(&db, &db.acme, "text", None).await;
    let attached = db.store.accept(&made_of(&db.acme, &file, (made.id, "a"))).await.unwrap();
    db.finish(&attached, "en", &["text"]).await;
    // A document elsewhere, whose next version would come here.
    let elsewhere = db.ready(&db.acme, "en", &["elsewhere"]).await;
    let mut next = upload(&db.acme, "next");
    next.target = riacho_store::Target::NewVersionOf(elsewhere);
    next.collection = Some("a".into());
    let next = db.store.accept(&next).await.unwrap();

    assert!(!db.store.delete_vector_store(&db.other, made.id).await.unwrap());
    assert!(db.store.delete_vector_store(&db.acme, made.id).await.unwrap());
    assert!(!db.store.delete_vector_store(&db.acme, made.id).await.unwrap());
    assert!(db.store.vector_store(&db.acme, made.id).await.unwrap().is_none());
    assert!(db.store.collection(&db.acme, made.id).await.unwrap().is_none());
    assert!(db.store.collections(&db.acme).await.unwrap().iter().all(|c| c.name == "default"));
    assert!(matches!(db.store.delete_collection(&db.acme, made.id).await, Err(Error::NotFound(_))));
    assert!(db.store.status(&db.acme, attached.document).await.unwrap().is_none());
    assert!(db.store.file(&db.acme, file.id).await.unwrap().is_some());
    let refused = db.store.accept(&made_of(&db.acme, &file, (made.id, "a"))).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");

    db.finish(&next, "en", &["next"]).await;
    let stays = db.store.document(&db.acme, elsewhere).await.unwrap().unwrap();
    assert_eq!((stays.collection_name.as_str(), stays.live_version), ("default", Some(2)));

    // The row goes when the last document is purged.
    db.janitor.empty_collections(10).await.unwrap();
    assert_eq!(db.value(&format!("SELECT count(*) FROM collections WHERE id = '{}'", made.id)), "1");
    let purge =
        db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, std::time::Duration::ZERO, 10).await.unwrap();
    let purge = purge.into_iter().find(|purge| purge.document == attached.document).unwrap();
    while !db.janitor.purge_rows(&purge, 10).await.unwrap().done {}
    db.janitor.purge_done(&purge, Default::default()).await.unwrap();
    db.janitor.empty_collections(10).await.unwrap();
    assert_eq!(db.value(&format!("SELECT count(*) FROM collections WHERE id = '{}'", made.id)), "0");
    assert_eq!(store(&db, Some("a")).await.collection, "a");
}

#[tokio::test]
async fn the_janitor_goes_on_with_a_deletion_that_was_cut_off_and_empties_what_expired() {
    let db = database().await;
    let (cut_off, expired, kept) = (
        store(&db, Some("cut off")).await,
        store(&db, Some("expired")).await,
        store(&db, Some("kept")).await,
    );
    let days = ChangedVectorStore { expires_after_days: Some(Some(1)), ..ChangedVectorStore::default() };
    for of in [&expired, &kept] {
        assert!(db.store.change_vector_store(&db.acme, of.id, &days).await.unwrap());
    }
    for made in [&cut_off, &expired, &kept] {
        for n in 0..3 {
            let mut accept = upload(&db.acme, &format!("{n} of {}", made.collection));
            accept.collection = Some(made.collection.clone());
            db.store.accept(&accept).await.unwrap();
        }
    }
    let _ = db.raw.run(&format!(
        "UPDATE collections SET deleted_at = now(), name = 'deleted' WHERE id = '{0}';
         UPDATE collections SET last_active_at = now() - interval '25 hours' WHERE id = '{1}';
         UPDATE documents SET updated_at = now() - interval '2 hours' WHERE collection_id = '{1}'",
        cut_off.id, expired.id
    ));
    let mut late = upload(&db.acme, "after the end");
    late.collection = Some("expired".into());
    let late = db.store.accept(&late).await.unwrap().document;
    let now = db.store.vector_store(&db.acme, expired.id).await.unwrap().unwrap();
    assert!(now.is_expired());
    db.store.touch_vector_store(&db.acme, expired.id).await.unwrap();
    assert!(
        db.store.vector_store(&db.acme, expired.id).await.unwrap().unwrap().is_expired(),
        "it stays expired"
    );
    assert_eq!(db.janitor.empty_collections(100).await.unwrap(), 6);
    let left =
        async |id| db.store.vector_store(&db.acme, id).await.unwrap().map(|store| store.counts.total());
    assert_eq!((left(expired.id).await, left(kept.id).await), (Some(1), Some(3)));
    assert_eq!(db.state(late).await, State::Releasing, "what was accepted is owed");
}

#[tokio::test]
async fn changed_metadata_is_found_at_once_and_stays_through_a_version_on_its_way() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["the gauge"]).await;
    let found = async |value: &str| {
        let is = Condition::Is("state".into(), Comparison::Eq, json!(value));
        let mut request = SearchRequest::new(db.acme.clone(), "gauge");
        request.filter = Some(Filter::of(&is).unwrap());
        request.vector = Some(axis(0).to_vec());
        db.store.search(&request).await.unwrap().len()
    };
    let before = db.store.search_state(&db.acme).await.unwrap();
    assert!(db.store.set_metadata(&db.acme, document, &map(json!({"state": "final"}))).await.unwrap());
    assert_ne!(db.store.search_state(&db.acme).await.unwrap(), before, "kept answers are out of date");
    assert_eq!((found("final").await, found("draft").await), (1, 0));
    assert!(!db.store.set_metadata(&db.other, document, &map(json!({}))).await.unwrap());

    let mut next = upload(&db.acme, "the gauge again");
    next.target = riacho_store::Target::NewVersionOf(document);
    next.metadata = Some(map(json!({"state": "draft"})));
    let next = db.store.accept(&next).await.unwrap();
    assert!(db.store.set_metadata(&db.acme, document, &map(json!({"state": "last"}))).await.unwrap());
    db.finish(&next, "en", &["the gauge again"]).await;
    assert_eq!((found("last").await, found("draft").await, found("final").await), (1, 0, 0));

    // What is uploaded with the metadata that it has now is the same document, and with other ones another.
    let with = async |state: &str| {
        let mut accept = upload(&db.acme, "the gauge again");
        accept.metadata = Some(map(json!({"state": state})));
        db.store.accept(&accept).await.unwrap().document
    };
    assert_eq!(with("last").await, document);
    assert_ne!(with("draft").await, document);
}

#[tokio::test]
async fn a_list_goes_on_from_what_was_deleted_meanwhile() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let mut members = Vec::new();
    for n in 0..4 {
        let file = file(&db, &db.acme, &format!("{n}"), None).await;
        let attached = db.store.accept(&made_of(&db.acme, &file, (made.id, "a"))).await.unwrap();
        members.push((file.id, attached.document));
    }
    let after = async |place| {
        let window = Window { ascending: true, after: Some(place), before: None, limit: 10 };
        db.store
            .members(&db.acme, made.id, None, None, &window)
            .await
            .map(|part| part.items.into_iter().map(|member| member.id).collect::<Vec<_>>())
    };
    assert!(db.store.delete_document(&db.acme, members[1].1).await.unwrap());
    assert_eq!(after(members[1].0).await.unwrap(), [members[2].0, members[3].0]);
    assert_eq!(after(members[0].0).await.unwrap(), [members[2].0, members[3].0]);
    assert!(matches!(after(Uuid::now_v7()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_batch_counts_and_cancels_its_own() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let batch = db.store.create_batch(&db.acme, made.id).await.unwrap();
    assert!(db.store.create_batch(&db.other, made.id).await.is_err());
    let mut documents = Vec::new();
    for n in 0..3 {
        let file = file(&db, &db.acme, &format!("{n}"), None).await;
        let attached = db.store.accept(&made_of(&db.acme, &file, (made.id, "a"))).await.unwrap();
        documents.push(attached.clone());
    }
    let ids: Vec<_> = documents.iter().take(2).map(|accepted| accepted.document).collect();
    db.store.add_to_batch(&db.acme, batch, &ids).await.unwrap();
    db.store.add_to_batch(&db.acme, batch, &ids).await.unwrap();
    db.finish(&documents[0], "en", &["text"]).await;
    let counts = async || db.store.batch(&db.acme, made.id, batch).await.unwrap().unwrap().counts;
    assert_eq!((counts().await.completed, counts().await.in_progress, counts().await.total()), (1, 1, 2));
    assert!(db.store.batch(&db.other, made.id, batch).await.unwrap().is_none());
    let told = std::sync::Mutex::new(Vec::new());
    let cancel = async |store| {
        let note = |status: &riacho_store::Status| told.lock().unwrap().push(status.document);
        db.store.cancel_batch(&db.acme, store, batch, note).await.unwrap()
    };
    assert!(!cancel(Uuid::now_v7()).await);
    assert!(cancel(made.id).await);
    assert_eq!(*told.lock().unwrap(), [ids[1]], "the other one is ready");
    assert_eq!((counts().await.completed, counts().await.cancelled), (1, 1));
    assert_eq!(db.state(documents[2].document).await, State::Releasing, "it is of no batch");
    let all = Window { ascending: false, after: None, before: None, limit: 10 };
    let of = db.store.members(&db.acme, made.id, Some(batch), None, &all).await.unwrap().items;
    assert_eq!(of.iter().map(|member| member.document).collect::<Vec<_>>(), [ids[1], ids[0]]);
}
