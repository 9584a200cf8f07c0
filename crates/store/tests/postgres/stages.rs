//! Every write of a stage names its release, and the first run to seal is the version.

use riacho_domain::{ReasonCode, RunId, State};
use riacho_store::{Release, Sealed};

use crate::database::{Database, database, seal, upload};

#[tokio::test]
async fn the_first_run_to_seal_is_the_version_and_a_rerun_gets_its_manifest() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    assert!(db.store.begin_extraction(&release).await.unwrap().unwrap().sealed.is_none());
    let (first, second) = (RunId::new(), RunId::new());
    let (a, b) = (seal(first, 3), seal(second, 4));
    let (one, two) = tokio::join!(db.store.seal(&release, &a), db.store.seal(&release, &b));
    let answers = [one.unwrap(), two.unwrap()];
    assert_eq!(answers.iter().filter(|answer| **answer == Sealed::First).count(), 1);
    let Some(Sealed::Existing(existing)) = answers.iter().find(|answer| **answer != Sealed::First) else {
        panic!("the other run gets the sealed one: {answers:?}");
    };
    let replay = db.store.begin_extraction(&release).await.unwrap().unwrap().sealed.unwrap();
    assert_eq!(&replay, existing);
    assert_eq!(replay.manifest, format!("manifest of {}", replay.run).into_bytes());
    assert_eq!(db.state(accepted.document).await, State::Embedding);
}

#[tokio::test]
async fn a_write_with_a_release_that_is_not_current_changes_nothing() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let current = Database::release_of(&accepted);
    let old = Release { release: riacho_domain::ReleaseId::new(), ..current.clone() };
    let foreign = Release { tenant: db.other.clone(), ..current.clone() };
    let other_version = Release { version: current.version + 1, ..current.clone() };
    for wrong in [&old, &foreign, &other_version] {
        assert!(db.store.begin_extraction(wrong).await.unwrap().is_none());
        assert!(!db.store.progress(wrong, 1, Some(2)).await.unwrap());
        assert_eq!(db.store.seal(wrong, &seal(RunId::new(), 1)).await.unwrap(), Sealed::Superseded);
        assert!(!db.store.fail(wrong, ReasonCode::Corrupt, "no").await.unwrap());
        if wrong.version == current.version {
            assert!(db.store.released(std::slice::from_ref(wrong)).await.unwrap().is_empty());
        }
        assert!(!db.store.back_to_waiting(wrong).await.unwrap());
    }
    assert_eq!(db.state(accepted.document).await, State::Releasing);
}

#[tokio::test]
async fn a_zombie_cannot_write_over_an_end() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    db.finish(&accepted, "en", &["x"]).await;
    assert!(db.store.begin_extraction(&release).await.unwrap().is_none());
    assert!(!db.store.fail(&release, ReasonCode::Timeout, "late").await.unwrap());
    assert_eq!(db.state(accepted.document).await, State::Ready);
}

#[tokio::test]
async fn progress_and_failure_are_what_the_status_says() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    assert!(db.store.progress(&release, 3, Some(9)).await.unwrap());
    assert!(db.store.progress(&release, 4, None).await.unwrap());
    let status = db.store.status(&db.acme, accepted.document).await.unwrap().unwrap();
    assert_eq!((status.progress.pages_done, status.progress.pages_total), (4, Some(9)));
    assert!(db.store.fail(&release, ReasonCode::Encrypted, "has a \0 password").await.unwrap());
    let status = db.store.status(&db.acme, accepted.document).await.unwrap().unwrap();
    let reason = status.error.unwrap();
    assert_eq!(
        (status.state, reason.code.as_str(), reason.message.as_str()),
        (State::Failed, "encrypted", "has a  password")
    );
}

#[tokio::test]
async fn current_releases_of_many_tenants_are_told_apart() {
    let db = database().await;
    let mut releases = Vec::new();
    for n in 0..40 {
        let tenant = if n % 2 == 0 { &db.acme } else { &db.other };
        releases
            .push(Database::release_of(&db.store.accept(&upload(tenant, &format!("{n}"))).await.unwrap()));
    }
    db.store.cancel(&db.acme, releases[0].document).await.unwrap();
    db.store.fail(&releases[1], ReasonCode::Empty, "empty").await.unwrap();
    let current = db.store.current_releases(&releases).await.unwrap();
    assert_eq!(current.len(), 38);
    assert!(!current.contains(&releases[0].release) && !current.contains(&releases[1].release));
    assert!(db.store.current_releases(&[]).await.unwrap().is_empty());
}
