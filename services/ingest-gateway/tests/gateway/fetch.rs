//! Documents by address: fetched, bounded, and never from inside.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::stream;
use riacho_ingest_gateway::Config;
use serde_json::json;
use tokio::net::TcpListener;

use crate::fixture::{Change, Gateway, accepted, id, json, problem};

const LIMIT: u64 = 200_000;
const PATH: &str = "/api/v1/documents/url";

/// A site on loopback, and what it was asked for.
struct Site {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn site() -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let answer = move |uri: Uri| {
        let mut noted = noted.lock().unwrap();
        noted.push(uri.path().to_owned());
        let count = noted.len();
        async move { page(uri.path(), count) }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    Site { url, asked }
}

fn page(path: &str, count: usize) -> Response {
    let to = |location: &str| (StatusCode::FOUND, [("location", location.to_owned())]).into_response();
    match path {
        "/files/um%20rio+lento.md" => {
            ([("content-type", "text/markdown")], "# Rio\n\nlento\n").into_response()
        }
        "/changing" => format!("Visitor number {count}").into_response(),
        "/moved" => to("/files/um%20rio+lento.md"),
        "/inward" => to("http://10.0.0.1/secret"),
        "/by-name" => to("http://localhost:1/secret"),
        "/for-ever" => to("/for-ever"),
        "/file" => to("file:///etc/passwd"),
        "/empty" => "".into_response(),
        "/large" => vec![b'x'; usize::try_from(LIMIT).unwrap() + 1].into_response(),
        // It does not say how large it is.
        "/endless" => {
            let pieces =
                stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b'x'; 50_000])));
            (HeaderMap::new(), Body::from_stream(pieces)).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn gateway(allow: &[&str]) -> Gateway {
    let config = Config { max_upload_bytes: LIMIT, ..Config::default() };
    let outbound_allow = allow.iter().map(|network| (*network).to_owned()).collect();
    Gateway::with(Change { config, outbound_allow, ..Change::default() }).await
}

#[tokio::test]
async fn a_file_is_fetched_from_its_address_with_its_name_and_type() {
    let (gateway, site) = (gateway(&["127.0.0.0/8"]).await, site().await);
    let body =
        json!({"url": format!("{}/moved", site.url), "collection": "rios", "metadata": {"river": "Lento"}});
    let taken = accepted(gateway.post(PATH).json(&body)).await;
    let document = json(gateway.get(&format!("/api/v1/documents/{}", id(&taken))), 200).await;
    assert_eq!((&document["filename"], &document["collection"]), (&json!("um rio+lento.md"), &json!("rios")));
    assert_eq!((&document["content_type"], &document["size"]), (&json!("text/markdown"), &json!(13)));
    assert_eq!(document["metadata"], json!({"river": "Lento"}));
    let original = gateway.get(&format!("/api/v1/documents/{}/content", id(&taken))).send().await.unwrap();
    assert_eq!(original.text().await.unwrap(), "# Rio\n\nlento\n");
    let again = json!({"url": format!("{}/files/um%20rio+lento.md", site.url), "filename": "../other.md"});
    let named = accepted(gateway.post(PATH).json(&again)).await;
    let document = json(gateway.get(&format!("/api/v1/documents/{}", id(&named))), 200).await;
    assert_eq!(document["filename"], "other.md");
}

#[tokio::test]
async fn an_idempotency_key_answers_the_same_request_whatever_the_address_answers_meanwhile() {
    let (gateway, site) = (gateway(&["127.0.0.0/8"]).await, site().await);
    let asked = |path: &str, more: serde_json::Value| {
        let mut body = json!({"url": format!("{}{path}", site.url)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gateway.post(PATH).header("idempotency-key", "k").json(&body)
    };
    // Each answer has other bytes.
    let first = accepted(asked("/changing", json!({}))).await;
    assert_eq!(id(&accepted(asked("/changing", json!({}))).await), id(&first));
    assert_eq!(site.asked.lock().unwrap().len(), 1, "it is not fetched again");
    for other in [asked("/moved", json!({})), asked("/changing", json!({"collection": "other"}))] {
        problem(other, 422, "idempotency_key_reused").await;
    }
    assert_eq!(site.asked.lock().unwrap().len(), 1, "nor is another request's file");
    let unkeyed = gateway.post(PATH).json(&json!({"url": format!("{}/changing", site.url)}));
    assert_ne!(id(&accepted(unkeyed).await), id(&first), "it did change");
}

#[tokio::test]
async fn what_is_too_large_empty_or_not_there_is_refused_and_leaves_nothing() {
    let (gateway, site) = (gateway(&["127.0.0.0/8"]).await, site().await);
    let ask = |path: &str| gateway.post(PATH).json(&json!({"url": format!("{}{path}", site.url)}));
    for path in ["/large", "/endless"] {
        problem(ask(path), 413, "too_large").await;
    }
    problem(ask("/empty"), 400, "empty").await;
    for (path, said) in [
        ("/nothing", "answered 404"),
        ("/for-ever", "more than 5 times"),
        ("/file", "https://"),
        ("/inward", "not of the public network"),
        ("/by-name", "localhost"),
    ] {
        let refused = ask(path).send().await.unwrap();
        if path == "/by-name" {
            // It is allowed here, and nobody answers.
            assert_eq!(refused.status(), 400, "{said}");
            continue;
        }
        let refused = crate::fixture::is_problem(refused, 400, "invalid_field").await;
        assert!(
            refused["detail"].as_str().is_some_and(|text| text.contains(said))
                || refused.to_string().contains(said),
            "{refused}"
        );
    }
    problem(gateway.post(PATH).json(&json!({"address": "x"})), 400, "invalid_field").await;
    assert_eq!(json(gateway.get("/api/v1/documents"), 200).await["documents"], json!([]));
    riacho_testkit::eventually(|| async {
        let root = gateway.deployment.directory().join("objects");
        let (mut folders, mut files) = (vec![root], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { folders.push(entry.path()) } else { files += 1 }
            }
        }
        (files == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_fetched_from_inside() {
    let (gateway, site) = (gateway(&[]).await, site().await);
    let port = site.url.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433", "169.254.169.254", "10.0.0.1"] {
        let body = json!({"url": format!("http://{host}:{port}/files/um%20rio+lento.md")});
        let refused = problem(gateway.post(PATH).json(&body), 400, "invalid_field").await;
        assert!(refused.to_string().contains("not of the public network"), "{refused}");
    }
    assert!(site.asked.lock().unwrap().is_empty());
}
