//! What happens at the same time as something else, or is switched in between.

use riacho_domain::{ReasonCode, RunId};
use riacho_store::{Accept, IndexAnswer, SearchRequest, Target};

use crate::database::{DIMENSIONS, Database, axis, batch, database, seal, upload};

#[tokio::test]
async fn a_search_beside_flips_finds_one_version() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["heron one", "heron two", "heron three"]).await;
    let hybrid =
        SearchRequest { vector: Some(axis(0).to_vec()), ..SearchRequest::new(db.acme.clone(), "heron") };
    let seen = std::cell::Cell::new(0);
    let flips = async {
        // On a slow machine a search may take longer than ten versions.
        for n in (2..).take_while(|n| *n < 12 || seen.get() <= 1) {
            let next = Accept { target: Target::NewVersionOf(document), ..upload(&db.acme, &format!("{n}")) };
            let accepted = db.store.accept(&next).await.unwrap();
            db.finish(&accepted, "en", &["heron one", "heron two", "heron three"]).await;
        }
    };
    let searches = async {
        loop {
            let hits = db.store.search(&hybrid).await.unwrap();
            assert_eq!(hits.len(), 3, "neither none nor both");
            let same = |hit: &riacho_store::Hit| (hit.version, hit.run) == (hits[0].version, hits[0].run);
            assert!(hits.iter().all(same), "{hits:?}");
            assert!(hits[0].version >= seen.get(), "version {} after {}", hits[0].version, seen.get());
            seen.set(hits[0].version);
        }
    };
    tokio::select! {
        () = flips => {}
        () = searches => {}
    }
    assert!(seen.get() > 1);
}

#[tokio::test]
async fn a_release_after_the_space_was_switched_counts_vectors_of_the_new_one_only() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let old = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&old, &seal(run, 2)).await.unwrap();
    let first = batch(&old, run, db.space, "en", &[(0, "a", axis(0))]);
    assert_eq!(db.store.index(&[first]).await.unwrap(), [IndexAnswer::Written { ready: false }]);
    let size = u32::try_from(DIMENSIONS).unwrap();
    let new_space = riacho_store::ensure_space(&db.config, "second", size).await.unwrap().id;
    let _ = db.raw.run(&format!(
        "UPDATE embedding_spaces SET state = 'retired' WHERE id = {};
         UPDATE embedding_spaces SET state = 'live' WHERE id = {new_space}",
        db.space
    ));
    // What is in flight is pinned to the space that it was released with.
    let stranger = batch(&old, run, new_space, "en", &[(1, "b", axis(1))]);
    assert_eq!(db.store.index(&[stranger]).await.unwrap(), [IndexAnswer::Superseded]);
    db.store.fail(&old, ReasonCode::ProviderRefused, "no").await.unwrap();
    let retried = db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    assert_eq!(retried.release.as_ref().unwrap().space, new_space);
    let new = Database::release_of(&retried);
    let second = batch(&new, run, new_space, "en", &[(1, "b", axis(1))]);
    assert_eq!(
        db.store.index(&[second]).await.unwrap(),
        [IndexAnswer::Written { ready: false }],
        "the first chunk has no vector in the new space"
    );
    let first = batch(&new, run, new_space, "en", &[(0, "a", axis(0))]);
    assert_eq!(db.store.index(&[first]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
    assert_eq!(db.value(&format!("SELECT count(*) FROM vectors_{new_space}")), "2");
}

#[tokio::test]
async fn what_is_promised_is_on_disk_before_it_is_answered() {
    let db = database().await;
    let _ = db.raw.run(
        "CREATE TABLE commits (step text, synchronous text);
         GRANT INSERT ON commits TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO commits VALUES (TG_ARGV[0], current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE TRIGGER accepted AFTER INSERT ON document_versions FOR EACH ROW EXECUTE FUNCTION note('accept');
         CREATE TRIGGER sealed AFTER UPDATE OF run_id ON document_versions FOR EACH ROW
             WHEN (NEW.run_id IS DISTINCT FROM OLD.run_id) EXECUTE FUNCTION note('seal');
         CREATE TRIGGER ended AFTER UPDATE OF state ON document_versions FOR EACH ROW
             WHEN (NEW.state IN ('ready', 'failed', 'cancelled')) EXECUTE FUNCTION note('end');
         CREATE TRIGGER deleted AFTER UPDATE OF deleted_at ON documents FOR EACH ROW
             WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION note('delete')",
    );
    let document = db.ready(&db.acme, "en", &["x"]).await;
    let cancelled = db.store.accept(&upload(&db.acme, "y")).await.unwrap();
    db.store.cancel(&db.acme, cancelled.document).await.unwrap();
    let failed = db.store.accept(&upload(&db.acme, "z")).await.unwrap();
    db.store.fail(&Database::release_of(&failed), ReasonCode::Corrupt, "no").await.unwrap();
    db.store.delete_document(&db.acme, document).await.unwrap();
    let steps = "SELECT string_agg(step || ' ' || n, ', ' ORDER BY step) FROM
                 (SELECT step, count(*) AS n FROM commits GROUP BY step) AS steps";
    assert_eq!(db.value(steps), "accept 3, delete 1, end 3, seal 1");
    assert_eq!(db.value("SELECT count(*) FROM commits WHERE synchronous <> 'on'"), "0");
}
