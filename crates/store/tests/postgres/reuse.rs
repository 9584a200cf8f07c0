//! The rows of chunks and vectors as the cache of embeddings.

use std::time::Duration;

use bytes::Bytes;
use riacho_domain::{RunId, TenantId};
use riacho_store::{ContentHash, IndexAnswer, PurgeKind, Purged, WantedVectors, ensure_space};

use crate::database::{Database, axis, batch, database, seal, sha256, upload, vector_bytes};

/// A document of these contents, each with the vector of its place in the document.
async fn ready(db: &Database, tenant: &TenantId, texts: &[&str]) -> riacho_domain::DocumentId {
    let accepted = db.store.accept(&upload(tenant, &format!("{texts:?}"))).await.unwrap();
    let (release, run) = (Database::release_of(&accepted), RunId::new());
    db.store.seal(&release, &seal(run, u32::try_from(texts.len()).unwrap())).await.unwrap();
    let chunks: Vec<_> = (0..).zip(texts).map(|(n, text)| (n, *text, axis(n as usize))).collect();
    let mut item = batch(&release, run, db.space, "en", &chunks);
    for chunk in item.chunks.iter_mut().filter_map(|embedded| embedded.chunk.as_mut()) {
        chunk.content_hash = Bytes::copy_from_slice(&sha256(&chunk.text));
    }
    assert_eq!(db.store.index(&[item]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
    accepted.document
}

/// What a tenant's embedder is told of these contents in a space.
async fn known(db: &Database, tenant: &TenantId, space: u32, texts: &[&str]) -> Vec<Option<Bytes>> {
    let accepted = db.store.accept(&upload(tenant, &format!("asks for {texts:?} in {space}"))).await.unwrap();
    let release = Database::release_of(&accepted);
    let hashes: Vec<ContentHash> = texts.iter().map(|text| sha256(text)).collect();
    let wanted = WantedVectors::from([((tenant.clone(), space), hashes.clone())]);
    let known = db.store.known_vectors(std::slice::from_ref(&release), &wanted).await.unwrap();
    assert!(known.current.contains(&release.release));
    let of_tenant = known.vectors.get(&(tenant.clone(), space));
    hashes.iter().map(|hash| of_tenant.and_then(|vectors| vectors.get(hash)).cloned()).collect()
}

#[tokio::test]
async fn a_content_that_stands_in_the_space_has_its_vector_for_its_own_tenant_alone() {
    let db = database().await;
    ready(&db, &db.acme, &["one", "two"]).await;
    ready(&db, &db.other, &["three"]).await;
    let found = known(&db, &db.acme, db.space, &["two", "unknown", "three", "one", "two"]).await;
    let vector = |place| Some(vector_bytes(&axis(place)));
    assert_eq!(found, [vector(1), None, None, vector(0), vector(1)]);
    assert_eq!(known(&db, &db.other, db.space, &["one", "three"]).await, [None, vector(0)]);
    let next = ensure_space(&db.config, "next-model", 8).await.unwrap().id;
    assert_eq!(known(&db, &db.acme, next, &["one"]).await, [None]);
    assert!(known(&db, &db.acme, db.space, &[]).await.is_empty());
}

#[tokio::test]
async fn a_space_that_was_removed_has_no_vectors_and_spoils_no_lookup_in_another() {
    let db = database().await;
    ready(&db, &db.acme, &["one"]).await;
    let accepted = db.store.accept(&upload(&db.acme, "asks")).await.unwrap();
    let gone = ensure_space(&db.config, "gone", 8).await.unwrap().id;
    db.janitor.retire_space(gone).await.unwrap();
    assert!(riacho_store::drop_space(&db.config, gone).await.unwrap());
    let wanted = [gone, db.space].map(|space| ((db.acme.clone(), space), vec![sha256("one")]));
    let known = db.store.known_vectors(&[Database::release_of(&accepted)], &wanted.into()).await.unwrap();
    assert_eq!(known.current.len(), 1);
    assert_eq!(known.vectors[&(db.acme.clone(), db.space)].len(), 1);
    assert!(!known.vectors.contains_key(&(db.acme.clone(), gone)));
}

#[tokio::test]
async fn contents_of_many_tenants_are_looked_up_at_once() {
    let db = database().await;
    let (mut releases, mut wanted) = (Vec::new(), WantedVectors::new());
    for n in 0..40 {
        let tenant: TenantId = format!("tenant-{n}").parse().unwrap();
        db.janitor.create_tenant(&tenant, tenant.as_str()).await.unwrap();
        ready(&db, &tenant, &["same", tenant.as_str()]).await;
        let accepted = db.store.accept(&upload(&tenant, "asks")).await.unwrap();
        releases.push(Database::release_of(&accepted));
        wanted.insert((tenant.clone(), db.space), vec![sha256("same"), sha256("tenant-7")]);
    }
    let known = db.store.known_vectors(&releases, &wanted).await.unwrap();
    assert_eq!(known.current.len(), 40);
    for ((tenant, _), vectors) in &known.vectors {
        let expected = if tenant.as_str() == "tenant-7" { 2 } else { 1 };
        assert_eq!(vectors.len(), expected, "{tenant}");
    }
    assert_eq!(known.vectors.len(), 40);
}

#[tokio::test]
async fn what_is_purged_is_known_no_longer_and_what_another_document_has_is() {
    let db = database().await;
    let document = ready(&db, &db.acme, &["canary", "shared"]).await;
    ready(&db, &db.acme, &["shared"]).await;
    db.store.delete_document(&db.acme, document).await.unwrap();
    let purge =
        db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, Duration::ZERO, 10).await.unwrap().remove(0);
    assert_eq!(purge.kind, PurgeKind::Document);
    assert!(db.janitor.purge_rows(&purge, 100).await.unwrap().done);
    db.janitor.purge_done(&purge, Purged::default()).await.unwrap().unwrap();
    let found = known(&db, &db.acme, db.space, &["canary", "shared"]).await;
    assert_eq!(found, [None, Some(vector_bytes(&axis(0)))]);
    let left = format!("SELECT count(*) FROM chunks WHERE content_hash = '\\x{}'", hex(&sha256("canary")));
    assert_eq!(db.value(&left), "0");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
