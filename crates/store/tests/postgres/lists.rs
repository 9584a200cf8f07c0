//! Lists of documents: what they are read by where there are many.

use riacho_domain::{DocumentId, State};
use riacho_store::{ListDocuments, Window};
use uuid::Uuid;

use crate::database::{Database, database};

/// Documents of one tenant, most of them ready, a few failed, and another tenant whose documents have all failed.
fn fill(db: &Database) {
    let _ = db.raw.run(
        "INSERT INTO collections (tenant_id, id, name)
         SELECT t, md5(t || n)::uuid, t || n FROM unnest(ARRAY['acme', 'other']) AS t, generate_series(0, 9) AS n;
         INSERT INTO documents (tenant_id, id, collection_id, external_id, latest_version, live_version, live_run, created_at)
         SELECT t, md5(t || 'd' || d)::uuid, md5(t || d % 10)::uuid, 'x' || d, 1, 1, md5('run')::uuid, now() - d / 100 * interval '1 s'
         FROM unnest(ARRAY['acme', 'other']) AS t, generate_series(1, 30000) AS d;
         INSERT INTO document_versions (tenant_id, document_id, version, state, lane, object_key, filename, chunking, fingerprint, error_code)
         SELECT tenant_id, id, 1, CASE WHEN tenant_id = 'other' OR external_id LIKE '%77' THEN 'failed' ELSE 'ready' END, 'bulk', 'o',
                'f', '{\"max_tokens\": 384, \"overlap_tokens\": 0, \"tokenizer\": \"o200k_base\"}', sha256(''), CASE WHEN tenant_id = 'other' OR external_id LIKE '%77' THEN 'empty' END
         FROM documents",
    );
}

#[tokio::test]
async fn a_list_of_many_documents_goes_by_an_index_for_what_is_asked() {
    let db = database().await;
    fill(&db);
    let page = ListDocuments { limit: 51, ..ListDocuments::default() };
    let second = db.store.documents(&db.acme, &page).await.unwrap().next_cursor;
    let state = |state| ListDocuments { state: Some(state), ..page.clone() };
    let oldest: Uuid =
        db.raw.run("SELECT md5('acmeoldest')::uuid")[0][0].as_deref().unwrap().parse().unwrap();
    let _ = db.raw.run(
        "INSERT INTO collections (tenant_id, id, name) VALUES ('acme', md5('acmeoldest')::uuid, 'oldest');
         UPDATE documents SET collection_id = md5('acmeoldest')::uuid
         WHERE tenant_id = 'acme' AND created_at < now() - interval '250 s'",
    );
    let asked = [
        (ListDocuments { collection: Some(oldest), ..page.clone() }, "documents_of_collection"),
        (page.clone(), "documents_by_time"),
        (ListDocuments { cursor: second, ..page.clone() }, "documents_by_time"),
        (state(State::Ready), "documents_by_time"),
        (state(State::Failed), "document_versions_ended"),
        (state(State::Cancelled), "document_versions_ended"),
        (state(State::Waiting), "document_versions_waiting"),
        (state(State::Embedding), "document_versions_in_flight"),
        (state(State::AwaitingUpload), "document_versions_uploads"),
        (ListDocuments { external_id: Some("x7".to_owned()), ..page.clone() }, "documents_external_id"),
        (ListDocuments { parent: Some(DocumentId(Uuid::nil())), ..page.clone() }, "documents_attachments"),
    ];
    let _ = db.raw.run("ANALYZE");
    for (list, index) in asked {
        let scans = db.store.document_scans(&db.acme, &list).await.unwrap();
        // What is joined to a page is looked up by its key.
        let is_key = |scan: &&str| scan.ends_with("_pkey") || scan.starts_with("collections_");
        let by: Vec<&str> = scans.iter().map(String::as_str).filter(|scan| !is_key(scan)).collect();
        assert_eq!(by, [index], "{list:?}: {scans:?}");
    }
}

#[tokio::test]
async fn a_list_of_a_vector_stores_files_goes_by_an_index_for_what_is_asked() {
    let db = database().await;
    fill(&db);
    let collection: Uuid = db.raw.run("SELECT md5('acme7')::uuid")[0][0].as_deref().unwrap().parse().unwrap();
    let window = Window { ascending: false, after: None, before: None, limit: 100 };
    let (mut seen, mut times, mut after) = (std::collections::HashSet::new(), Vec::new(), None);
    let mut middle = None;
    loop {
        let asked = Window { after, ..window };
        let part = db.store.members(&db.acme, collection, None, &asked).await.unwrap();
        seen.extend(part.items.iter().map(|one| one.document));
        times.extend(part.items.iter().map(|one| one.created_at));
        let last = part.items.last().unwrap();
        after = Some(last.id);
        middle.get_or_insert((last.created_at, last.id));
        if !part.has_more {
            break;
        }
    }
    assert_eq!((seen.len(), times.len()), (3_000, 3_000));
    assert!(times.is_sorted_by(|one, next| one >= next));
    let _ = db.raw.run("ANALYZE");
    for (states, after, index) in [
        (None, None, "documents_of_collection"),
        (None, middle, "documents_of_collection"),
        (Some(&[State::Ready][..]), None, "documents_of_collection"),
        (Some(&[State::Cancelled]), None, "document_versions_ended"),
    ] {
        let scans = db.store.member_scans(&db.acme, collection, states, after).await.unwrap();
        let by: Vec<&str> =
            scans.iter().map(String::as_str).filter(|scan| !scan.ends_with("_pkey")).collect();
        assert_eq!(by, [index], "{states:?} {after:?}: {scans:?}");
    }
}

#[tokio::test]
async fn pages_of_a_list_have_each_document_once_whatever_is_asked() {
    let db = database().await;
    fill(&db);
    let collection: Uuid = db.raw.run("SELECT md5('acme7')::uuid")[0][0].as_deref().unwrap().parse().unwrap();
    for (list, count) in [
        (ListDocuments { state: Some(State::Failed), ..ListDocuments::default() }, 300),
        (ListDocuments { collection: Some(collection), ..ListDocuments::default() }, 3_000),
        (
            ListDocuments {
                collection: Some(collection),
                state: Some(State::Ready),
                ..ListDocuments::default()
            },
            3_000 - 300,
        ),
        (ListDocuments { external_id: Some("x12".to_owned()), ..ListDocuments::default() }, 1),
    ] {
        let (mut seen, mut times, mut cursor) = (std::collections::HashSet::new(), Vec::new(), None);
        loop {
            let asked = ListDocuments { limit: 50, cursor, ..list.clone() };
            let page = db.store.documents(&db.acme, &asked).await.unwrap();
            seen.extend(page.items.iter().map(|one| one.id));
            times.extend(page.items.iter().map(|one| one.created_at));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen.len(), times.len()), (count, count), "{list:?}");
        assert!(times.is_sorted_by(|one, next| one >= next), "{list:?}");
    }
}
