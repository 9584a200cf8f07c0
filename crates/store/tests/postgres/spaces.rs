//! Spaces beside the live one: what is missing in them, filling that, and switching.

use std::time::Duration;

use riacho_domain::{DocumentId, SpaceId};
use riacho_store::{
    Conflict, Error, Filling, Gap, Missing, Mode, SearchRequest, Space, SpaceState, Store, Target,
    ensure_live_space, ensure_space,
};

use crate::database::{DIMENSIONS, Database, axis, batch, database, seal, upload, vector_bytes};

async fn second(db: &Database) -> SpaceId {
    ensure_space(&db.config, "second", u32::try_from(DIMENSIONS).unwrap()).await.unwrap().id
}

async fn space(db: &Database, id: SpaceId) -> Space {
    db.janitor.spaces().await.unwrap().into_iter().find(|space| space.id == id).unwrap()
}

async fn seeded(db: &Database, id: SpaceId) {
    while !db.janitor.seed_space(id, 2).await.unwrap() {}
    assert!(space(db, id).await.is_seeded);
}

/// Vectors for all chunks of gaps, each along the axis of its ordinal.
fn fillings<'g>(gaps: &'g [Gap]) -> Vec<Filling<'g>> {
    let vector = |ordinal: u32| Some(vector_bytes(&axis(ordinal as usize)).to_vec());
    let filling = |gap: &'g Gap| Filling {
        gap,
        vectors: gap.chunks.iter().map(|chunk| vector(chunk.ordinal)).collect(),
        refused: None,
    };
    gaps.iter().map(filling).collect()
}

/// Fills a space to the end in steps of a few chunks; answers how many were written.
async fn fill(db: &Database, id: SpaceId, limit: u32) -> u64 {
    let mut written = 0;
    loop {
        let gaps = db.janitor.gaps(id, limit).await.unwrap();
        if gaps.is_empty() {
            return written;
        }
        assert!(gaps.iter().map(|gap| gap.chunks.len()).sum::<usize>() <= limit as usize);
        written += db.janitor.fill(id, &fillings(&gaps)).await.unwrap().vectors;
    }
}

fn vectors(db: &Database, id: SpaceId) -> String {
    db.value(&format!("SELECT count(*) FROM vectors_{id}"))
}

async fn missing(db: &Database, id: SpaceId) -> Missing {
    db.janitor.missing(None).await.unwrap().get(&id).copied().unwrap_or_default()
}

/// A new version of a document that goes live with these texts.
async fn replace(db: &Database, document: DocumentId, texts: &[&str]) {
    let accept = riacho_store::Accept {
        target: Target::NewVersionOf(document),
        ..upload(&db.acme, &texts.join("\n"))
    };
    let accepted = db.store.accept(&accept).await.unwrap();
    db.finish(&accepted, "en", texts).await;
}

#[tokio::test]
async fn a_new_space_gets_the_vectors_of_all_tenants_documents_once_in_small_steps() {
    let db = database().await;
    let texts: Vec<String> = (0..7).map(|n| format!("chunk {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for count in 1..=7 {
        db.ready(&db.acme, "en", &texts[..count]).await;
    }
    db.ready(&db.other, "en", &["another tenant's"]).await;
    let gone = db.ready(&db.acme, "en", &["deleted before"]).await;
    assert!(db.store.delete_document(&db.acme, gone).await.unwrap());
    db.store.accept(&upload(&db.acme, "not searchable yet")).await.unwrap();
    let id = second(&db).await;
    assert_eq!(missing(&db, id).await, Missing::default(), "nothing is known yet");
    assert!(!space(&db, id).await.is_seeded);
    seeded(&db, id).await;
    assert_eq!(missing(&db, id).await, Missing { documents: 8, chunks: 29, refused: 0, over_budget: 0 });
    let own = db.store.missing(Some(&db.other)).await.unwrap();
    assert_eq!(
        own[&id],
        Missing { documents: 1, chunks: 1, refused: 0, over_budget: 0 },
        "a tenant sees its own"
    );
    let first = db.janitor.gaps(id, 3).await.unwrap();
    assert_eq!(first[0].chunks[0].heading_path, ["Part", "Section 0"]);
    let second = first.iter().flat_map(|gap| &gap.chunks).find(|chunk| chunk.ordinal == 1).unwrap();
    assert_eq!(
        (second.table_header.as_str(), first[0].chunks[0].table_header.as_str()),
        ("| gauge | level |", "")
    );
    // A filler that is killed between two steps has done what was committed.
    assert_eq!(db.janitor.fill(id, &fillings(&first)).await.unwrap().vectors, 3);
    assert_eq!(db.janitor.fill(id, &fillings(&first)).await.unwrap().vectors, 0, "twice is once");
    assert_eq!(fill(&db, id, 4).await, 26);
    assert_eq!((vectors(&db, id).as_str(), missing(&db, id).await), ("29", Missing::default()));
    assert_eq!(space(&db, id).await.filled, 29);
    assert_eq!(db.janitor.verify_space(id).await.unwrap(), 0);
    let _ = db.raw.run(&format!("DELETE FROM vectors_{id} WHERE ordinal = 6"));
    assert_eq!(db.janitor.verify_space(id).await.unwrap(), 1, "found by count");
    assert_eq!(db.janitor.verify_space(id).await.unwrap(), 0, "it is in line now");
    assert_eq!(fill(&db, id, 100).await, 1);
}

#[tokio::test]
async fn what_goes_live_while_a_space_is_filled_is_filled_in_too() {
    let db = database().await;
    let kept = db.ready(&db.acme, "en", &["one", "two", "three"]).await;
    let id = second(&db).await;
    seeded(&db, id).await;
    let read = db.janitor.gaps(id, 100).await.unwrap();
    // Between reading and writing the document gets another version, and another one is deleted.
    replace(&db, kept, &["four", "five"]).await;
    let written = db.janitor.fill(id, &fillings(&read)).await.unwrap();
    assert_eq!((written.vectors, written.documents), (0, 0), "nobody needs vectors of the old version");
    let doomed = db.ready(&db.acme, "en", &["six"]).await;
    let read = db.janitor.gaps(id, 100).await.unwrap();
    assert_eq!(read.iter().map(|gap| gap.chunks.len()).collect::<Vec<_>>(), [2, 1]);
    assert!(db.store.delete_document(&db.acme, doomed).await.unwrap());
    let written = db.janitor.fill(id, &fillings(&read)).await.unwrap();
    assert_eq!((written.vectors, vectors(&db, id).as_str()), (2, "2"));
    assert_eq!(missing(&db, id).await, Missing::default(), "a deleted document lacks nothing");
    db.ready(&db.acme, "en", &["seven"]).await;
    assert_eq!(missing(&db, id).await.chunks, 1);
    assert_eq!(fill(&db, id, 100).await, 1);
    assert_eq!(db.value("SELECT count(*) FROM space_gaps"), "0");
}

#[tokio::test]
async fn a_space_that_lacks_chunks_is_not_switched_to_and_a_switch_goes_both_ways() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one", "two"]).await;
    let id = second(&db).await;
    let refused = |error: Error| match error {
        Error::Conflict(conflict @ Conflict::SpaceIncomplete { .. }) => conflict,
        other => panic!("{other:?}"),
    };
    let conflict = refused(db.janitor.switch_space(id, false).await.unwrap_err());
    assert!(conflict.to_string().contains("looked through"), "{conflict}");
    seeded(&db, id).await;
    let conflict = refused(db.janitor.switch_space(id, false).await.unwrap_err());
    assert_eq!(conflict, Conflict::SpaceIncomplete { is_counted: true, documents: 1, chunks: 2, refused: 0 });
    assert!(conflict.to_string().contains("2 chunks of 1 documents are missing"), "{conflict}");
    assert!(db.janitor.switch_space(99, false).await.is_err());
    assert_eq!(db.store.live_space().await.unwrap().unwrap().id, db.space);

    let state = db.store.search_state(&db.acme).await.unwrap();
    fill(&db, id, 100).await;
    assert_eq!(
        db.store.search_state(&db.acme).await.unwrap(),
        state,
        "nobody searches a space that is built"
    );
    let switched = db.janitor.switch_space(id, false).await.unwrap();
    assert_eq!((switched.from, switched.to), (Some(db.space), id));
    assert_eq!(db.janitor.switch_space(id, false).await.unwrap().from, None, "again is no change");
    assert_eq!(space(&db, db.space).await.state, SpaceState::Standby);
    // What comes now is pinned to the new space, and the old one is filled on.
    let accepted = db.store.accept(&upload(&db.acme, "later")).await.unwrap();
    let release = Database::release_of(&accepted);
    let run = riacho_domain::RunId::new();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    db.store.index(&[batch(&release, run, id, "en", &[(0, "later", axis(3))])]).await.unwrap();
    assert_eq!((missing(&db, db.space).await.chunks, missing(&db, id).await.chunks), (1, 0));
    // The first space is as old as the tests: what it lacks is not news of the last seconds.
    let _ = db.raw.run("UPDATE embedding_spaces SET complete_at = now() - interval '1 minute'");
    refused(db.janitor.switch_space(db.space, false).await.unwrap_err());
    let state = db.store.search_state(&db.acme).await.unwrap();
    assert_eq!(fill(&db, db.space, 100).await, 1);
    assert_ne!(db.store.search_state(&db.acme).await.unwrap(), state, "answers of this space are of before");
    assert_eq!(db.janitor.switch_space(db.space, false).await.unwrap().to, db.space);
    assert_eq!((vectors(&db, db.space), vectors(&db, id)), ("3".into(), "3".into()));
    // A model keeps its space, and a live space is there, whatever the model.
    assert_eq!(second(&db).await, id);
    assert_eq!(ensure_live_space(&db.config, "third", 4).await.unwrap().id, db.space);
}

#[tokio::test]
async fn a_space_that_lacks_only_the_news_of_seconds_may_be_switched_to() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one"]).await;
    let id = second(&db).await;
    seeded(&db, id).await;
    let mark = db.janitor.fill_mark(id).await.unwrap().unwrap();
    assert!(!db.janitor.reach_mark(id, &mark).await.unwrap());
    fill(&db, id, 100).await;
    db.ready(&db.acme, "en", &["two"]).await;
    assert!(db.janitor.switch_space(id, false).await.is_err(), "nobody knows how new it is");
    assert!(db.janitor.reach_mark(id, &mark).await.unwrap(), "all up to the mark is there");
    db.janitor.switch_space(id, false).await.unwrap();
    db.janitor.switch_space(db.space, true).await.unwrap();
    let _ = db.raw.run("UPDATE embedding_spaces SET complete_at = now() - interval '1 minute'");
    assert!(db.janitor.switch_space(id, false).await.is_err(), "the news are old");
    assert_eq!(db.janitor.switch_space(id, true).await.unwrap().to, id, "by force");
}

#[tokio::test]
async fn of_switches_at_the_same_time_each_leaves_one_live_space() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one"]).await;
    let mut ids = vec![db.space];
    for model in ["a", "b", "c"] {
        ids.push(ensure_space(&db.config, model, 8).await.unwrap().id);
    }
    for round in 0..20 {
        let switches = ids.iter().map(|id| db.janitor.switch_space(*id, true));
        let retired = ids[1 + round % 3];
        let (switched, given_up) = tokio::join!(futures::future::join_all(switches), async {
            if round == 19 { db.janitor.retire_space(retired).await.map(drop) } else { Ok(()) }
        });
        let live: Vec<Space> =
            db.store.spaces().await.unwrap().into_iter().filter(|s| s.state == SpaceState::Live).collect();
        assert_eq!(live.len(), 1, "{switched:?} {given_up:?}");
    }
}

#[tokio::test]
async fn refused_chunks_keep_a_space_incomplete_until_they_are_tried_again() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one", "two", "three"]).await;
    let id = second(&db).await;
    seeded(&db, id).await;
    let gaps = db.janitor.gaps(id, 2).await.unwrap();
    let mut made = fillings(&gaps);
    made[0].vectors[0] = None;
    made[0].refused = Some("too rude".to_owned());
    assert_eq!(db.janitor.fill(id, &made).await.unwrap().vectors, 1);
    assert_eq!(fill(&db, id, 2).await, 1, "the rest is filled in");
    assert_eq!(missing(&db, id).await, Missing { documents: 1, chunks: 0, refused: 1, over_budget: 0 });
    let error = db.janitor.switch_space(id, false).await.unwrap_err().to_string();
    assert!(error.contains("refuses chunks of 1"), "{error}");
    db.janitor.set_fill_rate(id, Some(7)).await.unwrap();
    assert_eq!((space(&db, id).await.per_second, missing(&db, id).await.refused), (Some(7), 1));
    db.janitor.try_refused_again(id).await.unwrap();
    assert_eq!((space(&db, id).await.per_second, missing(&db, id).await.refused), (Some(7), 0));
    assert_eq!(fill(&db, id, 100).await, 1);
    db.janitor.switch_space(id, false).await.unwrap();
}

/// Fills a space; its model refuses everything.
async fn refuse_all(db: &Database, id: SpaceId) {
    let gaps = db.janitor.gaps(id, 100).await.unwrap();
    let refused = |gap| Filling { gap, vectors: vec![None; 1], refused: Some("too rude".to_owned()) };
    let refused: Vec<_> = gaps.iter().map(refused).collect();
    assert_eq!(db.janitor.fill(id, &refused).await.unwrap().vectors, 0);
}

#[tokio::test]
async fn a_refused_chunk_counts_no_longer_than_its_version_is_live() {
    let db = database().await;
    let (corrected, gone) =
        (db.ready(&db.acme, "en", &["one"]).await, db.ready(&db.acme, "en", &["two"]).await);
    let id = second(&db).await;
    seeded(&db, id).await;
    refuse_all(&db, id).await;
    assert_eq!(missing(&db, id).await, Missing { documents: 2, chunks: 0, refused: 2, over_budget: 0 });
    db.janitor.switch_space(id, true).await.unwrap();
    // The new version has its vectors in the live space: nothing of the document is missing there any more.
    let mark = db.janitor.fill_mark(id).await.unwrap().unwrap();
    let accept =
        riacho_store::Accept { target: Target::NewVersionOf(corrected), ..upload(&db.acme, "polite") };
    let release = Database::release_of(&db.store.accept(&accept).await.unwrap());
    let run = riacho_domain::RunId::new();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    db.store.index(&[batch(&release, run, id, "en", &[(0, "polite", axis(3))])]).await.unwrap();
    assert_eq!(missing(&db, id).await, Missing { documents: 1, chunks: 0, refused: 1, over_budget: 0 });
    assert_eq!(missing(&db, db.space).await.chunks, 1, "in the other one it is");
    assert!(!db.janitor.reach_mark(id, &mark).await.unwrap());
    assert!(db.store.delete_document(&db.acme, gone).await.unwrap());
    assert_eq!(missing(&db, id).await, Missing::default());
    assert!(db.janitor.reach_mark(id, &mark).await.unwrap());
    assert_eq!(fill(&db, db.space, 100).await, 1);
    db.janitor.switch_space(db.space, false).await.unwrap();
    db.janitor.switch_space(id, false).await.unwrap();
}

#[tokio::test]
async fn a_gap_that_was_cut_goes_on_behind_what_was_done() {
    let db = database().await;
    db.ready(&db.acme, "en", &["one", "two", "three"]).await;
    let id = second(&db).await;
    seeded(&db, id).await;
    let mut gaps = db.janitor.gaps(id, 100).await.unwrap();
    gaps[0].cut(2);
    assert_eq!(db.janitor.fill(id, &fillings(&gaps)).await.unwrap().vectors, 2);
    assert_eq!(missing(&db, id).await, Missing { documents: 1, chunks: 1, refused: 0, over_budget: 0 });
    let mut gaps = db.janitor.gaps(id, 100).await.unwrap();
    assert_eq!(gaps[0].chunks.iter().map(|chunk| chunk.ordinal).collect::<Vec<_>>(), [2]);
    gaps[0].cut(9);
    assert_eq!(db.janitor.fill(id, &fillings(&gaps)).await.unwrap().documents, 1);
}

#[tokio::test]
async fn a_space_that_was_given_up_goes_when_nothing_is_pinned_to_it() {
    let db = database().await;
    let in_flight = db.store.accept(&upload(&db.acme, "on its way")).await.unwrap();
    db.ready(&db.acme, "en", &["one"]).await;
    let id = second(&db).await;
    seeded(&db, id).await;
    fill(&db, id, 100).await;
    assert!(matches!(db.janitor.retire_space(db.space).await, Err(Error::Conflict(Conflict::SpaceLive))));
    db.janitor.switch_space(id, false).await.unwrap();
    let gap = db.ready_in(&db.acme, id, &["two"]).await;
    assert_eq!(missing(&db, db.space).await.documents, 1, "{gap}");
    assert_eq!(db.janitor.retire_space(db.space).await.unwrap().state, SpaceState::Retired);
    assert_eq!(missing(&db, db.space).await.documents, 0);
    assert!(matches!(
        db.janitor.switch_space(db.space, true).await,
        Err(Error::Conflict(Conflict::SpaceRetired))
    ));
    let none: &[SpaceId] = &[];
    assert_eq!(db.janitor.spaces_to_drop(Duration::from_secs(60)).await.unwrap(), none, "not yet");
    assert_eq!(db.janitor.spaces_to_drop(Duration::ZERO).await.unwrap(), none, "a release is pinned to it");
    // What is on its way still becomes ready in it, and lacks vectors in the live one.
    db.finish(&in_flight, "en", &["three"]).await;
    assert_eq!(missing(&db, id).await.chunks, 1);
    assert_eq!(fill(&db, id, 100).await, 1);
    // Purges reach it as long as its vectors are there.
    assert!(db.store.delete_document(&db.acme, in_flight.document).await.unwrap());
    purge(&db.janitor).await;
    assert_eq!((vectors(&db, db.space), vectors(&db, id)), ("1".into(), "2".into()));
    assert_eq!(db.janitor.spaces_to_drop(Duration::ZERO).await.unwrap(), [db.space]);
    assert!(riacho_store::drop_space(&db.config, db.space).await.unwrap());
    assert!(!riacho_store::drop_space(&db.config, db.space).await.unwrap(), "once");
    assert!(!riacho_store::drop_space(&db.config, id).await.unwrap(), "a live one stays");
    assert_eq!(db.janitor.spaces().await.unwrap().len(), 1);
    let request = SearchRequest {
        mode: Mode::Vector,
        vector: Some(axis(0).to_vec()),
        space: Some(db.space),
        ..SearchRequest::new(db.acme.clone(), "")
    };
    assert!(matches!(db.store.search(&request).await, Err(Error::NotFound("embedding space"))));
    assert!(db.store.delete_document(&db.acme, gap).await.unwrap());
    purge(&db.janitor).await;
    assert_eq!(vectors(&db, id), "1");
    // The model may come back, as another space.
    let again = ensure_space(&db.config, "test-model", 8).await.unwrap();
    assert!(again.id != db.space && again.state == SpaceState::Building);
}

async fn purge(janitor: &Store) {
    for purge in janitor.purge_candidates(riacho_store::PurgeOf::ALL, Duration::ZERO, 10).await.unwrap() {
        assert!(janitor.purge_rows(&purge, 100).await.unwrap().done);
        janitor.purge_done(&purge, Default::default()).await.unwrap();
    }
}

/// While documents go live, get new versions and go, and two fill at once, a space that is made in the middle
/// ends with exactly the vectors of what is live.
#[tokio::test]
async fn whatever_happens_while_it_is_filled_a_space_ends_with_what_is_live() {
    let db = database().await;
    for n in 0..10 {
        db.ready(&db.acme, "en", &[&format!("before {n}"), "b"]).await;
    }
    let writers = async {
        let mut documents = Vec::new();
        for n in 0..40 {
            documents.push(db.ready(&db.acme, "en", &[&format!("during {n}"), "b", "c"]).await);
            if n % 3 == 0 {
                replace(&db, documents[n / 2], &[&format!("anew {n}"), "d"]).await;
            }
            if n % 7 == 6 {
                db.store.delete_document(&db.acme, documents[n / 3]).await.unwrap();
            }
        }
    };
    let filler = async {
        let id = second(&db).await;
        for _ in 0..30 {
            db.janitor.seed_space(id, 3).await.unwrap();
            let gaps = db.janitor.gaps(id, 5).await.unwrap();
            let made = fillings(&gaps);
            let (a, b) = tokio::join!(db.janitor.fill(id, &made), db.janitor.fill(id, &made));
            a.unwrap();
            b.unwrap();
        }
        id
    };
    let ((), id) = tokio::join!(writers, filler);
    seeded(&db, id).await;
    fill(&db, id, 7).await;
    let differs = db.value(&format!(
        "SELECT count(*) FROM documents d JOIN chunks c ON (c.document_id, c.version, c.run_id) = (d.id, d.live_version, d.live_run)
         FULL JOIN (SELECT x.* FROM vectors_{id} x JOIN documents d ON (x.document_id, x.version, x.run_id) = (d.id, d.live_version, d.live_run)
                    WHERE d.deleted_at IS NULL) v
           ON (v.document_id, v.version, v.run_id, v.ordinal) = (c.document_id, c.version, c.run_id, c.ordinal)
         WHERE d.deleted_at IS NULL AND (c.ordinal IS NULL OR v.ordinal IS NULL)"
    ));
    assert_eq!(differs, "0");
    assert_eq!(db.janitor.verify_space(id).await.unwrap(), 0);
    db.janitor.switch_space(id, false).await.unwrap();
}
