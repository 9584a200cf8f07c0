//! What bad input gets: a problem that says what was wrong.

use reqwest::{Method, StatusCode};
use riacho_ingest_gateway::Config;
use riacho_store::{KeyScope as Scope, NewKey};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::fixture::{Gateway, id, json, problem};

const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

#[tokio::test]
async fn an_unknown_id_is_not_found() {
    let gateway = Gateway::start().await;
    for id in [NOBODY, "not-an-id"] {
        for tail in ["", "/status", "/text", "/chunks", "/content"] {
            problem(gateway.get(&format!("/api/v1/documents/{id}{tail}")), 404, "not_found").await;
        }
        for tail in ["/cancel", "/retry", "/process"] {
            problem(gateway.post(&format!("/api/v1/documents/{id}{tail}")), 404, "not_found").await;
        }
        let put = gateway
            .request(Method::PUT, &format!("/api/v1/documents/{id}/content"))
            .multipart(Gateway::form("a", "b"));
        problem(put, 404, "not_found").await;
    }
    problem(gateway.get(&format!("/api/v1/collections/{NOBODY}")), 404, "not_found").await;
    problem(gateway.get("/api/v1/nothing"), 404, "not_found").await;
    problem(gateway.get("/api/v1/search"), 405, "method_not_allowed").await;
}

#[tokio::test]
async fn a_wrong_key_is_refused_on_every_route() {
    let gateway = Gateway::start().await;
    let document: Value = serde_json::from_str(&riacho_ingest_gateway::openapi_json().unwrap()).unwrap();
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        // Its right is in its signature, or is what is asked for.
        if path.starts_with("/api/v1/uploads/") || path == "/api/v1/session" {
            continue;
        }
        for method in
            item.as_object().unwrap().keys().filter_map(|name| name.to_uppercase().parse::<Method>().ok())
        {
            let path = path.replace("{id}", NOBODY);
            let body = problem(gateway.anonymous(method.clone(), &path), 401, "unauthorized").await;
            assert!(body["detail"].as_str().unwrap().contains("Authorization"), "{body}");
            problem(gateway.anonymous(method, &path).bearer_auth("rk_nobody_secret"), 401, "unauthorized")
                .await;
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} routes");
    let response = gateway.anonymous(Method::GET, "/api/v1/documents").send().await.unwrap();
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
}

#[tokio::test]
async fn a_key_without_the_scope_is_forbidden() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    let with = async |scopes: Vec<Scope>| {
        let new = NewKey { tenant: tenant.clone(), name: "narrow".into(), scopes, expires_at: None };
        gateway.deployment.store.create_key(&new).await.unwrap().secret.expose().to_owned()
    };
    let reader = with(vec![Scope::DocumentsRead]).await;
    let searcher = with(vec![Scope::Search]).await;
    let upload = gateway
        .anonymous(Method::POST, "/api/v1/documents")
        .bearer_auth(&reader)
        .multipart(Gateway::form("a", "b"));
    let body = problem(upload, 403, "forbidden").await;
    assert!(body["detail"].as_str().unwrap().contains("documents:write"), "{body}");
    problem(gateway.anonymous(Method::GET, "/api/v1/documents").bearer_auth(&searcher), 403, "forbidden")
        .await;
    problem(gateway.anonymous(Method::GET, "/api/v1/keys").bearer_auth(&searcher), 403, "forbidden").await;
    let search =
        gateway.anonymous(Method::POST, "/api/v1/search").bearer_auth(&reader).json(&json!({"query": "x"}));
    problem(search, 403, "forbidden").await;
    json(gateway.anonymous(Method::GET, "/api/v1/documents").bearer_auth(&reader), 200).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_not_kept() {
    let gateway = Gateway::with_config(Config { max_upload_bytes: 200_000, ..Config::default() }).await;
    // Known from the head, found out while a form is read, and found out in a body of unknown length.
    problem(gateway.post("/api/v1/documents?filename=a.txt").body(vec![b'x'; 200_001]), 413, "too_large")
        .await;
    problem(
        gateway.post("/api/v1/documents").multipart(Gateway::form("a.txt", vec![b'x'; 200_001])),
        413,
        "too_large",
    )
    .await;
    let pieces = futures::stream::iter((0..300).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1_000])));
    let body = problem(
        gateway.post("/api/v1/documents?filename=a.txt").body(reqwest::Body::wrap_stream(pieces)),
        413,
        "too_large",
    )
    .await;
    assert!(body["detail"].as_str().unwrap().contains("200000"), "{body}");
    gateway.upload(Gateway::form("a.txt", vec![b'x'; 200_000])).await;
    let documents = json(gateway.get("/api/v1/documents"), 200).await;
    assert_eq!(documents["documents"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_body_far_over_the_limit_gets_its_answer_while_it_is_sent() {
    let gateway = Gateway::with_config(Config { max_upload_bytes: 1_000, ..Config::default() }).await;
    let pieces = futures::stream::iter((0..160).map(|_| Ok::<_, std::io::Error>(vec![0; 100_000])));
    problem(
        gateway.post("/api/v1/documents?filename=a.txt").body(reqwest::Body::wrap_stream(pieces)),
        413,
        "too_large",
    )
    .await;
}

#[tokio::test]
async fn an_empty_file_is_refused() {
    let gateway = Gateway::start().await;
    problem(gateway.post("/api/v1/documents").multipart(Gateway::form("a.txt", "")), 400, "empty").await;
    problem(gateway.post("/api/v1/documents?filename=a.txt").body(""), 400, "empty").await;
}

#[tokio::test]
async fn a_field_of_an_upload_that_is_wrong_is_named() {
    let gateway = Gateway::start().await;
    let form = || Gateway::form("a.txt", "text");
    for (form, field) in [
        (form().text("colour", "red"), "colour"),
        (form().text("metadata", "[1]"), "metadata"),
        (form().text("metadata", format!("{{\"a\": \"{}\"}}", "x".repeat(70_000))), "metadata"),
        (form().text("ttl_seconds", "soon"), "ttl_seconds"),
        (form().text("lane", "fast"), "lane"),
        (form().text("chunk_max_tokens", "1"), "chunk_max_tokens"),
        (form().part("file", reqwest::multipart::Part::text("again").file_name("b.txt")), "file"),
        (reqwest::multipart::Form::new().text("collection", "a"), "file"),
    ] {
        let body = problem(gateway.post("/api/v1/documents").multipart(form), 400, "invalid_field").await;
        assert_eq!(body["errors"][0]["field"], field, "{body}");
    }
    let body = problem(gateway.post("/api/v1/documents").body("no name"), 400, "invalid_field").await;
    assert_eq!(body["errors"][0]["field"], "filename");
    let documents = json(gateway.get("/api/v1/documents"), 200).await;
    assert_eq!(documents["documents"], json!([]));
}

#[tokio::test]
async fn a_form_that_is_no_form_is_refused() {
    let gateway = Gateway::start().await;
    for kind in ["multipart/form-data", "multipart/form-data; boundary=x"] {
        problem(
            gateway.post("/api/v1/documents").header("content-type", kind).body("--y\r\nnothing"),
            400,
            "bad_request",
        )
        .await;
    }
}

#[tokio::test]
async fn a_search_without_a_query_is_refused() {
    let gateway = Gateway::start().await;
    for body in [json!({}), json!({"query": ""}), json!({"query": "  "}), json!({"query": 7})] {
        let problem = problem(gateway.post("/api/v1/search").json(&body), 400, "invalid_field").await;
        assert_eq!(problem["errors"][0]["field"], "query", "{problem}");
    }
    problem(gateway.post("/api/v1/search").body("{"), 400, "bad_request").await;
    problem(
        gateway.post("/api/v1/search").header("content-type", "text/plain").body("{}"),
        415,
        "unsupported_media_type",
    )
    .await;
    problem(gateway.post("/api/v1/search").json(&json!({"query": "x".repeat(2 << 20)})), 413, "too_large")
        .await;
}

#[tokio::test]
async fn a_top_k_of_a_million_is_refused() {
    let gateway = Gateway::start().await;
    for top_k in [json!(1_000_000), json!(0), json!(-1), json!("ten"), json!(1e30)] {
        let body = problem(
            gateway.post("/api/v1/search").json(&json!({"query": "x", "top_k": top_k})),
            400,
            "invalid_field",
        )
        .await;
        assert_eq!(body["errors"][0]["field"], "top_k", "{body}");
    }
}

#[tokio::test]
async fn a_search_field_that_is_wrong_is_named() {
    let gateway = Gateway::start().await;
    for (field, value) in [
        ("topk", json!(3)),
        ("mode", json!("psychic")),
        ("filter", json!({"year": {"above": 3}})),
        ("filter", json!("year = 3")),
        ("language", json!("Portuguese")),
        ("documents", json!(["x"])),
    ] {
        let body = problem(
            gateway.post("/api/v1/search").json(&json!({"query": "x", field: value})),
            400,
            "invalid_field",
        )
        .await;
        let named = body["errors"][0]["field"].as_str().unwrap();
        assert!(named.starts_with(field), "{field}: {body}");
    }
}

#[tokio::test]
async fn a_list_that_is_asked_for_wrongly_is_refused() {
    let gateway = Gateway::start().await;
    for query in ["limit=0", "limit=100000", "limit=x", "state=done", "colour=red"] {
        problem(gateway.get(&format!("/api/v1/documents?{query}")), 400, "invalid_field").await;
    }
    problem(gateway.get("/api/v1/documents?cursor=nonsense"), 400, "bad_request").await;
    problem(gateway.get("/api/v1/documents?collection=nowhere"), 404, "not_found").await;
}

#[tokio::test]
async fn a_connection_that_talks_nonsense_hurts_nobody() {
    let gateway = Gateway::start().await;
    let address = gateway.base.trim_start_matches("http://").to_owned();
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /api/v1/documents HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Closed, with or without an answer.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let header =
        gateway.anonymous(Method::GET, "/openapi.json").header("x-long", "y".repeat(200_000)).send().await;
    assert!(header.is_err() || header.unwrap().status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let id = id(&gateway.upload(Gateway::form("a.txt", "still here")).await);
    json(gateway.get(&format!("/api/v1/documents/{id}")), 200).await;
}
