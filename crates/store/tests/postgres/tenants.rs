//! Tenants, their keys, their collections and the lists of their documents.

use std::collections::HashSet;

use chrono::Utc;
use riacho_domain::State;
use riacho_store::{Accept, Conflict, Error, KeyScope, ListDocuments, NewKey, TenantState};

use crate::database::{Database, database, upload};

fn key(db: &Database, scopes: &[KeyScope]) -> NewKey {
    NewKey { tenant: db.acme.clone(), name: "ci".into(), scopes: scopes.to_vec(), expires_at: None }
}

#[tokio::test]
async fn a_key_opens_until_it_is_revoked_expires_or_its_tenant_is_suspended() {
    let db = database().await;
    let created = db.store.create_key(&key(&db, &[KeyScope::Search])).await.unwrap();
    let secret = created.secret.expose();
    let principal = db.store.authenticate(secret).await.unwrap().unwrap();
    assert_eq!((&principal.tenant, &principal.key_id), (&db.acme, &created.key.id));
    assert!(principal.may(KeyScope::Search) && !principal.may(KeyScope::DocumentsWrite));
    for wrong in [&secret[..secret.len() - 1], &format!("{secret}x"), "rk_0123456789abcdef_x", "nonsense", ""]
    {
        assert!(db.store.authenticate(wrong).await.unwrap().is_none(), "{wrong}");
    }
    db.janitor.suspend_tenant(&db.acme).await.unwrap();
    let refused = db.store.authenticate(secret).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::TenantNotActive))), "{refused:?}");
    assert!(
        db.store.authenticate(&format!("{secret}x")).await.unwrap().is_none(),
        "who guesses learns nothing"
    );
    db.janitor.resume_tenant(&db.acme).await.unwrap();
    assert!(db.store.authenticate(secret).await.unwrap().is_some());
    assert!(!db.store.revoke_key(&db.other, &created.key.id).await.unwrap(), "only its tenant revokes it");
    assert!(db.store.revoke_key(&db.acme, &created.key.id).await.unwrap());
    assert!(db.store.authenticate(secret).await.unwrap().is_none());
    let expired = NewKey { expires_at: Some(Utc::now()), ..key(&db, &[KeyScope::Admin]) };
    let expired = db.store.create_key(&expired).await.unwrap();
    assert!(db.store.authenticate(expired.secret.expose()).await.unwrap().is_none());
}

#[tokio::test]
async fn of_a_key_only_a_hash_is_kept() {
    let db = database().await;
    let created = db.store.create_key(&key(&db, &[KeyScope::Admin])).await.unwrap();
    let secret = created.secret.expose().rsplit_once(&format!("{}_", created.key.id)).unwrap().1.to_owned();
    let row = db.value("SELECT row_to_json(k)::text FROM api_keys AS k");
    assert!(!row.contains(&secret), "{row}");
    assert_eq!(db.store.keys(&db.acme).await.unwrap(), [created.key]);
    assert!(db.store.keys(&db.other).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_with_its_keys_and_documents() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["x"]).await;
    let created = db.store.create_key(&key(&db, &[KeyScope::Admin])).await.unwrap();
    assert_eq!(db.janitor.delete_tenant(&db.acme).await.unwrap().state, TenantState::Deleting);
    assert!(db.store.authenticate(created.secret.expose()).await.unwrap().is_none());
    assert!(db.store.status(&db.acme, document).await.unwrap().is_none());
    assert_eq!(db.store.active_tenants().await.unwrap(), std::slice::from_ref(&db.other));
    assert!(db.janitor.remove_deleted_tenants().await.unwrap().is_empty(), "its documents are still there");
    let again = db.janitor.create_tenant(&db.acme, "x").await;
    assert!(matches!(again, Err(Error::Conflict(Conflict::Exists("tenant")))));
    assert!(matches!(
        db.janitor.resume_tenant(&db.acme).await,
        Err(Error::Conflict(Conflict::TenantNotActive))
    ));
}

#[tokio::test]
async fn what_is_committed_after_its_tenant_was_deleted_is_deleted_too() {
    let db = database().await;
    let state = |to: &str| {
        let _ = db.raw.run(&format!("UPDATE tenants SET state = '{to}' WHERE id = '{}'", db.acme));
    };
    db.janitor.delete_tenant(&db.acme).await.unwrap();
    assert!(db.janitor.delete_what_came_late().await.unwrap().is_empty());
    // As transactions that saw it active, and as where the second part of the deletion never came.
    state("active");
    let late = db.store.accept(&upload(&db.acme, "late")).await.unwrap().document;
    let created = db.store.create_key(&key(&db, &[KeyScope::Admin])).await.unwrap();
    let other = db.store.accept(&upload(&db.other, "of another one")).await.unwrap().document;
    state("deleting");
    assert!(db.store.status(&db.acme, late).await.unwrap().is_some());
    assert_eq!(db.janitor.delete_what_came_late().await.unwrap(), std::slice::from_ref(&db.acme));
    assert!(db.store.status(&db.acme, late).await.unwrap().is_none());
    let version = format!("SELECT state FROM document_versions WHERE document_id = '{late}'");
    assert_eq!(db.value(&version), "cancelled");
    state("active");
    assert!(db.store.authenticate(created.secret.expose()).await.unwrap().is_none());
    state("deleting");
    assert!(db.store.status(&db.other, other).await.unwrap().is_some());
    assert!(db.janitor.delete_what_came_late().await.unwrap().is_empty());
}

#[tokio::test]
async fn collections_have_unique_names_and_go_only_when_they_are_empty() {
    let db = database().await;
    let made = db.store.create_collection(&db.acme, "manuals").await.unwrap();
    let twice = db.store.create_collection(&db.acme, "manuals").await;
    assert!(matches!(twice, Err(Error::Conflict(Conflict::Exists("collection")))));
    db.store.create_collection(&db.other, "manuals").await.unwrap();
    let accept = Accept { collection: Some("manuals".into()), ..upload(&db.acme, "x") };
    db.store.accept(&accept).await.unwrap();
    assert_eq!(db.store.collections(&db.acme).await.unwrap()[0].documents, 1);
    let full = db.store.delete_collection(&db.acme, made.id).await;
    assert!(matches!(full, Err(Error::Conflict(Conflict::NotEmpty))), "{full:?}");
    let empty = db.store.create_collection(&db.acme, "empty").await.unwrap();
    assert!(matches!(db.store.delete_collection(&db.other, empty.id).await, Err(Error::NotFound(_))));
    db.store.delete_collection(&db.acme, empty.id).await.unwrap();
    assert!(db.store.collection(&db.acme, empty.id).await.unwrap().is_none());
    for bad in ["", "a\nb", &"x".repeat(201)] {
        assert!(matches!(db.store.create_collection(&db.acme, bad).await, Err(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn the_list_of_documents_has_pages_and_filters() {
    let db = database().await;
    let mut all = HashSet::new();
    for n in 0..7 {
        let accept = Accept { external_id: Some(format!("e{n}")), ..upload(&db.acme, &format!("{n}")) };
        all.insert(db.store.accept(&accept).await.unwrap().document);
    }
    let ready = db.ready(&db.acme, "en", &["ready"]).await;
    let mut seen = Vec::new();
    let mut list = ListDocuments { limit: 3, ..ListDocuments::default() };
    loop {
        let page = db.store.documents(&db.acme, &list).await.unwrap();
        seen.extend(page.items.iter().map(|document| document.id));
        list.cursor = page.next_cursor;
        if list.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 8);
    assert_eq!(seen[0], ready, "the newest comes first");
    assert_eq!(seen.iter().copied().filter(|id| *id != ready).collect::<HashSet<_>>(), all);
    let only = |list: ListDocuments| async move { db.store.documents(&db.acme, &list).await.unwrap().items };
    let found = only(ListDocuments { state: Some(State::Ready), ..ListDocuments::default() }).await;
    assert_eq!(found.iter().map(|document| document.id).collect::<Vec<_>>(), [ready]);
    let db = database().await;
    let bad = ListDocuments { cursor: Some("???".into()), ..ListDocuments::default() };
    assert!(matches!(db.store.documents(&db.acme, &bad).await, Err(Error::Invalid(_))));
}
