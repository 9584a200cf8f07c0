//! The janitor's tasks over all tenants.

use std::{collections::HashSet, time::Duration};

use chrono::Utc;
use riacho_domain::{ReasonCode, RunId, State};
use riacho_store::{Accept, Body, PurgeKind, Purged, ReleaseCaps, SearchRequest, Target};

use crate::database::{Database, axis, batch, database, seal, upload};

const NOW: Duration = Duration::ZERO;

async fn hold(db: &Database, tenant: &riacho_domain::TenantId, text: &str) {
    db.store.accept(&Accept { hold: true, ..upload(tenant, text) }).await.unwrap();
}

#[tokio::test]
async fn waiting_documents_are_released_in_turns_and_within_the_caps() {
    let db = database().await;
    for n in 0..6 {
        hold(&db, &db.acme, &format!("{n}")).await;
    }
    hold(&db, &db.other, "only one").await;
    let none =
        db.janitor.release_waiting(10, ReleaseCaps { total: Some(0), per_tenant: None }).await.unwrap();
    assert!(none.is_empty());
    let two = db.janitor.release_waiting(2, ReleaseCaps::default()).await.unwrap();
    let tenants: HashSet<_> = two.iter().map(|plan| plan.tenant.clone()).collect();
    assert_eq!(tenants.len(), 2, "one of each tenant");
    let caps = ReleaseCaps { per_tenant: Some(3), total: None };
    let more = db.janitor.release_waiting(10, caps).await.unwrap();
    assert_eq!(more.len(), 2, "acme has one in flight and may have three");
    let rest =
        db.janitor.release_waiting(10, ReleaseCaps { per_tenant: None, total: Some(6) }).await.unwrap();
    assert_eq!(rest.len(), 2, "four are in flight");
    let figures = db.janitor.queue_figures().await.unwrap();
    assert_eq!((figures.waiting, figures.in_flight), (1, 6));
}

#[tokio::test]
async fn documents_of_tenants_that_nothing_is_released_for_are_no_work_of_a_stage() {
    let db = database().await;
    hold(&db, &db.acme, "one").await;
    for n in 0..3 {
        hold(&db, &db.other, &format!("{n}")).await;
    }
    let figures = async || {
        let figures = db.janitor.queue_figures().await.unwrap();
        (figures.waiting, figures.releasable)
    };
    assert_eq!(figures().await, (4, 4));
    for (held, back) in
        [("state = 'suspended'", "state = 'active'"), ("over_budget = '{tokens}'", "over_budget = '{}'")]
    {
        let _ = db.raw.run(&format!("UPDATE tenants SET {held} WHERE id = '{}'", db.other));
        assert_eq!(figures().await, (4, 1), "{held}");
        let _ = db.raw.run(&format!("UPDATE tenants SET {back} WHERE id = '{}'", db.other));
    }
    assert_eq!(figures().await, (4, 4));
}

#[tokio::test]
async fn two_leaders_release_a_document_once() {
    let db = database().await;
    for n in 0..20 {
        hold(&db, &db.acme, &format!("{n}")).await;
    }
    let caps = ReleaseCaps::default();
    let (a, b) = tokio::join!(db.janitor.release_waiting(20, caps), db.janitor.release_waiting(20, caps));
    let mut documents: Vec<_> = a.unwrap().into_iter().chain(b.unwrap()).map(|plan| plan.document).collect();
    let all = documents.len();
    documents.sort_unstable();
    documents.dedup();
    assert_eq!(documents.len(), all);
    let rest = db.janitor.release_waiting(20, caps).await.unwrap().len();
    assert_eq!(all + rest, 20);
}

#[tokio::test]
async fn a_lease_has_one_holder_and_its_token_grows() {
    let db = database().await;
    let long = Duration::from_secs(60);
    let first = db.janitor.acquire_lease("leader", "a", long).await.unwrap().unwrap();
    assert!(db.janitor.acquire_lease("leader", "b", long).await.unwrap().is_none());
    assert!(db.janitor.renew_lease(&first, long).await.unwrap().is_some());
    assert!(db.janitor.release_lease(&first).await.unwrap());
    let second = db.janitor.acquire_lease("leader", "b", NOW).await.unwrap().unwrap();
    assert!(second.token > first.token);
    assert!(db.janitor.renew_lease(&first, long).await.unwrap().is_none(), "the old holder");
    assert!(db.janitor.renew_lease(&second, long).await.unwrap().is_none(), "it has ended");
    let third = db.janitor.acquire_lease("leader", "a", long).await.unwrap().unwrap();
    assert!(third.token > second.token);
}

#[tokio::test]
async fn what_is_past_its_time_ends() {
    let db = database().await;
    let long_ago = Utc::now() - Duration::from_secs(3_600);
    let awaited = Accept { body: Body::Awaited { expires_at: long_ago }, ..upload(&db.acme, "") };
    let upload_id = db.store.accept(&awaited).await.unwrap().document;
    let overdue = db.store.accept(&upload(&db.acme, "slow")).await.unwrap();
    let _ = db
        .raw
        .run("UPDATE document_versions SET deadline = now() - interval '1 s' WHERE deadline IS NOT NULL");
    let expired = db.janitor.expire_uploads(10).await.unwrap();
    assert_eq!(expired.iter().map(|one| (one.document, one.version)).collect::<Vec<_>>(), [(upload_id, 1)]);
    assert_eq!(db.janitor.fail_overdue(10).await.unwrap().len(), 1);
    assert_eq!(db.state(upload_id).await, State::Expired);
    let status = db.store.status(&db.acme, overdue.document).await.unwrap().unwrap();
    assert_eq!(status.error.unwrap().code, ReasonCode::DeadlineExceeded.as_str());

    let short = db.ready(&db.acme, "en", &["short lived"]).await;
    let _ =
        db.raw.run(&format!("UPDATE documents SET expires_at = now() - interval '1 s' WHERE id = '{short}'"));
    assert_eq!(db.janitor.expire_documents(10).await.unwrap().len(), 1);
    assert!(db.store.status(&db.acme, short).await.unwrap().is_none());
    assert_eq!(db.janitor.expire_documents(10).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_deleted_document_is_purged_until_nothing_is_left_with_a_receipt() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["a", "b", "c"]).await;
    let kept = db.ready(&db.acme, "en", &["kept"]).await;
    db.store.delete_document(&db.acme, document).await.unwrap();
    assert!(
        db.janitor
            .purge_candidates(riacho_store::PurgeOf::ALL, Duration::from_secs(3_600), 10)
            .await
            .unwrap()
            .is_empty(),
        "an hour later"
    );
    let purge = db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, NOW, 10).await.unwrap().remove(0);
    assert_eq!((purge.kind, purge.originals.len()), (PurgeKind::Document, 1));
    let mut purged = Purged::default();
    loop {
        let step = db.janitor.purge_rows(&purge, 2).await.unwrap();
        purged.chunks += step.chunks;
        purged.vectors += step.vectors;
        if step.done {
            break;
        }
    }
    assert_eq!((purged.chunks, purged.vectors), (3, 3));
    let receipt = db.janitor.purge_done(&purge, purged).await.unwrap().unwrap();
    assert_eq!((receipt.document, receipt.versions), (document, 1));
    assert_eq!(db.value(&format!("SELECT count(*) FROM documents WHERE id = '{document}'")), "0");
    assert_eq!(db.value("SELECT count(*) FROM chunks"), "1");
    assert!(db.store.status(&db.acme, kept).await.unwrap().is_some());
    assert!(db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, NOW, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn replaced_versions_and_lost_runs_are_purged_and_the_live_one_stays() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["old"]).await;
    let next = Accept { target: Target::NewVersionOf(document), ..upload(&db.acme, "new") };
    let accepted = db.store.accept(&next).await.unwrap();
    let release = Database::release_of(&accepted);
    let (lost, run) = (RunId::new(), RunId::new());
    for _ in 0..2 {
        db.store.begin_extraction(&release).await.unwrap().unwrap();
    }
    let stray = batch(&release, lost, db.space, "en", &[(0, "stray", axis(0))]);
    db.store.index(&[stray]).await.unwrap();
    db.store.seal(&release, &seal(run, 1)).await.unwrap();
    db.store.index(&[batch(&release, run, db.space, "en", &[(0, "new", axis(0))])]).await.unwrap();
    // Run ids carry the time, and the test has no half hour: everything counts as older.
    let mut purges = db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, NOW, 10).await.unwrap();
    assert_eq!(purges.len(), 2, "{purges:?}");
    for purge in &mut purges {
        purge.before = Utc::now() + Duration::from_secs(60);
        assert!(db.janitor.purge_rows(purge, 100).await.unwrap().done);
        assert!(db.janitor.purge_done(purge, Purged::default()).await.unwrap().is_none());
    }
    assert_eq!(db.value("SELECT string_agg(text, ' ') FROM chunks"), "new");
    assert!(db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, NOW, 10).await.unwrap().is_empty());
    let found = db.store.search(&SearchRequest::new(db.acme.clone(), "new")).await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn a_retry_during_a_purge_keeps_what_it_writes() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    let run = RunId::new();
    db.store.seal(&release, &seal(run, 2)).await.unwrap();
    db.store.index(&[batch(&release, run, db.space, "en", &[(0, "a", axis(0))])]).await.unwrap();
    db.store.fail(&release, ReasonCode::ProviderRefused, "no").await.unwrap();
    let mut purge = db.janitor.purge_candidates(riacho_store::PurgeOf::ALL, NOW, 10).await.unwrap().remove(0);
    purge.before = Utc::now() + Duration::from_secs(60);
    assert!(db.janitor.purge_rows(&purge, 100).await.unwrap().done);
    let retried = db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    let extraction = db.store.begin_extraction(&Database::release_of(&retried)).await.unwrap().unwrap();
    assert!(extraction.sealed.is_none(), "its rows are gone, so it is cut anew");
    db.finish(&retried, "en", &["again"]).await;
    assert!(db.janitor.purge_rows(&purge, 100).await.unwrap().abandoned);
    db.janitor.purge_done(&purge, Purged::default()).await.unwrap();
    assert_eq!(db.value("SELECT string_agg(text, ' ') FROM chunks"), "again");
}

#[tokio::test]
async fn objects_and_versions_that_have_a_row_are_known() {
    let db = database().await;
    let accept = upload(&db.acme, "x");
    let accepted = db.store.accept(&accept).await.unwrap();
    let keys = [accept.object_key.clone(), "t/acme/originals/unknown".to_owned()];
    let known = db.janitor.known_objects(&keys).await.unwrap();
    assert_eq!(known, HashSet::from([accept.object_key]));
    let versions = [(accepted.document, 1), (accepted.document, 2)];
    assert_eq!(db.janitor.known_versions(&versions).await.unwrap(), HashSet::from([(accepted.document, 1)]));
}
