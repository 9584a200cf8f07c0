//! Letters without their accents.

use std::borrow::Cow;

use unicode_normalization::char::{decompose_canonical, is_combining_mark};

/// A text without the accents of its Latin and Greek letters. In other scripts a mark is a part of the
/// letter (й is another letter than и), so it stays, except ё, which people write as е.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut folded = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'đ' | 'ð' => folded.push('d'),
            'ł' => folded.push('l'),
            'þ' => folded.push_str("th"),
            'ı' => folded.push('i'),
            'ё' => folded.push('е'),
            // A mark of its own stands behind the letter that it belongs to.
            '\u{300}'..='\u{36f}' if folded.chars().next_back().is_some_and(has_accents) => {}
            letter => {
                let mut base = None;
                decompose_canonical(letter, |part| {
                    base.get_or_insert(part);
                });
                match base.filter(|base| has_accents(*base) && !is_combining_mark(*base)) {
                    Some(base) => folded.push(base),
                    None => folded.push(letter),
                }
            }
        }
    }
    Cow::Owned(folded)
}

/// Latin and Greek.
fn has_accents(letter: char) -> bool {
    matches!(letter, 'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{3ff}' | '\u{1e00}'..='\u{1fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin_and_greek_letters_lose_their_accents_and_others_stay() {
        let cases = [
            ("informação", "informacao"),
            ("informac\u{327}a\u{303}o", "informacao"),
            ("größe", "grosse"),
            ("ångström", "angstrom"),
            ("ύδωρ", "υδωρ"),
            ("йод ёлка", "йод елка"),
            ("कि", "कि"),
            ("水位", "水位"),
            ("plain", "plain"),
        ];
        for (text, folded) in cases {
            assert_eq!(fold(text), folded);
        }
    }
}
