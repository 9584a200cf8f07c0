//! Tesseract's table of words to lines, in blocks.
//!
//! Its paragraphs are left aside: at low resolution it takes each line for one.

use super::pdf_layout::{Line, Page};

/// Words that tesseract is less sure of than this, in a hundred, are mostly stains and drawings.
const LEAST_CONFIDENCE: f32 = 30.0;
/// Letters fill a line of this many times their height.
const LINE_SCALE: f32 = 1.25;
/// The columns of the table.
const COLUMNS: usize = 12;

/// A word with its place, in pixels from the top left.
struct Word<'a> {
    /// Which words belong together.
    block: u32,
    line: (u32, u32),
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
    text: &'a str,
}

impl<'a> Word<'a> {
    /// Reads a row: level, page, block, paragraph, line, word, left, top, width, height, confidence,
    /// text. Only those of level 5 are words.
    fn read(row: &'a str) -> Option<Self> {
        let mut columns = row.splitn(COLUMNS, '\t');
        let level = columns.next()?;
        let mut number = || columns.next()?.parse::<f32>().ok();
        let (_page, block, paragraph, line, _word) = (number()?, number()?, number()?, number()?, number()?);
        let (left, top, width, height, confidence) = (number()?, number()?, number()?, number()?, number()?);
        let text = columns.next()?.trim();
        (level == "5" && confidence >= LEAST_CONFIDENCE && !text.is_empty()).then_some(Self {
            block: block as u32,
            line: (paragraph as u32, line as u32),
            left,
            right: left + width,
            top,
            bottom: top + height,
            text,
        })
    }
}

/// The lines of a page, by blocks.
pub(super) fn page(table: &str) -> Page {
    let words: Vec<Word<'_>> = table.lines().filter_map(Word::read).collect();
    Page::Recognized(words.chunk_by(|a, b| a.block == b.block).map(block).collect())
}

/// The lines of a block. All have the height of the middle one: each is as high as its own letters happen
/// to be.
fn block(words: &[Word<'_>]) -> Vec<Line> {
    let rows: Vec<&[Word<'_>]> = words.chunk_by(|a, b| a.line == b.line).collect();
    let mut heights: Vec<f32> =
        rows.iter().map(|row| most(row, |w| w.bottom) - least(row, |w| w.top)).collect();
    heights.sort_by(f32::total_cmp);
    let height = heights.get(heights.len() / 2).copied().unwrap_or_default();
    rows.into_iter().map(|row| line(row, height * LINE_SCALE)).collect()
}

fn line(words: &[Word<'_>], height: f32) -> Line {
    let mut text = words.iter().map(|word| word.text).collect::<Vec<_>>().join(" ");
    // A hyphen behind a letter breaks a word.
    if let Some(start) = text.strip_suffix(['-', '\u{ad}'])
        && start.ends_with(char::is_alphabetic)
    {
        text = format!("{start}\u{2}");
    }
    // Places count from the bottom of a page, wherever that is.
    let base = -most(words, |word| word.bottom);
    Line::new(&text, least(words, |word| word.left), most(words, |word| word.right), base, height, false)
}

fn least(words: &[Word<'_>], of: fn(&Word<'_>) -> f32) -> f32 {
    words.iter().map(of).fold(f32::MAX, f32::min)
}

fn most(words: &[Word<'_>], of: fn(&Word<'_>) -> f32) -> f32 {
    words.iter().map(of).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::{super::pdf_layout, *};

    // Each line is a paragraph of its own here, as tesseract has it now and then.
    fn row(block: u32, line: u32, left: u32, width: u32, confidence: &str, text: &str) -> String {
        let top = block * 200 + line * 40;
        format!("5\t1\t{block}\t{line}\t1\t1\t{left}\t{top}\t{width}\t30\t{confidence}\t{text}\n")
    }

    #[test]
    fn words_become_lines_and_lines_become_paragraphs() {
        let table = [
            "1\t1\t0\t0\t0\t0\t0\t0\t2480\t3508\t-1\t\n".to_owned(),
            row(1, 1, 100, 500, "96.5", "O nível"),
            row(1, 1, 620, 480, "91", "do rio su-"),
            row(1, 2, 100, 900, "90", "biu à noite"),
            row(1, 3, 100, 300, "12", "~~|~"),
            row(2, 1, 100, 200, "88", "Fim."),
            "not a row\n5\t1\t2\n".to_owned(),
        ]
        .concat();
        let parsed = pdf_layout::assemble(&[page(&table)]);
        assert_eq!(parsed.text, "O nível do rio subiu à noite\n\nFim.");
        assert_eq!(pdf_layout::assemble(&[page("")]).text, "");
    }
}
