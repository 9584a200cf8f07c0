//! What is read of a document: pages of documents, the original, the text, the chunks.

use reqwest::StatusCode;
use riacho_store::{MissingPages, Reason, ReleaseCaps};
use riacho_testkit::eventually;
use serde_json::json;

use crate::fixture::{Gateway, accepted, id, json, problem};

const TEXT: &str = "Calibração do manômetro às 9h 😀\n\nZero the gauge first.\n\nThen read it twice.";

#[tokio::test]
async fn documents_are_listed_in_pages() {
    let gateway = Gateway::start().await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(id(&gateway.upload(Gateway::form("a.txt", format!("text {n}"))).await));
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = json(gateway.get(&format!("/api/v1/documents?limit=2{cursor}")), 200).await;
        seen.extend(page["documents"].as_array().unwrap().iter().map(id));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    sent.reverse();
    assert_eq!(seen, sent, "each once, the newest first");
    let none = json(gateway.get("/api/v1/documents?state=failed"), 200).await;
    assert_eq!(none["documents"], json!([]));
}

#[tokio::test]
async fn who_has_read_what_has_not_changed_is_sent_none_of_it() {
    let gateway = Gateway::start().await;
    let path = format!("/api/v1/documents/{}", id(&gateway.upload(Gateway::form("a.txt", TEXT)).await));
    // From there it goes no further here.
    eventually(|| async {
        let body = json(gateway.get(&path), 200).await;
        if body["state"] == "extracting" { Ok(()) } else { Err(body) }
    })
    .await;
    let first = gateway.get(&path).send().await.unwrap();
    let header = |name: &str| first.headers()[name].to_str().unwrap().to_owned();
    let etag = header("etag");
    assert_eq!(
        (header("cache-control"), header("vary")),
        ("private, no-cache".into(), "authorization, cookie".into())
    );
    let body = first.text().await.unwrap();
    let again = |etag: String| gateway.get(&path).header("if-none-match", etag).send();
    let known = again(format!("\"other\", W/{etag}")).await.unwrap();
    assert_eq!(
        (known.status(), known.headers()["etag"].to_str().unwrap()),
        (StatusCode::NOT_MODIFIED, &*etag)
    );
    assert_eq!(known.text().await.unwrap(), "");
    let other = again("\"other\"".to_owned()).await.unwrap();
    assert_eq!((other.status(), other.text().await.unwrap()), (StatusCode::OK, body));
    let cancelled = gateway.post(&format!("{path}/cancel")).send().await.unwrap();
    assert!(cancelled.status().is_success(), "{}", cancelled.status());
    assert_eq!(again(etag).await.unwrap().status(), StatusCode::OK, "it has changed");
    // Errors are about a moment, and what is secret is not kept.
    let wrong = gateway.get("/api/v1/documents?limit=x").send().await.unwrap();
    assert!(wrong.headers().get("etag").is_none());
}

#[tokio::test]
async fn the_original_is_sent_whole_and_in_ranges() {
    let gateway = Gateway::start().await;
    let form = Gateway::form("a \"b\" é.html", "<script>0123456789");
    let path = format!("/api/v1/documents/{}/content", id(&gateway.upload(form).await));
    let whole = gateway.get(&path).send().await.unwrap();
    assert_eq!(whole.status(), StatusCode::OK);
    let header = |name: &str| whole.headers()[name].to_str().unwrap().to_owned();
    assert!(
        header("content-disposition").starts_with("attachment; filename=\"a _b_ _.html\"; filename*=UTF-8''")
    );
    assert_eq!(
        (header("x-content-type-options"), header("accept-ranges")),
        ("nosniff".into(), "bytes".into())
    );
    assert!(header("content-security-policy").contains("sandbox"));
    let etag = header("etag");
    assert_eq!(whole.text().await.unwrap(), "<script>0123456789");

    let part = gateway.get(&path).header("range", "bytes=8-10").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 8-10/18");
    assert_eq!(part.text().await.unwrap(), "012");
    let beyond = gateway.get(&path).header("range", "bytes=99-").send().await.unwrap();
    assert_eq!(beyond.headers()["content-range"], "bytes */18");
    crate::fixture::is_problem(beyond, 416, "range_not_satisfiable").await;
    let known = gateway.get(&path).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let head = gateway.request(reqwest::Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "18");
}

#[tokio::test]
async fn the_original_is_that_of_the_live_version_unless_another_is_asked_for() {
    let gateway = Gateway::start().await;
    let id =
        id(&gateway.upload(Gateway::form("old.txt", "old bytes").text("metadata", r#"{"k":"old"}"#)).await);
    gateway.publish(&id, "old bytes").await;
    let path = format!("/api/v1/documents/{id}");
    let original = async |query: &str| {
        let answer = gateway.get(&format!("{path}/content{query}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let next =
        Gateway::form("new.txt", "new bytes").text("metadata", r#"{"k":"new"}"#).text("collection", "new");
    accepted(gateway.request(reqwest::Method::PUT, &format!("{path}/content")).multipart(next)).await;
    assert_eq!(original("").await, (200, "old bytes".into()));
    assert_eq!(original("?version=2").await, (200, "new bytes".into()));
    let shown = json(gateway.get(&path), 200).await;
    assert_eq!((&shown["version"], &shown["live_version"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&shown["filename"], &shown["metadata"], &shown["collection"]),
        (&json!("old.txt"), &json!({"k": "old"}), &json!("default"))
    );
    gateway.publish(&id, "new bytes").await;
    assert_eq!(original("").await, (200, "new bytes".into()));
    let shown = json(gateway.get(&path), 200).await;
    assert_eq!(
        (&shown["filename"], &shown["metadata"], &shown["collection"]),
        (&json!("new.txt"), &json!({"k": "new"}), &json!("new"))
    );
}

#[tokio::test]
async fn offsets_of_chunks_cut_the_stored_text() {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("a.txt", TEXT)).await);
    let path = format!("/api/v1/documents/{id}");
    problem(gateway.get(&format!("{path}/text")), 409, "not_ready").await;
    problem(gateway.get(&format!("{path}/chunks")), 409, "not_ready").await;
    gateway.publish(&id, TEXT).await;

    let response = gateway.get(&format!("{path}/text")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    let text = response.text().await.unwrap();
    assert_eq!(text, TEXT);
    let points: Vec<char> = text.chars().collect();
    let mut ordinals = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = json(gateway.get(&format!("{path}/chunks?limit=2{cursor}")), 200).await;
        for chunk in page["chunks"].as_array().unwrap() {
            let at = |name: &str| usize::try_from(chunk[name].as_u64().unwrap()).unwrap();
            let cut: String = points[at("char_start")..at("char_end")].iter().collect();
            assert_eq!(chunk["text"], cut);
            assert_eq!(chunk["text"], text[at("byte_start")..at("byte_end")]);
            ordinals.push(at("ordinal"));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ordinals, [0, 1, 2]);
}

#[tokio::test]
async fn a_part_of_the_text_is_cut_by_code_points() {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("a.txt", TEXT)).await);
    gateway.publish(&id, TEXT).await;
    let path = format!("/api/v1/documents/{id}/text?offset=4&limit=6");
    assert_eq!(gateway.get(&path).send().await.unwrap().text().await.unwrap(), "bração");
    let body = json(gateway.get(&path).header("accept", "application/json"), 200).await;
    assert_eq!((&body["text"], &body["offset"], &body["length"]), (&json!("bração"), &json!(4), &json!(6)));
    assert_eq!(body["total"], TEXT.chars().count());
    problem(gateway.get(&format!("/api/v1/documents/{id}/text?version=9")), 404, "not_found").await;
}

#[tokio::test]
async fn status_says_why_a_document_waits_behind_what_in_which_lane_and_since_when() {
    let gateway = Gateway::start().await;
    let (deployment, tenant) = (&gateway.deployment, &gateway.deployment.tenant);
    let upload = async |name: &str| {
        let path = format!("/api/v1/documents?filename={name}&lane=bulk");
        id(&accepted(gateway.post(&path).body(name.to_owned())).await)
    };
    let waits = async |id: &str| {
        let path = format!("/api/v1/documents/{id}/status");
        eventually(|| async {
            let status = json(gateway.get(&path), 200).await;
            (!status["waits"].is_null()).then(|| status.clone()).ok_or(status)
        })
        .await
    };
    // Released, and nobody works on the stage.
    let first = upload("a.txt").await;
    let status = waits(&first).await;
    let of = |name: &str| &status["waits"][name];
    assert_eq!(
        (of("reason"), of("stage"), of("behind")),
        (&json!("no_consumer"), &json!("extract"), &json!(1))
    );
    assert_eq!((of("lane"), of("since")), (&json!("bulk"), &status["state_changed_at"]));
    assert_eq!(of("detail"), "nobody works on the stage; 1 event is in the bulk lane of the stage");
    // At the tenant's cap.
    let caps = ReleaseCaps { per_tenant: Some(1), total: None };
    deployment.janitor.hold_tenants(caps).await.unwrap();
    let (second, third) = (upload("b.txt").await, upload("c.txt").await);
    for (id, behind) in [(&second, 0), (&third, 1)] {
        let status = waits(id).await;
        assert_eq!(
            (&status["waits"]["reason"], &status["waits"]["behind"]),
            (&json!("tenant_limit"), &json!(behind))
        );
    }
    // Redis is away.
    deployment.redis().stop();
    assert_eq!(waits(&first).await["waits"]["reason"], "redis");
    // Others of the tenant wait, and nothing else is in the way.
    deployment.janitor.hold_tenants(ReleaseCaps { per_tenant: None, total: None }).await.unwrap();
    assert_eq!(waits(&third).await["waits"]["reason"], "redis");
    let total = ReleaseCaps { per_tenant: None, total: Some(1) };
    deployment.janitor.hold_tenants(total).await.unwrap();
    assert_eq!(waits(&third).await["waits"]["reason"], "total_limit");
    let document = third.parse().unwrap();
    deployment.store.cancel(tenant, document).await.unwrap();
    let ended = json(gateway.get(&format!("/api/v1/documents/{third}/status")), 200).await;
    assert!(ended["waits"].is_null(), "{ended}");
}

#[tokio::test]
async fn status_says_how_far_a_document_is() {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("a.txt", TEXT)).await);
    let path = format!("/api/v1/documents/{id}/status");
    eventually(|| async {
        (json(gateway.get(&path), 200).await["waiting_for"] == "extractor").then_some(())
    })
    .await;
    gateway.publish(&id, TEXT).await;
    let status = json(gateway.get(&path), 200).await;
    assert_eq!(
        (&status["state"], &status["live_version"], &status["error"]),
        (&json!("ready"), &json!(1), &json!(null))
    );
    assert_eq!(
        (&status["progress"]["chunks_indexed"], &status["progress"]["chunks_total"]),
        (&json!(3), &json!(3))
    );
    assert!(status["finished_at"].is_string() && status["waiting_for"].is_null());
    let info = json(gateway.get("/api/v1/queue/info"), 200).await;
    assert_eq!(info["documents"]["ready"], 1);
    assert_eq!(info["stages"][0]["stage"], "extract");
    let health = json(gateway.get("/api/v1/queue/health"), 200).await;
    assert_eq!(health["status"], "degraded", "there is work and nobody at it: {health}");
    let spaces = json(gateway.get("/api/v1/spaces"), 200).await;
    assert_eq!(spaces["spaces"][0]["state"], "live");
}

#[tokio::test]
async fn a_document_that_is_ready_without_some_pages_names_them() {
    let gateway = Gateway::start().await;
    let accepted = gateway.upload(Gateway::form("scan.pdf", "%PDF")).await;
    let id = accepted["id"].as_str().unwrap();
    let reason = Reason { code: "timeout".into(), message: "recognition took too long".into() };
    let missing = MissingPages { reason, pages: vec![(2, 3), (7, 7)] };
    gateway.publish_without(id, "The first page.", Some(9), vec![missing]).await;
    let status = json(gateway.get(&format!("/api/v1/documents/{id}/status")), 200).await;
    assert_eq!(status["state"], "ready");
    assert_eq!(status["notice"], "3 of 9 pages have no text: 2, 3 and 7 (recognition took too long)");
    let document = json(gateway.get(&format!("/api/v1/documents/{id}")), 200).await;
    for body in [&status, &document] {
        let missing = &body["missing_pages"][0];
        assert_eq!((&missing["code"], &missing["pages"]), (&json!("timeout"), &json!([2, 3, 7])));
    }
    assert_eq!(
        (&document["encoding"], &document["encoding_confidence"]),
        (&json!("UTF-8"), &json!("certain"))
    );
}
