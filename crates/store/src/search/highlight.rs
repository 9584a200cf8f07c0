//! Where the query's words stand in a text: from PostgreSQL's marked copies of it to ranges, so that
//! nobody has to trust marks inside of foreign text.

/// Marks of a copy. A text that has them itself is not highlighted.
pub(crate) const START: char = '\u{2}';
pub(crate) const STOP: char = '\u{3}';

/// A part of a hit's text, in code points; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Highlight {
    /// The first code point.
    pub start: u32,
    /// The code point after the last.
    pub end: u32,
}

/// The marked parts of `text`. `marked` is the text with marks; `folded` is a copy without accents,
/// with marks: its words are the text's words in the same order, though not always as long.
pub(crate) fn highlights(text: &str, marked: &str, folded: Option<&str>) -> Vec<Highlight> {
    if text.contains([START, STOP]) {
        return Vec::new();
    }
    let mut ranges = exact(text, marked).unwrap_or_default();
    if let Some(folded) = folded {
        ranges.extend(by_word(text, folded).unwrap_or_default());
    }
    ranges.sort_unstable();
    let mut merged: Vec<Highlight> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Ranges of a copy that differs by its marks alone.
fn exact(text: &str, marked: &str) -> Option<Vec<Highlight>> {
    let mut originals = text.chars();
    let (mut ranges, mut place, mut open) = (Vec::new(), 0_u32, None);
    for c in marked.chars() {
        match c {
            START => open = Some(place),
            STOP => ranges.push(Highlight { start: open.take()?, end: place }),
            _ if originals.next() == Some(c) => place += 1,
            _ => return None,
        }
    }
    (originals.next().is_none() && open.is_none()).then_some(ranges)
}

/// Ranges of the words whose counterparts are marked.
fn by_word(text: &str, folded: &str) -> Option<Vec<Highlight>> {
    let words = words(text);
    let marked: Vec<&str> = folded.split_whitespace().collect();
    if words.len() != marked.len() {
        return None;
    }
    Some(
        words
            .into_iter()
            .zip(marked)
            .filter(|(_, marked)| marked.contains(START))
            .filter_map(|(word, _)| word)
            .collect(),
    )
}

/// The words between white space, each without the punctuation around it.
fn words(text: &str) -> Vec<Option<Highlight>> {
    let (mut words, mut current, mut inside): (Vec<Option<Highlight>>, Option<Highlight>, bool) =
        (Vec::new(), None, false);
    for (place, c) in (0_u32..).zip(text.chars()) {
        if c.is_whitespace() {
            if inside {
                words.push(current.take());
            }
            inside = false;
            continue;
        }
        inside = true;
        if c.is_alphanumeric() {
            let start = current.map_or(place, |range| range.start);
            current = Some(Highlight { start, end: place + 1 });
        }
    }
    if inside {
        words.push(current);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(text: &str, ranges: &[Highlight]) -> Vec<String> {
        let cut =
            |r: &Highlight| text.chars().skip(r.start as usize).take((r.end - r.start) as usize).collect();
        ranges.iter().map(cut).collect()
    }

    #[test]
    fn ranges_are_code_points_of_the_text() {
        let text = "Die größte Brücke, über die Brücke.";
        let marked = "Die größte \u{2}Brücke\u{3}, über die \u{2}Brücke\u{3}.";
        assert_eq!(slices(text, &highlights(text, marked, None)), ["Brücke", "Brücke"]);
    }

    #[test]
    fn words_found_without_their_accents_are_marked_with_them() {
        let text = "A inflação (inflação!) œuvre sobe";
        let folded = "A \u{2}inflacao\u{3} (\u{2}inflacao\u{3}!) oeuvre sobe";
        assert_eq!(slices(text, &highlights(text, text, Some(folded))), ["inflação", "inflação"]);
    }

    #[test]
    fn a_copy_that_does_not_fit_marks_nothing() {
        assert!(highlights("abc", "ab\u{2}d\u{3}", Some("a b")).is_empty());
        assert!(highlights("a\u{2}b", "a\u{2}b\u{3}", None).is_empty());
    }
}
