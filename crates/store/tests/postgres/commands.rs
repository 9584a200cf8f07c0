//! Cancel, retry and delete take the same locks as the flip.

use riacho_domain::{ReasonCode, RunId, State};
use riacho_store::{Accept, Conflict, Error, IndexAnswer, PurgeOriginal, Target};

use crate::database::{Database, axis, batch, database, seal, upload};

#[tokio::test]
async fn a_cancelled_version_never_becomes_visible() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    let status = db.store.cancel(&db.acme, accepted.document).await.unwrap();
    assert_eq!((status.state, status.ended_by.as_deref()), (State::Cancelled, Some("command")));
    let item = batch(&release, run, db.space, "en", &[(0, "x", axis(0))]);
    assert_eq!(db.store.index(&[item]).await.unwrap(), [IndexAnswer::Superseded]);
    assert_eq!(db.value("SELECT count(*) FROM chunks"), "0");
    let again = db.store.cancel(&db.acme, accepted.document).await;
    assert!(matches!(again, Err(Error::Conflict(Conflict::NothingToCancel(State::Cancelled)))));
}

#[tokio::test]
async fn of_a_cancel_and_a_flip_at_the_same_time_one_wins_whole() {
    let db = database().await;
    for n in 0..20 {
        let accepted = db.store.accept(&upload(&db.acme, &format!("{n}"))).await.unwrap();
        let release = Database::release_of(&accepted);
        let run = RunId::new();
        db.store.seal(&release, &seal(run, 1)).await.unwrap();
        let items = [batch(&release, run, db.space, "en", &[(0, "x", axis(0))])];
        let (cancelled, indexed) =
            tokio::join!(db.store.cancel(&db.acme, accepted.document), db.store.index(&items));
        let status = db.store.status(&db.acme, accepted.document).await.unwrap().unwrap();
        match (cancelled, &indexed.unwrap()[0]) {
            (Ok(_), IndexAnswer::Superseded) => {
                assert_eq!((status.state, status.live_version), (State::Cancelled, None));
            }
            (Err(_), IndexAnswer::Written { ready: true }) => {
                assert_eq!((status.state, status.live_version), (State::Ready, Some(1)));
            }
            both => panic!("{both:?}"),
        }
    }
}

#[tokio::test]
async fn a_failed_or_cancelled_new_version_leaves_the_old_one_live() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["old"]).await;
    for text in ["new", "newer"] {
        let next = Accept { target: Target::NewVersionOf(document), ..upload(&db.acme, text) };
        let accepted = db.store.accept(&next).await.unwrap();
        if text == "new" {
            db.store.fail(&Database::release_of(&accepted), ReasonCode::Corrupt, "broken").await.unwrap();
        } else {
            db.store.cancel(&db.acme, document).await.unwrap();
        }
        let status = db.store.status(&db.acme, document).await.unwrap().unwrap();
        assert_eq!(status.live_version, Some(1));
        let chunks = db.store.chunks(&db.acme, document, None, 10).await.unwrap().unwrap();
        assert_eq!((chunks.version, chunks.chunks[0].text.as_str()), (1, "old"));
    }
}

#[tokio::test]
async fn a_retry_is_a_new_release_and_keeps_what_was_sealed_and_written() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let old = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&old, &seal(run, 2)).await.unwrap();
    let first = batch(&old, run, db.space, "en", &[(0, "a", axis(0))]);
    assert_eq!(db.store.index(&[first]).await.unwrap(), [IndexAnswer::Written { ready: false }]);
    let busy = db.store.retry(&db.acme, accepted.document, None, false).await;
    assert!(matches!(busy, Err(Error::Conflict(Conflict::NothingToRetry(State::Indexing)))));
    db.store.fail(&old, ReasonCode::ProviderRefused, "no").await.unwrap();

    let retried = db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    let new = Database::release_of(&retried);
    assert_ne!(new.release, old.release);
    assert_eq!(db.store.begin_extraction(&new).await.unwrap().unwrap().sealed.unwrap().run, run);
    // The replay brings both batches; the one that is there counts once.
    let late = batch(&old, run, db.space, "en", &[(1, "b", axis(1))]);
    let replay = batch(&new, run, db.space, "en", &[(0, "a", axis(0))]);
    let rest = batch(&new, run, db.space, "en", &[(1, "b", axis(1))]);
    let answers = db.store.index(&[late, replay]).await.unwrap();
    assert_eq!(answers, [IndexAnswer::Superseded, IndexAnswer::Written { ready: false }]);
    assert_eq!(db.store.index(&[rest]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
}

#[tokio::test]
async fn a_retry_without_its_original_says_so() {
    let db = database().await;
    let accept = upload(&db.acme, "x");
    let accepted = db.store.accept(&accept).await.unwrap();
    db.store.fail(&Database::release_of(&accepted), ReasonCode::Corrupt, "broken").await.unwrap();
    let original = PurgeOriginal {
        tenant: db.acme.clone(),
        document: accepted.document,
        version: 1,
        object_key: accept.object_key,
    };
    assert_eq!(
        db.janitor.originals_past(Some(std::time::Duration::ZERO), 10).await.unwrap(),
        std::slice::from_ref(&original)
    );
    assert!(db.janitor.original_purged(&original).await.unwrap());
    let refused = db.store.retry(&db.acme, accepted.document, None, false).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::OriginalGone))));
}

#[tokio::test]
async fn a_retry_of_what_was_sealed_needs_no_original() {
    let db = database().await;
    let accept = upload(&db.acme, "x");
    let accepted = db.store.accept(&accept).await.unwrap();
    let release = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    db.store.fail(&release, ReasonCode::ProviderRefused, "no").await.unwrap();
    let original = PurgeOriginal {
        tenant: db.acme.clone(),
        document: accepted.document,
        version: 1,
        object_key: accept.object_key,
    };
    assert!(db.janitor.original_purged(&original).await.unwrap());
    let retried = db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    let again = Database::release_of(&retried);
    assert_eq!(db.store.begin_extraction(&again).await.unwrap().unwrap().sealed.unwrap().run, run);
    let item = batch(&again, run, db.space, "en", &[(0, "x", axis(0))]);
    assert_eq!(db.store.index(&[item]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
}

#[tokio::test]
async fn a_deleted_document_is_gone_at_once() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["gone"]).await;
    assert!(db.store.delete_document(&db.acme, document).await.unwrap());
    assert!(!db.store.delete_document(&db.acme, document).await.unwrap());
    assert!(db.store.status(&db.acme, document).await.unwrap().is_none());
    assert!(db.store.chunks(&db.acme, document, None, 10).await.unwrap().is_none());
    let found = db.store.search(&riacho_store::SearchRequest::new(db.acme.clone(), "gone")).await.unwrap();
    assert!(found.is_empty());
}
