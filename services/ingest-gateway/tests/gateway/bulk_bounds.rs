//! What requests with many documents may hold up: places, answers that nobody reads, and files that do not come.

use std::{path::PathBuf, time::Duration};

use futures::TryStreamExt;
use reqwest::{Body, StatusCode};
use riacho_ingest_gateway::Config;
use riacho_objects::Prefix;
use riacho_store::Limits;
use riacho_testkit::eventually;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    bulk::{BULK, answer, documents, fate, line, lines, with_bulk},
    bulk_archives::{send, tar},
    fixture::{Change, Gateway, problem},
};

/// So long may take what has no end where a promise is broken.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Sends a request as many clients do: all of it, before anything is read.
async fn send_all(gateway: &Gateway, body: &str) -> TcpStream {
    let head = format!(
        "POST {BULK} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        gateway.deployment.key,
        body.len()
    );
    let socket = TcpSocket::new_v4().unwrap();
    // An answer is not to fit into it.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let address = gateway.base.trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let sent = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
    };
    tokio::time::timeout(TIME_LIMIT, sent).await.expect("the gateway reads on");
    stream
}

/// What a connection still says, to its end or to where it was cut off.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    String::from_utf8(read).unwrap()
}

/// As many lines as a request may have, with long answers, and a document at the end.
fn many_wrong() -> String {
    let wrong = json!({"filename": "\"".repeat(255), "text": "t", "\u{1}".repeat(170): 1});
    format!("{}{}", format!("{wrong}\n").repeat(9_999), line("a.txt", "at the end"))
}

#[tokio::test]
async fn a_client_that_reads_nothing_before_it_has_sent_everything_is_answered() {
    let config = with_bulk(|bulk| bulk.max_items = 60_000);
    let gateway = Gateway::with_config(config).await;
    // Neither the request nor its answer fits into the buffers of a connection.
    let wrong = format!("{}\n", "x".repeat(400));
    let body = format!("{}{}", wrong.repeat(40_000), line("a.txt", "at the end"));
    let text = rest_of(send_all(&gateway, &body).await).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{}", &text[..200]);
    assert_eq!(text.matches("\"code\":\"bad_request\"").count(), 40_000);
    assert!(
        text.contains("\"accepted\":1") && text.contains("\"complete\":true"),
        "{}",
        &text[text.len() - 300..]
    );
}

#[tokio::test]
async fn a_long_answer_of_the_most_documents_waits_to_be_read() {
    let gateway = Gateway::with_config(with_bulk(|_| {})).await;
    let text = rest_of(send_all(&gateway, &many_wrong()).await).await;
    assert_eq!(text.matches("\"code\":\"invalid_field\"").count(), 9_999);
    assert!(text.len() > 9_999 * 900, "{} bytes", text.len());
    assert!(text.contains("\"accepted\":1") && text.contains("\"complete\":true"));
    // A client's own text is not sent back at any length.
    let long = "k".repeat(3 << 20);
    let wrong = [json!({"filename": "a", &long: 1}), json!({"filename": "a", "text": "t", "lane": long})];
    let body: String = wrong.iter().map(|line| format!("{line}\n")).collect();
    let (items, _) = answer(lines(&gateway, body)).await;
    for item in items {
        let length = item.to_string().len();
        assert!(fate(&item) == "invalid_field" && length < 2_048, "{length} bytes");
        assert!(item["problem"]["detail"].as_str().unwrap().contains("expected one of"), "{item}");
    }
}

#[tokio::test]
async fn a_place_is_held_until_the_answer_is_read() {
    let gateway = Gateway::with_config(with_bulk(|bulk| bulk.max_requests = 1)).await;
    let stream = send_all(&gateway, &many_wrong()).await;
    // The last line was taken in, so that nothing but the reader is waited for.
    eventually(|| async { documents(&gateway).await.len() == 1 }).await;
    problem(lines(&gateway, line("b.txt", "other")), 503, "unavailable").await;
    assert!(rest_of(stream).await.contains("\"complete\":true"));
    is_free(&gateway).await;
}

#[tokio::test]
async fn a_place_is_free_when_nobody_reads_the_answer_for_too_long() {
    let config = Config { idle_timeout_ms: 1_000, ..with_bulk(|bulk| bulk.max_requests = 1) };
    let gateway = Gateway::with_config(config).await;
    let stream = send_all(&gateway, &many_wrong()).await;
    is_free(&gateway).await;
    assert!(!rest_of(stream).await.contains("\"complete\":true"), "what was cut off does not look whole");
}

/// Waits until there is a place for another request.
async fn is_free(gateway: &Gateway) {
    eventually(|| async {
        lines(gateway, line("b.txt", "other")).send().await.unwrap().status() == StatusCode::OK
    })
    .await;
}

/// A child that says what one says whose archive has a large file, and falls silent amid it.
struct Silent {
    folder: TempDir,
}

impl Silent {
    fn new() -> Silent {
        let folder = TempDir::new().unwrap();
        let entry = json!({"number": 1, "name": "large.bin", "is_whole": true, "skipped": null}).to_string();
        let piece = vec![b'x'; 64 << 10];
        let frames = [(b'Y', &b""[..]), (b'E', entry.as_bytes())].into_iter();
        let mut said = Vec::new();
        // Far more than a pipe holds, and than is kept in memory before it is stored.
        for (tag, payload) in frames.chain(std::iter::repeat_n((b'B', piece.as_slice()), 32)) {
            said.push(tag);
            said.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
            said.extend(payload);
        }
        std::fs::write(folder.path().join("said"), said).unwrap();
        let script = "cd \"${0%/*}\" && cat said && : > silent && exec sleep 600";
        std::fs::write(folder.path().join("child"), script).unwrap();
        Silent { folder }
    }

    fn command(&self) -> Vec<PathBuf> {
        vec!["/bin/sh".into(), self.folder.path().join("child")]
    }

    /// Waits until the gateway has most of what was said.
    async fn is_silent(&self) {
        let mark = self.folder.path().join("silent");
        eventually(|| async { mark.exists() }).await;
    }
}

async fn amid_a_large_file() -> (Gateway, Silent) {
    let silent = Silent::new();
    let mut config = with_bulk(|bulk| bulk.max_requests = 1);
    config.bulk.command = silent.command();
    let limits = Limits { uploads_per_minute: 1, upload_burst: 1, ..Limits::default() };
    (Gateway::with(Change { limits, config, ..Change::default() }).await, silent)
}

#[tokio::test]
async fn a_gateway_that_stops_does_not_wait_for_the_rest_of_a_large_file() {
    let (mut gateway, silent) = amid_a_large_file().await;
    let answered = tokio::spawn(answer(send(&gateway, "x-tar", tar(&[("large.bin", b"x")]))));
    silent.is_silent().await;
    let (objects, originals) = (gateway.objects.clone(), Prefix::originals(&gateway.deployment.tenant));
    gateway.stop().await;
    let (items, summary) = answered.await.unwrap();
    assert!(items.is_empty(), "{items:?}");
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("unavailable")));
    assert_eq!(summary["problem"]["detail"], "the gateway stops");
    let kept: Vec<_> = objects.list(&originals).try_collect().await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn a_client_that_goes_amid_a_large_file_has_its_place_and_its_upload_back() {
    let (gateway, silent) = amid_a_large_file().await;
    let response = send(&gateway, "x-tar", tar(&[("large.bin", b"x")])).send().await.unwrap();
    silent.is_silent().await;
    let form = || gateway.post("/api/v1/documents").multipart(Gateway::form("a.txt", "text"));
    assert_eq!(form().send().await.unwrap().status(), 429, "the only upload of a minute is taken");
    drop(response);
    eventually(|| async { form().send().await.unwrap().status() == StatusCode::ACCEPTED }).await;
    is_free(&gateway).await;
}

#[tokio::test]
async fn requests_over_the_cap_are_told_to_come_back_and_a_place_is_given_back() {
    for (in_all, of_tenant, status, code) in [(1, 2, 503, "unavailable"), (2, 1, 429, "rate_limited")] {
        let config =
            with_bulk(|bulk| (bulk.max_requests, bulk.max_requests_per_tenant) = (in_all, of_tenant));
        are_told_to_come_back(config, status, code).await;
    }
}

async fn are_told_to_come_back(config: Config, status: u16, code: &str) {
    let gateway = Gateway::with_config(config).await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    sender.unbounded_send(Ok(line("a.txt", "text"))).unwrap();
    let request = lines(&gateway, Body::wrap_stream(body));
    let first = tokio::spawn(answer(request));
    eventually(|| async { documents(&gateway).await.len() == 1 }).await;
    let refused = lines(&gateway, line("b.txt", "other"));
    problem(refused, status, code).await;
    drop(sender);
    assert_eq!(first.await.unwrap().1["accepted"], 1);
    eventually(|| async {
        lines(&gateway, line("b.txt", "other")).send().await.unwrap().status() == StatusCode::OK
    })
    .await;
}
