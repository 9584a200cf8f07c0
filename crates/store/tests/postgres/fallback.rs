//! The fallback space: documents of tenants that go on over their budget, and searches of both spaces.

use riacho_domain::{DocumentId, SpaceId, State, TenantId};
use riacho_store::{
    Accept, Accepted, Budget, Conflict, Error, Fallback, Filling, Gap, HeldBy, Hit, Lost, Missing, Mode,
    OverBudget, Purpose, ReleaseCaps, SearchRequest, SpaceState, Spending, Spent, Target, ensure_space,
};

use crate::database::{DIMENSIONS, Database, axis, batch, database, seal, upload, vector_bytes};

const CAPS: ReleaseCaps = ReleaseCaps { per_tenant: None, total: None };

/// A database whose live space has another beside it that is the fallback.
async fn with_fallback() -> (Database, SpaceId) {
    let db = database().await;
    let id = ensure_space(&db.config, "local", u32::try_from(DIMENSIONS).unwrap()).await.unwrap().id;
    let made = db.janitor.set_fallback(Some(id), false).await.unwrap().unwrap();
    assert_eq!((made.id, made.state, made.is_seeded), (id, SpaceState::Fallback, false));
    (db, id)
}

async fn over(db: &Database, tenant: &TenantId, over: &[Budget], then: OverBudget) {
    db.janitor.set_over_budget(tenant, over, then).await.unwrap();
    db.janitor.hold_tenants(CAPS).await.unwrap();
}

fn space_of(accepted: &Accepted) -> Option<SpaceId> {
    accepted.release.as_ref().map(|plan| plan.space)
}

/// Takes an accepted version to ready in the space that it is pinned to, with these texts and vectors.
async fn finish(db: &Database, accepted: &Accepted, chunks: &[(u32, &str, [f32; DIMENSIONS])]) -> DocumentId {
    let (release, run) = (Database::release_of(accepted), riacho_domain::RunId::new());
    db.store.seal(&release, &seal(run, u32::try_from(chunks.len()).unwrap())).await.unwrap();
    db.store.index(&[batch(&release, run, space_of(accepted).unwrap(), "en", chunks)]).await.unwrap();
    accepted.document
}

async fn add(db: &Database, tenant: &TenantId, chunks: &[(u32, &str, [f32; DIMENSIONS])]) -> DocumentId {
    let accepted = db.store.accept(&upload(tenant, chunks[0].1)).await.unwrap();
    finish(db, &accepted, chunks).await
}

async fn missing(db: &Database, id: SpaceId) -> Missing {
    db.janitor.missing(None).await.unwrap().get(&id).copied().unwrap_or_default()
}

/// Vectors for the chunks of gaps, along the axis of their ordinals.
async fn fill(db: &Database, id: SpaceId, gaps: &[Gap]) -> u64 {
    let vector = |ordinal: u32| Some(vector_bytes(&axis(ordinal as usize)).to_vec());
    let filling = |gap| Filling { gap, vectors: gap_vectors(gap, &vector), refused: None };
    db.janitor.fill(id, &gaps.iter().map(filling).collect::<Vec<_>>()).await.unwrap().vectors
}

fn gap_vectors(gap: &Gap, vector: &dyn Fn(u32) -> Option<Vec<u8>>) -> Vec<Option<Vec<u8>>> {
    gap.chunks.iter().map(|chunk| vector(chunk.ordinal)).collect()
}

/// A search by meaning with these vectors in the live space and in the fallback.
fn near(tenant: &TenantId, live: [f32; DIMENSIONS], fallback: Fallback) -> SearchRequest {
    let vector = Some(live.to_vec());
    SearchRequest { mode: Mode::Vector, vector, fallback, ..SearchRequest::new(tenant.clone(), "x") }
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.text.as_str()).collect()
}

#[tokio::test]
async fn over_its_budget_a_tenants_documents_go_on_with_the_fallback_space_where_it_chose_that() {
    let (db, id) = with_fallback().await;
    let before = db.store.accept(&upload(&db.acme, "before")).await.unwrap();
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    over(&db, &db.other, &[Budget::TotalMoney], OverBudget::Wait).await;
    let on = db.store.accept(&upload(&db.acme, "goes on")).await.unwrap();
    assert_eq!((space_of(&before), space_of(&on)), (Some(db.space), Some(id)));
    let held = db.store.accept(&upload(&db.other, "waits")).await.unwrap();
    assert_eq!((held.state, held.release.is_none()), (State::Waiting, true));
    // What waits for its turn, what is retried and what the streams lost goes there as well.
    let release = Database::release_of(&on);
    assert!(db.store.back_to_waiting(&release).await.unwrap());
    let released = db.janitor.release_waiting(10, CAPS).await.unwrap();
    assert_eq!(
        released.iter().map(|plan| (plan.document, plan.space)).collect::<Vec<_>>(),
        [(on.document, id)]
    );
    db.store.fail(&released[0].release(), riacho_domain::ReasonCode::Timeout, "no").await.unwrap();
    let again = db.store.retry(&db.acme, on.document, None, false).await.unwrap();
    assert_eq!(space_of(&again), Some(id));
    let lost = [Database::release_of(&before), Database::release_of(&again)];
    db.store.released(&lost).await.unwrap();
    let lost = db.janitor.release_lost(&lost, Lost::Loss).await.unwrap();
    assert_eq!(lost.plans.iter().map(|plan| plan.space).collect::<Vec<_>>(), [id, id]);
    // With the month everything is as before.
    over(&db, &db.acme, &[], OverBudget::Local).await;
    over(&db, &db.other, &[], OverBudget::Wait).await;
    assert_eq!(space_of(&db.store.accept(&upload(&db.acme, "after")).await.unwrap()), Some(db.space));
    let released = db.janitor.release_waiting(10, CAPS).await.unwrap();
    assert_eq!(
        released.iter().map(|plan| (plan.document, plan.space)).collect::<Vec<_>>(),
        [(held.document, db.space)]
    );
}

#[tokio::test]
async fn without_a_fallback_space_a_tenant_that_would_go_on_waits_and_hears_what_is_missing() {
    let (db, id) = with_fallback().await;
    assert_eq!(db.janitor.set_fallback(None, false).await.unwrap(), None);
    over(&db, &db.acme, &[Budget::Money], OverBudget::Local).await;
    let held = db.store.accept(&upload(&db.acme, "waits")).await.unwrap();
    let place = db.store.place(&db.acme, held.document, 1).await.unwrap().unwrap();
    assert_eq!(
        (held.state, place.held_by, place.lacks_fallback),
        (State::Waiting, Some(HeldBy::Budget), true)
    );
    assert!(db.janitor.release_waiting(10, CAPS).await.unwrap().is_empty());
    db.janitor.set_fallback(Some(id), false).await.unwrap();
    let place = db.store.place(&db.acme, held.document, 1).await.unwrap().unwrap();
    assert!(!place.lacks_fallback);
    assert_eq!(db.janitor.release_waiting(10, CAPS).await.unwrap()[0].space, id);
    assert_eq!(db.janitor.hold_tenants(CAPS).await.unwrap(), 1, "it is held no longer");
}

#[tokio::test]
async fn what_the_live_space_lacks_is_filled_when_the_budget_allows_and_the_fallback_is_not_filled() {
    let (db, id) = with_fallback().await;
    add(&db, &db.acme, &[(0, "before", axis(0))]).await;
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    let document = add(&db, &db.acme, &[(0, "one", axis(0)), (1, "two", axis(1))]).await;
    let status = db.store.status(&db.acme, document).await.unwrap().unwrap();
    assert_eq!((status.state, status.fallback.as_deref()), (State::Ready, Some("local")));
    let lacks = Missing { documents: 1, chunks: 2, refused: 0, over_budget: 1 };
    assert_eq!((missing(&db, db.space).await, missing(&db, id).await), (lacks, Missing::default()));
    assert!(db.janitor.gaps(db.space, 100).await.unwrap().is_empty(), "nobody pays for them now");
    // Another tenant's gap is not held up by it.
    let second = ensure_space(&db.config, "second", u32::try_from(DIMENSIONS).unwrap()).await.unwrap().id;
    while !db.janitor.seed_space(second, 100).await.unwrap() {}
    assert_eq!(missing(&db, second).await.documents, 2, "a space for a new model lacks all");
    assert_eq!(db.janitor.gaps(second, 100).await.unwrap().len(), 2, "which the operator pays");
    over(&db, &db.acme, &[], OverBudget::Local).await;
    let gaps = db.janitor.gaps(db.space, 100).await.unwrap();
    assert_eq!(fill(&db, db.space, &gaps).await, 2);
    assert_eq!(missing(&db, db.space).await, Missing::default());
    let status = db.store.status(&db.acme, document).await.unwrap().unwrap();
    assert_eq!(status.fallback, None);
}

#[tokio::test]
async fn a_search_by_meaning_finds_documents_of_both_spaces_each_once() {
    let (db, id) = with_fallback().await;
    let old = add(&db, &db.acme, &[(0, "old near", axis(0)), (1, "old far", axis(1))]).await;
    let without = near(&db.acme, axis(0), Fallback::Wanted);
    assert_eq!(db.store.search(&without).await.unwrap().len(), 2, "no second vector is asked for");
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    let new = add(&db, &db.acme, &[(0, "new near", axis(2)), (1, "new far", axis(3))]).await;
    // Another tenant has nothing to do with it.
    let theirs = add(&db, &db.other, &[(0, "theirs", axis(0))]).await;
    assert_eq!(
        db.store.search(&near(&db.other, axis(0), Fallback::Wanted)).await.unwrap()[0].document,
        theirs
    );

    let error = db.store.search(&near(&db.acme, axis(0), Fallback::Wanted)).await.unwrap_err();
    assert!(matches!(&error, Error::NeedsFallback(space) if space.id == id), "{error:?}");
    let hits = db.store.search(&near(&db.acme, axis(0), Fallback::Ignored)).await.unwrap();
    assert_eq!(texts(&hits), ["old near", "old far"], "by meaning, in the live space alone");
    let both = |vector: [f32; DIMENSIONS]| near(&db.acme, axis(0), Fallback::Vector(id, vector.to_vec()));
    let mut slightly = axis(2);
    slightly[4] = 0.2;
    let hits = db.store.search(&both(slightly)).await.unwrap();
    assert_eq!(texts(&hits)[..2], ["old near", "new near"]);
    assert_eq!((hits.len(), hits[1].document), (4, new));
    // Narrowed to documents of one space, the other has no part.
    for (document, first) in [(old, "old near"), (new, "new near")] {
        let narrowed = SearchRequest { documents: vec![document], ..both(slightly) };
        let hits = db.store.search(&narrowed).await.unwrap();
        assert_eq!((hits.len(), texts(&hits)[0]), (2, first));
    }
    // Partly filled in, each chunk is answered from one space: here from the live one, where it is another vector.
    over(&db, &db.acme, &[], OverBudget::Local).await;
    let mut gaps = db.janitor.gaps(db.space, 100).await.unwrap();
    gaps[0].cut(1);
    assert_eq!(fill(&db, db.space, &gaps).await, 1);
    let hits = db.store.search(&both(axis(3))).await.unwrap();
    let mut found = texts(&hits);
    found.sort_unstable();
    assert_eq!(found, ["new far", "new near", "old far", "old near"]);
    let similarity = |text: &str| hits.iter().find(|hit| hit.text == text).unwrap().parts.similarity.unwrap();
    assert!(
        (similarity("new near") - 1.0).abs() < 1e-3,
        "the live space's: its vector lies along axis 0 there"
    );
    assert!((similarity("new far") - 1.0).abs() < 1e-3, "the fallback's");
    let gaps = db.janitor.gaps(db.space, 100).await.unwrap();
    fill(&db, db.space, &gaps).await;
    let hits = db.store.search(&near(&db.acme, axis(0), Fallback::Wanted)).await.unwrap();
    assert_eq!(hits.len(), 4, "all is in the live space");
    let wrong = near(&db.acme, axis(0), Fallback::Wanted);
    let wrong = SearchRequest { space: Some(id), ..wrong };
    assert!(matches!(db.store.search(&wrong).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn cosines_of_the_fallback_are_carried_over_to_the_scale_of_the_live_space() {
    let (db, id) = with_fallback().await;
    // The known texts: in the fallback all texts are near each other, in the live space they are not.
    let along = |cosine: f32| {
        let mut vector = axis(0).map(|value| value * cosine);
        vector[7] = (1.0 - cosine * cosine).sqrt();
        vector
    };
    let probe =
        |cosine: f32| [along(cosine); 3].iter().flat_map(|vector| vector_bytes(vector).to_vec()).collect();
    let (there, here): (Vec<u8>, Vec<u8>) = (probe(0.8), probe(0.2));
    db.store.keep_probe(id, &there).await.unwrap();
    db.store.keep_probe(db.space, &here).await.unwrap();
    add(&db, &db.acme, &[(0, "fits well", along(0.7)), (1, "fits badly", along(0.3))]).await;
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    // A cosine of 0.84 is next to nothing there. Any text has (0.84 + 3 * 0.8) / 4 there and (0.5 + 3 * 0.2) / 4 in the live
    // space.
    add(&db, &db.acme, &[(0, "is anything", along(0.84))]).await;
    let request = near(&db.acme, axis(0), Fallback::Vector(id, axis(0).to_vec()));
    let hits = db.store.search(&request).await.unwrap();
    assert_eq!(texts(&hits), ["fits well", "is anything", "fits badly"]);
    assert!((hits[1].parts.similarity.unwrap() - 0.389).abs() < 0.01, "{:?}", hits[1].parts);
    assert!((hits[0].parts.similarity.unwrap() - 0.7).abs() < 1e-3, "the live space's own stay as they are");
    // In a hybrid search it is one leg, with its words besides.
    let hybrid = SearchRequest { mode: Mode::Hybrid, query: "anything".into(), ..request };
    assert_eq!(texts(&db.store.search(&hybrid).await.unwrap())[0], "is anything");
}

#[tokio::test]
async fn what_is_withheld_or_over_is_not_found_in_the_fallback_either() {
    let (db, id) = with_fallback().await;
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    let [seen, withheld, over] = [
        add(&db, &db.acme, &[(0, "seen", axis(0))]).await,
        add(&db, &db.acme, &[(0, "withheld", axis(0))]).await,
        add(&db, &db.acme, &[(0, "over", axis(0))]).await,
    ];
    let both = near(&db.acme, axis(0), Fallback::Vector(id, axis(0).to_vec()));
    assert_eq!(db.store.search(&both).await.unwrap().len(), 3);
    let _ = db.raw.run(&format!(
        "UPDATE documents SET expires_at = now() - interval '1 s' WHERE id = '{over}';
         UPDATE documents SET withheld = true, parent_id = '{seen}', parent_version = 1, attachment = 1, root_id = '{seen}',
             root_version = 1, depth = 1 WHERE id = '{withheld}'"
    ));
    assert_eq!(texts(&db.store.search(&both).await.unwrap()), ["seen"]);
}

#[tokio::test]
async fn versions_deletes_and_purges_hold_in_the_fallback_as_well() {
    let (db, id) = with_fallback().await;
    let kept = add(&db, &db.acme, &[(0, "first version", axis(0))]).await;
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    let gone = add(&db, &db.acme, &[(0, "deleted", axis(0))]).await;
    let second = Accept { target: Target::NewVersionOf(kept), ..upload(&db.acme, "second version") };
    let second = db.store.accept(&second).await.unwrap();
    finish(&db, &second, &[(0, "second version", axis(0))]).await;
    let both = near(&db.acme, axis(0), Fallback::Vector(id, axis(0).to_vec()));
    let mut hits = db.store.search(&both).await.unwrap();
    hits.sort_by_key(|hit| hit.text.clone());
    assert_eq!(texts(&hits), ["deleted", "second version"], "the first version is not searched any more");
    assert!(db.store.delete_document(&db.acme, gone).await.unwrap());
    assert_eq!(texts(&db.store.search(&both).await.unwrap()), ["second version"]);
    let candidates =
        db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, std::time::Duration::ZERO, 10).await.unwrap();
    let purge = candidates.iter().find(|purge| purge.document == gone).unwrap();
    let progress = db.janitor.purge_rows(purge, 100).await.unwrap();
    assert_eq!((progress.chunks, progress.vectors, progress.done), (1, 1, true));
    assert_eq!(db.value(&format!("SELECT count(*) FROM vectors_{id}")), "1");
    // A third version that is paid for again lacks nothing.
    over(&db, &db.acme, &[], OverBudget::Local).await;
    let third = Accept { target: Target::NewVersionOf(kept), ..upload(&db.acme, "third version") };
    let third = db.store.accept(&third).await.unwrap();
    finish(&db, &third, &[(0, "third version", axis(0))]).await;
    assert_eq!(missing(&db, db.space).await, Missing::default());
    assert_eq!(
        texts(&db.store.search(&near(&db.acme, axis(0), Fallback::Wanted)).await.unwrap()),
        ["third version"]
    );
}

#[tokio::test]
async fn the_fallback_is_not_dropped_nor_switched_to_nor_given_up_while_documents_are_only_there() {
    let (db, id) = with_fallback().await;
    for refused in
        [db.janitor.retire_space(id).await.map(drop), db.janitor.switch_space(id, true).await.map(drop)]
    {
        assert!(matches!(refused, Err(Error::Conflict(Conflict::SpaceFallback))), "{refused:?}");
    }
    let live = db.janitor.set_fallback(Some(db.space), false).await;
    assert!(matches!(live, Err(Error::Conflict(Conflict::SpaceLive))), "{live:?}");
    assert!(matches!(db.janitor.set_fallback(Some(99), false).await, Err(Error::NotFound(_))));
    over(&db, &db.acme, &[Budget::Tokens], OverBudget::Local).await;
    let flying = db.store.accept(&upload(&db.acme, "on its way")).await.unwrap();
    add(&db, &db.acme, &[(0, "there", axis(0))]).await;
    let second = ensure_space(&db.config, "second", u32::try_from(DIMENSIONS).unwrap()).await.unwrap().id;
    for next in [None, Some(second)] {
        let refused = db.janitor.set_fallback(next, false).await.unwrap_err();
        let Error::Conflict(Conflict::FallbackInUse { space, documents }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((space, documents), (id, 2));
    }
    let state = db.store.search_state(&db.acme).await.unwrap();
    assert_eq!(db.janitor.set_fallback(Some(second), true).await.unwrap().unwrap().id, second);
    assert_ne!(db.store.search_state(&db.acme).await.unwrap(), state, "kept answers are of before");
    let spaces = db.janitor.spaces().await.unwrap();
    let states: Vec<_> = spaces.iter().map(|space| space.state).collect();
    assert_eq!(states, [SpaceState::Live, SpaceState::Building, SpaceState::Fallback]);
    // The one before is filled like a new space: with what was there before, and with what comes.
    while !db.janitor.seed_space(id, 100).await.unwrap() {}
    finish(&db, &flying, &[(0, "on its way", axis(0))]).await;
    add(&db, &db.acme, &[(0, "comes", axis(0))]).await;
    assert_eq!(missing(&db, id).await.documents, 1, "what was pinned to it is there already");
    assert_eq!(missing(&db, second).await, Missing::default());
}

#[tokio::test]
async fn what_the_fallback_embeds_counts_towards_no_budget() {
    let (db, _) = with_fallback().await;
    let spent = |tokens| Spent { texts: 1, tokens, requests: 1, money_nanos: 0 };
    let key = |model: &str, purpose| (db.acme.clone(), model.to_owned(), purpose);
    let spending = Spending::from([
        (key("local", Purpose::Documents), spent(100)),
        (key("local", Purpose::Queries), spent(10)),
        (key("local", Purpose::Spaces), spent(1_000)),
        (key("test-model", Purpose::Documents), spent(7)),
    ]);
    for _ in 0..2 {
        db.store.add_spending(&spending).await.unwrap();
    }
    assert_eq!(db.store.budget_spent(&db.acme).await.unwrap().tokens, 14);
    assert_eq!(db.janitor.budgets_spent().await.unwrap()[&db.acme].tokens, 14);
    let months = db.store.spending(&db.acme, 1).await.unwrap();
    let of =
        |purpose| months.iter().find(|one| one.model == "local" && one.purpose == purpose).unwrap().spent;
    assert_eq!(of(Purpose::Fallback), Spent { texts: 4, tokens: 220, requests: 4, money_nanos: 0 });
    assert_eq!((of(Purpose::Spaces).tokens, months.len()), (2_000, 3));
}
