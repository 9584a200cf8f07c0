//! What a cut promises, on texts that are natural, random and hostile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::{extracted::Outline, parse::markdown};

fn extracted(text: &str) -> Extracted {
    let outline = Outline { headings: markdown::headings(text), ..Outline::default() };
    Extracted { text: text.to_owned(), outline, ..Extracted::default() }
}

fn settings(max_tokens: u32, overlap_tokens: u32) -> Settings {
    Settings { max_tokens, overlap_tokens, ..Settings::default() }
}

fn pieces(text: &str, max_tokens: u32, overlap: u32) -> Vec<String> {
    let chunks = cut(&extracted(text), "", &settings(max_tokens, overlap)).unwrap();
    chunks.into_iter().map(|chunk| text[chunk.bytes].to_owned()).collect()
}

/// Checks every promise about the chunks of `text`.
fn check(text: &str, max_tokens: u32, overlap: u32) {
    let extracted = extracted(text);
    let chunks = cut(&extracted, "title", &settings(max_tokens, overlap)).unwrap();
    let tokens = Tokens::new("o200k_base").unwrap();
    let mut covered = 0;
    for (i, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk.ordinal as usize, i);
        let slice = &text[chunk.bytes.clone()];
        assert!(!slice.is_empty() && slice.trim() == slice, "{slice:?}");
        let by_chars: String = text.chars().skip(chunk.chars.start).take(chunk.chars.len()).collect();
        assert_eq!(by_chars, slice);
        assert!(
            tokens.count(slice) <= max_tokens as usize,
            "{} > {max_tokens}: {slice:?}",
            tokens.count(slice)
        );
        assert_eq!(chunk.content_hash, riacho_domain::content_hash("title", &chunk.heading_path, slice));
        assert!(chunk.bytes.end > covered, "a chunk brings something new");
        if chunk.bytes.start > covered {
            assert!(text[covered..chunk.bytes.start].trim().is_empty(), "nothing is lost");
        } else if overlap == 0 {
            assert_eq!(chunk.bytes.start, covered, "nothing is repeated");
        }
        covered = chunk.bytes.end;
    }
    assert!(text[covered..].trim().is_empty(), "nothing is lost at the end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn chunks_of_any_text_are_slices_that_cover_it(
        text in "(?s).{0,400}", max_tokens in 16u32..64, overlap in 0u32..16,
    ) {
        check(&text, max_tokens, overlap);
    }

    #[test]
    fn chunks_of_documents_are_slices_that_cover_them(
        text in "((# |## |### )?([A-Za-zçãé水位]{1,12}[ ,.]{1,2}){0,40}\n{1,3}|(\\| a \\| b1 \\|\n){1,9}|```\nx = 1\n\n\n y\n```\n| {0,70}|9{1,90}){0,12}",
        max_tokens in 16u32..100, overlap in 0u32..30,
    ) {
        check(&text, max_tokens, overlap);
    }
}

#[test]
fn a_chunk_ends_at_a_heading_and_carries_its_path() {
    let prose = "The gauge stands in the river and is read twice a day by the warden. ".repeat(4);
    let text = format!(
        "# Handbook\n\n{prose}\n\n## Gauges\n\n{prose}\n\n### Zero\n\n{prose}\n\n## Pumps\n\n{prose}"
    );
    let chunks = cut(&extracted(&text), "", &settings(100, 0)).unwrap();
    let paths: Vec<String> = chunks.iter().map(|chunk| chunk.heading_path.join("/")).collect();
    assert_eq!(paths, ["Handbook", "Handbook/Gauges", "Handbook/Gauges/Zero", "Handbook/Pumps"]);
    assert!(text[chunks[1].bytes.clone()].starts_with("## Gauges\n\nThe gauge"));
}

#[test]
fn small_sections_share_a_chunk_under_their_common_heading() {
    let text = "# Stations\n\n## North\n\nOpen.\n\n## South\n\nClosed.\n";
    let chunks = cut(&extracted(text), "", &settings(256, 0)).unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].heading_path, ["Stations"]);
}

#[test]
fn sentences_and_tables_stay_whole() {
    let prose = "The first sentence is about rain and rivers. The second one is about wind and waves. \
                 The third is about ice, frost and snow.";
    let table = "| station | level |\n|---|---|\n| North | 3 |\n| South | 4 |";
    let pieces = pieces(&format!("{prose}\n\n{table}\n"), 26, 0);
    assert!(pieces.iter().all(|piece| piece.ends_with('.') || piece == table), "{pieces:?}");
    assert_eq!(pieces.join(" "), format!("{prose} {table}"));
}

#[test]
fn a_chunk_ends_between_paragraphs_where_one_ends_in_time() {
    let paragraph =
        |n: usize| format!("Paragraph {n} begins here. It goes on for one more sentence. And it ends.");
    let paragraphs: Vec<String> = (0..60).map(paragraph).collect();
    for piece in pieces(&paragraphs.join("\n\n"), 100, 0) {
        assert!(piece.starts_with("Paragraph") && piece.ends_with("And it ends."), "{piece:?}");
    }
}

#[test]
fn what_always_repeats_fills_its_chunks() {
    let chunks =
        cut(&extracted(&"The same line again and again.\n".repeat(500)), "", &settings(100, 0)).unwrap();
    let (_, whole) = chunks.split_last().unwrap();
    assert!(whole.iter().all(|chunk| chunk.token_count > 90));
}

#[test]
fn overlap_repeats_whole_sentences() {
    let text = "Alpha is one. Beta is two. Gamma is three. Delta is four. Epsilon is five. Zeta is six.";
    let pieces = pieces(text, 16, 6);
    assert!(pieces.len() > 1);
    for pair in pieces.windows(2) {
        let last = pair[0].rsplit_once(". ").unwrap().1;
        assert!(pair[1].starts_with(last), "{pair:?}");
    }
}

#[test]
fn pages_follow_the_offsets() {
    let mut document = extracted("One page.\n\nAnother page.");
    document.outline.pages = vec![
        crate::extracted::PageSpan { number: 1, byte_start: 0, byte_end: 9 },
        crate::extracted::PageSpan { number: 2, byte_start: 11, byte_end: 24 },
    ];
    let chunks = cut(&document, "", &settings(256, 0)).unwrap();
    assert_eq!(chunks[0].pages, (1, 2));
}

#[test]
fn counts_are_exact_on_natural_text() {
    let text = "Dr. Silva wrote: \"Levels rise.\" Then — 3.5 m!\n\n- item (one);\n- item two.\n\nO nível subiu à noite. Água!\n";
    let tokens = Tokens::new("o200k_base").unwrap();
    for chunk in cut(&extracted(&text.repeat(9)), "", &settings(64, 0)).unwrap() {
        assert_eq!(chunk.token_count as usize, tokens.count(&text.repeat(9)[chunk.bytes]));
    }
}

#[test]
fn work_is_linear_on_hostile_text() {
    let hostile: [(&str, usize); 9] = [
        ("^", 40_000),
        ("a", 40_000),
        (" ", 80_000),
        ("\n", 80_000),
        (". ", 20_000),
        ("a.", 20_000),
        ("水", 20_000),
        ("| a |\n", 8_000),
        ("x\u{301}\u{200b}", 10_000),
    ];
    let tokens = Tokens::new("o200k_base").unwrap();
    // What a chunk repeats of the one before is counted once more.
    let overlaps = [(0, 4), (64, 8), (128, 16)];
    for ((unit, count), (overlap, most)) in hostile.into_iter().flat_map(|text| overlaps.map(|of| (text, of)))
    {
        let work = |count: usize| {
            let document = extracted(&unit.repeat(count));
            let before = tokens.bytes_counted();
            let chunks = Cutter::new(&document, "", &settings(256, overlap), &tokens).count();
            assert_eq!(chunks == 0, unit.trim().is_empty(), "{unit:?}");
            tokens.bytes_counted() - before
        };
        let (half, whole) = (work(count / 2), work(count));
        assert!(whole <= most * (unit.len() * count) as u64, "{unit:?} with {overlap}: {whole}");
        assert!(whole <= 2 * half + 4096 * (most / 4), "{unit:?} with {overlap}: {half} {whole}");
    }
}
