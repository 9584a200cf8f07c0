//! The pool and its children, with real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use riacho_domain::{Lane, ReasonCode};
use riacho_extractor::{
    Error,
    extracted::Extracted,
    parse::Limits,
    pool::{Config, Pool},
};

fn config() -> Config {
    Config {
        processes: 1,
        command: vec![PathBuf::from(env!("CARGO_BIN_EXE_riacho-parse-child"))],
        pdfium_library: riacho_local::Runtime::find().pdfium_path().ok(),
        ..Config::default()
    }
}

async fn parse(pool: &Pool, name: &str, bytes: impl Into<bytes::Bytes>) -> Result<Extracted, Error> {
    pool.parse(Lane::Bulk, name, bytes.into(), |_, _| {}).await
}

fn reason(result: Result<Extracted, Error>) -> ReasonCode {
    match result {
        Err(Error::Document(failure)) => failure.reason,
        other => panic!("expected a typed failure, got {other:?}"),
    }
}

/// The processes of this test's parser children, by their command line.
fn children(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(marker) && !state.contains(") Z ")
    })
    .collect()
}

/// A configuration whose children can be told from those of other tests.
fn marked(number: u64) -> (Config, String) {
    let limits = Limits { max_unpacked_bytes: number, ..Limits::default() };
    (Config { limits, ..config() }, format!("\"max_unpacked_bytes\":{number}"))
}

async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A page that keeps the parser busy for minutes without nesting: text that a table does not take is
/// moved before it, and each piece looks for the table among all those that were moved earlier.
fn endless() -> Vec<u8> {
    [b"<table>".to_vec(), b"<b>x</b>".repeat(1_000_000)].concat()
}

fn zipped(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_file_is_what_its_bytes_say_and_not_its_name() {
    let pool = Pool::new(config()).unwrap();
    let html = parse(&pool, "report.pdf", "<html><body><h1>Not a PDF</h1></body></html>").await.unwrap();
    assert_eq!((html.outline.detected_type.as_str(), html.text.as_str()), ("text/html", "# Not a PDF"));
    let picture = parse(&pool, "notes.txt", &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..]).await.unwrap_err();
    assert!(picture.to_string().contains("the picture is damaged"), "{picture}");
    assert_eq!(reason(parse(&pool, "a.docx", "%PDF-1.7 and nothing of one").await), ReasonCode::Corrupt);
}

#[tokio::test]
async fn documents_without_text_fail_with_a_reason() {
    let pool = Pool::new(config()).unwrap();
    assert_eq!(reason(parse(&pool, "a.txt", "").await), ReasonCode::Empty);
    assert_eq!(reason(parse(&pool, "a.txt", " \n\t ").await), ReasonCode::Empty);
    let binary: Vec<u8> = (0..=255).cycle().skip(3).take(5000).collect();
    assert_eq!(reason(parse(&pool, "a.txt", binary).await), ReasonCode::Unsupported);
    let bomb = zipped("word/document.xml", &vec![b' '; 40 << 20]);
    assert_eq!(reason(parse(&pool, "a.docx", bomb).await), ReasonCode::Bomb);
    assert_eq!(reason(parse(&pool, "a.zip", zipped("a.txt", b"hello")).await), ReasonCode::Unsupported);
}

#[tokio::test]
async fn what_is_over_a_limit_is_too_large() {
    let limits = Limits { max_file_bytes: 1000, max_text_bytes: 100, ..Limits::default() };
    let pool = Pool::new(Config { limits, ..config() }).unwrap();
    assert_eq!(reason(parse(&pool, "a.txt", vec![b'a'; 1001]).await), ReasonCode::TooLarge);
    assert_eq!(reason(parse(&pool, "a.txt", vec![b'a'; 101]).await), ReasonCode::TooLarge);
    assert_eq!(parse(&pool, "a.txt", vec![b'a'; 100]).await.unwrap().text.len(), 100);
}

#[tokio::test]
async fn an_interactive_document_does_not_wait_for_the_others_to_be_parsed() {
    let pool = Pool::new(config()).unwrap();
    let busy = pool.clone();
    let long = tokio::spawn(async move { parse(&busy, "endless.html", endless()).await });
    let small = |lane| pool.parse(lane, "a.txt", "Enough text for a page.".into(), |_, _| {});
    // The one process is taken once a bulk document waits for it.
    let mut bulk = Box::pin(small(Lane::Bulk));
    while tokio::time::timeout(Duration::from_millis(100), &mut bulk).await.is_ok() {
        bulk = Box::pin(small(Lane::Bulk));
    }
    let text = small(Lane::Interactive).await.unwrap().text;
    assert_eq!(text, "Enough text for a page.");
    assert!(!long.is_finished());
    long.abort();
    assert!(bulk.await.is_ok());
}

#[tokio::test]
async fn a_page_is_read_with_its_progress() {
    let pool = Pool::new(config()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    let bytes = include_bytes!("../../../docs/examples/station-handbook.pdf").as_slice();
    let extracted = pool
        .parse(Lane::Bulk, "handbook", bytes.into(), move |done, total| {
            heard.lock().unwrap().push((done, total))
        })
        .await
        .unwrap();
    assert_eq!(extracted.outline.detected_type, "application/pdf");
    assert!(extracted.outline.pages.len() >= 3 && !extracted.outline.headings.is_empty());
    let total = u32::try_from(extracted.outline.pages.len()).unwrap();
    assert_eq!(seen.lock().unwrap().last(), Some(&(total, total)));
}

#[tokio::test]
async fn a_parser_that_hangs_is_killed_and_replaced() {
    let pool = Pool::new(Config { timeout_seconds: 1, ..config() }).unwrap();
    assert_eq!(reason(parse(&pool, "a.html", endless()).await), ReasonCode::Timeout);
    assert_eq!(parse(&pool, "a.txt", "after").await.unwrap().text, "after");
}

#[tokio::test]
async fn a_parser_that_grows_runs_out_of_memory_alone() {
    let limits = Limits { max_file_bytes: 300 << 20, max_text_bytes: 300 << 20, ..Limits::default() };
    let pool = Pool::new(Config { memory_bytes: 400 << 20, limits, ..config() }).unwrap();
    assert_eq!(reason(parse(&pool, "a.txt", vec![b'a'; 280 << 20]).await), ReasonCode::Memory);
    assert_eq!(parse(&pool, "a.txt", "after").await.unwrap().text, "after");
}

/// A pool whose children do what a line of shell says.
fn impostors(line: &str) -> Pool {
    Pool::new(impostor(line)).unwrap()
}

fn impostor(line: &str) -> Config {
    let line = format!(r"printf 'R\002\000\000\000{{}}'; {line}");
    let command = ["/bin/sh", "-c", &line].map(PathBuf::from).to_vec();
    Config { processes: 1, command, timeout_seconds: 5, ..Config::default() }
}

#[tokio::test]
async fn a_page_that_hangs_is_given_up_however_many_pages_there_are() {
    // It has begun the first of a thousand pages, which together may take eight minutes.
    let begun = r"printf 'P\010\000\000\000\000\000\000\000\350\003\000\000'; cat >/dev/null";
    let config = Config { timeout_seconds: 1, ..impostor(begun) };
    let pool = Pool::new(config.clone()).unwrap();
    let parsing = parse(&pool, "a.pdf", "text");
    let ended = tokio::time::timeout(Duration::from_secs(200), parsing).await.expect("it ends by itself");
    assert_eq!(reason(ended), ReasonCode::Timeout);
    // One that goes on to the next page each time ends after the time of the document.
    let pages: String = (0..200)
        .map(|n| format!(r"printf 'P\010\000\000\000\{n:03o}\000\000\000\350\003\000\000'; sleep 0.2; "))
        .collect();
    let config = Config { timeout_seconds: 60, document_seconds: 2, ..impostor(&pages) };
    let pool = Pool::new(config).unwrap();
    assert_eq!(reason(parse(&pool, "a.pdf", "text").await), ReasonCode::Timeout);
}

#[tokio::test]
async fn a_parser_that_crashes_fails_its_document_only() {
    let pool = impostors("head -c 9 >/dev/null; kill -SEGV $$");
    assert_eq!(reason(parse(&pool, "a.txt", "text").await), ReasonCode::ParserCrashed);
    // The next document gets a process of its own, and not a process that is gone.
    assert_eq!(reason(parse(&pool, "b.txt", "text").await), ReasonCode::ParserCrashed);
}

#[tokio::test]
async fn a_parser_that_cannot_start_is_no_fault_of_the_document() {
    let command = ["/bin/sh", "-c", "echo no sandbox here >&2"].map(PathBuf::from).to_vec();
    let pool = Pool::new(Config { command, ..config() }).unwrap();
    let error = parse(&pool, "a.txt", "text").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("no sandbox here"), "{error}");
    assert!(pool.warm().await.is_err());
    let missing = Pool::new(Config { command: vec!["/nowhere/riacho".into()], ..config() }).unwrap();
    assert!(parse(&missing, "a.txt", "text").await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn without_pdfium_only_pdf_files_fail() {
    let pool =
        Pool::new(Config { pdfium_library: Some("/nowhere/libpdfium.so".into()), ..config() }).unwrap();
    assert_eq!(reason(parse(&pool, "a.pdf", "%PDF-1.7\n").await), ReasonCode::Unsupported);
    assert_eq!(parse(&pool, "a.txt", "text").await.unwrap().text, "text");
}

#[tokio::test]
async fn a_parser_that_lies_is_not_believed() {
    let text = r"printf 'T\002\000\000\000\303\251'";
    let outline =
        |json: &str| format!(r"{text}; printf 'O\{:03o}\000\000\000'; printf '{json}'; sleep 60", json.len());
    // The first ends inside a character, the second is honest.
    let split = outline(r#"{"pages":[{"number":1,"byte_start":0,"byte_end":1}]}"#);
    let whole = outline(r#"{"pages":[{"number":1,"byte_start":0,"byte_end":2}]}"#);
    assert_eq!(reason(parse(&impostors(&split), "a.txt", "text").await), ReasonCode::ParserCrashed);
    assert_eq!(parse(&impostors(&whole), "a.txt", "text").await.unwrap().text, "é");
    let endless = r"printf 'T\377\377\377\377'; sleep 60";
    assert_eq!(reason(parse(&impostors(endless), "a.txt", "text").await), ReasonCode::ParserCrashed);
}

#[tokio::test]
async fn a_child_killed_from_outside_costs_the_document_nothing() {
    let (config, marker) = marked(500_000_001);
    let pool = Pool::new(config).unwrap();
    pool.warm().await.unwrap();
    let first = children(&marker);
    assert_eq!(first.len(), 2, "one, and one for interactive documents");
    for child in &first {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*child), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    }
    until("the end of the child", || children(&marker).is_empty()).await;
    assert_eq!(parse(&pool, "a.txt", "still there").await.unwrap().text, "still there");
    assert!(children(&marker).iter().all(|child| !first.contains(child)));
}

#[tokio::test]
async fn a_child_is_confined_before_its_first_document() {
    let (config, marker) = marked(500_000_004);
    let pool = Pool::new(config).unwrap();
    parse(&pool, "a.txt", "text").await.unwrap();
    let child = children(&marker)[0];
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2", "1"));
    let limits = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max address space"), (1u64 << 30).to_string());
    assert_eq!((limit("Max file size").as_str(), limit("Max core file size").as_str()), ("0", "0"));
    assert!(limit("Max cpu time").parse::<u64>().is_ok_and(|seconds| seconds <= 70));
    let first_to_go = std::fs::read_to_string(format!("/proc/{child}/oom_score_adj")).unwrap();
    assert_eq!(first_to_go.trim(), "1000", "a parser and not its service, where memory runs out");
}

#[tokio::test]
async fn children_are_recycled_and_end_with_the_pool() {
    let (config, marker) = marked(500_000_002);
    let pool = Pool::new(Config { documents_per_process: 2, ..config }).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        parse(&pool, "a.txt", "text").await.unwrap();
        seen.extend(children(&marker));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    drop(pool);
    until("the end of the children", || children(&marker).is_empty()).await;
}

#[tokio::test]
async fn a_document_that_is_given_up_ends_its_child() {
    let (config, marker) = marked(500_000_003);
    let pool = Pool::new(config).unwrap();
    let working = parse(&pool, "a.html", endless());
    assert!(tokio::time::timeout(Duration::from_millis(300), working).await.is_err());
    until("the end of the child", || children(&marker).is_empty()).await;
}

#[tokio::test]
async fn text_comes_back_byte_for_byte_from_many_at_once() {
    let pool = Pool::new(Config { processes: 3, ..config() }).unwrap();
    let documents = (0..60).map(|i| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let text = format!("document {i}: água e chuva, {}", "x ".repeat(i * 700));
            let extracted = parse(&pool, "a.txt", text.clone()).await.unwrap();
            assert_eq!(extracted.text, text);
        })
    });
    for document in documents.collect::<Vec<_>>() {
        document.await.unwrap();
    }
}
