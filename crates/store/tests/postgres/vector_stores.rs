//! Collections as vector stores.

use riacho_domain::State;
use riacho_store::{
    BatchFile, ChangedVectorStore, Comparison, Condition, Error, Filter, ListDocuments, Mode, NewVectorStore,
    Reason, SearchRequest, VectorStore, Window,
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
    let ready_ones = db.store.members(&db.acme, made.id, Some(&[State::Ready]), &all).await.unwrap().items;
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
    assert!(db.store.set_attributes(&db.acme, document, &map(json!({"state": "final"}))).await.unwrap());
    assert_ne!(db.store.search_state(&db.acme).await.unwrap(), before, "kept answers are out of date");
    assert_eq!((found("final").await, found("draft").await), (1, 0));
    assert!(!db.store.set_attributes(&db.other, document, &map(json!({}))).await.unwrap());

    let mut next = upload(&db.acme, "the gauge again");
    next.target = riacho_store::Target::NewVersionOf(document);
    next.metadata = Some(map(json!({"state": "draft"})));
    let next = db.store.accept(&next).await.unwrap();
    assert!(db.store.set_attributes(&db.acme, document, &map(json!({"state": "last"}))).await.unwrap());
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
async fn metadata_that_is_no_attribute_outlives_a_change_of_attributes() {
    let db = database().await;
    let before =
        json!({"old": 1, "tags": ["a", "b"], "place": {"river": "x"}, "nothing": null, "named": {"a": 1}});
    let mut accept = upload(&db.acme, "the gauge");
    accept.metadata = Some(map(before.clone()));
    let accepted = db.store.accept(&accept).await.unwrap();
    db.finish(&accepted, "en", &["the gauge"]).await;
    let mut next = upload(&db.acme, "the gauge again");
    next.target = riacho_store::Target::NewVersionOf(accepted.document);
    next.metadata = Some(map(json!({"old": 2, "tags": ["c"]})));
    let next = db.store.accept(&next).await.unwrap();
    let attributes = map(json!({"new": true, "named": "text"}));
    assert!(db.store.set_attributes(&db.acme, accepted.document, &attributes).await.unwrap());
    let now = async || db.store.document(&db.acme, accepted.document).await.unwrap().unwrap().metadata;
    let mut after =
        json!({"new": true, "named": "text", "tags": ["a", "b"], "place": {"river": "x"}, "nothing": null});
    assert_eq!(Value::Object(now().await), after);
    // The version on its way brings its own, changed in the same way.
    db.finish(&next, "en", &["the gauge again"]).await;
    after = json!({"new": true, "named": "text", "tags": ["c"]});
    assert_eq!(Value::Object(now().await), after);
    // An upload with what it has now is the same document.
    let mut same = upload(&db.acme, "the gauge again");
    same.metadata = Some(map(after));
    assert_eq!(db.store.accept(&same).await.unwrap().document, accepted.document);
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
            .members(&db.acme, made.id, None, &window)
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
    let two: Vec<_> =
        documents.iter().take(2).map(|accepted| (accepted.document, accepted.version)).collect();
    db.store.add_to_batch(&db.acme, batch, &two).await.unwrap();
    db.store.add_to_batch(&db.acme, batch, &two).await.unwrap();
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
    let of = db.store.batch_files(&db.acme, (made.id, batch), None, &all).await.unwrap().items;
    let documents: Vec<_> = of
        .iter()
        .map(|file| match file {
            BatchFile::Attached(member) => member.document,
            BatchFile::Refused(refused) => panic!("{refused:?}"),
        })
        .collect();
    assert_eq!(documents, [ids[1], ids[0]]);
}

#[tokio::test]
async fn files_that_were_refused_are_listed_among_those_of_their_batch() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let batch = db.store.create_batch(&db.acme, made.id).await.unwrap();
    // In the order of time: attached and refused by turns.
    let mut expected = Vec::new();
    for n in 0..6 {
        let file = file(&db, &db.acme, &format!("{n}"), None).await;
        if n % 2 == 0 {
            let attached = db.store.accept(&made_of(&db.acme, &file, (made.id, "a"))).await.unwrap();
            db.store.add_to_batch(&db.acme, batch, &[(attached.document, attached.version)]).await.unwrap();
        } else {
            let reason = Reason { code: "quota_exceeded".into(), message: format!("{n}") };
            db.store.add_refused(&db.acme, batch, &[(file.id, reason)]).await.unwrap();
        }
        expected.push(file.id);
    }
    let counts = db.store.batch(&db.acme, made.id, batch).await.unwrap().unwrap().counts;
    assert_eq!((counts.in_progress, counts.failed), (3, 3));
    let listed = async |states: Option<&[State]>, window: Window| {
        let part = db.store.batch_files(&db.acme, (made.id, batch), states, &window).await.unwrap();
        let ids = part.items.iter().map(|file| match file {
            BatchFile::Attached(member) => member.id,
            BatchFile::Refused(refused) => refused.file,
        });
        (ids.collect::<Vec<_>>(), part.has_more)
    };
    for ascending in [true, false] {
        let mut in_order = expected.clone();
        if !ascending {
            in_order.reverse();
        }
        let (mut read, mut after) = (Vec::new(), None);
        loop {
            let (ids, has_more) = listed(None, Window { ascending, after, before: None, limit: 2 }).await;
            read.extend_from_slice(&ids);
            after = ids.last().copied();
            if !has_more {
                break;
            }
        }
        assert_eq!(read, in_order);
        let before = Window { ascending, after: None, before: Some(in_order[4]), limit: 2 };
        assert_eq!(listed(None, before).await, (in_order[2..4].to_vec(), true));
    }
    let all = Window { ascending: true, after: None, before: None, limit: 10 };
    assert_eq!(listed(Some(&[State::Failed]), all).await.0, [expected[1], expected[3], expected[5]]);
    assert_eq!(listed(Some(&[State::Releasing]), all).await.0, [expected[0], expected[2], expected[4]]);
    let others = db.store.batch_files(&db.other, (made.id, batch), None, &all).await.unwrap();
    assert!(others.items.is_empty(), "it is another tenant's");
}

#[tokio::test]
async fn a_batch_is_about_the_versions_that_it_attached() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let file = file(&db, &db.acme, "text", None).await;
    // The same file with other attributes is another version of the document.
    let attach = async |attributes: Value| {
        let batch = db.store.create_batch(&db.acme, made.id).await.unwrap();
        let mut accept = made_of(&db.acme, &file, (made.id, "a"));
        accept.metadata = Some(map(attributes));
        let attached = db.store.accept(&accept).await.unwrap();
        db.store.add_to_batch(&db.acme, batch, &[(attached.document, attached.version)]).await.unwrap();
        (batch, attached)
    };
    let look = async |batch| db.store.batch(&db.acme, made.id, batch).await.unwrap().unwrap();
    let cancel = async |batch| {
        assert!(db.store.cancel_batch(&db.acme, made.id, batch, |_| ()).await.unwrap());
        look(batch).await
    };
    let listed = async |batch, state| {
        let all = Window { ascending: true, after: None, before: None, limit: 10 };
        let of = (made.id, batch);
        db.store.batch_files(&db.acme, of, Some(&[state]), &all).await.unwrap().items.len()
    };
    let (first, attached) = attach(json!({"n": 1})).await;
    db.finish(&attached, "en", &["text"]).await;
    let (second, attached) = attach(json!({"n": 2})).await;
    assert_eq!(attached.version, 2);
    assert_eq!((look(first).await.counts.completed, look(first).await.counts.total()), (1, 1), "it is over");
    assert_eq!((listed(first, State::Ready).await, listed(first, State::Releasing).await), (1, 0));
    assert_eq!((look(second).await.counts.in_progress, listed(second, State::Releasing).await), (1, 1));
    // What has ended cannot be cancelled, and what another batch attached is not touched.
    assert_eq!(cancel(first).await.cancelled_at, None);
    assert_eq!(look(second).await.counts.in_progress, 1);

    let (third, attached) = attach(json!({"n": 3})).await;
    assert_eq!((attached.version, look(second).await.counts.cancelled), (3, 1), "another took its place");
    assert_eq!(cancel(second).await.cancelled_at, None);
    let ended = cancel(third).await;
    assert!(ended.cancelled_at.is_some());
    assert_eq!(ended.counts.cancelled, 1);
}

#[tokio::test]
async fn of_a_large_deleted_collection_nothing_is_found_while_it_is_being_emptied() {
    let db = database().await;
    let made = store(&db, Some("large")).await;
    let in_it = |text: &str| {
        let mut accept = upload(&db.acme, text);
        accept.collection = Some("large".into());
        accept
    };
    let gone = db.store.accept(&in_it("the gauge of the lock")).await.unwrap();
    db.finish(&gone, "en", &["the gauge of the lock"]).await;
    let mut named = in_it("the gauge with a name");
    named.external_id = Some("name".into());
    let named_gone = db.store.accept(&named).await.unwrap();
    // Whoever is deleted first is older than these.
    let _ = db.raw.run(&format!(
        "INSERT INTO documents (tenant_id, id, collection_id, latest_version)
         SELECT 'acme', ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{}', 1
         FROM generate_series(1, 450) AS n",
        made.id
    ));
    let kept = db.ready(&db.acme, "en", &["the gauge elsewhere"]).await;
    let found = async || {
        let mut found = Vec::new();
        for (mode, vector) in [
            (Mode::Keyword, None),
            (Mode::Vector, Some(axis(0).to_vec())),
            (Mode::Hybrid, Some(axis(0).to_vec())),
        ] {
            let mut request = SearchRequest::new(db.acme.clone(), "gauge");
            (request.mode, request.vector) = (mode, vector);
            let hits = db.store.search(&request).await.unwrap();
            let mut documents: Vec<_> = hits.iter().map(|hit| hit.document).collect();
            documents.sort_unstable();
            found.push(documents);
        }
        found
    };
    let mut both = vec![gone.document, kept];
    both.sort_unstable();
    assert_eq!(found().await, [both.clone(), both.clone(), both]);
    let before = db.store.search_state(&db.acme).await.unwrap();

    assert!(db.store.delete_vector_store(&db.acme, made.id).await.unwrap());
    let left = || db.value("SELECT count(*) FROM documents WHERE deleted_at IS NULL").parse::<u64>().unwrap();
    assert!(left() > 200, "most of it is left to the janitor: {}", left());
    assert_ne!(db.store.search_state(&db.acme).await.unwrap(), before, "kept answers are out of date");
    assert_eq!(found().await, [[kept], [kept], [kept]]);
    let list = ListDocuments { limit: 100, ..ListDocuments::default() };
    let listed = db.store.documents(&db.acme, &list).await.unwrap().items;
    assert_eq!(listed.iter().map(|document| document.id).collect::<Vec<_>>(), [kept]);
    assert!(db.store.document(&db.acme, gone.document).await.unwrap().is_none());
    assert!(db.store.original(&db.acme, gone.document, None).await.unwrap().is_none());
    assert!(db.store.text_of(&db.acme, gone.document, None).await.unwrap().is_none());
    // What is uploaded again is owed as what is new, whatever waits for its deletion.
    let again = db.store.accept(&in_it("the gauge of the lock")).await.unwrap();
    assert!(again.document != gone.document && !again.duplicate);
    let named_again = db.store.accept(&named).await.unwrap();
    assert!(named_again.document != named_gone.document && named_again.version == 1);
    let mut next = upload(&db.acme, "next");
    next.target = riacho_store::Target::NewVersionOf(gone.document);
    assert!(matches!(db.store.accept(&next).await, Err(Error::NotFound(_))));

    while db.janitor.empty_collections(200).await.unwrap() > 0 {}
    db.finish(&again, "en", &["the gauge of the lock"]).await;
    assert_eq!(left(), 3, "the one that was kept, and two that came after");
    assert_eq!(
        db.value("SELECT count(*) FROM collections WHERE deleted_at IS NOT NULL AND emptied_at IS NULL"),
        "0"
    );
    let mut both = vec![again.document, kept];
    both.sort_unstable();
    assert_eq!(found().await, [both.clone(), both.clone(), both]);
}

#[tokio::test]
async fn the_name_of_a_deleted_collection_cannot_be_given() {
    let db = database().await;
    let made = store(&db, Some("a")).await;
    let hidden = format!("deleted {}", made.id);
    // Somebody has a collection of the name that looks like it.
    let other = db.store.create_collection(&db.acme, &hidden).await.unwrap();
    assert!(db.store.delete_vector_store(&db.acme, made.id).await.unwrap());
    let upload_to = async |name: &str, text: &str| {
        let mut accept = upload(&db.acme, text);
        accept.collection = Some(name.to_owned());
        db.store.accept(&accept).await
    };
    let document = upload_to(&hidden, "text").await.unwrap().document;
    let its = db.store.document(&db.acme, document).await.unwrap().unwrap();
    assert_eq!(its.collection_name, other.name);
    let name = db.value(&format!("SELECT name FROM collections WHERE id = '{}'", made.id));
    let refused = upload_to(&name, "text").await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{name:?}: {refused:?}");
    assert!(db.store.create_collection(&db.acme, &name).await.is_err());
    db.janitor.empty_collections(10).await.unwrap();
    assert!(db.store.status(&db.acme, document).await.unwrap().is_some());
}
