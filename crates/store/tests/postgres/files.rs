//! Files and the documents that are made of them: nothing is lost while it is wanted, and nothing stays when it is not.

use std::time::Duration;

use riacho_domain::{DocumentId, State, TenantId, UploadId};
use riacho_store::{Accept, Accepted, Body, Conflict, Error, File, MadeOf, NewFile, Quota, Window};
use serde_json::json;
use uuid::Uuid;

use crate::database::{Database, database, sha256};

pub(crate) async fn file(db: &Database, tenant: &TenantId, text: &str, ttl: Option<Duration>) -> File {
    let new = NewFile {
        object_key: format!("t/{tenant}/originals/{}", UploadId::new()),
        filename: "note.txt".into(),
        content_type: "text/plain".into(),
        purpose: "assistants".into(),
        size: text.len() as u64,
        sha256: sha256(text),
        ttl,
    };
    db.store.create_file(tenant, &new).await.unwrap()
}

/// How a file is attached to a collection.
pub(crate) fn made_of(tenant: &TenantId, file: &File, (collection, name): (Uuid, &str)) -> Accept {
    let body = Body::Stored { size: file.size, sha256: file.sha256 };
    let mut accept = Accept::new(tenant.clone(), file.filename.clone(), file.object_key.clone(), body);
    accept.external_id = Some(format!("{collection}/{}", file.id));
    accept.collection = Some(name.to_owned());
    accept.made_of = Some(MadeOf { file: file.id, collection });
    accept
}

async fn attach(db: &Database, file: &File, name: &str) -> Accepted {
    let collections = db.store.collections(&db.acme).await.unwrap();
    let known = collections.into_iter().find(|collection| collection.name == name);
    let collection = match known {
        Some(collection) => collection,
        None => db.store.create_collection(&db.acme, name).await.unwrap(),
    };
    db.store.accept(&made_of(&db.acme, file, (collection.id, name))).await.unwrap()
}

#[tokio::test]
async fn one_file_is_a_document_of_its_own_in_each_collection() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    let (a, b) = (attach(&db, &file, "a").await, attach(&db, &file, "b").await);
    assert_ne!(a.document, b.document);
    let again = attach(&db, &file, "a").await;
    assert_eq!((again.document, again.version, again.duplicate), (a.document, 1, true));
    // Bytes are counted once, however often they are attached.
    assert_eq!(db.store.usage(&db.acme).await.unwrap().bytes, file.size);
    // Another file of the same bytes is another document.
    let twin = self::file(&db, &db.acme, "text", None).await;
    assert_ne!(attach(&db, &twin, "a").await.document, a.document);
}

#[tokio::test]
async fn a_file_is_attached_only_where_it_and_the_collection_are() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    let collection = db.store.create_collection(&db.acme, "a").await.unwrap();
    let good = made_of(&db.acme, &file, (collection.id, "a"));
    let refused = async |change: &dyn Fn(&mut Accept)| {
        let mut accept = good.clone();
        change(&mut accept);
        matches!(db.store.accept(&accept).await, Err(Error::NotFound(_)))
    };
    assert!(refused(&|accept| accept.collection = Some("none".into())).await, "no collection is made for it");
    assert!(refused(&|accept| accept.made_of.as_mut().unwrap().collection = Uuid::now_v7()).await);
    assert!(refused(&|accept| accept.made_of.as_mut().unwrap().file = Uuid::now_v7()).await);
    assert!(refused(&|accept| accept.tenant = db.other.clone()).await, "it is another tenant's");
    assert!(db.store.delete_file(&db.acme, file.id).await.unwrap());
    assert!(refused(&|_| {}).await, "it was deleted");
    assert!(db.store.collections(&db.acme).await.unwrap().iter().all(|collection| collection.documents == 0));
}

#[tokio::test]
async fn the_object_of_a_file_is_removed_after_the_last_document_that_names_it() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    let document = attach(&db, &file, "a").await.document;
    let originals = async || {
        let purges =
            db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, Duration::ZERO, 10).await.unwrap();
        purges.into_iter().map(|purge| (purge.document, purge.originals)).collect::<Vec<_>>()
    };
    assert!(db.store.delete_document(&db.acme, document).await.unwrap());
    assert_eq!(
        originals().await,
        [(document, Vec::new())],
        "the purge of the document leaves the object alone"
    );
    assert!(db.janitor.file_purges(Duration::ZERO, 10).await.unwrap().is_empty());
    assert!(db.store.delete_file(&db.acme, file.id).await.unwrap());
    assert!(!db.store.delete_file(&db.acme, file.id).await.unwrap());
    assert!(db.janitor.file_purges(Duration::ZERO, 10).await.unwrap().is_empty(), "a document names it");
    let purge =
        db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, Duration::ZERO, 10).await.unwrap().remove(0);
    assert!(db.janitor.purge_done(&purge, Default::default()).await.unwrap().is_some());
    let purges = db.janitor.file_purges(Duration::ZERO, 10).await.unwrap();
    assert_eq!(purges.iter().map(|purge| &purge.object_key).collect::<Vec<_>>(), [&file.object_key]);
    assert!(
        db.janitor.file_purges(Duration::from_secs(60), 10).await.unwrap().is_empty(),
        "not before the grace"
    );
    db.janitor.file_purged(&purges[0], 1).await.unwrap();
    assert_eq!(db.value("SELECT count(*) FROM files"), "0");
    let receipt = format!("SELECT objects FROM receipts WHERE file_id = '{}'", file.id);
    assert_eq!(db.value(&receipt), "1");
}

#[tokio::test]
async fn originals_past_their_retention_are_not_those_of_files() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    let attached = attach(&db, &file, "a").await;
    db.finish(&attached, "en", &["text"]).await;
    let own = db.ready(&db.acme, "en", &["own"]).await;
    let past = db.janitor.originals_past(Some(Duration::ZERO), 10).await.unwrap();
    assert_eq!(past.iter().map(|original| original.document).collect::<Vec<_>>(), [own]);
    let known =
        db.janitor.known_objects(&[file.object_key.clone(), "t/acme/originals/x".into()]).await.unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [file.object_key]);
}

#[tokio::test]
async fn a_file_in_no_collection_is_forgotten_after_its_retention_and_one_in_use_is_not() {
    let db = database().await;
    let (unused, used) = (file(&db, &db.acme, "unused", None).await, file(&db, &db.acme, "used", None).await);
    let document = attach(&db, &used, "a").await.document;
    let forgotten = async |retention| db.janitor.forget_unused_files(Some(retention), 10).await.unwrap();
    assert_eq!(forgotten(Duration::from_secs(60)).await, 0);
    assert_eq!(forgotten(Duration::ZERO).await, 1);
    assert!(db.store.file(&db.acme, unused.id).await.unwrap().is_none());
    assert!(db.store.file(&db.acme, used.id).await.unwrap().is_some());
    let _ = db.raw.run("UPDATE files SET used_at = now() - interval '1 day'");
    assert!(db.store.delete_document(&db.acme, document).await.unwrap());
    assert_eq!(forgotten(Duration::from_secs(60)).await, 0, "the time since it was detached counts");
    assert_eq!(forgotten(Duration::ZERO).await, 1);
}

#[tokio::test]
async fn whoever_attaches_a_file_while_it_is_forgotten_either_has_it_or_is_told() {
    let db = database().await;
    for n in 0..12 {
        let file = file(&db, &db.acme, &format!("file {n}"), None).await;
        let collection = db.store.create_collection(&db.acme, &format!("c{n}")).await.unwrap();
        let _ = db.raw.run("UPDATE files SET used_at = now() - interval '1 day'");
        let accept = made_of(&db.acme, &file, (collection.id, &collection.name));
        let (attached, forgotten) = tokio::join!(
            db.store.accept(&accept),
            db.janitor.forget_unused_files(Some(Duration::from_secs(60)), 10)
        );
        let is_there = db.store.file(&db.acme, file.id).await.unwrap().is_some();
        assert_eq!(
            (is_there, forgotten.unwrap()),
            (attached.is_ok(), u64::from(attached.is_err())),
            "{attached:?}"
        );
    }
}

#[tokio::test]
async fn a_file_past_its_time_goes_with_its_documents() {
    let db = database().await;
    let short = file(&db, &db.acme, "short", Some(Duration::from_secs(3_600))).await;
    let kept = file(&db, &db.acme, "kept", Some(Duration::from_secs(7_200))).await;
    let (gone, stays) = (attach(&db, &short, "a").await.document, attach(&db, &kept, "a").await.document);
    assert_eq!(db.janitor.expire_files(10).await.unwrap(), 0);
    let _ = db.raw.run(&format!("UPDATE files SET expires_at = now() WHERE id = '{}'", short.id));
    assert!(db.store.file(&db.acme, short.id).await.unwrap().is_none(), "nobody has to wait for the janitor");
    assert_eq!(
        (db.janitor.expire_files(10).await.unwrap(), db.janitor.expire_files(10).await.unwrap()),
        (1, 0)
    );
    let state =
        async |document: DocumentId| db.store.status(&db.acme, document).await.unwrap().map(|s| s.state);
    assert_eq!((state(gone).await, state(stays).await), (None, Some(State::Releasing)));
}

#[tokio::test]
async fn quotas_count_files_and_what_is_made_of_them_brings_no_bytes() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    db.janitor.set_over_quota(&db.acme, &[Quota::Bytes]).await.unwrap();
    let new = NewFile {
        object_key: format!("t/acme/originals/{}", UploadId::new()),
        filename: "more.txt".into(),
        content_type: String::new(),
        purpose: "assistants".into(),
        size: 1,
        sha256: [1; 32],
        ttl: None,
    };
    let refused = db.store.create_file(&db.acme, &new).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::OverQuota(Quota::Bytes)))), "{refused:?}");
    assert!(!attach(&db, &file, "a").await.duplicate);
    db.janitor.suspend_tenant(&db.other).await.unwrap();
    let refused = db.store.create_file(&db.other, &new).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::TenantNotActive))), "{refused:?}");
}

#[tokio::test]
async fn a_tenant_is_removed_when_its_files_are() {
    let db = database().await;
    let file = file(&db, &db.acme, "text", None).await;
    db.janitor.delete_tenant(&db.acme).await.unwrap();
    assert!(db.janitor.remove_deleted_tenants().await.unwrap().is_empty(), "a file is left");
    let purge = db.janitor.file_purges(Duration::ZERO, 10).await.unwrap().remove(0);
    assert_eq!(purge.file, file.id);
    db.janitor.file_purged(&purge, 1).await.unwrap();
    assert_eq!(db.janitor.remove_deleted_tenants().await.unwrap(), std::slice::from_ref(&db.acme));
}

#[tokio::test]
async fn files_are_listed_in_windows() {
    let db = database().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(file(&db, &db.acme, &format!("{n}"), None).await.id);
    }
    let list = async |ascending, after: Option<usize>, before: Option<usize>| {
        let place = |index: Option<usize>| index.map(|index| ids[index]);
        let window = Window { ascending, after: place(after), before: place(before), limit: 2 };
        let part = db.store.list_files(&db.acme, None, &window).await.unwrap();
        let places = part.items.iter().map(|file| ids.iter().position(|id| *id == file.id).unwrap());
        (places.collect::<Vec<_>>(), part.has_more)
    };
    assert_eq!(list(true, None, None).await, (vec![0, 1], true));
    assert_eq!(list(true, Some(2), None).await, (vec![3, 4], false));
    assert_eq!(list(false, None, None).await, (vec![4, 3], true));
    assert_eq!(list(false, Some(1), None).await, (vec![0], false));
    assert_eq!(list(true, None, Some(3)).await, (vec![1, 2], true));
    assert_eq!(list(false, None, Some(1)).await, (vec![3, 2], true));
    let theirs = Window { ascending: true, after: None, before: None, limit: 10 };
    assert!(db.store.list_files(&db.other, None, &theirs).await.unwrap().items.is_empty());
    let of = async |purpose| db.store.list_files(&db.acme, Some(purpose), &theirs).await.unwrap().items.len();
    assert_eq!((of("assistants").await, of("batch").await), (5, 0));
    assert_eq!(json!(db.store.files(&db.other, &ids).await.unwrap().len()), json!(0));
}
