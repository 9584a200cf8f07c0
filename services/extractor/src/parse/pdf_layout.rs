//! Lines on pages to text: paragraphs by the gaps between lines, headings by size and weight.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Parsed,
    pdf_columns::{GAP_SCALE, Gap},
};
use crate::{
    encoding,
    extracted::{Heading, PageSpan},
};

/// A heading is at least this much larger than the text.
const HEADING_SCALE: f32 = 1.15;
/// A heading has at most this many characters and lines.
const HEADING_CHARS: usize = 160;
const HEADING_LINES: usize = 3;
/// A gap this much larger than the usual one ends a paragraph.
const PARAGRAPH_GAP: f32 = 1.35;

/// A line of a page. Places are in points, from the bottom left.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) left: f32,
    pub(super) right: f32,
    base: f32,
    pub(super) size: f32,
    bold: bool,
    /// It ends in a hyphen that only breaks a word.
    broken_word: bool,
    /// Gaps between words that are wider than a space.
    pub(super) gaps: Vec<Gap>,
}

impl Line {
    /// PDFium marks a hyphen that breaks a word with U+0002, and keeps a soft hyphen where a ligature follows.
    pub(super) fn new(text: &str, left: f32, right: f32, base: f32, size: f32, bold: bool) -> Self {
        let broken_word = text.trim_end().ends_with(['\u{2}', '\u{ad}']);
        let text = encoding::clean(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        // Sizes that differ by less than half a point are one size, printed differently.
        let size = (size * 2.0).round() / 2.0;
        Self { text: words.join(" "), left, right, base, size, bold, broken_word, gaps: Vec::new() }
    }

    /// With those of the gaps that are wide for its size.
    pub(super) fn with_gaps(mut self, mut gaps: Vec<Gap>) -> Self {
        gaps.retain(|gap| gap.to - gap.from >= GAP_SCALE * self.size);
        self.gaps = gaps;
        self
    }

    /// What stands before and behind a gap, as lines.
    pub(super) fn split(&self, gap: &Gap) -> Option<(Line, Line)> {
        let (at, _) = self.text.match_indices(' ').nth(gap.words.checked_sub(1)?)?;
        let (before, after) = (&self.text[..at], &self.text[at + 1..]);
        // PDFium marks no hyphen in the middle of a line.
        let broken = before.strip_suffix('-').filter(|word| word.ends_with(char::is_alphabetic));
        let before = Line {
            text: broken.unwrap_or(before).to_owned(),
            right: gap.from + 0.5 * self.size,
            broken_word: broken.is_some(),
            gaps: Vec::new(),
            ..*self
        };
        Some((before, Line { text: after.to_owned(), left: gap.to, gaps: Vec::new(), ..*self }))
    }

    pub(super) fn chars(&self) -> usize {
        self.text.chars().count()
    }

    /// Whether the other stands beside this one, or is raised or lowered as a mark is.
    fn shares_row(&self, other: &Line) -> bool {
        (self.base - other.base).abs() < 0.55 * self.size.max(other.size)
    }

    /// Whether the next line's first word would have had no room here, in a column that ends at `right`.
    fn is_full(&self, next: &Line, right: f32) -> bool {
        let char_width = (self.right - self.left) / self.chars().max(1) as f32;
        let word = next.text.split(' ').next().unwrap_or_default().chars().count();
        let slack = 0.04 * (right - self.left);
        self.right + char_width * (word + 1) as f32 > right - slack
    }
}

/// The text of a page on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Page {
    /// Lines as they are printed. What belongs together is found by their places, headings by their sizes.
    Printed(Vec<Line>),
    /// Lines as they were recognised in a picture, by blocks. Their sizes are guesses, and make no headings.
    Recognized(Vec<Vec<Line>>),
}

impl Page {
    fn printed(&self) -> &[Line] {
        match self {
            Page::Printed(lines) => lines,
            Page::Recognized(_) => &[],
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Page::Printed(lines) => lines.is_empty(),
            Page::Recognized(blocks) => blocks.is_empty(),
        }
    }

    /// How many characters it has.
    pub(super) fn chars(&self) -> usize {
        match self {
            Page::Printed(lines) => lines.iter().map(Line::chars).sum(),
            Page::Recognized(blocks) => blocks.iter().flatten().map(Line::chars).sum(),
        }
    }

    /// How many bytes it has.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |line: &Line| line.text.len() as u64;
        match self {
            Page::Printed(lines) => lines.iter().map(bytes).sum(),
            Page::Recognized(blocks) => blocks.iter().flatten().map(bytes).sum(),
        }
    }
}

/// What the document's sizes say about its headings.
struct Scale {
    body: f32,
    /// Sizes of headings, largest first.
    headings: Vec<f32>,
    bold_is_heading: bool,
}

impl Scale {
    fn of(pages: &[Page]) -> Self {
        let mut by_size: BTreeMap<i32, usize> = BTreeMap::new();
        let (mut bold, mut all) = (0, 0);
        for line in pages.iter().flat_map(Page::printed) {
            let chars = line.chars();
            *by_size.entry((line.size * 2.0) as i32).or_default() += chars;
            all += chars;
            bold += if line.bold { chars } else { 0 };
        }
        let body = by_size.iter().max_by_key(|(_, chars)| **chars).map_or(0, |(size, _)| *size);
        let body = body as f32 / 2.0;
        let larger = by_size.iter().rev().map(|(size, chars)| (*size as f32 / 2.0, *chars));
        let larger: Vec<(f32, usize)> = larger.filter(|(size, _)| *size >= body * HEADING_SCALE).collect();
        // Where much of the text is large, size says nothing.
        let rare = larger.iter().map(|(_, chars)| chars).sum::<usize>() * 3 < all;
        let headings = if rare { larger.into_iter().map(|(size, _)| size).collect() } else { Vec::new() };
        Self { body, headings, bold_is_heading: bold * 4 < all }
    }

    /// The level of a paragraph as a heading, if it is one.
    fn level(&self, paragraph: &[Line]) -> Option<u8> {
        let first = paragraph.first()?;
        let chars: usize = paragraph.iter().map(Line::chars).sum();
        let letters =
            paragraph.iter().flat_map(|line| line.text.chars()).filter(|c| c.is_alphabetic()).count();
        if paragraph.len() > HEADING_LINES || chars > HEADING_CHARS || letters < 2 || letters * 2 < chars {
            return None;
        }
        let rank = self.headings.iter().position(|size| (size - first.size).abs() < 0.26);
        let deepest = self.headings.len().min(4);
        let ends_open = !paragraph.last()?.text.ends_with(['.', ',', ';', ':']);
        let level = match rank {
            Some(rank) => rank.min(3) + 1,
            None if self.bold_is_heading
                && paragraph.len() == 1
                && paragraph.iter().all(|line| line.bold)
                && first.size >= self.body * 0.95
                && ends_open
                && !first.text.starts_with(char::is_lowercase)
                && chars <= 100 =>
            {
                deepest + 1
            }
            None => return None,
        };
        u8::try_from(level).ok()
    }
}

/// Words that the document writes with a hyphen within a line: where a line ends at that hyphen, it stays.
#[derive(Debug, Default)]
struct Compounds(BTreeSet<String>);

impl Compounds {
    fn of(pages: &[Page]) -> Self {
        let lines = pages.iter().flat_map(|page| match page {
            Page::Printed(lines) => lines.iter().collect::<Vec<_>>(),
            Page::Recognized(blocks) => blocks.iter().flatten().collect(),
        });
        let words = lines.flat_map(|line| line.text.split(' ')).map(bare);
        Self(words.filter(|word| word.contains('-')).map(str::to_lowercase).collect())
    }

    /// Whether the last word of a text and the first of the next line are one with a hyphen between.
    fn joins(&self, text: &str, next: &str) -> bool {
        let before = text.rsplit([' ', '\n']).next().unwrap_or_default();
        let after = next.split(' ').next().unwrap_or_default();
        self.0.contains(bare(&format!("{before}-{after}")).to_lowercase().as_str())
    }
}

/// A word without the punctuation around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// Makes the text of the pages.
pub(super) fn assemble(pages: &[Page]) -> Parsed {
    let scale = Scale::of(pages);
    let compounds = Compounds::of(pages);
    let mut parsed = Parsed::default();
    for (page, number) in pages.iter().zip(1..) {
        if !parsed.text.is_empty() && !page.is_empty() {
            parsed.text.push_str("\n\n");
        }
        let byte_start = parsed.text.len();
        let separate = |parsed: &mut Parsed| {
            parsed.text.push_str(if parsed.text.len() > byte_start { "\n\n" } else { "" });
        };
        match page {
            Page::Printed(lines) => {
                for paragraph in paragraphs(lines) {
                    separate(&mut parsed);
                    let text = joined(paragraph, right_edge(paragraph, lines), &compounds);
                    push_paragraph(&mut parsed, paragraph, &text, &scale);
                }
            }
            Page::Recognized(blocks) => {
                for (block, paragraph) in
                    blocks.iter().flat_map(|b| paragraphs(b).into_iter().map(move |p| (b, p)))
                {
                    separate(&mut parsed);
                    parsed.text.push_str(&joined(paragraph, right_edge(paragraph, block), &compounds));
                }
            }
        }
        parsed.outline.pages.push(PageSpan { number, byte_start, byte_end: parsed.text.len() });
    }
    parsed
}

fn push_paragraph(parsed: &mut Parsed, paragraph: &[Line], text: &str, scale: &Scale) {
    let byte_start = parsed.text.len();
    let Some(level) = scale.level(paragraph) else {
        parsed.text.push_str(text);
        return;
    };
    let title = text.replace('\n', " ");
    parsed.text.push_str(&"#".repeat(usize::from(level)));
    parsed.text.push(' ');
    parsed.text.push_str(&title);
    parsed.outline.headings.push(Heading { level, byte_start, byte_end: parsed.text.len(), title });
}

/// Where the column ends that a paragraph stands in: nine in ten of its lines end before.
fn right_edge(paragraph: &[Line], page: &[Line]) -> f32 {
    let own = paragraph.iter().map(|line| line.right).fold(f32::MIN, f32::max);
    let Some(first) = paragraph.first() else { return own };
    let in_column = |line: &&Line| (line.left - first.left).abs() < 4.0 * first.size.max(1.0);
    let mut rights: Vec<f32> = page.iter().filter(in_column).map(|line| line.right).collect();
    rights.sort_by(f32::total_cmp);
    rights.get(rights.len() * 9 / 10).map_or(own, |edge| own.max(*edge))
}

/// Groups the lines of a page.
fn paragraphs(lines: &[Line]) -> Vec<&[Line]> {
    let pitch = line_pitch(lines);
    let mut paragraphs = Vec::new();
    let mut start = 0;
    for (i, pair) in lines.windows(2).enumerate() {
        if ends_paragraph(&pair[0], &pair[1], pitch) {
            paragraphs.push(&lines[start..=i]);
            start = i + 1;
        }
    }
    if start < lines.len() {
        paragraphs.push(&lines[start..]);
    }
    paragraphs
}

/// The usual distance of two lines, as a multiple of their size.
fn line_pitch(lines: &[Line]) -> f32 {
    let mut steps: Vec<f32> = lines
        .windows(2)
        .filter(|pair| pair[0].size > 0.0 && (pair[0].size - pair[1].size).abs() < 0.6)
        .map(|pair| (pair[0].base - pair[1].base) / pair[0].size)
        .filter(|step| (0.8..3.0).contains(step))
        .collect();
    if steps.len() < 3 {
        return 1.2;
    }
    steps.sort_by(f32::total_cmp);
    // Below the middle: a page of short paragraphs has more gaps than lines.
    steps[steps.len() / 3]
}

fn ends_paragraph(line: &Line, next: &Line, pitch: f32) -> bool {
    let size = line.size.max(next.size).max(1.0);
    let step = line.base - next.base;
    if line.broken_word || line.shares_row(next) {
        return false;
    }
    if (line.size - next.size).abs() > size * 0.08
        || line.bold != next.bold && line.chars().min(next.chars()) < 100 && step > 0.5 * size
    {
        return true;
    }
    if step < 0.0 {
        // A new column. A sentence may go on in it.
        let open = !line.text.ends_with(['.', '!', '?', ':', '。']);
        return !(open && next.text.starts_with(char::is_lowercase));
    }
    step > pitch * PARAGRAPH_GAP * size
}

/// The text of a paragraph: wrapped lines joined, others kept.
fn joined(paragraph: &[Line], right: f32, compounds: &Compounds) -> String {
    let mut text = String::new();
    let mut previous: Option<&Line> = None;
    for line in paragraph {
        let mut printed = line.text.as_str();
        if let Some(previous) = previous {
            let same_row = previous.shares_row(line);
            let goes_on = previous.is_full(line, right) || line.text.starts_with(char::is_lowercase);
            let separator = if previous.broken_word {
                // A name keeps its hyphen: Rio-Niterói.
                let whole = printed.starts_with(char::is_lowercase) && !compounds.joins(&text, printed);
                if whole { "" } else { "-" }
            } else if let Some(rest) = repeated_hyphen(&text, printed) {
                printed = rest;
                ""
            } else if breaks_after_slash(&text, printed) {
                ""
            } else if begins_item(&line.text) && !same_row {
                "\n"
            } else if same_row || goes_on {
                if is_ideographic(&text, &line.text) { "" } else { " " }
            } else {
                "\n"
            };
            text.push_str(separator);
        }
        match printed.strip_prefix(['•', '●', '▪', '\u{f0b7}', '\u{f0a7}']) {
            Some(item) if !item.trim().is_empty() => {
                text.push_str("- ");
                text.push_str(item.trim_start());
            }
            _ => text.push_str(printed),
        }
        previous = Some(line);
    }
    text
}

/// Portuguese and other languages print the hyphen of a compound at the line's end and again before the rest of it, which is
/// returned: guarda-, -corpo.
fn repeated_hyphen<'a>(before: &str, next: &'a str) -> Option<&'a str> {
    let compound = before.strip_suffix('-')?.ends_with(char::is_alphabetic);
    next.strip_prefix('-').filter(|rest| compound && rest.starts_with(char::is_alphabetic))
}

/// Lines end behind a slash that stands within a word, as in m³/s or an address.
fn breaks_after_slash(before: &str, next: &str) -> bool {
    before.strip_suffix('/').is_some_and(|word| word.ends_with(char::is_alphanumeric))
        && next.starts_with(char::is_alphanumeric)
}

fn begins_item(text: &str) -> bool {
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = number.len() < text.len()
        && text.len() - number.len() <= 2
        && number.starts_with([')', '.'])
        && number[1..].starts_with(' ');
    numbered
        || text.starts_with(['•', '●', '▪', '\u{f0b7}', '\u{f0a7}'])
        || text.starts_with("- ")
        || text.starts_with("– ")
}

/// Japanese and Chinese have no spaces between words.
fn is_ideographic(before: &str, after: &str) -> bool {
    let wide =
        |c: char| matches!(c, '\u{3000}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ff00}'..='\u{ffef}');
    before.chars().next_back().is_some_and(wide) && after.chars().next().is_some_and(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, right: f32, bottom: f32, size: f32) -> Line {
        Line::new(text, 50.0, right, bottom, size, false)
    }

    #[test]
    fn wrapped_lines_are_joined_and_short_ones_are_kept() {
        let page = vec![
            line("The river rose over the old bridge and the obser\u{2}", 500.0, 700.0, 10.0),
            line("vers left the station before the night", 480.0, 688.0, 10.0),
            line("came.", 80.0, 676.0, 10.0),
            line("Second paragraph.", 150.0, 650.0, 10.0),
            line("Address:", 90.0, 620.0, 10.0),
            line("Street 1", 90.0, 608.0, 10.0),
        ];
        let text = assemble(&[Page::Printed(page)]).text;
        let expected = "The river rose over the old bridge and the observers left the station before the night came.\n\n\
            Second paragraph.\n\nAddress:\nStreet 1";
        assert_eq!(text, expected);
    }

    #[test]
    fn words_that_lines_break_are_whole_again() {
        let cases = [
            // A soft hyphen breaks a word as a printed one does.
            (vec!["The observers modi\u{ad}", "fied the gauge."], "The observers modified the gauge."),
            // The hyphen of a compound is printed twice.
            (vec!["Ele consertou o guarda-", "-corpo da ponte."], "Ele consertou o guarda-corpo da ponte."),
            (vec!["de Rio-", "-Grandense."], "de Rio-Grandense."),
            // The document shows elsewhere that the hyphen belongs to the word.
            (
                vec!["“Well-known, they say,” and (well\u{2}", "known) it is."],
                "“Well-known, they say,” and (well-known) it is.",
            ),
            // Units and addresses.
            (vec!["It was 1.204 m³/", "s at noon."], "It was 1.204 m³/s at noon."),
            (vec!["either this /", "or that -", "- or neither."], "either this / or that -\n- or neither."),
        ];
        for (printed, expected) in cases {
            let lines =
                printed.iter().zip(0..).map(|(text, row)| line(text, 500.0, 700.0 - 12.0 * row as f32, 10.0));
            assert_eq!(assemble(&[Page::Printed(lines.collect())]).text, expected);
        }
    }

    #[test]
    fn headings_are_larger_than_the_text() {
        let prose = "Words of the body of the text that stand for most of it, line after line after line.";
        let mut first = vec![line("Handbook", 200.0, 760.0, 20.0), line("Gauges", 120.0, 730.0, 14.0)];
        first.extend((0..6).map(|i| line(prose, 500.0, 700.0 - 12.0 * i as f32, 10.0)));
        let second = vec![line("Pumps", 120.0, 730.0, 14.0), line(prose, 500.0, 700.0, 10.0)];
        let parsed = assemble(&[Page::Printed(first), Page::Printed(second)]);
        let found: Vec<_> = parsed.outline.headings.iter().map(|h| (h.level, h.title.as_str())).collect();
        assert_eq!(found, [(1, "Handbook"), (2, "Gauges"), (2, "Pumps")]);
        let page = parsed.outline.pages[1];
        assert!(parsed.text[page.byte_start..page.byte_end].starts_with("## Pumps\n\nWords"));
    }
}
