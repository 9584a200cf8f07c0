//! The facade for OpenAI's API, where its SDK does not look: heads, shapes, and what was refused by whom. That SDK itself runs
//! against the whole deployment in services/riacho/tests/openai.rs.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, multipart};
use riacho_ingest_gateway::Config;
use riacho_store::{Limits, OwnLimits, Quota};
use riacho_testkit::eventually;
use serde_json::{Value, json};

use crate::fixture::{Change, Gateway, json};

/// Sends a request and expects an error as OpenAI's clients read it.
async fn refused(
    request: RequestBuilder,
    status: u16,
    kind: &str,
    code: &str,
) -> (Value, reqwest::header::HeaderMap) {
    let response = request.send().await.unwrap();
    let (actual, headers) = (response.status().as_u16(), response.headers().clone());
    let body: Value = response.json().await.unwrap();
    assert_eq!(actual, status, "{body}");
    assert_eq!(headers["content-type"], "application/json");
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(["message", "type", "param", "code"].iter().all(|key| error.contains_key(*key)), "{keys:?}");
    assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(code)), "{body}");
    assert!(!headers["x-request-id"].is_empty());
    (body["error"].clone(), headers)
}

fn form(name: &str, content: &str) -> multipart::Form {
    Gateway::form(name, content.as_bytes()).text("purpose", "assistants")
}

async fn file(gateway: &Gateway, name: &str, content: &str) -> Value {
    json(gateway.post("/v1/files").multipart(form(name, content)), 200).await
}

async fn store(gateway: &Gateway) -> String {
    let made = json(gateway.post("/v1/vector_stores").json(&json!({"name": "manuals"})), 200).await;
    made["id"].as_str().unwrap().to_owned()
}

/// Attaches a file, and answers the document that it became.
async fn attach(gateway: &Gateway, store: &str, file: &Value) -> String {
    let body = json!({"file_id": file["id"]});
    json(gateway.post(&format!("/v1/vector_stores/{store}/files")).json(&body), 200).await;
    let external_id = format!("{store}/{}", file["id"].as_str().unwrap());
    let listed = json(gateway.get(&format!("/api/v1/documents?external_id={external_id}")), 200).await;
    listed["documents"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn errors_are_openais_whoever_refuses() {
    let gateway = Gateway::start().await;
    let invalid = "invalid_request_error";
    refused(gateway.get("/v1/chat/completions"), 404, invalid, "not_found").await;
    refused(gateway.get("/v1"), 404, invalid, "not_found").await;
    refused(gateway.request(Method::PATCH, "/v1/files"), 405, invalid, "method_not_allowed").await;
    let (_, headers) =
        refused(gateway.anonymous(Method::GET, "/v1/files"), 401, invalid, "invalid_api_key").await;
    assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let text = gateway.post("/v1/vector_stores").header("content-type", "text/plain").body("x");
    refused(text, 415, invalid, "unsupported_media_type").await;
    let broken = gateway.post("/v1/vector_stores").header("content-type", "application/json").body("{");
    refused(broken, 400, invalid, "bad_request").await;
    let unknown = gateway.post("/v1/vector_stores").json(&json!({"colour": "red"}));
    let (error, _) = refused(unknown, 400, invalid, "invalid_field").await;
    assert_eq!(error["param"], "colour");
    refused(gateway.get("/v1/files/file-%ff"), 404, invalid, "not_found").await;
    // Elsewhere they stay what they are.
    let problem = gateway.get("/v2/files").send().await.unwrap();
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_file_over_the_limit_and_a_form_that_is_none_are_refused_and_leave_nothing() {
    let gateway = Gateway::with_config(Config { max_upload_bytes: 100, ..Config::default() }).await;
    let upload = |form| gateway.post("/v1/files").multipart(form);
    let invalid = "invalid_request_error";
    refused(upload(form("large.txt", &"x".repeat(101))), 413, invalid, "too_large").await;
    let twice = form("a.txt", "a").part("file", multipart::Part::bytes(b"b".to_vec()).file_name("b.txt"));
    let long = Gateway::form("a.txt", "a").text("purpose", "p".repeat(2_000));
    let unknown = form("a.txt", "a").text("colour", "red");
    let missing = multipart::Form::new().text("purpose", "assistants");
    for (form, param) in [(twice, "file"), (long, "purpose"), (unknown, "colour"), (missing, "file")] {
        let (error, _) = refused(upload(form), 400, invalid, "invalid_field").await;
        assert_eq!(error["param"], param, "{error}");
    }
    refused(gateway.post("/v1/files").json(&json!({})), 400, invalid, "bad_request").await;
    assert_eq!(gateway.deployment.sql("SELECT FROM files").len(), 0);
    eventually(|| async {
        let left: Vec<_> =
            futures::TryStreamExt::try_collect(gateway.objects.list_all()).await.unwrap_or_default();
        if left.is_empty() { Ok(()) } else { Err(format!("{} objects", left.len())) }
    })
    .await;
}

#[tokio::test]
async fn a_file_is_answered_whole_and_sent_so_that_no_browser_runs_it() {
    let gateway = Gateway::start().await;
    let made = file(&gateway, "a page.html", "<script>alert(1)</script>").await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(id.len(), "file-".len() + 32);
    let expected = json!({
        "id": id, "object": "file", "bytes": 25, "created_at": made["created_at"], "expires_at": null,
        "filename": "a page.html", "purpose": "assistants", "status": "processed", "status_details": null,
    });
    assert_eq!(made, expected);
    let listed = json(gateway.get("/v1/files"), 200).await;
    let page =
        json!({"object": "list", "data": [expected], "first_id": id, "last_id": id, "has_more": false});
    assert_eq!(listed, page);
    let content = gateway.get(&format!("/v1/files/{id}/content")).send().await.unwrap();
    let head = |name: &str| content.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((head("content-type"), head("content-length")), ("text/html".into(), "25".into()));
    assert!(
        head("content-disposition").starts_with("attachment")
            && head("content-security-policy").contains("sandbox")
    );
    let empty = json(gateway.get("/v1/files?purpose=vision"), 200).await;
    let none = json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false});
    assert_eq!(empty, none);
}

#[tokio::test]
async fn a_file_on_its_way_says_when_to_ask_again_and_one_that_is_ready_does_not() {
    let gateway = Gateway::start().await;
    let (store, file) = (store(&gateway).await, file(&gateway, "a.txt", "The lock opens at six.").await);
    let document = attach(&gateway, &store, &file).await;
    let path = format!("/v1/vector_stores/{store}/files/{}", file["id"].as_str().unwrap());
    let response = gateway.get(&path).send().await.unwrap();
    let wait: u64 = response.headers()["openai-poll-after-ms"].to_str().unwrap().parse().unwrap();
    assert!((1..=3_000).contains(&wait), "{wait}");
    assert_eq!(response.json::<Value>().await.unwrap()["status"], "in_progress");
    let invalid = "invalid_request_error";
    refused(gateway.get(&format!("{path}/content")), 400, invalid, "bad_request").await;

    gateway.publish(&document, "The lock opens at six.").await;
    let response = gateway.get(&path).send().await.unwrap();
    assert!(!response.headers().contains_key("openai-poll-after-ms"));
    let body: Value = response.json().await.unwrap();
    let expected = json!({
        "id": file["id"], "object": "vector_store.file", "created_at": body["created_at"], "vector_store_id": store,
        "status": "completed", "last_error": null, "usage_bytes": 22, "attributes": {},
        "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 384, "chunk_overlap_tokens": 0}},
    });
    assert_eq!(body, expected);
    let content = json(gateway.get(&format!("{path}/content")), 200).await;
    let page = json!({
        "object": "vector_store.file_content.page", "data": [{"type": "text", "text": "The lock opens at six."}],
        "has_more": false, "next_page": null,
    });
    assert_eq!(content, page);
    let search = gateway.post(&format!("/v1/vector_stores/{store}/search")).json(&json!({"query": "lock"}));
    let response = search.send().await.unwrap();
    assert_eq!(response.headers()["riacho-search-mode"], "hybrid");
    let found: Value = response.json().await.unwrap();
    let score = found["data"][0]["score"].as_f64().unwrap();
    let page = json!({
        "object": "vector_store.search_results.page", "search_query": ["lock"], "has_more": false, "next_page": null,
        "data": [{"file_id": file["id"], "filename": "a.txt", "score": score, "attributes": {},
                  "content": [{"type": "text", "text": "The lock opens at six."}]}],
    });
    assert_eq!(found, page);
}

#[tokio::test]
async fn a_document_that_was_uploaded_otherwise_is_a_file_of_its_collection() {
    let gateway = Gateway::start().await;
    let upload =
        Gateway::form("handbook.txt", "The gauge.").text("metadata", r#"{"year": 2024, "tags": ["a"]}"#);
    let document = gateway.upload(upload).await["id"].as_str().unwrap().to_owned();
    gateway.publish(&document, "The gauge.").await;
    let stores = json(gateway.get("/v1/vector_stores"), 200).await;
    let store = stores["data"][0]["id"].as_str().unwrap();
    assert_eq!(
        (&stores["data"][0]["name"], &stores["data"][0]["file_counts"]["completed"]),
        (&json!("default"), &json!(1))
    );
    let id = format!("file-{}", document.replace('-', ""));
    let listed = json(gateway.get(&format!("/v1/vector_stores/{store}/files")), 200).await;
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["attributes"]),
        (&json!(id), &json!({"year": 2024}))
    );
    let search = gateway.post(&format!("/v1/vector_stores/{store}/search")).json(&json!({"query": "gauge"}));
    assert_eq!(json(search, 200).await["data"][0]["file_id"], json!(id));
    let file = json(gateway.get(&format!("/v1/files/{id}")), 200).await;
    assert_eq!((&file["filename"], &file["bytes"]), (&json!("handbook.txt"), &json!(10)));
    let content = gateway.get(&format!("/v1/files/{id}/content")).send().await.unwrap();
    assert_eq!(content.text().await.unwrap(), "The gauge.");
    // It is no file that could be attached elsewhere.
    let attach = gateway.post(&format!("/v1/vector_stores/{store}/files")).json(&json!({ "file_id": id }));
    refused(attach, 404, "invalid_request_error", "not_found").await;
    json(gateway.request(Method::DELETE, &format!("/v1/files/{id}")), 200).await;
    assert_eq!(json(gateway.get("/api/v1/documents"), 200).await["documents"], json!([]));
}

#[tokio::test]
async fn a_vector_store_that_expired_says_so_and_takes_nothing() {
    let gateway = Gateway::start().await;
    let file = file(&gateway, "a.txt", "text").await;
    let body = json!({"name": "short", "expires_after": {"anchor": "last_active_at", "days": 1}});
    let store =
        json(gateway.post("/v1/vector_stores").json(&body), 200).await["id"].as_str().unwrap().to_owned();
    gateway.deployment.sql("UPDATE collections SET last_active_at = now() - interval '25 hours'");
    let path = format!("/v1/vector_stores/{store}");
    assert_eq!(json(gateway.get(&path), 200).await["status"], "expired");
    let attach = json!({"file_id": file["id"]});
    for (tail, body) in
        [("/files", &attach), ("/search", &json!({"query": "x"})), ("", &json!({"name": "long"}))]
    {
        let (error, _) = refused(
            gateway.post(&format!("{path}{tail}")).json(body),
            400,
            "invalid_request_error",
            "bad_request",
        )
        .await;
        assert!(error["message"].as_str().unwrap().contains("expired"), "{error}");
    }
}

#[tokio::test]
async fn uploads_count_against_the_rate_of_uploads() {
    let limits = Limits { uploads_per_minute: 1, upload_burst: 1, ..Limits::default() };
    let gateway = Gateway::with(Change { limits, ..Change::default() }).await;
    file(&gateway, "a.txt", "text").await;
    let again = gateway.post("/v1/files").multipart(form("b.txt", "text"));
    let (_, headers) = refused(again, 429, "requests", "rate_limit_exceeded").await;
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert!(!headers.contains_key("x-should-retry"), "it may be sent again later");
}

#[tokio::test]
async fn a_batch_counts_as_many_requests_as_it_has_files_and_a_search_as_it_has_queries() {
    let gateway = Gateway::start().await;
    let store = store(&gateway).await;
    let mut ids = Vec::new();
    for name in ["a.txt", "b.txt", "c.txt"] {
        ids.push(file(&gateway, name, name).await["id"].as_str().unwrap().to_owned());
    }
    let absent = file(&gateway, "d.txt", "d").await["id"].as_str().unwrap().to_owned();
    gateway.request(Method::DELETE, &format!("/v1/files/{absent}")).send().await.unwrap();
    let slow = OwnLimits { requests_per_minute: Some(1), request_burst: Some(12), ..OwnLimits::default() };
    gateway.deployment.janitor.set_tenant_limits(&gateway.deployment.tenant, &slow).await.unwrap();
    let search = format!("/v1/vector_stores/{store}/search");
    // How many parts are left, and in how many seconds there is one more.
    let left = async |path: &str, body: Value| -> Option<(u32, u32)> {
        let response = gateway.post(path).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let limits = response.headers().get("ratelimit")?.to_str().unwrap().to_owned();
        let parts = limits.split(", ").find_map(|limit| limit.strip_prefix("\"parts\";r="))?;
        let (left, more) = parts.split_once(";t=").unwrap();
        Some((left.parse().unwrap(), more.parse().unwrap()))
    };
    let two = json!({"query": ["text", "other"]});
    // The gateway remembers limits with the key for a while.
    let (first, _) = eventually(|| left(&search, two.clone())).await;
    // A minute may pass while the test runs, and brings a token.
    let is_about = |left: u32, expected: u32| (expected..=expected + 2).contains(&left);
    assert!(is_about(left(&search, two).await.unwrap().0, first - 2));
    let batches = format!("/v1/vector_stores/{store}/file_batches");
    let wrong = json!({"file_ids": [ids[0], absent]});
    assert_eq!(gateway.post(&batches).json(&wrong).send().await.unwrap().status(), 404);
    assert!(
        is_about(left(&batches, json!({"file_ids": ids})).await.unwrap().0, first - 5),
        "nothing for the refused one"
    );
    // What is not there is owed: this is let in with what is left, and nothing more until it is made up for.
    let many: Vec<String> = (0..10).map(|n| format!("text {n}")).collect();
    let (none, more) = left(&search, json!({"query": many})).await.unwrap();
    assert!(none == 0 && more > 60, "{more}");
    refused(
        gateway.post(&search).json(&json!({"query": ["a", "b"]})),
        429,
        "requests",
        "rate_limit_exceeded",
    )
    .await;
    // How the batch does can be asked all the same.
    assert_eq!(gateway.get("/v1/files").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_batch_is_filled_when_its_client_does_not_wait() {
    let gateway = Gateway::start().await;
    let store = store(&gateway).await;
    let mut ids = Vec::new();
    for n in 0..120 {
        let made = file(&gateway, &format!("{n}.txt"), &format!("text {n}")).await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    let path = format!("/v1/vector_stores/{store}/file_batches");
    let sql = "SELECT (SELECT count(*) FROM file_batches), (SELECT count(*) FROM file_batch_documents)";
    let count = || {
        gateway.deployment.sql(sql)[0].iter().map(|n| n.as_deref().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Until one has come so far that there is a batch; mostly the first does.
    while count()[0] == "0" {
        let hasty = gateway.post(&path).json(&json!({"file_ids": ids})).timeout(Duration::from_millis(30));
        let _ = hasty.send().await;
    }
    eventually(|| async {
        let (batches, documents) = (count()[0].parse::<u64>().unwrap(), count()[1].parse::<u64>().unwrap());
        if documents == 120 * batches { Ok(()) } else { Err((batches, documents)) }
    })
    .await;
    let unknown =
        gateway.post(&path).json(&json!({"file_ids": [ids[0], "file-00000000000000000000000000000000"]}));
    let before = count();
    let (error, _) = refused(unknown, 404, "invalid_request_error", "not_found").await;
    assert!(error["message"].as_str().unwrap().contains("file"), "{error}");
    assert_eq!(count(), before, "no batch of which some is missing");
}

#[tokio::test]
async fn a_file_that_is_refused_costs_its_batch_nothing_else() {
    let gateway = Gateway::start().await;
    let store = store(&gateway).await;
    let mut files = Vec::new();
    for name in ["a.txt", "b.txt", "c.txt"] {
        files.push(file(&gateway, name, name).await);
    }
    attach(&gateway, &store, &files[0]).await;
    let ids: Vec<_> = files.iter().map(|file| file["id"].clone()).collect();
    let tenant = gateway.deployment.tenant.clone();
    let over = async |quota| gateway.deployment.janitor.set_over_quota(&tenant, &[quota]).await.unwrap();
    over(Quota::Unfinished).await;
    let path = format!("/v1/vector_stores/{store}/file_batches");
    // The first is there already, and is of no quota; the others are new.
    let made = json(gateway.post(&path).json(&json!({ "file_ids": ids })), 200).await;
    let counts = json!({"in_progress": 1, "completed": 0, "failed": 2, "cancelled": 0, "total": 3});
    assert_eq!((&made["file_counts"], &made["status"]), (&counts, &json!("in_progress")));
    let batch = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(json(gateway.get(&batch), 200).await["file_counts"], counts);
    let listed = async |query: &str| {
        let page = json(gateway.get(&format!("{batch}/files?{query}")), 200).await;
        (page["data"].as_array().unwrap().clone(), page["has_more"].as_bool().unwrap())
    };
    let (failed, _) = listed("filter=failed&order=asc").await;
    let mut refused_ids: Vec<_> = failed.iter().map(|file| file["id"].as_str().unwrap()).collect();
    refused_ids.sort_unstable();
    let mut expected: Vec<_> = ids[1..].iter().map(|id| id.as_str().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(refused_ids, expected);
    for file in &failed {
        assert_eq!(
            (&file["status"], &file["last_error"]["code"]),
            (&json!("failed"), &json!("server_error"))
        );
        assert!(file["last_error"]["message"].as_str().unwrap().starts_with("quota_exceeded: "), "{file}");
    }
    let (first, has_more) = listed("order=asc&limit=1").await;
    assert_eq!((&first[0]["id"], has_more), (&ids[0], true));
    let (rest, has_more) = listed(&format!("order=asc&limit=2&after={}", ids[0].as_str().unwrap())).await;
    assert_eq!((rest, has_more), (failed, false));

    // Where nothing can be attached there is no batch. What is on its way ends, so the same is worth sending again.
    let new = json!({"file_ids": [ids[1], ids[2]]});
    let (_, headers) = refused(gateway.post(&path).json(&new), 429, "requests", "rate_limit_exceeded").await;
    assert!(headers.contains_key("retry-after") && !headers.contains_key("x-should-retry"), "{headers:?}");
    over(Quota::Documents).await;
    let quota = "insufficient_quota";
    let (_, headers) = refused(gateway.post(&path).json(&new), 429, quota, quota).await;
    assert_eq!(headers["x-should-retry"], "false");
}

#[tokio::test]
async fn a_vector_store_that_nobody_was_told_of_goes_with_what_was_attached_to_it() {
    let gateway = Gateway::with_config(Config { request_timeout_ms: 500, ..Config::default() }).await;
    let mut ids = Vec::new();
    for name in ["a.txt", "b.txt", "slow.txt"] {
        ids.push(file(&gateway, name, name).await["id"].clone());
    }
    // The last one takes longer than the request may.
    gateway.deployment.sql(&format!(
        "CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
         CREATE TRIGGER wait_long BEFORE INSERT ON documents FOR EACH ROW
             WHEN (NEW.external_id LIKE '%{}') EXECUTE FUNCTION wait_long()",
        ids[2].as_str().unwrap()
    ));
    let made = |condition: &str| {
        let sql = format!("SELECT FROM collections WHERE title = 'too slow' AND {condition}");
        gateway.deployment.sql(&sql).len()
    };
    let attached = "EXISTS (SELECT FROM documents AS d WHERE d.collection_id = collections.id)";
    // Until one has come so far that something was attached; mostly the first does.
    while made(attached) == 0 {
        let body = json!({"name": "too slow", "file_ids": ids});
        refused(gateway.post("/v1/vector_stores").json(&body), 503, "server_error", "timeout").await;
    }
    eventually(|| async {
        let left = "SELECT FROM documents AS d JOIN collections AS c ON c.id = d.collection_id
                    WHERE c.title = 'too slow' AND d.deleted_at IS NULL";
        match (made("deleted_at IS NULL"), gateway.deployment.sql(left).len()) {
            (0, 0) => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test]
async fn a_text_longer_than_what_is_cut_out_at_once_is_read_whole() {
    let gateway = Gateway::with_config(Config { max_text_slice_bytes: 1_000, ..Config::default() }).await;
    let text = "The \"lock\" opens at six\\seven,\n\tand é closes. ".repeat(2_000);
    let (store, file) = (store(&gateway).await, file(&gateway, "a.txt", &text).await);
    let document = attach(&gateway, &store, &file).await;
    gateway.publish(&document, &text).await;
    let path = format!("/v1/vector_stores/{store}/files/{}/content", file["id"].as_str().unwrap());
    let response = gateway.get(&path).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let page: Value = response.json().await.unwrap();
    assert_eq!(page["data"][0]["text"], text);
}
