//! Documents that are deleted, in every way there is, and what goes with them: each has its line, and one more when nothing is
//! left of it.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::{
    five::{Five, client_span},
    support::story,
};

/// A message with a file.
fn mail(subject: &str, file: Option<&str>) -> String {
    let part = |name: &str| {
        let head = "--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment;";
        format!("{head} filename={name}\r\n\r\nThe text of {name}.\r\n")
    };
    let text = format!("--b\r\nContent-Type: text/plain\r\n\r\nThe message {subject}.\r\n");
    let head = format!("From: a@b\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n");
    let parts = file.map(part).unwrap_or_default();
    format!("{head}Content-Type: multipart/mixed; boundary=b\r\n\r\n{text}{parts}--b--\r\n")
}

/// Uploads a message with a file, or as the next version without one, and answers its id.
async fn upload_mail(five: &Five, name: &str, file: Option<&str>) -> String {
    let (_, _, header) = client_span(0xc2, true);
    five.upload(&format!("{name}.eml&external_id={name}"), &header, mail(name, file)).await
}

/// Uploads a file through OpenAI's API.
async fn file(five: &Five, name: &str) -> String {
    let part = Part::bytes(format!("The text of {name}.").into_bytes()).file_name(name.to_owned());
    let form = Form::new().text("purpose", "assistants").part("file", part);
    let made = five.call(five.client.post(format!("{}/v1/files", five.url)).multipart(form)).await;
    made["id"].as_str().unwrap().to_owned()
}

async fn vector_store(five: &Five) -> String {
    five.send("/v1/vector_stores", &json!({})).await["id"].as_str().unwrap().to_owned()
}

/// The document that a file is in a vector store.
async fn member(five: &Five, store: &str, file: &str) -> String {
    let page: Value = five.get(&format!("/api/v1/documents?external_id={store}/{file}")).await;
    page["documents"][0]["id"].as_str().unwrap_or_else(|| panic!("{page}")).to_owned()
}

/// A new file in a vector store: the file, and its document there once that is ready.
async fn attached(five: &Five, store: &str, name: &str) -> (String, String) {
    let file = file(five, name).await;
    five.send(&format!("/v1/vector_stores/{store}/files"), &json!({ "file_id": file })).await;
    let document = member(five, store, &file).await;
    five.is(&document, "ready").await;
    (file, document)
}

#[tokio::test]
async fn every_document_that_is_deleted_has_its_line_whatever_it_goes_with() {
    // Signs the addresses of uploads.
    let secret = "ab".repeat(32);
    let mut five = Five::start(&[("RIACHO__OBJECTS__SIGNING_SECRET", &secret)]).await;
    // Each document with who deletes it and why.
    let mut expected: Vec<(String, &str, &str)> = Vec::new();

    // A message takes what is attached to it along.
    let outer = upload_mail(&five, "outer", Some("outer-note.txt")).await;
    let note = five.document("outer-note.txt").await;
    five.is(&outer, "ready").await;
    five.is(&note, "ready").await;
    five.delete(&format!("/api/v1/documents/{outer}")).await;
    expected.push((outer, "ingest-gateway", "asked"));
    expected.push((note, "ingest-gateway", "attached"));

    // The next version does, once it is live.
    let next = upload_mail(&five, "next", Some("next-note.txt")).await;
    let note = five.document("next-note.txt").await;
    five.is(&next, "ready").await;
    five.is(&note, "ready").await;
    assert_eq!(upload_mail(&five, "next", None).await, next);
    five.says(&note, "deleted").await;
    expected.push((note, "indexer", "attached"));

    // Files: out of a vector store, out of all of them, with their vector store, and past their time.
    let store = vector_store(&five).await;
    let (detached, document) = attached(&five, &store, "detached.txt").await;
    five.delete(&format!("/v1/vector_stores/{store}/files/{detached}")).await;
    expected.push((document, "ingest-gateway", "asked"));
    let (deleted, document) = attached(&five, &store, "deleted.txt").await;
    five.delete(&format!("/v1/files/{deleted}")).await;
    expected.push((document, "ingest-gateway", "file"));
    let (expired, document) = attached(&five, &store, "expired.txt").await;
    let id = expired.strip_prefix("file-").unwrap();
    let _ = five.cluster.database.run(&format!("UPDATE files SET expires_at = now() WHERE id = '{id}'"));
    five.run_task("expire-documents").await;
    five.says(&document, "deleted").await;
    expected.push((document, "janitor", "file"));
    for name in ["one.txt", "two.txt"] {
        expected.push((attached(&five, &store, name).await.1, "ingest-gateway", "collection"));
    }
    five.delete(&format!("/v1/vector_stores/{store}")).await;
    let old = vector_store(&five).await;
    let (_, document) = attached(&five, &old, "old.txt").await;
    let id = old.strip_prefix("vs_").unwrap();
    let age = "expires_after_days = 1, last_active_at = now() - interval '1 day'";
    let _ = five.cluster.database.run(&format!("UPDATE collections SET {age} WHERE id = '{id}'"));
    five.run_task("expire-documents").await;
    expected.push((document, "janitor", "collection"));

    // An upload that never came.
    let asked = json!({ "filename": "never.txt" });
    let asked = five.send("/api/v1/documents/upload/presigned", &asked).await;
    let never = asked["id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
    let late = "upload_expires_at = now() - interval '2 days'";
    let _ = five
        .cluster
        .database
        .run(&format!("UPDATE document_versions SET {late} WHERE document_id = '{never}'"));
    five.run_task("expire-uploads").await;
    five.says(&never, "expired").await;
    five.run_task("housekeep").await;
    expected.push((never, "janitor", "upload"));

    // A message that is cancelled before it is ready, and a batch of files.
    assert!(five.processes[2].stop().await.unwrap().success());
    let mail = upload_mail(&five, "cancelled", Some("cancelled-note.txt")).await;
    let note = five.document("cancelled-note.txt").await;
    five.send(&format!("/api/v1/documents/{mail}/cancel"), &json!({})).await;
    expected.push((note, "ingest-gateway", "attached"));
    let (store, in_batch) = (vector_store(&five).await, file(&five, "batch.txt").await);
    let path = format!("/v1/vector_stores/{store}/file_batches");
    let batch = five.send(&path, &json!({ "file_ids": [in_batch] })).await;
    five.send(&format!("{path}/{}/cancel", batch["id"].as_str().unwrap()), &json!({})).await;
    let in_batch = member(&five, &store, &in_batch).await;
    for cancelled in [&mail, &in_batch] {
        five.says(cancelled, "cancelled").await;
    }

    for (document, _, _) in &expected {
        five.says(document, "deleted").await;
    }
    five.purge().await;
    for (document, _, _) in &expected {
        five.says(document, "purged").await;
    }
    let logs = five.stop().await;
    for (document, service, reason) in expected {
        let story = story::of(&logs, &document);
        let ends: Vec<_> = story.iter().filter(|line| matches!(&*line.step, "deleted" | "purged")).collect();
        let [deleted, purged] = ends[..] else { panic!("{service} {reason}: {story:#?}") };
        assert_eq!((deleted.step.as_str(), purged.step.as_str()), ("deleted", "purged"), "{story:#?}");
        assert_eq!(
            (deleted.service.as_str(), deleted.fields["reason"].as_str()),
            (service, reason),
            "{story:#?}"
        );
        assert_eq!((deleted.fields["tenant"].as_str(), purged.service.as_str()), ("default", "janitor"));
        let is_asked_for =
            deleted.fields.contains_key("request_id") && deleted.fields.contains_key("trace_id");
        assert_eq!(is_asked_for, service == "ingest-gateway", "it names the request that asked: {story:#?}");
    }
}
