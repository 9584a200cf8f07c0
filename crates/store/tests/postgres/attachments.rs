//! What is attached to a document comes with it and goes with it.

use chrono::{TimeDelta, Utc};
use riacho_domain::{DocumentId, ReasonCode, RunId, State};
use riacho_store::{
    Accept, Accepted, Attachment, Body, Document, IndexAnswer, ListDocuments, Mode, Release, ReleaseCaps,
    SearchRequest, Target,
};

use crate::database::{Database, axis, batch, database, seal, sha256, upload};

fn files(names: &[&str]) -> Vec<Attachment> {
    let file = |(ordinal, name): (u32, &&str)| Attachment {
        ordinal,
        filename: (*name).to_owned(),
        object_key: format!("t/acme/originals/{}", riacho_domain::UploadId::new()),
        size: name.len() as u64,
        sha256: sha256(name),
    };
    (1..).zip(names).map(file).collect()
}

impl Database {
    async fn mail(&self, text: &str) -> (Accepted, Release) {
        let metadata = serde_json::from_str(r#"{"case": 7}"#).unwrap();
        let accept = Accept { metadata: Some(metadata), ..upload(&self.acme, text) };
        let accepted =
            self.store.accept(&Accept { collection: Some("mails".into()), ..accept }).await.unwrap();
        let release = Database::release_of(&accepted);
        (accepted, release)
    }

    async fn attach(&self, release: &Release, names: &[&str]) -> Option<u32> {
        self.store.accept_attachments(release, &files(names)).await.unwrap()
    }

    /// What is attached to a document, by place.
    async fn attached(&self, parent: DocumentId) -> Vec<Document> {
        let list = ListDocuments { parent: Some(parent), ..ListDocuments::default() };
        let mut found = self.store.documents(&self.acme, &list).await.unwrap().items;
        found.sort_by_key(|document| document.parent.unwrap().attachment);
        found
    }

    /// Releases what waits, and answers the release of a document.
    async fn released(&self, document: DocumentId) -> Release {
        self.janitor.release_waiting(100, ReleaseCaps::default()).await.unwrap();
        let release =
            self.value(&format!("SELECT release_id FROM document_versions WHERE document_id = '{document}'"));
        Release { tenant: self.acme.clone(), document, version: 1, release: release.parse().unwrap() }
    }
}

#[tokio::test]
async fn attachments_are_accepted_once_however_often_their_event_runs() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    let (first, second) = tokio::join!(db.attach(&release, &["a", "b"]), db.attach(&release, &["a", "b"]));
    assert_eq!(first.unwrap() + second.unwrap(), 2);
    assert_eq!(db.attach(&release, &["a", "b"]).await, Some(0));
    let attached = db.attached(mail.document).await;
    let names: Vec<_> = attached.iter().map(|document| document.filename.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    for document in &attached {
        assert_eq!((document.state, document.collection_name.as_str()), (State::Waiting, "mails"));
        assert_eq!(document.metadata["case"], 7);
        assert_eq!(document.parent.unwrap().document, mail.document);
    }
    // The same bytes uploaded are another document, which does not go with the mail.
    let uploaded = db.store.accept(&upload(&db.acme, "a")).await.unwrap();
    assert!(!uploaded.duplicate && uploaded.document != attached[0].id);
    db.store.delete_document(&db.acme, mail.document).await.unwrap();
    assert_eq!(db.attach(&release, &["c"]).await, None, "the mail is gone");
}

#[tokio::test]
async fn attachments_go_with_their_document_and_what_lies_in_them_too() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["inner mail", "b"]).await;
    let inner = db.attached(mail.document).await[0].id;
    db.attach(&db.released(inner).await, &["deep"]).await;
    let deep = db.attached(inner).await[0].id;
    assert!(db.store.delete_document(&db.acme, mail.document).await.unwrap());
    for document in [mail.document, inner, deep] {
        assert_eq!(db.store.status(&db.acme, document).await.unwrap(), None);
    }
    let in_flight = "SELECT count(*) FROM document_versions WHERE state <> 'cancelled'";
    assert_eq!(db.value(in_flight), "0");
}

#[tokio::test]
async fn a_new_version_that_becomes_live_takes_the_attachments_of_the_old_one_away() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["old"]).await;
    db.finish(&mail, "en", &["the first mail"]).await;
    let old = db.attached(mail.document).await[0].id;
    let next = Accept { target: Target::NewVersionOf(mail.document), ..upload(&db.acme, "second") };
    let given_up = db.store.accept(&next).await.unwrap();
    db.attach(&Database::release_of(&given_up), &["given up"]).await;
    assert_eq!(db.attached(mail.document).await.len(), 2, "until the new version is live");
    let next = Accept { target: Target::NewVersionOf(mail.document), ..upload(&db.acme, "third") };
    let newer = db.store.accept(&next).await.unwrap();
    let left: Vec<_> = db.attached(mail.document).await.iter().map(|document| document.id).collect();
    assert_eq!(left, [old], "a version that was superseded has none");
    db.attach(&Database::release_of(&newer), &["new"]).await;
    db.finish(&newer, "en", &["the third mail"]).await;
    let left: Vec<_> = db.attached(mail.document).await.iter().map(|d| d.filename.clone()).collect();
    assert_eq!(left, ["new"]);
}

#[tokio::test]
async fn attachments_of_a_cancelled_version_go_and_a_retry_brings_others() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["a"]).await;
    let first = db.attached(mail.document).await[0].id;
    db.store.cancel(&db.acme, mail.document).await.unwrap();
    assert!(db.attached(mail.document).await.is_empty());
    let again = db.store.retry(&db.acme, mail.document, None, false).await.unwrap();
    assert_eq!(db.attach(&Database::release_of(&again), &["a"]).await, Some(1));
    let second = db.attached(mail.document).await[0].id;
    assert_ne!(first, second, "what was deleted does not come back");
    // Whatever was purged meanwhile, and whoever deleted it, a repetition adds nothing.
    let _ = db.raw.run(&format!("DELETE FROM documents WHERE id = '{first}'"));
    db.store.delete_document(&db.acme, second).await.unwrap();
    let _ = db.raw.run(&format!("DELETE FROM documents WHERE id = '{second}'"));
    assert_eq!(db.attach(&Database::release_of(&again), &["a"]).await, Some(0));
}

#[tokio::test]
async fn an_attachment_that_was_deleted_does_not_come_back() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["a", "b"]).await;
    let unwanted = db.attached(mail.document).await[0].id;
    db.store.delete_document(&db.acme, unwanted).await.unwrap();
    // When it was purged no row of it is left.
    let _ = db.raw.run(&format!("DELETE FROM documents WHERE id = '{unwanted}'"));
    db.store.fail(&release, ReasonCode::ProviderRefused, "no").await.unwrap();
    let again = db.store.retry(&db.acme, mail.document, None, false).await.unwrap();
    assert_eq!(db.attach(&Database::release_of(&again), &["a", "b"]).await, Some(0));
    db.store.cancel(&db.acme, mail.document).await.unwrap();
    let again = db.store.retry(&db.acme, mail.document, None, false).await.unwrap();
    let wanted = db.store.wanted_attachments(&Database::release_of(&again), 2).await.unwrap();
    assert_eq!(wanted, Some(vec![2]), "what went with the version comes with it");
    assert_eq!(db.attach(&Database::release_of(&again), &["a", "b"]).await, Some(1));
    let names: Vec<_> = db.attached(mail.document).await.iter().map(|d| d.filename.clone()).collect();
    assert_eq!(names, ["b"]);
}

#[tokio::test]
async fn what_is_attached_while_its_message_is_deleted_goes_as_well() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["inner mail"]).await;
    let inner = db.attached(mail.document).await[0].id;
    let release = db.released(inner).await;
    // What is attached to the inner mail is added when the deletion waits for a lock.
    let _ = db.raw.run(
        "CREATE FUNCTION await_deletion() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             FOR n IN 1..3000 LOOP
                 PERFORM pg_stat_clear_snapshot();
                 EXIT WHEN EXISTS (SELECT FROM pg_stat_activity
                                   WHERE datname = current_database() AND wait_event_type = 'Lock');
                 PERFORM pg_sleep(0.01);
             END LOOP;
             RETURN NEW; END $$;
         CREATE TRIGGER await_deletion BEFORE INSERT ON documents FOR EACH ROW WHEN (NEW.depth = 2)
             EXECUTE FUNCTION await_deletion()",
    );
    let sleeps = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let (attached, deleted) = tokio::join!(db.attach(&release, &["deep"]), async {
        while db.value(sleeps) == "0" {
            tokio::task::yield_now().await;
        }
        db.store.delete_document(&db.acme, mail.document).await.unwrap()
    });
    assert_eq!((attached, deleted), (Some(1), true));
    assert_eq!(db.value("SELECT count(*) FROM documents WHERE deleted_at IS NULL"), "0");
}

#[tokio::test]
async fn attachments_are_bounded_in_number_and_depth() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    let names: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(db.attach(&release, &names).await, Some(500));
    db.store.delete_document(&db.acme, mail.document).await.unwrap();
    let (_, mut release) = db.mail("another mail").await;
    for depth in 1..=3 {
        assert_eq!(db.attach(&release, &["one"]).await, Some(1), "{depth}");
        let inner = db.attached(release.document).await[0].id;
        release = db.released(inner).await;
    }
    assert_eq!(db.store.wanted_attachments(&release, 9).await.unwrap(), Some(Vec::new()));
    assert_eq!(db.attach(&release, &["too deep"]).await, Some(0));
}

#[tokio::test]
async fn attachments_of_several_messages_at_once_are_counted_together_whatever_became_of_them() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["one mail", "another"]).await;
    let inner = db.attached(mail.document).await;
    let (one, another) = (db.released(inner[0].id).await, db.released(inner[1].id).await);
    let names: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (first, second) = tokio::join!(db.attach(&one, &names), db.attach(&another, &names));
    assert_eq!(first.unwrap() + second.unwrap(), 498);
    // A new attachment has no room after one was deleted by itself and purged, nor when its message runs again.
    let gone = db.attached(inner[0].id).await[0].id;
    db.store.delete_document(&db.acme, gone).await.unwrap();
    let _ = db.raw.run(&format!("DELETE FROM documents WHERE id = '{gone}'"));
    assert_eq!(db.attach(&release, &["one mail", "another", "new"]).await, Some(0));
    // What goes with a version makes room for what the next one brings.
    let next = Accept { target: Target::NewVersionOf(mail.document), ..upload(&db.acme, "second") };
    let next = db.store.accept(&next).await.unwrap();
    assert_eq!(db.attach(&Database::release_of(&next), &names).await, Some(300));
}

impl Database {
    /// The names of the files that a search for `heron` finds, by words and by vectors.
    async fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (mode, vector) in [(Mode::Keyword, None), (Mode::Vector, Some(axis(0).to_vec()))] {
            let request = SearchRequest { mode, vector, ..SearchRequest::new(self.acme.clone(), "heron") };
            for narrowed in [None, Some("mails".to_owned())] {
                let request = SearchRequest { collection: narrowed, ..request.clone() };
                let hits = self.store.search(&request).await.unwrap();
                let mut names: Vec<String> = hits.into_iter().map(|hit| hit.filename).collect();
                names.sort();
                found.push(names);
            }
        }
        assert!(found.iter().all(|names| *names == found[0]), "{found:?}");
        found.swap_remove(0)
    }

    /// Takes the attachments of a version of a document to ready.
    async fn finish_attachments(&self, parent: DocumentId, version: u32) {
        for attachment in self.attached(parent).await {
            if attachment.parent.unwrap().version == version {
                let release = self.released(attachment.id).await;
                self.finish_release(&release, "en", &["heron"]).await;
            }
        }
    }

    async fn next_version(&self, mail: DocumentId, text: &str) -> (Accepted, Release) {
        let next = Accept { target: Target::NewVersionOf(mail), ..upload(&self.acme, text) };
        let next = self.store.accept(&next).await.unwrap();
        let release = Database::release_of(&next);
        (next, release)
    }
}

#[tokio::test]
async fn attachments_of_a_version_are_found_from_when_it_is_live_and_not_beside_another() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["old"]).await;
    db.finish_attachments(mail.document, 1).await;
    assert_eq!(db.found().await, ["old"], "no other version is live");
    db.finish(&mail, "en", &["heron"]).await;
    assert_eq!(db.found().await, ["note.txt", "old"]);
    let (failing, release) = db.next_version(mail.document, "second").await;
    db.attach(&release, &["failed"]).await;
    db.finish_attachments(mail.document, 2).await;
    assert_eq!(db.found().await, ["note.txt", "old"], "the second version is not live yet");
    db.store.fail(&Database::release_of(&failing), ReasonCode::Corrupt, "no").await.unwrap();
    assert_eq!(db.found().await, ["note.txt", "old"], "and never will be");
    let (newest, release) = db.next_version(mail.document, "third").await;
    db.attach(&release, &["new", "new mail"]).await;
    db.finish_attachments(mail.document, 3).await;
    let inner = db.attached(mail.document).await.iter().find(|d| d.filename == "new mail").unwrap().id;
    let again =
        Accept { target: Target::NewVersionOf(inner), filename: "new mail".into(), ..upload(&db.acme, "x") };
    let again = db.store.accept(&again).await.unwrap();
    db.attach(&Database::release_of(&again), &["deep"]).await;
    db.finish_attachments(inner, 2).await;
    assert_eq!(db.found().await, ["note.txt", "old"]);
    db.finish(&newest, "en", &["heron"]).await;
    assert_eq!(db.found().await, ["new", "new mail", "note.txt"], "all change at once");
    db.finish(&again, "en", &["heron"]).await;
    assert_eq!(db.found().await, ["deep", "new", "new mail", "note.txt"]);
}

#[tokio::test]
async fn attachments_of_a_version_that_a_presigned_upload_follows_go() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["old"]).await;
    let body = Body::Awaited { expires_at: Utc::now() + TimeDelta::hours(1) };
    let next = Accept { target: Target::NewVersionOf(mail.document), body, ..upload(&db.acme, "second") };
    db.store.accept(&next).await.unwrap();
    assert_eq!(db.attached(mail.document).await.len(), 1, "the bytes may never come");
    db.store.complete_upload(&db.acme, mail.document, (6, sha256("second")), "", false).await.unwrap();
    assert!(db.attached(mail.document).await.is_empty());
}

#[tokio::test]
async fn an_attachment_that_goes_in_the_batch_in_which_it_was_ready_spoils_nothing() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["old"]).await;
    db.finish(&mail, "en", &["heron"]).await;
    let old = db.released(db.attached(mail.document).await[0].id).await;
    let (_, new) = db.next_version(mail.document, "second").await;
    let mut items = Vec::new();
    for release in [&old, &new] {
        let run = RunId::new();
        db.store.seal(release, &seal(run, 1)).await.unwrap();
        items.push(batch(release, run, db.space, "en", &[(0, "heron", axis(0))]));
    }
    let answers = db.store.index(&items).await.unwrap();
    assert_eq!(answers, [IndexAnswer::Superseded, IndexAnswer::Written { ready: true }]);
    assert_eq!(db.found().await, ["note.txt"]);
}

#[tokio::test]
async fn a_hit_in_an_attachment_names_what_it_is_attached_to() {
    let db = database().await;
    let (mail, release) = db.mail("mail").await;
    db.attach(&release, &["levels.csv"]).await;
    db.finish(&mail, "en", &["see the heron table"]).await;
    let attachment = db.attached(mail.document).await[0].id;
    let release = db.released(attachment).await;
    db.finish_release(&release, "en", &["heron levels"]).await;
    let words = SearchRequest { mode: Mode::Keyword, ..SearchRequest::new(db.acme.clone(), "heron levels") };
    let hits = db.store.search(&words).await.unwrap();
    let parent =
        |document: DocumentId| hits.iter().find(|hit| hit.document == document).unwrap().parent.clone();
    assert_eq!(parent(attachment), Some((mail.document, "note.txt".into())));
    assert_eq!(parent(mail.document), None);
}
