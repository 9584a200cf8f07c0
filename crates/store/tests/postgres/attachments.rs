//! What is attached to a document comes with it and goes with it.

use riacho_domain::{DocumentId, State};
use riacho_store::{
    Accept, Accepted, Attachment, Document, ListDocuments, Mode, Release, ReleaseCaps, SearchRequest, Target,
};

use crate::database::{Database, database, sha256, upload};

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
    // Whatever was purged meanwhile, a repetition adds nothing.
    let _ = db.raw.run(&format!("DELETE FROM documents WHERE id = '{first}'"));
    assert_eq!(db.attach(&Database::release_of(&again), &["a"]).await, Some(0));
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
    assert_eq!(db.attach(&release, &["too deep"]).await, Some(0));
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
