//! Where the query's words stand in a text: by the same rules that found it.

use std::collections::BTreeSet;

use crate::lexemes::{Language, words};

/// A part of a hit's text, in code points; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Highlight {
    /// The first code point.
    pub start: u32,
    /// The code point after the last.
    pub end: u32,
}

/// The words of a text that have one of the wanted forms.
pub(super) fn highlights(text: &str, language: &Language, wanted: &BTreeSet<String>) -> Vec<Highlight> {
    let (mut byte, mut chars) = (0, 0_u32);
    let mut found = Vec::new();
    for word in words(text) {
        let forms = language.forms(&text[word.clone()]);
        if !forms.iter().flat_map(|forms| forms.iter()).any(|form| wanted.contains(form)) {
            continue;
        }
        // Words come in order, so each code point is counted once.
        let mut place = |end: usize| {
            chars += u32::try_from(text[byte..end].chars().count()).unwrap_or(u32::MAX);
            byte = end;
            chars
        };
        found.push(Highlight { start: place(word.start), end: place(word.end) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(config: &str, text: &str, query: &str) -> Vec<String> {
        let language = Language::of(config);
        let forms = words(query).filter_map(|word| language.forms(&query[word]));
        let wanted = forms.flat_map(|forms| forms.iter().map(str::to_owned).collect::<Vec<_>>()).collect();
        let cut = |r: &Highlight| {
            text.chars().skip(r.start as usize).take((r.end - r.start) as usize).collect::<String>()
        };
        highlights(text, language, &wanted).iter().map(cut).collect()
    }

    #[test]
    fn ranges_are_code_points_of_the_text() {
        let text = "Die größte Brücke, über die Brücken.";
        assert_eq!(marked("german", text, "Brücke"), ["Brücke", "Brücken"]);
    }

    #[test]
    fn words_found_without_their_accents_are_marked_with_them() {
        let text = "A inflação (Inflação!), não a inflaçãozinha";
        assert_eq!(marked("portuguese", text, "inflacao"), ["inflação", "Inflação"]);
        // The same in decomposed form.
        assert_eq!(marked("portuguese", "A inflac\u{327}a\u{303}o", "inflação").len(), 1);
    }

    #[test]
    fn markup_of_the_text_stays_text() {
        assert_eq!(marked("english", "<b>Pumps</b> and pumping", "pump"), ["Pumps", "pumping"]);
        assert!(marked("english", "nothing of it", "the pump").is_empty());
    }
}
