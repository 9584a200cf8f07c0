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
        let header = chunk.table_header.clone().map_or("", |header| &text[header]);
        let whole = if header.is_empty() { slice.to_owned() } else { format!("{header}\n{slice}") };
        let count = tokens.count(&whole);
        assert!(count <= max_tokens as usize, "{count} > {max_tokens}: {whole:?}");
        assert!(tokens.count(header) <= max_tokens as usize / 4, "{header:?}");
        let hash = riacho_domain::content_hash("title", &chunk.heading_path, header, slice);
        assert_eq!(chunk.content_hash, hash);
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
        text in "((# |## |### )?([A-Za-zçãé水位]{1,12}[ ,.]{1,2}){0,40}\n{1,3}|(\\| a \\| b1 \\|\n){1,9}|\\| a \\| b2 \\|\n\\|---\\|---\\|\n(\\| [a-z9]{1,12} \\| 1 \\|\n){0,30}|```\nx = 1\n\n\n y\n```\n| {0,70}|9{1,90}){0,12}",
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

/// A text's chunks, each with what it repeats of a header row.
fn parts(text: &str, max_tokens: u32, overlap: u32) -> Vec<(String, String)> {
    check(text, max_tokens, overlap);
    let chunks = cut(&extracted(text), "", &settings(max_tokens, overlap)).unwrap();
    let part = |chunk: Chunk| {
        let header = chunk.table_header.map_or("", |header| &text[header]);
        (header.to_owned(), text[chunk.bytes].to_owned())
    };
    chunks.into_iter().map(part).collect()
}

fn rows(count: usize) -> String {
    (1..=count).map(|n| format!("| 2026-01-{n:02} | {n}.5 m | rising |\n")).collect()
}

const HEADER: &str = "| date | level | trend |";

#[test]
fn parts_of_a_table_that_does_not_fit_repeat_its_header_row() {
    let text = format!("Levels of January.\n\n{HEADER}\n|---|---|---|\n{}\nThe end.\n", rows(31));
    for overlap in [0, 20] {
        let parts = parts(&text, 100, overlap);
        assert!(parts.len() > 5);
        for (header, part) in &parts {
            let begins_inside = part.starts_with("| 2026");
            assert_eq!(header, if begins_inside { HEADER } else { "" }, "{part:?}");
            // Wherever the header row is, the rule and a row are too.
            assert_eq!(part.contains(HEADER), part.contains("|---|---|---|\n| 2026-01-01"), "{part:?}");
        }
        let inside = parts.iter().filter(|(header, _)| !header.is_empty()).count();
        assert!(inside + 2 >= parts.len(), "{parts:?}");
    }
}

#[test]
fn a_table_that_fits_repeats_nothing() {
    let prose = "The gauge stands in the river and is read twice a day by the warden. ".repeat(4);
    let text = format!("{prose}\n\n{HEADER}\n|---|---|---|\n{}\n{prose}\n", rows(3));
    let parts = parts(&text, 100, 0);
    assert!(parts.len() > 1 && parts.iter().all(|(header, _)| header.is_empty()), "{parts:?}");
}

#[test]
fn each_table_repeats_its_own_header_row() {
    let table = |name: &str| format!("| {name} | level | trend |\n|---|---|---|\n{}\n", rows(20));
    let text = format!("{}{}", table("north"), table("south"));
    let parts = parts(&text, 100, 0);
    let south = text.find("| south").unwrap();
    let mut at = 0;
    for (header, part) in &parts {
        at = text[at..].find(part.as_str()).unwrap() + at;
        let own = if at > south { "| south | level | trend |" } else { "| north | level | trend |" };
        assert!(header.is_empty() || header == own, "{header} {part}");
        at += part.len();
    }
    assert!(parts.iter().filter(|(header, _)| header.contains("south")).count() > 2);
}

#[test]
fn of_a_long_header_row_the_first_columns_are_repeated() {
    let columns =
        |of: &dyn Fn(usize) -> String| (0..12).map(|n| format!("| {} ", of(n))).collect::<String>() + "|\n";
    let header = columns(&|n| format!("measurement {n}"));
    let row = columns(&|n| format!("{n}"));
    let text = format!("{header}{}{}", columns(&|_| "---".to_owned()), row.repeat(30));
    let parts = parts(&text, 100, 0);
    let inside: Vec<_> = parts.iter().filter(|(_, part)| part.starts_with("| 0 |")).collect();
    assert!(inside.len() > 5);
    for (repeated, _) in inside {
        assert!(repeated.starts_with("| measurement 0 | measurement 1 |"), "{repeated:?}");
        assert!(header.starts_with(repeated.as_str()) && repeated.len() < header.len() - 1, "{repeated:?}");
    }
}

#[test]
fn a_row_that_leaves_no_room_has_no_header_and_is_whole() {
    let long = format!("| 2026-02-01 | 1 m | {} |\n", "very high ".repeat(42));
    let text = format!("{HEADER}\n|---|---|---|\n{}{long}{}", rows(9), rows(9));
    let parts = parts(&text, 100, 0);
    let (header, _) = parts.iter().find(|(_, part)| part == long.trim()).expect("a chunk of its own");
    assert_eq!(header, "");
}

#[test]
fn a_row_more_changes_the_parts_around_it_and_a_header_all_of_them() {
    let table = |header: &str, rows: &[String]| format!("{header}\n|---|---|---|\n{}", rows.concat());
    let mut rows: Vec<String> =
        (0..300).map(|n| format!("| {} | {n}.5 m | rising |\n", n * 7919 % 1000)).collect();
    let hashes = |text: &str| -> std::collections::BTreeSet<[u8; 32]> {
        cut(&extracted(text), "", &settings(100, 0)).unwrap().iter().map(|chunk| chunk.content_hash).collect()
    };
    let before = hashes(&table(HEADER, &rows));
    let renamed = hashes(&table("| day | level | trend |", &rows));
    assert!(renamed.is_disjoint(&before));
    rows.insert(150, "| 4711 | 0 m | falling |\n".to_owned());
    let after = hashes(&table(HEADER, &rows));
    let new = after.difference(&before).count();
    assert!((1..=3).contains(&new), "{new} of {}", after.len());
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
    let hostile: [(&str, usize); 11] = [
        ("^", 40_000),
        ("a", 40_000),
        (" ", 80_000),
        ("\n", 80_000),
        (". ", 20_000),
        ("a.", 20_000),
        ("水", 20_000),
        ("| a |\n", 8_000),
        ("| a |\n|---|\n| b |\n\n", 4_000),
        ("| a |\n|---|\n", 5_000),
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
