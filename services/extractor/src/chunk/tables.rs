//! What the parts of a table repeat of its header row.
//!
//! A part is a slice of the text, so the row is not in it: it goes into the context, with the title and the headings. Its
//! tokens count to the limit of the chunk.

use std::ops::Range;

use super::{Tokens, blocks::Header};

/// A header row takes this part of a chunk at most; of a longer one the first cells are repeated that do. A row of hundreds of
/// columns would leave no room for the rows that it explains.
const SHARE: usize = 4;
/// The most bytes of it, so that the work for a table without end is bounded.
const BYTES: usize = 4096;

/// The header row of a table that is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// What its parts repeat, as bytes of the text.
    pub(super) repeated: Range<usize>,
    /// The tokens of that, with the end of its line.
    pub(super) tokens: usize,
    /// Where the header row ends: what begins later, begins below it.
    pub(super) row_end: usize,
}

impl Table {
    /// None where not even the first cell is short enough, or those that are say nothing.
    pub(super) fn new(text: &str, header: &Header, max_tokens: usize, tokens: &Tokens) -> Option<Self> {
        let (row, most) = (&text[header.row.clone()], max_tokens / SHARE);
        let length = if row.len() <= BYTES && count(row, tokens) <= most {
            row.len()
        } else {
            first_cells(row, most.saturating_sub(1), tokens)
        };
        let repeated = &row[..length];
        let (tokens, start) = (count(repeated, tokens), header.row.start);
        let is_useful = tokens <= most && repeated.contains(char::is_alphanumeric);
        is_useful.then_some(Self { repeated: start..start + length, tokens, row_end: header.row.end })
    }

    /// Whether the whole row is repeated.
    pub(super) fn is_whole(&self) -> bool {
        self.repeated.end == self.row_end
    }
}

fn count(row: &str, tokens: &Tokens) -> usize {
    tokens.count(row) + usize::from(!row.is_empty())
}

/// The length of as many of the first cells as have so many tokens, with the bar behind the last of them.
fn first_cells(row: &str, most: usize, tokens: &Tokens) -> usize {
    let (mut length, mut sum) = (0, 0);
    let mut is_escaped = false;
    for (at, byte) in row.bytes().enumerate().take(BYTES) {
        if byte == b'|' && !is_escaped {
            sum += tokens.count(&row[length..=at]);
            if sum > most {
                break;
            }
            length = at + 1;
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    length
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn repeated(row: &str, max_tokens: usize) -> Option<(String, usize, bool)> {
        let text = format!("before\n{row}\n|---|\n");
        let header = Header { row: 7..7 + row.len(), body: 7 + row.len() + 7 };
        let tokens = Tokens::new("o200k_base").unwrap();
        let table = Table::new(&text, &header, max_tokens, &tokens)?;
        Some((text[table.repeated.clone()].to_owned(), table.tokens, table.is_whole()))
    }

    #[test]
    fn a_row_of_a_quarter_of_a_chunk_is_repeated_whole_and_of_a_longer_one_its_first_cells() {
        let row = "| station | level | remark |";
        let (whole, tokens, is_whole) = repeated(row, 100).unwrap();
        assert_eq!((whole.as_str(), is_whole), (row, true));
        assert_eq!(repeated(row, 4 * tokens).unwrap().0, row);
        let (part, fewer, is_whole) = repeated(row, 4 * tokens - 4).unwrap();
        assert_eq!((part.as_str(), is_whole), ("| station | level |", false));
        assert!(fewer < tokens);
        assert_eq!(repeated(row, 8), None);
    }

    #[test]
    fn cells_end_at_bars_that_are_not_escaped() {
        let (part, ..) = repeated("| a\\|b | a long remark about nothing at all |", 32).unwrap();
        assert_eq!(part, "| a\\|b |");
    }

    #[test]
    fn a_row_without_end_costs_no_more_than_its_beginning() {
        let tokens = Tokens::new("o200k_base").unwrap();
        let text = format!("|{}", " column |".repeat(100_000));
        let header = Header { row: 0..text.len(), body: text.len() };
        let table = Table::new(&text, &header, 8192, &tokens).unwrap();
        assert!(table.repeated.len() <= BYTES && table.repeated.len() > BYTES - 20, "{:?}", table.repeated);
        assert!(tokens.bytes_counted() <= 3 * BYTES as u64, "{}", tokens.bytes_counted());
        assert_eq!(repeated(&format!("| {} |", "x".repeat(9_000)), 8192), None);
    }
}
