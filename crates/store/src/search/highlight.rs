//! Where the query's words stand in a text. PostgreSQL marks copies of the text, and knows which forms
//! of a word match; the copies themselves are not usable, because they lack markup that the text has.
//! So the marked forms are looked up in the text, and the answer is ranges: nobody has to trust marks
//! inside of foreign text.

use std::collections::BTreeSet;

use unicode_normalization::char::{decompose_canonical, is_combining_mark};

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

/// The places of all forms that are marked in the copies, whatever their case and accents.
pub(crate) fn highlights(text: &str, copies: &[&str]) -> Vec<Highlight> {
    if text.contains([START, STOP]) {
        return Vec::new();
    }
    let forms: BTreeSet<Vec<char>> = copies.iter().flat_map(|copy| marked_forms(copy)).collect();
    let text = Folded::of(text);
    let mut ranges: Vec<Highlight> = forms.iter().flat_map(|form| text.places_of(form)).collect();
    ranges.sort_unstable();
    let mut merged: Vec<Highlight> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

fn marked_forms(copy: &str) -> impl Iterator<Item = Vec<char>> {
    let parts = copy.split(START).skip(1).filter_map(|part| part.split_once(STOP));
    parts.map(|(form, _)| Folded::of(form).chars).filter(|form| !form.is_empty())
}

/// A text without case and accents, each character with the place of the one it came from.
struct Folded {
    chars: Vec<char>,
    places: Vec<u32>,
}

impl Folded {
    fn of(text: &str) -> Self {
        let mut folded =
            Self { chars: Vec::with_capacity(text.len()), places: Vec::with_capacity(text.len()) };
        for (place, original) in (0_u32..).zip(text.chars()) {
            decompose_canonical(original, |part| {
                if !is_combining_mark(part) {
                    for lower in part.to_lowercase() {
                        folded.chars.push(lower);
                        folded.places.push(place);
                    }
                }
            });
        }
        folded
    }

    /// Where the form stands as a word of its own.
    fn places_of(&self, form: &[char]) -> Vec<Highlight> {
        let letter =
            |place: Option<usize>| place.and_then(|p| self.chars.get(p)).is_some_and(|c| c.is_alphanumeric());
        let is_word = |start: usize| !letter(start.checked_sub(1)) && !letter(Some(start + form.len()));
        let windows = self.chars.windows(form.len()).enumerate();
        windows
            .filter(|(start, window)| *window == form && is_word(*start))
            .map(|(start, _)| Highlight {
                start: self.places[start],
                end: self.places[start + form.len() - 1] + 1,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(text: &str, copies: &[&str]) -> Vec<String> {
        let cut =
            |r: &Highlight| text.chars().skip(r.start as usize).take((r.end - r.start) as usize).collect();
        highlights(text, copies).iter().map(cut).collect()
    }

    #[test]
    fn ranges_are_code_points_of_the_text() {
        let text = "Die größte Brücke, über die Brücke.";
        assert_eq!(slices(text, &["Die größte \u{2}Brücke\u{3}, über"]), ["Brücke", "Brücke"]);
    }

    #[test]
    fn words_found_without_their_accents_are_marked_with_them() {
        let text = "A inflação (Inflação!), não a inflaçãozinha";
        assert_eq!(slices(text, &["A \u{2}inflacao\u{3} (\u{2}Inflacao\u{3}!)"]), ["inflação", "Inflação"]);
        // The same in decomposed form.
        let text = "A inflac\u{327}a\u{303}o";
        assert_eq!(slices(text, &["\u{2}inflacao\u{3}"]).len(), 1);
    }

    #[test]
    fn a_copy_without_the_texts_markup_still_tells_the_words() {
        assert_eq!(slices("<b>Pumps</b> and pumps", &[" \u{2}Pumps\u{3} and"]), ["Pumps", "pumps"]);
        assert_eq!(slices("write to a@b.example", &["to \u{2}a@b.example\u{3}"]), ["a@b.example"]);
    }

    #[test]
    fn a_text_with_marks_of_its_own_is_left_alone() {
        assert!(highlights("a\u{2}b\u{3}", &["a\u{2}b\u{3}"]).is_empty());
        assert!(highlights("ab", &["ab", "a\u{2}", "\u{2}\u{3}"]).is_empty());
    }
}
