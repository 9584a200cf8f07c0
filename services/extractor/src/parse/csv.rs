//! Delimited text to a Markdown table.

use super::{Parsed, markdown};
use crate::encoding;

/// Reads rows of fields; the first row is the header. Ragged rows are filled up.
pub(super) fn parse(text: &str, delimiter: char) -> Parsed {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(u8::try_from(delimiter).unwrap_or(b','))
        .has_headers(false)
        .flexible(true)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    // The text is UTF-8 already, so no record fails.
    let rows: Vec<csv::StringRecord> = reader.records().filter_map(Result::ok).collect();
    let columns = rows.iter().map(csv::StringRecord::len).max().unwrap_or(0);
    let mut table = String::with_capacity(text.len() + rows.len() * (columns * 3 + 2));
    for (i, row) in rows.iter().filter(|row| row.iter().any(|cell| !cell.trim().is_empty())).enumerate() {
        markdown::push_row(&mut table, row.iter(), columns.min(row.len().max(rows[0].len())));
        if i == 0 {
            markdown::push_rule(&mut table, columns);
        }
    }
    Parsed::plain(encoding::clean(table))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn rows_become_a_table() {
        let text = "station;level\nNorth;\"3,5\nm\"\n\n\"a|b\";1\n";
        let expected = "| station | level |\n|---|---|\n| North | 3,5 m |\n| a\\|b | 1 |\n";
        assert_eq!(parse(text, ';').text, expected);
    }
}
