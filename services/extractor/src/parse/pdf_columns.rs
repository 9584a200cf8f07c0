//! Two columns of prose that a file writes row by row: left, right, left, right.
//!
//! Most files write a column after the other, and PDFium keeps the file's order. Where it is the other one, both columns stand in
//! each line, with a gap between. Tables have gaps too, and are read by rows; what tells them apart is that lines of prose go on in the
//! next one, so that many begin with a small letter.

use super::pdf_layout::Line;

/// The least distance, in points, of the last letter before a gap and the first behind it.
pub(super) const LEAST_GAP: f32 = 10.0;
/// The same as a multiple of the size: more than a space of a justified line.
pub(super) const GAP_SCALE: f32 = 1.5;
/// Columns have at least so many rows, and their lines so many characters.
const LEAST_ROWS: usize = 6;
const LEAST_CHARS: usize = 20;

/// Of so many lines, one is measured at first; so many of those have gaps where a page may have such columns.
pub(super) const SAMPLED: usize = 3;
const LEAST_SAMPLES: usize = LEAST_ROWS / SAMPLED;

/// A gap in a line that is wider than a space.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gap {
    /// Words of the line before it.
    pub(super) words: usize,
    /// Where the last letter before it and the first behind it begin.
    pub(super) from: f32,
    pub(super) to: f32,
}

/// Whether the lines that were measured let expect columns row by row.
pub(super) fn may_stand_in_rows(sampled: &[Line]) -> bool {
    sampled.iter().filter(|line| !line.gaps.is_empty()).count() >= LEAST_SAMPLES
}

/// The lines of a page, one column after the other where the file has them row by row.
pub(super) fn in_reading_order(lines: Vec<Line>) -> Vec<Line> {
    let Some(edge) = second_column(&lines) else { return lines };
    let mut ordered = Vec::with_capacity(lines.len() * 2);
    let mut second = Vec::new();
    for line in lines {
        if let Some((left, right)) = gap_before(&line, edge).and_then(|gap| line.split(gap)) {
            ordered.push(left);
            second.push(right);
        } else if line.left >= edge - tolerance(&line) {
            second.push(line);
        } else {
            // A line that crosses the gutter stands above or below both columns.
            if line.right > edge {
                ordered.append(&mut second);
            }
            ordered.push(line);
        }
    }
    ordered.append(&mut second);
    ordered
}

fn tolerance(line: &Line) -> f32 {
    0.5 * line.size.max(1.0)
}

fn gap_before(line: &Line, edge: f32) -> Option<&Gap> {
    line.gaps.iter().find(|gap| (gap.to - edge).abs() <= tolerance(line))
}

/// Where the second of two columns of prose begins.
fn second_column(lines: &[Line]) -> Option<f32> {
    let edge = commonest(lines.iter().flat_map(|line| &line.gaps).map(|gap| gap.to).collect())?;
    let is_row = |line: &Line| gap_before(line, edge).is_some();
    let rows = lines.iter().filter_map(|line| line.split(gap_before(line, edge)?));
    let (left, right): (Vec<Line>, Vec<Line>) = rows.unzip();
    // The last page's first column may go on alone, below the rows.
    let (first, last) = (lines.iter().position(is_row)?, lines.iter().rposition(is_row)?);
    let enough = left.len() >= LEAST_ROWS && left.len() * 2 > last - first;
    (enough && is_prose(&left) && is_prose(&right)).then_some(edge)
}

/// The place that most places are within a point of.
fn commonest(mut places: Vec<f32>) -> Option<f32> {
    places.sort_by(f32::total_cmp);
    let mut best = (0, None);
    let mut start = 0;
    for end in 0..places.len() {
        while places[end] - places[start] > 2.0 {
            start += 1;
        }
        if end + 1 - start > best.0 {
            best = (end + 1 - start, Some(places[start + (end - start) / 2]));
        }
    }
    best.1
}

fn is_prose(lines: &[Line]) -> bool {
    let chars: usize = lines.iter().map(Line::chars).sum();
    let go_on = lines.iter().filter(|line| line.text.starts_with(char::is_lowercase)).count();
    chars >= lines.len() * LEAST_CHARS && go_on * 3 >= lines.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line at 50 points with a second part at 300.
    fn row(left: &str, right: &str, number: usize) -> Line {
        let base = 700.0 - 12.0 * number as f32;
        let gap = Gap { words: left.split(' ').count(), from: 240.0, to: 300.0 };
        Line::new(&format!("{left} {right}"), 50.0, 540.0, base, 10.0, false).with_gaps(vec![gap])
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        in_reading_order(lines).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn columns_of_prose_are_read_one_after_the_other() {
        let mut lines =
            vec![Line::new("A title across both of the columns", 50.0, 540.0, 720.0, 14.0, false)];
        lines.extend((0..6).map(|i| {
            row("which the observers of the river noted for-", "under the bridge at the old station", i)
        }));
        // The second column ends with a short line of its own, the first goes on below.
        lines.push(Line::new("only the right one", 300.0, 420.0, 620.0, 10.0, false));
        lines.extend((0..9).map(|_| Line::new("only the left one", 50.0, 130.0, 600.0, 10.0, false)));
        let texts = texts(lines);
        assert!(texts[0].starts_with("A title"));
        assert!(texts[1..7].iter().all(|text| text == "which the observers of the river noted for"));
        assert!(texts[7..16].iter().all(|text| text == "only the left one"));
        assert!(texts[16..22].iter().all(|text| text == "under the bridge at the old station"));
        assert_eq!(texts[22..], ["only the right one"]);
    }

    #[test]
    fn tables_and_lists_with_numbers_behind_stay_rows() {
        let table: Vec<Line> = (0..9)
            .map(|i| row("The Observatory of the Northern Rivers", "Avenue of the Old Bridge, Porto", i))
            .collect();
        let contents: Vec<Line> =
            (0..9).map(|i| row("how the level of the river was taken", "12", i)).collect();
        for lines in [table, contents] {
            let before: Vec<String> = lines.iter().map(|line| line.text.clone()).collect();
            assert_eq!(texts(lines), before);
        }
    }
}
