//! How much of a cut stays the same when the text is edited.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use super::*;
use crate::{extracted::Outline, parse::markdown};

/// A generator of numbers that is the same in every build.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }
}

const WORDS: &str = "the water level of the river is measured every hour by radar at old bridge and warden reads staff gauge \
    twice a day when rain falls on hills it takes four hours until station sees flood from upper valley with snow";

fn sentence(random: &mut Random, words: usize) -> String {
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let mut text = format!("Reading {}", random.below(100_000));
    for _ in 0..words {
        text.push(' ');
        text.push_str(all[random.below(all.len())]);
    }
    text + "."
}

/// What the paragraphs of a document are like.
#[derive(Debug, Clone, Copy)]
enum Style {
    /// One to six sentences.
    Prose,
    /// One sentence.
    Short,
    /// More than a chunk.
    Long,
    /// All of the same length.
    Even,
}

const STYLES: [Style; 4] = [Style::Prose, Style::Short, Style::Long, Style::Even];

fn paragraph(random: &mut Random, style: Style) -> String {
    let sentences = match style {
        Style::Prose => 1 + random.below(6),
        Style::Short => 1,
        Style::Long => 12 + random.below(12),
        Style::Even => 3,
    };
    let words = |random: &mut Random| if matches!(style, Style::Even) { 14 } else { 5 + random.below(25) };
    (0..sentences)
        .map(|_| {
            let words = words(random);
            sentence(random, words)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// How a document is edited.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Word,
    Sentence,
    Replaced,
    Inserted,
    Deleted,
}

const EDITS: [Edit; 5] = [Edit::Word, Edit::Sentence, Edit::Replaced, Edit::Inserted, Edit::Deleted];

fn edit(blocks: &mut Vec<String>, edit: Edit, style: Style, random: &mut Random) {
    let mut at = random.below(blocks.len());
    while blocks[at].starts_with('#') {
        at = random.below(blocks.len());
    }
    match edit {
        Edit::Word => blocks[at] = blocks[at].replacen(" the ", " some other ", 1) + " Yes.",
        Edit::Sentence => {
            let more = sentence(random, 12);
            blocks[at] = format!("{} {more}", blocks[at]);
        }
        Edit::Replaced => blocks[at] = paragraph(random, style),
        Edit::Inserted => {
            let new = paragraph(random, if matches!(style, Style::Long) { Style::Prose } else { style });
            blocks.insert(at, new);
        }
        Edit::Deleted => drop(blocks.remove(at)),
    }
}

fn document(random: &mut Random, style: Style, headings: bool) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    while bytes < 20_000 {
        if headings && random.below(6) == 0 {
            blocks.push(format!("{} Section {}", ["#", "##", "###"][random.below(3)], blocks.len()));
        }
        let new = paragraph(random, style);
        bytes += new.len();
        blocks.push(new);
    }
    blocks
}

fn cut_blocks(blocks: &[String], settings: &Settings) -> Vec<Chunk> {
    let text = blocks.join("\n\n");
    let outline = Outline { headings: markdown::headings(&text), ..Outline::default() };
    cut(&Extracted { text, outline, ..Extracted::default() }, "notes.md", settings).unwrap()
}

/// Chunks of an edited document that the document before did not have.
fn new_chunks(blocks: &[String], known: &HashSet<[u8; 32]>, settings: &Settings) -> usize {
    let chunks = cut_blocks(blocks, settings);
    chunks.iter().filter(|chunk| !known.contains(&chunk.content_hash)).count()
}

#[test]
fn an_edited_paragraph_leaves_all_but_a_few_chunks_as_they_were() {
    let settings = Settings::default();
    let mut random = Random(7);
    let mut counts = [0_usize; 12];
    for (style, headings) in STYLES.into_iter().flat_map(|style| [(style, false), (style, true)]) {
        for how in EDITS {
            let blocks = document(&mut random, style, headings);
            let known: HashSet<[u8; 32]> =
                cut_blocks(&blocks, &settings).iter().map(|chunk| chunk.content_hash).collect();
            for _ in 0..8 {
                let mut edited = blocks.clone();
                edit(&mut edited, how, style, &mut random);
                let new = new_chunks(&edited, &known, &settings);
                counts[new.min(counts.len() - 1)] += 1;
            }
        }
    }
    // Which seams are found again is a matter of chance, but hardly ever one of more than three chunks.
    let (few, many) = (counts[..=3].iter().sum::<usize>(), counts[4..].iter().sum::<usize>());
    assert!(many * 50 <= few && counts[6..].iter().all(|count| *count == 0), "{counts:?}");
}

#[test]
fn chunks_are_filled_well() {
    for style in STYLES {
        let blocks = document(&mut Random(3), style, false);
        let chunks = cut_blocks(&blocks, &Settings::default());
        let tokens: u32 = chunks.iter().map(|chunk| chunk.token_count).sum();
        let mean = tokens as usize / chunks.len();
        assert!(mean > 200, "{style:?}: {mean} tokens");
        let floor = Settings::default().max_tokens / 6;
        let (_, whole) = chunks.split_last().unwrap();
        assert!(whole.iter().all(|chunk| chunk.token_count + 4 >= floor), "{style:?}");
    }
}
