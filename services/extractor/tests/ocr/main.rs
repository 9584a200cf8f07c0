//! Recognition of text, with real processes and real pictures, which are drawn from text here.
//!
//! Where tesseract is not installed there is nothing to be tested, and the tests say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod drawing;

use std::path::PathBuf;

use riacho_domain::{Lane, ReasonCode};
use riacho_extractor::{
    Error,
    extracted::{Extracted, Failure, Missing},
    ocr,
    pool::{Config, Pool},
};

use drawing::{Content, bmp, drawn, pdf, tiff};

const FIRST: [&str; 2] = ["The gauge at the old mill", "was read every morning at seven."];
const SECOND: [&str; 2] = ["Water rose above the second mark", "before the pumps were started."];

fn config() -> Config {
    Config {
        processes: 1,
        command: vec![PathBuf::from(env!("CARGO_BIN_EXE_riacho-parse-child"))],
        pdfium_library: riacho_local::Runtime::find().pdfium_path().ok(),
        ..Config::default()
    }
}

/// A pool that recognises text; none where tesseract is not installed.
async fn recognizing(config: Config) -> Option<Pool> {
    let pool = Pool::new(config).unwrap();
    let refusal = pool.recognition_refusal().await.unwrap();
    if let Some(why) = &refusal {
        eprintln!("left out: {why}");
        assert!(std::env::var_os("RIACHO_REQUIRE_OCR").is_none(), "{why}");
    }
    refusal.is_none().then_some(pool)
}

async fn parse(pool: &Pool, name: &str, bytes: Vec<u8>) -> Result<Extracted, Failure> {
    match pool.parse(Lane::Bulk, name, bytes.into(), |_, _| {}).await {
        Ok(extracted) => Ok(extracted),
        Err(Error::Document(failure)) => Err(failure),
        Err(error) => panic!("{error}"),
    }
}

fn page(extracted: &Extracted, number: usize) -> &str {
    let page = extracted.outline.pages[number - 1];
    &extracted.text[page.byte_start..page.byte_end]
}

fn missing(extracted: &Extracted) -> Vec<(ReasonCode, Vec<(u32, u32)>)> {
    let of = |missing: &Missing| (missing.failure.reason, missing.pages.clone());
    extracted.outline.missing.iter().map(of).collect()
}

#[tokio::test]
async fn text_in_a_picture_is_recognised() {
    let Some(pool) = recognizing(config()).await else { return };
    let extracted = parse(&pool, "gauge.png", bmp(&drawn(&FIRST))).await.unwrap();
    assert_eq!(extracted.text, FIRST.join(" "));
    assert_eq!(extracted.outline.detected_type, "image/bmp");
    assert!(extracted.outline.pages.is_empty() && extracted.outline.missing.is_empty());
}

#[tokio::test]
async fn the_pictures_of_a_tiff_are_pages() {
    let Some(pool) = recognizing(config()).await else { return };
    let extracted = parse(&pool, "fax.tif", tiff(&[drawn(&FIRST), drawn(&SECOND)])).await.unwrap();
    assert_eq!((page(&extracted, 1), page(&extracted, 2)), (&*FIRST.join(" "), &*SECOND.join(" ")));
}

#[tokio::test]
async fn scanned_pages_are_recognised_and_stand_in_their_place() {
    let Some(pool) = recognizing(config()).await else { return };
    let pages = [Content::Text("Printed page"), Content::Scan(drawn(&FIRST)), Content::Blank];
    let extracted = parse(&pool, "mixed.pdf", pdf(&pages)).await.unwrap();
    assert_eq!((page(&extracted, 1), page(&extracted, 2)), ("Printed page", &*FIRST.join(" ")));
    assert_eq!((page(&extracted, 3), extracted.outline.missing.as_slice()), ("", &[][..]));
}

#[tokio::test]
async fn a_picture_without_text_is_empty_and_one_that_is_damaged_says_so() {
    let Some(pool) = recognizing(config()).await else { return };
    let blank = parse(&pool, "white.bmp", bmp(&drawn(&[]))).await;
    assert_eq!(blank.unwrap_err().reason, ReasonCode::Empty);
    let mut damaged = bmp(&drawn(&FIRST));
    damaged.truncate(200);
    assert_eq!(parse(&pool, "cut.bmp", damaged).await.unwrap_err().reason, ReasonCode::Corrupt);
}

#[tokio::test]
async fn a_picture_with_too_many_pixels_is_refused_before_it_is_decoded() {
    // So many pixels would need gigabytes; the header alone says so.
    let mut huge = bmp(&drawn(&FIRST));
    huge[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    huge[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    let pool = Pool::new(config()).unwrap();
    assert_eq!(parse(&pool, "huge.bmp", huge).await.unwrap_err().reason, ReasonCode::TooLarge);
}

#[tokio::test]
async fn pages_over_a_limit_are_named_and_the_others_are_there() {
    let ocr = ocr::Config { max_pages: 1, ..ocr::Config::default() };
    let Some(pool) = recognizing(Config { ocr, ..config() }).await else { return };
    let scans = [FIRST, SECOND, SECOND].map(|lines| Content::Scan(drawn(&lines)));
    let pages: Vec<Content> = scans.into_iter().chain([Content::Text("The last page is printed.")]).collect();
    let extracted = parse(&pool, "scans.pdf", pdf(&pages)).await.unwrap();
    assert_eq!((page(&extracted, 1), page(&extracted, 4)), (&*FIRST.join(" "), "The last page is printed."));
    assert_eq!(missing(&extracted), [(ReasonCode::TooLarge, vec![(2, 3)])]);
}

/// A pool whose recognisers do what a line of shell says, once they are ready.
fn impostors(line: &str) -> Config {
    let child = env!("CARGO_BIN_EXE_riacho-parse-child");
    let ready = r"printf 'R\002\000\000\000{}'";
    let script =
        format!(r#"case "$1" in *'"recognizer"'*) {ready}; {line};; *) exec {child} "$0" "$1";; esac"#);
    Config { command: ["/bin/sh", "-c", &script].map(PathBuf::from).to_vec(), ..config() }
}

#[tokio::test]
async fn a_recogniser_that_crashes_or_lies_costs_its_pages_only() {
    let pages = || pdf(&[Content::Text("The first page is printed."), Content::Scan(drawn(&FIRST))]);
    for line in [
        "head -c 9 >/dev/null; kill -SEGV $$",
        r"head -c 9 >/dev/null; printf 'T\377\377\377\377'; cat >/dev/null",
    ] {
        let pool = Pool::new(impostors(line)).unwrap();
        let extracted = parse(&pool, "mixed.pdf", pages()).await.unwrap();
        assert_eq!(page(&extracted, 1), "The first page is printed.");
        assert_eq!(missing(&extracted), [(ReasonCode::ParserCrashed, vec![(2, 2)])]);
    }
}

#[tokio::test]
async fn a_recogniser_that_hangs_is_killed_and_its_page_named() {
    let ocr = ocr::Config { page_seconds: 1, ..ocr::Config::default() };
    let pool = Pool::new(Config { ocr, ..impostors("sleep 60") }).unwrap();
    let failure = parse(&pool, "gauge.bmp", bmp(&drawn(&FIRST))).await.unwrap_err();
    assert_eq!(failure.reason, ReasonCode::Timeout);
    let pages = [Content::Scan(drawn(&FIRST)), Content::Text("The second page is printed.")];
    let extracted = parse(&pool, "mixed.pdf", pdf(&pages)).await.unwrap();
    assert_eq!(missing(&extracted), [(ReasonCode::Timeout, vec![(1, 1)])]);
}

#[tokio::test]
async fn a_page_that_ends_its_parser_costs_no_other_page_its_recognised_text() {
    // It answers a word for each picture, whatever it is sent.
    let word = "5\\t1\\t1\\t1\\t1\\t1\\t100\\t40\\t300\\t30\\t90\\tLevel\\n";
    let answer = format!(
        r"printf 'T\{:03o}\000\000\000{word}'; ",
        "5\t1\t1\t1\t1\t1\t100\t40\t300\t30\t90\tLevel\n".len()
    );
    let ocr = ocr::Config { max_pages: 2, ..ocr::Config::default() };
    let pool = Config {
        ocr,
        timeout_seconds: 3,
        page_timeout_ms: 0,
        memory_bytes: 1 << 36,
        ..impostors(&format!("{}cat >/dev/null", answer.repeat(4)))
    };
    let pool = Pool::new(pool).unwrap();
    let pages = [Content::Scan(drawn(&FIRST)), Content::Endless, Content::Scan(drawn(&SECOND))];
    let extracted = parse(&pool, "hostile.pdf", pdf(&pages)).await.unwrap();
    assert_eq!((page(&extracted, 1), page(&extracted, 3)), ("Level", "Level"));
    assert_eq!(missing(&extracted), [(ReasonCode::Timeout, vec![(2, 2)])]);
}

#[tokio::test]
async fn where_recognition_is_off_or_missing_pictures_need_it_and_say_why() {
    let off = ocr::Config { enabled: false, ..ocr::Config::default() };
    let absent = ocr::Config { library: Some("/nowhere/libtesseract.so.5".into()), ..ocr::Config::default() };
    for (ocr, why) in [(off, "recognition of text is off"), (absent, "recognition of text is not available")]
    {
        let pool = Pool::new(Config { ocr, ..config() }).unwrap();
        let failure = parse(&pool, "gauge.bmp", bmp(&drawn(&FIRST))).await.unwrap_err();
        assert_eq!(failure.reason, ReasonCode::NeedsOcr);
        assert!(failure.message.contains(why), "{failure}");
        let scanned = parse(&pool, "scan.pdf", pdf(&[Content::Scan(drawn(&FIRST))])).await;
        assert_eq!(scanned.unwrap_err().reason, ReasonCode::NeedsOcr);
        let pages = [Content::Text("The first page is printed."), Content::Scan(drawn(&FIRST))];
        let extracted = parse(&pool, "mixed.pdf", pdf(&pages)).await.unwrap();
        assert_eq!(missing(&extracted), [(ReasonCode::NeedsOcr, vec![(2, 2)])]);
    }
}

#[tokio::test]
async fn a_page_that_hangs_its_parser_is_left_out_and_the_others_are_read() {
    // The page takes more memory the longer it runs; here its time ends first, however fast the machine is.
    let pool = Config { timeout_seconds: 3, page_timeout_ms: 0, memory_bytes: 1 << 36, ..config() };
    let pool = Pool::new(pool).unwrap();
    let pages = [Content::Text("One."), Content::Endless, Content::Text("Three.")];
    let extracted = parse(&pool, "hostile.pdf", pdf(&pages)).await.unwrap();
    assert_eq!((page(&extracted, 1), page(&extracted, 3)), ("One.", "Three."));
    assert_eq!(missing(&extracted), [(ReasonCode::Timeout, vec![(2, 2)])]);
    let alone = parse(&pool, "alone.pdf", pdf(&[Content::Endless])).await;
    assert_eq!(alone.unwrap_err().reason, ReasonCode::Timeout);
}
