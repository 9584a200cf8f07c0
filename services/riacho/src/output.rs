//! What a command prints: text for people or one JSON object a line, on standard output.
//!
//! The only place that writes to the terminal, besides the progress bars.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// The printer of a command's results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { json, quiet, colour }
    }

    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    pub(crate) const fn is_quiet(self) -> bool {
        self.quiet
    }

    /// A result: the object with `--json`, else the text.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) {
        if self.json {
            self.raw(&serde_json::to_string(value).unwrap_or_default());
        } else {
            self.raw(text().trim_end_matches('\n'));
        }
    }

    /// A list: one object a line with `--json`, else a table.
    pub(crate) fn list<T: Serialize>(self, items: &[T], header: &[&str], row: impl Fn(&T) -> Vec<String>) {
        if self.json {
            for item in items {
                self.raw(&serde_json::to_string(item).unwrap_or_default());
            }
        } else if items.is_empty() {
            self.note("none");
        } else {
            self.raw(&table(header, items.iter().map(row)));
        }
    }

    /// A remark for people; nothing with `--json` or `-q`.
    pub(crate) fn note(self, text: &str) {
        if !self.json && !self.quiet {
            self.raw(text);
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A text as it is. A reader that went away (`| head`) is no error of ours.
    pub(crate) fn raw(self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// One line on standard error.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Columns padded to their widest cell.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rows = std::iter::once(header).chain(rows).collect::<Vec<_>>();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths = (0..columns).map(width).collect::<Vec<_>>();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A text cut to a number of characters, with its white space (line ends too) made single spaces.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= limit {
        return flat;
    }
    let cut = flat.chars().take(limit.saturating_sub(2)).collect::<String>();
    format!("{} ..", cut.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["água".to_owned(), "1".to_owned()], vec!["b".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "n"], rows), "name  n\nágua  1\nb     22");
    }

    #[test]
    fn long_texts_are_cut_at_characters() {
        assert_eq!(shorten("um  rio\nlargo", 40), "um rio largo");
        assert_eq!(shorten("ááááááááá", 6), "áááá ..");
    }
}
