//! Transactions: callers that go away, and collisions.

use futures::FutureExt;
use riacho_store::{Accept, SearchRequest};

use crate::database::{database, upload};

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_open_transaction() {
    let db = database().await;
    for steps in 1..30 {
        let accept = upload(&db.acme, &format!("{steps}"));
        let mut call = Box::pin(db.store.accept(&accept));
        for _ in 0..steps {
            if call.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // Every connection of the pool works, and none is in somebody else's transaction.
    let uploads: Vec<Accept> = (0..20).map(|n| upload(&db.acme, &format!("after {n}"))).collect();
    for answer in futures::future::join_all(uploads.iter().map(|upload| db.store.accept(upload))).await {
        assert!(answer.unwrap().release.is_some());
    }
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    let start = std::time::Instant::now();
    while db.value(open) != "0" {
        assert!(start.elapsed().as_secs() < 10, "a transaction stays open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn new_versions_cancels_and_deletes_of_the_same_documents_collide_without_an_error() {
    let db = database().await;
    let named =
        |id: usize, text: String| Accept { external_id: Some(format!("e{id}")), ..upload(&db.acme, &text) };
    let mut documents = Vec::new();
    for id in 0..3 {
        documents.push(db.store.accept(&named(id, format!("first {id}"))).await.unwrap().document);
    }
    let uploads: Vec<Accept> = (0..30).map(|n| named(n % 3, format!("text {n}"))).collect();
    let accepts = futures::future::join_all(uploads.iter().map(|upload| db.store.accept(upload)));
    let cancels =
        futures::future::join_all(documents.iter().cycle().take(15).map(|d| db.store.cancel(&db.acme, *d)));
    let (accepts, cancels) = tokio::join!(accepts, cancels);
    accepts.into_iter().for_each(|accepted| assert!(accepted.is_ok(), "{accepted:?}"));
    for cancelled in cancels {
        assert!(matches!(cancelled, Ok(_) | Err(riacho_store::Error::Conflict(_))), "{cancelled:?}");
    }
    let current = "SELECT coalesce(max(n), 0) <= 1 FROM (SELECT count(*) AS n FROM document_versions
                   WHERE state = 'releasing' GROUP BY document_id) AS counts";
    assert_eq!(db.value(current), "t", "one current release for a document");
}

#[tokio::test]
async fn calls_can_move_between_threads() {
    fn movable<T: Send>(call: T) -> T {
        call
    }
    let db = database().await;
    let (accept, request) = (upload(&db.acme, "x"), SearchRequest::new(db.acme.clone(), "x"));
    movable(db.store.accept(&accept)).await.unwrap();
    movable(db.store.search(&request)).await.unwrap();
    movable(db.store.index(&[])).await.unwrap();
    movable(db.store.current_releases(&[])).await.unwrap();
    movable(db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, std::time::Duration::ZERO, 1))
        .await
        .unwrap();
}
