//! Limits, origins, request ids, and what operators see.

use reqwest::{Method, StatusCode};
use riacho_ingest_gateway::Config;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::fixture::{Gateway, is_problem, json, problem};

#[tokio::test]
async fn an_address_over_its_rate_is_told_to_wait() {
    let config =
        Config { requests_per_second_per_address: 1, request_burst_per_address: 2, ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    // Before the key is looked at, so that keys cannot be guessed at any rate.
    let mut refused = None;
    for _ in 0..4 {
        let response = gateway.anonymous(Method::GET, "/api/v1/documents").send().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("a refusal");
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    is_problem(refused, 429, "rate_limited").await;
    // Operators are not limited.
    json(gateway.anonymous(Method::GET, "/openapi.json"), 200).await;
}

#[tokio::test]
async fn requests_over_the_cap_are_told_to_come_back() {
    let gateway = Gateway::with_config(Config { max_concurrent_requests: 1, ..Config::default() }).await;
    // Two that do not end by themselves: whichever comes second is refused.
    let begin = |name: &str| {
        let (sender, body) = futures::channel::mpsc::unbounded::<Result<&'static str, std::io::Error>>();
        sender.unbounded_send(Ok("begun")).unwrap();
        let request = gateway.post(&format!("/api/v1/documents?filename={name}"));
        (sender, tokio::spawn(request.body(reqwest::Body::wrap_stream(body)).send()))
    };
    let ((one_sender, one), (other_sender, other)) = (begin("a.txt"), begin("b.txt"));
    let ((refused, _), (left, sender)) = match futures::future::select(one, other).await {
        futures::future::Either::Left((refused, left)) => ((refused, one_sender), (left, other_sender)),
        futures::future::Either::Right((refused, left)) => ((refused, other_sender), (left, one_sender)),
    };
    let refused = refused.unwrap().unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    is_problem(refused, 503, "unavailable").await;
    drop(sender);
    assert_eq!(left.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    json(gateway.get("/api/v1/documents"), 200).await;
}

#[tokio::test]
async fn the_answer_to_an_upload_that_is_refused_is_read_by_who_sends_all_of_it_first() {
    let gateway = Gateway::with_config(Config { max_upload_bytes: 1_000, ..Config::default() }).await;
    let address = gateway.base.trim_start_matches("http://");
    let piece = vec![b'x'; 1 << 20];
    let key = gateway.deployment.key.as_str();
    // The second is refused when some of it has been read, which a client that waits for a 100 has been asked for.
    for (key, refused, more) in
        [(key, "413", ""), (key, "413", "expect: 100-continue\r\n"), ("wrong", "401", "")]
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = match more {
            "" => format!("content-length: {}", 96 * piece.len()),
            _ => "transfer-encoding: chunked".to_owned(),
        };
        let head = format!(
            "POST /api/v1/documents?filename=a.txt HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
             {length}\r\n{more}connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // More than the buffers of a connection hold.
        for _ in 0..96 {
            if !more.is_empty() {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
            }
            stream.write_all(&piece).await.unwrap();
            if !more.is_empty() {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        let mut answer = String::new();
        if !more.is_empty() {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        stream.read_to_string(&mut answer).await.unwrap();
        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {refused} ")), "{answer}");
    }
}

#[tokio::test]
async fn who_is_connected_is_answered_by_a_gateway_that_stops() {
    let config = Config { max_connections: 1, grace_seconds: 60, ..Config::default() };
    let mut gateway = Gateway::with_config(config).await;
    let address = gateway.base.trim_start_matches("http://").to_owned();
    // The only connection that may be open, in the middle of an upload ..
    let key = &gateway.deployment.key;
    let upload = format!(
        "POST /api/v1/documents?filename=a.txt HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-length: 6\r\nconnection: close\r\n\r\nbeg"
    );
    let mut open = TcpStream::connect(&address).await.unwrap();
    open.write_all(upload.as_bytes()).await.unwrap();
    // .. so that the others wait in the kernel with all of their requests.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    let stopping = tokio::spawn(async move { gateway.stop().await });
    riacho_testkit::eventually(|| async { TcpStream::connect(&address).await.is_err() }).await;
    open.write_all(b"un.").await.unwrap();
    for (mut stream, status) in std::iter::once((open, "202")).chain(waiting.into_iter().map(|s| (s, "200")))
    {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer:?}");
    }
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_client_that_stops_sending_is_let_go() {
    let gateway = Gateway::with_config(Config { idle_timeout_ms: 200, ..Config::default() }).await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<&'static str, std::io::Error>>();
    sender.unbounded_send(Ok("begun")).unwrap();
    let request = gateway.post("/api/v1/documents?filename=a.txt").body(reqwest::Body::wrap_stream(body));
    is_problem(request.send().await.unwrap(), 408, "timeout").await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nbegun";
    sender.unbounded_send(Ok(head.to_owned())).unwrap();
    let form = gateway.post("/api/v1/documents").header("content-type", "multipart/form-data; boundary=b");
    is_problem(form.body(reqwest::Body::wrap_stream(body)).send().await.unwrap(), 408, "timeout").await;
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_by_name() {
    let config = Config { cors_origins: vec!["https://app.example.org".into()], ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    let ask = |origin: &'static str| {
        gateway
            .anonymous(Method::OPTIONS, "/api/v1/documents")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .send()
    };
    let known = ask("https://app.example.org").await.unwrap();
    assert_eq!(known.headers()["access-control-allow-origin"], "https://app.example.org");
    let unknown = ask("https://evil.example.org").await.unwrap();
    assert!(!unknown.headers().contains_key("access-control-allow-origin"));
    // A page can read why it was refused.
    let refused =
        gateway.anonymous(Method::GET, "/api/v1/documents").header("origin", "https://app.example.org");
    assert!(refused.send().await.unwrap().headers().contains_key("access-control-allow-origin"));
    let closed = Gateway::start().await;
    let answer =
        closed.get("/api/v1/documents").header("origin", "https://app.example.org").send().await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_request_id_and_a_trace_are_taken_up() {
    let gateway = Gateway::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let response = gateway
        .post("/api/v1/documents?filename=a.txt")
        .header("x-request-id", "order-7")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .body("traced")
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], "order-7");
    let rows = gateway.deployment.sql("SELECT traceparent FROM document_versions");
    assert!(rows[0][0].as_ref().unwrap().starts_with(&format!("00-{trace}-")), "{rows:?}");
    let made = gateway.get("/api/v1/documents").send().await.unwrap();
    assert!(made.headers()["x-request-id"].len() > 10);
}

#[tokio::test]
async fn operators_see_health_and_metrics() {
    let gateway = Gateway::start().await;
    riacho_testkit::eventually(|| async {
        let ready = gateway.anonymous(Method::GET, "/readyz").send().await.unwrap();
        ready.status().is_success().then_some(()).ok_or("not ready")
    })
    .await;
    assert_eq!(gateway.anonymous(Method::GET, "/livez").send().await.unwrap().status(), 200);
    let health = json(gateway.anonymous(Method::GET, "/health"), 200).await;
    assert_eq!(health["status"], "healthy");
    assert_eq!(json(gateway.anonymous(Method::GET, "/health/redis"), 200).await["status"], "healthy");
    assert_eq!(json(gateway.anonymous(Method::GET, "/health/queues"), 200).await["status"], "healthy");
    gateway.upload(Gateway::form("a.txt", "measured")).await;
    let metrics = gateway.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for name in [
        "riacho_http_requests_total{method=\"POST\",route=\"/api/v1/documents\",status=\"202\"}",
        "riacho_documents_accepted_total",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert!(!metrics.contains(&gateway.deployment.key), "no secret among the metrics");
}

#[tokio::test]
async fn the_pages_for_people_are_served_without_a_foreign_host() {
    let gateway = Gateway::start().await;
    let root = gateway.anonymous(Method::GET, "/").send().await.unwrap();
    let policy = root.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; ") && !policy.contains("unsafe"),
        "{policy}"
    );
    let etag = root.headers()["etag"].clone();
    let known = gateway.anonymous(Method::GET, "/").header("if-none-match", etag).send().await.unwrap();
    assert_eq!(known.status(), 304);
    for (path, kind) in
        [("main.js", "text/javascript"), ("views/search.js", "text/javascript"), ("style.css", "text/css")]
    {
        let file = gateway.anonymous(Method::GET, &format!("/page/{path}")).send().await.unwrap();
        assert!(file.headers()["content-type"].to_str().unwrap().starts_with(kind), "{path}");
    }
    problem(gateway.anonymous(Method::GET, "/page/../Cargo.toml"), 404, "not_found").await;
    problem(gateway.anonymous(Method::GET, "/page/%2e%2e%2fCargo.toml"), 404, "not_found").await;
    let page = gateway.anonymous(Method::GET, "/docs").send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(page.text().await.unwrap().contains("/api/v1/search"));
    assert_eq!(gateway.anonymous(Method::GET, "/docs/style.css").send().await.unwrap().status(), 200);
    assert_eq!(
        json(gateway.anonymous(Method::GET, "/openapi.json"), 200).await["info"]["title"],
        json!("Riacho")
    );
}
