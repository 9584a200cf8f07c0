//! Markdown: where its headings are, and the tidying of what converters write.

use crate::extracted::Heading;

/// The headings of a Markdown text: lines that begin with one to six `#`, outside fenced code.
pub(crate) fn headings(text: &str) -> Vec<Heading> {
    let mut headings = Vec::new();
    let mut fence: Option<&str> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim_start();
        let opens = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        if let Some(mark) = opens {
            fence = match fence {
                None => Some(mark),
                Some(open) if open == mark => None,
                open => open,
            };
            continue;
        }
        if fence.is_none()
            && let Some((level, title)) = heading(line)
        {
            headings.push(Heading {
                level,
                byte_start: start,
                byte_end: start + line.trim_end().len(),
                title,
            });
        }
    }
    headings
}

fn heading(line: &str) -> Option<(u8, String)> {
    let level = line.bytes().take_while(|b| *b == b'#').count();
    let rest = line.get(level..)?;
    if !(1..=6).contains(&level) || !rest.starts_with([' ', '\t']) {
        return None;
    }
    let title = plain(rest.trim().trim_end_matches('#').trim_end());
    (!title.is_empty()).then_some((u8::try_from(level).unwrap_or(6), title))
}

/// A line of Markdown without marks of emphasis, code and links.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' | '`' => {}
            '\\' => {
                if let Some(next) = rest.chars().next() {
                    plain.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            '[' => {}
            ']' if rest.starts_with('(') => rest = rest.split_once(')').map_or("", |(_, rest)| rest),
            c => plain.push(c),
        }
    }
    plain.trim().to_owned()
}

/// Tidies what converters write: no spaces at line ends, no backslashes before punctuation (the
/// text is read by people and models, not rendered), one blank line at most, no empty rows and
/// columns of tables; code is left as it is.
pub(crate) fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut in_code = false;
    let mut blank = true;
    let mut rows: Vec<&str> = Vec::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !in_code && !fence && line.starts_with('|') {
            rows.push(line.trim_end());
            blank = false;
            continue;
        }
        push_table(&mut tidy, &std::mem::take(&mut rows));
        if in_code || fence {
            in_code ^= fence;
            blank = false;
            tidy.push_str(line);
            tidy.push('\n');
            continue;
        }
        let line = line.trim_end();
        if line.is_empty() {
            if !blank {
                tidy.push('\n');
            }
            blank = true;
            continue;
        }
        blank = false;
        // One space is what is left of a line break; lists are indented by more.
        let line = line.strip_prefix(' ').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        push_unescaped(&mut tidy, line);
        tidy.push('\n');
    }
    push_table(&mut tidy, &rows);
    tidy.truncate(tidy.trim_end().len());
    tidy
}

/// Writes the rows of a table without those rows and columns that are empty.
fn push_table(out: &mut String, rows: &[&str]) {
    let cells: Vec<Vec<&str>> = rows.iter().filter(|row| !is_rule(row)).map(|row| split_row(row)).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    // Rows of different lengths hold unescaped bars; what is a column then, nobody knows.
    if columns == 0 || cells.iter().any(|row| row.len() != columns) || !rows.iter().any(|row| is_rule(row)) {
        for row in rows {
            push_unescaped(out, row);
            out.push('\n');
        }
        return;
    }
    let used: Vec<usize> = (0..columns).filter(|at| cells.iter().any(|row| !row[*at].is_empty())).collect();
    let full = cells.iter().filter(|row| row.iter().any(|cell| !cell.is_empty()));
    for (i, row) in full.enumerate() {
        for at in &used {
            out.push_str("| ");
            push_unescaped_cell(out, row[*at]);
            out.push(' ');
        }
        out.push_str("|\n");
        if i == 0 {
            push_rule(out, used.len());
        }
    }
}

/// Whether a row is the rule below the header row of a table.
pub(crate) fn is_rule(row: &str) -> bool {
    row.bytes().all(|b| matches!(b, b'|' | b'-' | b':' | b' ')) && row.contains('-')
}

/// The cells of a row, split at bars that are not escaped.
fn split_row(row: &str) -> Vec<&str> {
    let row = row.strip_prefix('|').unwrap_or(row);
    let mut cells = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in row.bytes().enumerate() {
        match byte {
            b'\\' => escaped = !escaped,
            b'|' if !escaped => {
                cells.push(row[start..at].trim());
                start = at + 1;
            }
            _ => escaped = false,
        }
    }
    if !row[start..].trim().is_empty() {
        cells.push(row[start..].trim());
    }
    cells
}

fn push_unescaped(out: &mut String, line: &str) {
    unescape(out, line, line.starts_with('|'));
}

fn push_unescaped_cell(out: &mut String, cell: &str) {
    unescape(out, cell, true);
}

fn unescape(out: &mut String, line: &str, in_table: bool) {
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        // A mark that would make a heading or a cell of what is none stays escaped.
        let keep = |next: char| (at == 0 && next == '#') || (in_table && next == '|');
        match chars.peek() {
            Some((_, next)) if c == '\\' && next.is_ascii_punctuation() && !keep(*next) => {}
            _ => out.push(c),
        }
        if c == '\\'
            && let Some((_, next)) = chars.next_if(|(_, next)| next.is_ascii_punctuation())
        {
            out.push(next);
        }
    }
}

/// Writes a row of a table.
pub(crate) fn push_row<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, columns: usize) {
    out.push('|');
    let mut written = 0;
    for cell in cells.take(columns) {
        out.push(' ');
        push_cell(out, cell);
        out.push_str(" |");
        written += 1;
    }
    for _ in written..columns {
        out.push_str("  |");
    }
    out.push('\n');
}

/// Writes the line between a table's header and its rows.
pub(crate) fn push_rule(out: &mut String, columns: usize) {
    out.push('|');
    for _ in 0..columns {
        out.push_str("---|");
    }
    out.push('\n');
}

/// A cell is one line, and its bars are escaped.
fn push_cell(out: &mut String, cell: &str) {
    let mut space = false;
    for c in cell.trim().chars() {
        if c.is_whitespace() || c.is_control() {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) {
            out.push(' ');
        }
        if c == '|' {
            out.push('\\');
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn headings_are_found_outside_code_only() {
        let text = "# One #\ntext\n```sh\n# no heading\n```\n#tag\n### **Two** [link](x)\n";
        let found = headings(text);
        let titles: Vec<_> = found.iter().map(|h| (h.level, h.title.as_str())).collect();
        assert_eq!(titles, [(1, "One"), (3, "Two link")]);
        assert_eq!(&text[found[0].byte_start..found[0].byte_end], "# One #");
    }

    #[test]
    fn tidying_keeps_what_would_change_the_structure() {
        let text = "a\\_b 1\\. \n\n\n\\# no heading\n| x \\| y |\n```\na\\_b  \n```\n";
        assert_eq!(tidy(text), "a_b 1.\n\n\\# no heading\n| x \\| y |\n```\na\\_b  \n```");
    }

    #[test]
    fn tables_lose_their_empty_rows_and_columns() {
        let text =
            "|  |  |  |\n| --- | --- | --- |\n|  |  |  |\n|  | Topic | Page |\n|  | Rain\\_1 | a\\|b |\n";
        assert_eq!(tidy(text), "| Topic | Page |\n|---|---|\n| Rain_1 | a\\|b |");
    }
}
