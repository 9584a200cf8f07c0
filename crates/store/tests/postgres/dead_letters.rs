//! Dead letters: kept, listed, replayed as new releases, discarded.

use std::time::{Duration, Instant};

use chrono::Utc;
use riacho_domain::{DocumentId, ReasonCode, State, TenantId};
use riacho_store::{
    Accept, Act, Actor, LetterFilter, LetterState, ListActs, ListLetters, NewDeadLetter, Pace, PurgeOriginal,
    Purged, Release, ReleaseCaps, Resolve, Selection, SkipReason, Store, Target,
};
use serde_json::json;
use uuid::Uuid;

use crate::database::{Database, database, upload};

const AT_ONCE: Pace = Pace { every: Duration::ZERO, at_most: Duration::from_secs(60) };

fn letter(release: &Release, entry: &str) -> NewDeadLetter {
    NewDeadLetter {
        tenant: Some(release.tenant.clone()),
        document: Some(release.document),
        version: Some(release.version),
        release: Some(release.release),
        stage: "embed".into(),
        stream: "riacho:{0}:embed:interactive".into(),
        entry_id: entry.into(),
        reason_code: "provider_refused".into(),
        message: "no".into(),
        attempts: 4,
        trace_id: String::new(),
        original: vec![0, 1, 2],
        occurred_at: Utc::now(),
    }
}

fn without_document(tenant: Option<&TenantId>, entry: &str) -> NewDeadLetter {
    NewDeadLetter {
        tenant: tenant.cloned(),
        document: None,
        version: None,
        release: None,
        stage: "intake".into(),
        stream: format!("riacho:{{intake}}:{tenant:?}"),
        entry_id: entry.into(),
        reason_code: "undecodable".into(),
        message: "no envelope".into(),
        attempts: 1,
        trace_id: String::new(),
        original: vec![255],
        occurred_at: Utc::now(),
    }
}

impl Database {
    /// A document that failed, with so many letters.
    async fn dead(&self, text: &str, letters: usize) -> (DocumentId, Release) {
        let accepted = self.store.accept(&upload(&self.acme, text)).await.unwrap();
        let release = Database::release_of(&accepted);
        for n in 0..letters {
            let letter = letter(&release, &format!("{text}-{n}"));
            assert!(self.janitor.add_dead_letter(&letter).await.unwrap().is_new);
        }
        assert_eq!(self.state(accepted.document).await, State::Failed);
        (accepted.document, release)
    }

    async fn letters(&self, state: LetterState) -> Vec<Uuid> {
        let list = ListLetters { state, ..ListLetters::default() };
        let page = self.store.dead_letters(Some(&self.acme), &list).await.unwrap();
        page.items.iter().map(|letter| letter.id).collect()
    }

    async fn replay(&self, selection: Selection) -> riacho_store::Resolved {
        self.store.replay_dead_letters(Some(&self.acme), &all_of(selection), AT_ONCE).await.unwrap()
    }
}

fn all_of(selection: Selection) -> Resolve {
    Resolve { selection, cursor: None, limit: 1_000, dry_run: false }
}

fn everything() -> Selection {
    Selection::Filter(LetterFilter::default())
}

#[tokio::test]
async fn a_dead_letter_fails_its_version_while_its_release_is_current() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    let first = NewDeadLetter { reason_code: "poison".into(), ..letter(&release, "1-0") };
    assert!(db.janitor.add_dead_letter(&first).await.unwrap().is_new);
    assert!(!db.janitor.add_dead_letter(&first).await.unwrap().is_new, "moved twice, written once");
    let status = db.store.status(&db.acme, accepted.document).await.unwrap().unwrap();
    assert_eq!((status.state, status.error.unwrap().code), (State::Failed, "poison".into()));
    db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    assert!(db.janitor.add_dead_letter(&letter(&release, "2-0")).await.unwrap().is_new);
    assert_eq!(db.state(accepted.document).await, State::Releasing, "an old release's letter fails nothing");
}

#[tokio::test]
async fn letters_go_with_their_document_and_none_comes_after_it() {
    let db = database().await;
    let (document, release) = db.dead("a", 2).await;
    db.dead("b", 1).await;
    db.janitor.add_dead_letter(&without_document(Some(&db.acme), "i-0")).await.unwrap();
    db.store.delete_document(&db.acme, document).await.unwrap();
    assert!(
        db.janitor.add_dead_letter(&letter(&release, "late")).await.unwrap().is_new,
        "it goes with the others"
    );
    let purge =
        db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, Duration::ZERO, 10).await.unwrap().remove(0);
    assert!(db.janitor.purge_rows(&purge, 10).await.unwrap().done);
    let purged = Purged { entries: 5, ..Purged::default() };
    let receipt = db.janitor.purge_done(&purge, purged).await.unwrap().unwrap();
    assert_eq!((receipt.purged.entries, receipt.purged.dead_letters), (5, 3));
    let row = db.raw.run("SELECT entries, dead_letters FROM receipts");
    assert_eq!(row, [[Some("5".to_owned()), Some("3".to_owned())]]);
    assert!(!db.janitor.add_dead_letter(&letter(&release, "too late")).await.unwrap().is_new);
    assert_eq!(db.value("SELECT count(*) FROM dead_letters"), "2", "of another document, and of none");
}

#[tokio::test]
async fn letters_are_listed_by_tenant_stage_reason_document_and_state() {
    let db = database().await;
    let (document, _) = db.dead("a", 3).await;
    db.dead("b", 1).await;
    db.store.add_dead_letter(&without_document(Some(&db.acme), "i-0")).await.unwrap();
    db.janitor.add_dead_letter(&without_document(None, "u-0")).await.unwrap();
    let count = async |store: &Store, tenant: Option<&TenantId>, filter: LetterFilter| {
        let list = ListLetters { filter, ..ListLetters::default() };
        store.dead_letters(tenant, &list).await.unwrap().items.len()
    };
    let all = LetterFilter::default();
    assert_eq!(count(&db.janitor, None, all.clone()).await, 6, "those of no tenant too");
    for store in [&db.store, &db.janitor] {
        assert_eq!(count(store, Some(&db.acme), all.clone()).await, 5);
        assert_eq!(count(store, Some(&db.other), all.clone()).await, 0);
        for (filter, expected) in [
            (LetterFilter { stage: Some("intake".into()), ..all.clone() }, 1),
            (LetterFilter { reason_code: Some("provider_refused".into()), ..all.clone() }, 4),
            (LetterFilter { document: Some(document), ..all.clone() }, 3),
            (LetterFilter { document: Some(document), stage: Some("index".into()), ..all.clone() }, 0),
        ] {
            assert_eq!(count(store, Some(&db.acme), filter.clone()).await, expected, "{filter:?}");
            assert_eq!(count(store, Some(&db.other), filter).await, 0);
        }
    }
    // Pages follow one another without gap or repetition, the newest first.
    let mut list = ListLetters { limit: 2, ..ListLetters::default() };
    let mut seen = Vec::new();
    loop {
        let page = db.store.dead_letters(Some(&db.acme), &list).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.iter().map(|letter| letter.entry_id.clone()));
        list.cursor = page.next_cursor;
        if list.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["i-0", "b-0", "a-2", "a-1", "a-0"]);
    let ids = db.letters(LetterState::Unresolved).await;
    db.store.discard_dead_letters(Some(&db.acme), &all_of(Selection::Ids(vec![ids[0]]))).await.unwrap();
    assert_eq!(db.letters(LetterState::Discarded).await, [ids[0]]);
    assert_eq!(db.letters(LetterState::Unresolved).await, ids[1..]);
}

#[tokio::test]
async fn a_letter_of_another_tenant_is_not_found_and_not_touched() {
    let db = database().await;
    let (document, _) = db.dead("a", 1).await;
    let id = db.letters(LetterState::Unresolved).await[0];
    let (letter, original) = db.store.dead_letter(Some(&db.acme), id).await.unwrap().unwrap();
    assert_eq!(
        (letter.document, original.as_slice(), letter.original_bytes),
        (Some(document), &[0, 1, 2][..], 3)
    );
    assert!(db.store.dead_letter(Some(&db.other), id).await.unwrap().is_none());
    for selection in [Selection::Ids(vec![id]), everything()] {
        let named = matches!(selection, Selection::Ids(_));
        let asked = all_of(selection);
        let replayed = db.store.replay_dead_letters(Some(&db.other), &asked, AT_ONCE).await.unwrap();
        let discarded = db.store.discard_dead_letters(Some(&db.other), &asked).await.unwrap();
        for answer in [replayed, discarded] {
            assert_eq!((answer.letters, answer.skipped.len()), (0, usize::from(named)), "{answer:?}");
            assert!(answer.skipped.iter().all(|skipped| skipped.reason == SkipReason::NotFound));
        }
    }
    // Row-level security alone keeps them apart, whatever a statement says.
    assert!(db.store.dead_letter(None, id).await.unwrap().is_none());
    assert_eq!(db.store.discard_dead_letters(None, &all_of(everything())).await.unwrap().letters, 0);
    assert_eq!(
        (db.letters(LetterState::Unresolved).await, db.state(document).await),
        (vec![id], State::Failed)
    );
}

#[tokio::test]
async fn a_replay_is_a_new_release_and_resolves_all_letters_of_the_version() {
    let db = database().await;
    let (document, old) = db.dead("a", 3).await;
    let ids = db.letters(LetterState::Unresolved).await;
    let answer = db.replay(Selection::Ids(vec![ids[1]])).await;
    assert_eq!((answer.letters, answer.versions.len(), answer.skipped.len()), (3, 1, 0), "{answer:?}");
    assert_eq!(db.letters(LetterState::Replayed).await, ids);
    assert_eq!(db.state(document).await, State::Waiting);
    let plans = db.janitor.release_waiting(10, ReleaseCaps::default()).await.unwrap();
    assert_eq!((plans.len(), plans[0].document), (1, document));
    assert_ne!(plans[0].release, old.release);
    // What the old release left behind fails nothing any more.
    db.janitor.add_dead_letter(&letter(&old, "late")).await.unwrap();
    assert_eq!(db.state(document).await, State::Releasing);
    let late = db.replay(everything()).await;
    assert_eq!((late.letters, late.skipped[0].reason), (0, SkipReason::InFlight));
}

#[tokio::test]
async fn a_version_that_did_not_stay_failed_is_not_replayed_and_its_letter_says_why() {
    let db = database().await;
    let (newer, _) = db.dead("superseded", 1).await;
    let next = Accept { target: Target::NewVersionOf(newer), ..upload(&db.acme, "next") };
    let next = db.store.accept(&next).await.unwrap();
    db.store.fail(&Database::release_of(&next), ReasonCode::Corrupt, "broken").await.unwrap();
    let (retried, _) = db.dead("retried", 1).await;
    db.store.retry(&db.acme, retried, None, true).await.unwrap();
    let (finished, _) = db.dead("finished", 1).await;
    let again = db.store.retry(&db.acme, finished, None, false).await.unwrap();
    db.finish(&again, "en", &["x"]).await;
    let (cancelled, _) = db.dead("cancelled", 1).await;
    db.store.retry(&db.acme, cancelled, None, false).await.unwrap();
    db.store.cancel(&db.acme, cancelled).await.unwrap();
    let (deleted, _) = db.dead("deleted", 1).await;
    assert!(db.store.delete_document(&db.acme, deleted).await.unwrap());
    let (purged, _) = db.dead("purged", 1).await;
    let object_key = db.store.original(&db.acme, purged, None).await.unwrap().unwrap().object_key;
    let original = PurgeOriginal { tenant: db.acme.clone(), document: purged, version: 1, object_key };
    assert!(db.janitor.original_purged(&original).await.unwrap());
    db.store.add_dead_letter(&without_document(Some(&db.acme), "i-0")).await.unwrap();

    let letters = db.letters(LetterState::Unresolved).await;
    let before = db.value(
        "SELECT md5(string_agg(v::text, ',' ORDER BY document_id, version)) FROM document_versions AS v",
    );
    let answer = db.replay(everything()).await;
    let reasons: Vec<_> = answer.skipped.iter().map(|skipped| skipped.reason).collect();
    use SkipReason::{Cancelled, Gone, InFlight, NoDocument, OriginalGone, Ready, Superseded};
    assert_eq!(reasons, [Superseded, InFlight, Ready, Cancelled, Gone, OriginalGone, NoDocument]);
    assert_eq!((answer.letters, answer.versions.len()), (0, 0));
    assert_eq!(db.letters(LetterState::Unresolved).await, letters, "what was skipped stays");
    let after = db.value(
        "SELECT md5(string_agg(v::text, ',' ORDER BY document_id, version)) FROM document_versions AS v",
    );
    assert_eq!(before, after);
    // A letter that was resolved before is said to be, and one that never was too.
    db.store.discard_dead_letters(Some(&db.acme), &all_of(everything())).await.unwrap();
    let nobody = Uuid::now_v7();
    let answer = db.replay(Selection::Ids(vec![letters[0], nobody, nobody])).await;
    let skipped: Vec<_> = answer.skipped.iter().map(|skipped| (skipped.id, skipped.reason)).collect();
    assert_eq!(skipped, [(letters[0], SkipReason::Resolved), (nobody, SkipReason::NotFound)]);
}

#[tokio::test]
async fn a_dry_run_says_what_a_replay_and_a_discard_would_do_and_changes_nothing() {
    let db = database().await;
    let (document, _) = db.dead("a", 2).await;
    db.store.add_dead_letter(&without_document(Some(&db.acme), "i-0")).await.unwrap();
    let dry = Resolve { dry_run: true, ..all_of(everything()) };
    let look = || db.value("SELECT md5(string_agg(l::text, ',' ORDER BY id)) FROM dead_letters AS l");
    let before = look();
    let said = db.store.replay_dead_letters(Some(&db.acme), &dry, AT_ONCE).await.unwrap();
    let said_of_discard = db.store.discard_dead_letters(Some(&db.acme), &dry).await.unwrap();
    assert_eq!((before, State::Failed), (look(), db.state(document).await));
    assert_eq!((said_of_discard.letters, said.letters, said.skipped.len()), (3, 2, 1));
    assert_eq!(db.replay(everything()).await, said, "and then it does the same");
}

#[tokio::test]
async fn a_discarded_letter_changes_nothing_else() {
    let db = database().await;
    let (document, _) = db.dead("a", 2).await;
    let ids = db.letters(LetterState::Unresolved).await;
    let first = all_of(Selection::Ids(vec![ids[0]]));
    let answer = db.store.discard_dead_letters(Some(&db.acme), &first).await.unwrap();
    assert_eq!((answer.letters, db.letters(LetterState::Unresolved).await), (1, vec![ids[1]]));
    let again = db.store.discard_dead_letters(Some(&db.acme), &first).await.unwrap();
    assert_eq!((again.letters, again.skipped[0].reason), (0, SkipReason::Resolved));
    let status = db.store.status(&db.acme, document).await.unwrap().unwrap();
    assert_eq!((status.state, status.error.unwrap().code), (State::Failed, "provider_refused".into()));
}

#[tokio::test]
async fn a_replay_keeps_its_rate_and_goes_on_where_it_ended() {
    let db = database().await;
    for n in 0..6 {
        db.dead(&format!("{n}"), 2).await;
    }
    let start = Instant::now();
    let pace = Pace { every: Duration::from_millis(50), at_most: Duration::from_millis(80) };
    let mut asked = Resolve { limit: 4, ..all_of(everything()) };
    let (mut letters, mut remaining, mut calls) = (0, Vec::new(), 0);
    loop {
        let answer = db.store.replay_dead_letters(Some(&db.acme), &asked, pace).await.unwrap();
        calls += 1;
        assert!(answer.versions.len() <= 2, "{answer:?}");
        letters += answer.letters;
        remaining.push(answer.remaining);
        asked.cursor = answer.next_cursor;
        if asked.cursor.is_none() {
            break;
        }
    }
    assert_eq!((letters, remaining.last()), (12, Some(&0)));
    assert!(remaining.is_sorted_by(|a, b| a > b) && calls >= 3, "{remaining:?}");
    // A pause stands between any two, those of different calls too.
    assert!(start.elapsed() >= Duration::from_millis(5 * 50), "{:?}", start.elapsed());
    assert_eq!(db.value("SELECT count(*) FROM document_versions WHERE state = 'waiting'"), "6");
}

#[tokio::test]
async fn what_is_done_about_letters_is_noted_with_it_also_where_a_replay_breaks_off() {
    let db = database().await;
    let (first, _) = db.dead("first", 2).await;
    let (second, _) = db.dead("second", 1).await;
    let by_key = db.store.acting_as(Actor::key("k", &db.acme));
    let acts = async || {
        let asked = ListActs { action: Some("dead_letters.".into()), limit: 10, ..ListActs::default() };
        let acts = db.store.acts(Some(&db.acme), &asked).await.unwrap().items;
        let shown = |act: &Act| (act.action.clone(), act.target.clone(), act.detail["letters"].clone());
        acts.iter().rev().map(shown).collect::<Vec<_>>()
    };
    let dry = Resolve { dry_run: true, ..all_of(everything()) };
    by_key.replay_dead_letters(Some(&db.acme), &dry, AT_ONCE).await.unwrap();
    by_key.discard_dead_letters(Some(&db.acme), &dry).await.unwrap();
    assert_eq!(acts().await, [], "nothing was done");
    // Whoever asked goes away in the pause after the first version.
    let slow = Pace { every: Duration::from_secs(3600), at_most: Duration::from_secs(3600) };
    let asked = all_of(everything());
    let replay = by_key.replay_dead_letters(Some(&db.acme), &asked, slow);
    let is_noted = async {
        while acts().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = replay => panic!("it pauses: {done:?}"),
        () = is_noted => {}
    }
    let of_first = ("dead_letters.replay".to_owned(), first.to_string(), json!(2));
    assert_eq!(acts().await, std::slice::from_ref(&of_first));
    assert_eq!(db.state(first).await, State::Waiting);
    assert_eq!(db.state(second).await, State::Failed);
    db.dead("third", 1).await;
    by_key.discard_dead_letters(Some(&db.acme), &asked).await.unwrap();
    assert_eq!(acts().await, [of_first, ("dead_letters.discard".to_owned(), String::new(), json!(2))]);
}

#[tokio::test]
async fn of_two_replays_at_the_same_time_one_releases() {
    let db = database().await;
    for n in 0..10 {
        db.dead(&format!("{n}"), 2).await;
    }
    let (a, b) = tokio::join!(db.replay(everything()), db.replay(everything()));
    assert_eq!(a.letters + b.letters, 20, "{a:?} {b:?}");
    let lost = |reason| matches!(reason, SkipReason::InFlight | SkipReason::Resolved);
    assert!(a.skipped.iter().chain(&b.skipped).all(|skipped| lost(skipped.reason)), "{a:?} {b:?}");
    assert_eq!(db.janitor.release_waiting(50, ReleaseCaps::default()).await.unwrap().len(), 10);
}

#[tokio::test]
async fn lists_of_a_hundred_thousand_letters_go_by_an_index() {
    let db = database().await;
    let (document, _) = db.dead("a", 1).await;
    let _ = db.raw.run(
        "INSERT INTO dead_letters (id, tenant_id, document_id, stage, stream, entry_id, reason_code, message, attempts,
             original, occurred_at, created_at, resolved_at, resolution)
         SELECT gen_random_uuid(), CASE n % 3 WHEN 0 THEN 'acme' WHEN 1 THEN 'other' END, gen_random_uuid(), 'embed', 's',
                n::text, 'poison', 'm', 4, '', now(), now() - n * interval '1 s',
                CASE n % 2 WHEN 0 THEN now() END, CASE n % 2 WHEN 0 THEN 'replayed' END
         FROM generate_series(1, 100000) AS n",
    );
    let indexes =
        ["dead_letters_open", "dead_letters_open_of_all", "dead_letters_tenant", "dead_letters_document"];
    for when in ["nothing is analysed", "all is analysed"] {
        for (store, tenant, document) in [
            (&db.store, Some(&db.acme), None),
            (&db.store, Some(&db.acme), Some(document)),
            (&db.janitor, Some(&db.acme), Some(document)),
            (&db.janitor, Some(&db.acme), None),
        ] {
            let scans = store.letter_scans(tenant, document).await.unwrap();
            assert!(scans.iter().all(|scan| indexes.contains(&scan.as_str())), "{when}: {scans:?}");
            assert!(scans.len() >= 3, "each list is read by something: {scans:?}");
        }
        let _ = db.raw.run("ANALYZE dead_letters");
    }
    // Who lists the resolved ones of all tenants may read all of them.
    let of_all = db.janitor.letter_scans(None, None).await.unwrap();
    let open = of_all.iter().filter(|scan| *scan == "dead_letters_open_of_all");
    assert_eq!(open.count(), 2, "{of_all:?}");
}

#[tokio::test]
async fn a_tenant_keeps_so_many_letters_of_its_intake_and_no_more() {
    let db = database().await;
    let letter = |tenant: &TenantId, entry: usize| without_document(Some(tenant), &format!("{entry}-0"));
    assert!(db.store.add_dead_letter(&letter(&db.acme, 0)).await.unwrap().is_new);
    let mut kept = 1;
    while db.store.add_dead_letter(&letter(&db.acme, kept)).await.unwrap().is_new {
        kept += 1;
        assert!(kept < 2_000, "there is no end");
    }
    assert!(kept > 900, "{kept}");
    assert!(
        db.store.add_dead_letter(&letter(&db.other, 0)).await.unwrap().is_new,
        "a neighbour keeps its own"
    );
}
