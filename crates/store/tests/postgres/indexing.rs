//! Ready is a count: whatever the order, the repetition and the competition of batches.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use riacho_domain::{RunId, State};
use riacho_store::{Accept, IndexAnswer, IndexItem, Mode, Release, Sealed, SearchRequest, Target};

use crate::database::{DIMENSIONS, Database, axis, batch, database, seal, upload, vector_bytes};

/// A run's chunks cut into batches of one to three.
fn cut(random: &mut StdRng, release: &Release, run: RunId, space: u32, total: u32) -> Vec<IndexItem> {
    let texts: Vec<String> = (0..total).map(|n| format!("chunk {n} of {run}")).collect();
    let mut batches = Vec::new();
    let mut next = 0;
    while next < total {
        let end = (next + random.random_range(1..=3)).min(total);
        let chunks: Vec<_> = (next..end).map(|n| (n, texts[n as usize].as_str(), axis(n as usize))).collect();
        batches.push(batch(release, run, space, "en", &chunks));
        next = end;
    }
    batches
}

#[tokio::test]
async fn a_version_is_ready_exactly_once_in_any_order_with_repetitions_and_lost_runs() {
    let db = database().await;
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let accepted = db.store.accept(&upload(&db.acme, &format!("seed {seed}"))).await.unwrap();
        let release = Database::release_of(&accepted);
        let (winner, loser) = (RunId::new(), RunId::new());
        let (total, lost) = (random.random_range(1..=9), random.random_range(1..=9));
        let mut batches = cut(&mut random, &release, winner, db.space, total);
        batches.shuffle(&mut random);
        // The seal comes before the last handoff of its run.
        let last = batches.pop().unwrap();
        let mut before: Vec<IndexItem> = cut(&mut random, &release, loser, db.space, lost);
        let early = random.random_range(0..=batches.len());
        before.extend(batches.drain(..early));
        before.shuffle(&mut random);
        let mut after = batches;
        after.push(last);
        after.extend(before.iter().filter(|_| random.random_bool(0.3)).cloned().collect::<Vec<_>>());
        after.extend(after.clone().into_iter().filter(|_| random.random_bool(0.3)).collect::<Vec<_>>());
        after.shuffle(&mut random);

        let mut ready = 0;
        index_in_groups(&db, &mut random, &before, &mut ready).await;
        assert_eq!(ready, 0, "seed {seed}: not before the seal");
        assert_eq!(db.store.seal(&release, &seal(winner, total)).await.unwrap(), Sealed::First);
        index_in_groups(&db, &mut random, &after, &mut ready).await;
        assert_eq!(ready, 1, "seed {seed}");
        let page = db.store.chunks(&db.acme, accepted.document, None, 100).await.unwrap().unwrap();
        assert_eq!(page.run, winner, "seed {seed}");
        assert_eq!(page.chunks.iter().map(|c| c.ordinal).collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
        let status = db.store.status(&db.acme, accepted.document).await.unwrap().unwrap();
        assert_eq!((status.state, status.progress.chunks_done), (State::Ready, total), "seed {seed}");
    }
}

/// Indexes the items in groups of random size, some groups at the same time.
async fn index_in_groups(db: &Database, random: &mut StdRng, items: &[IndexItem], ready: &mut usize) {
    let mut rest = items;
    while !rest.is_empty() {
        let mut calls = Vec::new();
        for _ in 0..random.random_range(1..=3) {
            let (group, left) = rest.split_at(random.random_range(0..=rest.len().min(4)));
            rest = left;
            calls.push(db.store.index(group));
        }
        for answers in futures::future::join_all(calls).await {
            *ready += answers.unwrap().iter().filter(|a| **a == IndexAnswer::Written { ready: true }).count();
        }
    }
}

#[tokio::test]
async fn many_documents_of_many_tenants_are_written_in_one_call() {
    let db = database().await;
    let mut items = Vec::new();
    for n in 0..60 {
        let tenant = if n % 3 == 0 { &db.other } else { &db.acme };
        let accepted = db.store.accept(&upload(tenant, &format!("{n}"))).await.unwrap();
        let release = Database::release_of(&accepted);
        let run = RunId::new();
        db.store.seal(&release, &seal(run, 2)).await.unwrap();
        for ordinal in [1, 0] {
            let language = if n % 2 == 0 { "en" } else { "pt" };
            items.push(batch(&release, run, db.space, language, &[(ordinal, "texto", axis(n))]));
        }
    }
    items.shuffle(&mut StdRng::seed_from_u64(1));
    let (left, right) = items.split_at(61);
    // Two indexers with the same documents in different orders.
    let (a, b) = tokio::join!(db.store.index(left), db.store.index(right));
    let ready =
        a.unwrap().into_iter().chain(b.unwrap()).filter(|x| *x == IndexAnswer::Written { ready: true });
    assert_eq!(ready.count(), 60);
    assert_eq!(db.value("SELECT count(*) FROM documents WHERE live_version = 1"), "60");
    assert_eq!(
        db.value("SELECT string_agg(tenant_id || config, ' ' ORDER BY 1) FROM tenant_languages")
            .split(' ')
            .count(),
        4
    );
}

#[tokio::test]
async fn the_live_version_never_goes_back() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "one")).await.unwrap();
    let old = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&old, &seal(run, 1)).await.unwrap();
    let next = Accept { target: Target::NewVersionOf(accepted.document), ..upload(&db.acme, "two") };
    let newer = db.store.accept(&next).await.unwrap();
    db.finish(&newer, "en", &["two"]).await;
    let late = batch(&old, run, db.space, "en", &[(0, "one", axis(0))]);
    assert_eq!(db.store.index(&[late]).await.unwrap(), [IndexAnswer::Superseded]);
    let page = db.store.chunks(&db.acme, accepted.document, None, 10).await.unwrap().unwrap();
    assert_eq!((page.version, page.chunks[0].text.as_str()), (2, "two"));
}

#[tokio::test]
async fn what_can_never_be_written_is_rejected_without_its_neighbours() {
    let db = database().await;
    let mut items = Vec::new();
    for n in 0..6 {
        let accepted = db.store.accept(&upload(&db.acme, &format!("{n}"))).await.unwrap();
        let release = Database::release_of(&accepted);
        let run = RunId::new();
        db.store.seal(&release, &seal(run, 1)).await.unwrap();
        items.push(batch(&release, run, db.space, "en", &[(0, "fine", axis(n))]));
    }
    items[0].chunks[0].vector_f16 = vector_bytes(&[1.0; 3]);
    items[1].chunks[0].vector_f16 = vector_bytes(&[f32::NAN; DIMENSIONS]);
    items[2].chunks[0].chunk.as_mut().unwrap().text = "a\0b".into();
    items[3].space = 99;
    // This one passes our checks, and only PostgreSQL refuses it.
    items[4].chunks[0].chunk.as_mut().unwrap().byte_start = 1;
    let _ = db.raw.run("ALTER TABLE chunks ADD CONSTRAINT poison CHECK (byte_start <> 1)");
    let answers = db.store.index(&items).await.unwrap();
    for rejected in &answers[..5] {
        assert!(matches!(rejected, IndexAnswer::Rejected { .. }), "{answers:?}");
    }
    assert_eq!(answers[5], IndexAnswer::Written { ready: true });
    assert_eq!(db.value("SELECT count(*) FROM chunks"), "1");
}

/// Items of three documents, and a trigger that answers each of their chunks with an SQL state.
async fn refused_with(state: &str) -> (Database, Vec<IndexItem>) {
    let db = database().await;
    let mut items = Vec::new();
    for n in 0..3 {
        let accepted = db.store.accept(&upload(&db.acme, &format!("{n}"))).await.unwrap();
        let release = Database::release_of(&accepted);
        let run = RunId::new();
        db.store.seal(&release, &seal(run, 1)).await.unwrap();
        items.push(batch(&release, run, db.space, "en", &[(0, "fine", axis(n))]));
    }
    let _ = db.raw.run(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION refuse()"
    ));
    (db, items)
}

#[tokio::test]
async fn a_lost_race_condemns_no_document() {
    for state in ["40P01", "40001"] {
        let (db, items) = refused_with(state).await;
        let error = db.store.index(&items[..1]).await.unwrap_err();
        assert!(error.is_retryable(), "{state}: {error:?}");
        let _ = db.raw.run("DROP TRIGGER refuse ON chunks");
        assert_eq!(db.store.index(&items[..1]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
    }
}

#[tokio::test]
async fn only_errors_of_the_data_condemn_a_document() {
    // A missing table and a missing right are an operator's mistakes.
    for state in ["42P01", "42501", "XX000"] {
        let (db, items) = refused_with(state).await;
        let error = db.store.index(&items).await.unwrap_err();
        assert!(!error.is_retryable(), "{state}: {error:?}");
    }
    for state in ["22003", "23514", "54000"] {
        let (db, items) = refused_with(state).await;
        let answers = db.store.index(&items).await.unwrap();
        assert!(answers.iter().all(|a| matches!(a, IndexAnswer::Rejected { .. })), "{state}: {answers:?}");
    }
}

#[tokio::test]
async fn a_batch_that_came_too_late_hides_no_document_of_its_language() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "given up")).await.unwrap();
    let release = Database::release_of(&accepted);
    db.store.cancel(&db.acme, accepted.document).await.unwrap();
    // It is the first that this process hears of the tenant's language.
    let late = batch(&release, RunId::new(), db.space, "pt", &[(0, "a garça", axis(0))]);
    assert_eq!(db.store.index(&[late]).await.unwrap(), [IndexAnswer::Superseded]);
    let document = db.ready(&db.acme, "pt", &["as garças voltaram"]).await;
    let words = SearchRequest { mode: Mode::Keyword, ..SearchRequest::new(db.acme.clone(), "garça") };
    let hits = db.store.search(&words).await.unwrap();
    assert_eq!(hits.iter().map(|hit| hit.document).collect::<Vec<_>>(), [document]);
}

#[tokio::test]
async fn a_batch_of_another_space_is_superseded() {
    let db = database().await;
    let other = riacho_store::ensure_space(&db.config, "second", 8).await.unwrap();
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    let item = batch(&release, run, other.id, "en", &[(0, "x", axis(0))]);
    assert_eq!(db.store.index(&[item]).await.unwrap(), [IndexAnswer::Superseded]);
}

#[tokio::test]
async fn chunks_keep_their_offsets_pages_and_headings_and_come_in_pages() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["zero", "one", "two"]).await;
    let first = db.store.chunks(&db.acme, document, None, 2).await.unwrap().unwrap();
    assert_eq!(first.chunks.len(), 2);
    let chunk = &first.chunks[1];
    assert_eq!((chunk.byte_start, chunk.char_end, chunk.page_first, chunk.page_last), (100, 103, 1, 2));
    assert_eq!(chunk.heading_path, ["Part", "Section 1"]);
    let header = Some("| gauge | level |");
    assert_eq!((chunk.table_header.as_deref(), first.chunks[0].table_header.as_deref()), (header, None));
    let cursor = first.next_cursor.unwrap();
    let second = db.store.chunks(&db.acme, document, Some(&cursor), 2).await.unwrap().unwrap();
    assert_eq!((second.chunks[0].text.as_str(), second.next_cursor), ("two", None));
    let text = db.store.text_of(&db.acme, document, None).await.unwrap().unwrap();
    assert_eq!((text.version, text.run, text.live), (1, first.run, true));
}
