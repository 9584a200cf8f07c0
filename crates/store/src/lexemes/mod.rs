//! What a text is indexed under: the stems of its words, with accents folded.
//!
//! Texts and queries take the same way, so they meet whatever a stemmer does. PostgreSQL keeps the
//! lexemes and finds them. Making them here costs far less than its own parser and dictionaries, and lets
//! hits be highlighted by the same rules that found them (docs/adr/0010).
//!
//! People leave accents out, and stemmers need them (informação and informar share a stem only with
//! them). So a word has up to two forms: the stem of its folded letters, and the folded stem of the word
//! as it is. A query looks for either.

mod folding;
mod vector;

use std::{
    cell::RefCell,
    collections::HashSet,
    ops::Range,
    sync::{Arc, OnceLock},
};

use compact_str::CompactString;
use foldhash::HashMap;
use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

pub(crate) use self::vector::TextVector;
use self::{folding::fold, vector::Occurrences};

/// Longer words are noise: encoded data, mostly. PostgreSQL takes up to 2 KB.
const WORD_BYTES: usize = 128;

/// The most words of a language that a thread remembers, which are then forgotten: about 5 MB.
const KNOWN_WORDS: usize = 32_768;

/// Words of a language, and the place of their forms.
#[derive(Default)]
struct Seen {
    places: HashMap<CompactString, usize>,
    forms: Vec<Option<Forms>>,
}

/// The forms that a word is indexed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forms {
    /// The stem of the folded word.
    pub(crate) folded: Arc<str>,
    /// The folded stem of the word with its accents, where that is another.
    pub(crate) accented: Option<Arc<str>>,
}

impl Forms {
    /// All forms.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.folded).chain(self.accented.as_deref())
    }
}

/// A language's words: how they are stemmed, and which do not count.
pub(crate) struct Language {
    config: &'static str,
    stemmer: Option<Stemmer>,
    stop_words: HashSet<Box<str>>,
    /// Of the Romance languages, the stop words without their accents: people leave them out. Elsewhere
    /// a letter without its mark is another letter (Turkish şu and su, Swedish är and ar).
    unaccented_stop_words: HashSet<Box<str>>,
}

impl Language {
    /// The language of a configuration, as [`crate::language::configuration`] names it. Of an unknown
    /// one, words are indexed as they are.
    pub(crate) fn of(config: &str) -> &'static Language {
        static ALL: OnceLock<Vec<Language>> = OnceLock::new();
        let all = ALL.get_or_init(|| KNOWN.iter().map(Language::load).collect());
        all.iter().find(|language| language.config == config).unwrap_or(&all[0])
    }

    fn load(&(config, code, algorithm): &(&'static str, &str, Option<Algorithm>)) -> Language {
        let listed = stop_words::lookup(code).unwrap_or_default();
        let mut stop_words: HashSet<Box<str>> = HashSet::new();
        for entry in listed {
            let parts: Vec<&str> = words(entry).map(|word| &entry[word]).collect();
            // Texts are cut at apostrophes too; the parts of other compounds are words in their own right.
            if parts.len() == 1 || entry.contains(['\'', '’']) {
                stop_words.extend(parts.into_iter().map(|part| Box::from(normal(part))));
            }
        }
        let is_romance =
            matches!(config, "portuguese" | "spanish" | "french" | "italian" | "catalan" | "romanian");
        let unaccented = stop_words.iter().filter(|_| is_romance).map(|word| Box::from(fold(word))).collect();
        Language {
            config,
            stemmer: algorithm.map(Stemmer::create),
            stop_words,
            unaccented_stop_words: unaccented,
        }
    }

    /// Whether a word does not count.
    pub(crate) fn is_stop_word(&self, word: &str) -> bool {
        self.is_normal_stop_word(&normal(word))
    }

    fn is_normal_stop_word(&self, word: &str) -> bool {
        self.stop_words.contains(word) || word.is_ascii() && self.unaccented_stop_words.contains(word)
    }

    /// The forms of a word; none of one that does not count.
    pub(crate) fn forms(&self, word: &str) -> Option<Forms> {
        self.with_seen(|seen| self.seen_forms(seen, word).cloned())
    }

    /// The lexemes of a text, for its index.
    pub(crate) fn vector(&self, text: &str) -> TextVector {
        self.with_seen(|seen| {
            let mut occurrences = Occurrences::default();
            // Words that do not count have places all the same, as everywhere in PostgreSQL.
            for (place, word) in words(text).enumerate() {
                if let Some(forms) = self.seen_forms(seen, &text[word]) {
                    occurrences.add(forms, place);
                }
            }
            occurrences.encode()
        })
    }

    /// With what this thread remembers of the language's words.
    fn with_seen<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        thread_local! {
            static ALL: RefCell<HashMap<&'static str, Seen>> = RefCell::default();
        }
        ALL.with_borrow_mut(|all| work(all.entry(self.config).or_default()))
    }

    fn seen_forms<'s>(&self, seen: &'s mut Seen, word: &str) -> Option<&'s Forms> {
        let place = match seen.places.get(word) {
            Some(place) => *place,
            None => seen.remember(word, self.make_forms(word)),
        };
        seen.forms.get(place)?.as_ref()
    }

    fn make_forms(&self, word: &str) -> Option<Forms> {
        let lower = normal(word);
        if self.is_normal_stop_word(&lower) {
            return None;
        }
        let mut folded = fold(&lower);
        // The Portuguese stemmer keeps many plurals of words in -ão apart; without accents they end in -oes.
        if self.config == "portuguese"
            && let Some(start) = folded.strip_suffix("oes").filter(|start| !start.is_empty())
        {
            folded = format!("{start}ao").into();
        }
        let stem = |word: &str| match &self.stemmer {
            Some(stemmer) => Arc::<str>::from(stemmer.stem(word)),
            None => Arc::from(word),
        };
        let form = stem(&folded);
        let accented: Arc<str> = if lower.is_ascii() { form.clone() } else { fold(&stem(&lower)).into() };
        let accented = Some(accented).filter(|accented| *accented != form && !accented.is_empty());
        (!form.is_empty()).then_some(Forms { folded: form, accented })
    }
}

impl Seen {
    /// Keeps a word's forms, and answers their place.
    fn remember(&mut self, word: &str, forms: Option<Forms>) -> usize {
        if self.forms.len() >= KNOWN_WORDS {
            self.places.clear();
            self.forms.clear();
        }
        let place = self.forms.len();
        self.forms.push(forms);
        self.places.insert(word.into(), place);
        place
    }
}

/// The languages of `configuration`, their codes and stemmers. The first is for all others.
#[rustfmt::skip]
const KNOWN: &[(&str, &str, Option<Algorithm>)] = &[
    ("simple", "", None),
    ("arabic", "ar", Some(Algorithm::Arabic)),
    ("armenian", "hy", None),
    ("basque", "eu", None),
    ("catalan", "ca", None),
    ("danish", "da", Some(Algorithm::Danish)),
    ("dutch", "nl", Some(Algorithm::Dutch)),
    ("english", "en", Some(Algorithm::English)),
    ("finnish", "fi", Some(Algorithm::Finnish)),
    ("french", "fr", Some(Algorithm::French)),
    ("german", "de", Some(Algorithm::German)),
    ("greek", "el", Some(Algorithm::Greek)),
    ("hindi", "hi", None),
    ("hungarian", "hu", Some(Algorithm::Hungarian)),
    ("indonesian", "id", None),
    ("irish", "ga", None),
    ("italian", "it", Some(Algorithm::Italian)),
    ("lithuanian", "lt", None),
    ("nepali", "ne", None),
    ("norwegian", "no", Some(Algorithm::Norwegian)),
    ("portuguese", "pt", Some(Algorithm::Portuguese)),
    ("romanian", "ro", Some(Algorithm::Romanian)),
    ("russian", "ru", Some(Algorithm::Russian)),
    ("serbian", "sr", None),
    ("spanish", "es", Some(Algorithm::Spanish)),
    ("swedish", "sv", Some(Algorithm::Swedish)),
    ("tamil", "ta", Some(Algorithm::Tamil)),
    ("turkish", "tr", Some(Algorithm::Turkish)),
    ("yiddish", "yi", None),
];

/// A word in lower case, its letters composed: the two ways to write é are one.
fn normal(word: &str) -> String {
    if word.is_ascii() { word.to_ascii_lowercase() } else { word.nfc().collect::<String>().to_lowercase() }
}

/// The words of a text, as ranges of bytes: those of Unicode (UAX 29), cut at apostrophes and
/// underscores. Ideographs are words of their own.
pub(crate) fn words(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut uncut = text.unicode_word_indices();
    // What is left of a word behind a cut.
    let mut rest = 0..0;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                let (start, word) = uncut.next()?;
                rest = start..start + word.len();
            }
            let word = &text[rest.clone()];
            let (part, skipped) = first_part(word);
            let begin = rest.start;
            rest.start += part + skipped;
            if (1..=WORD_BYTES).contains(&part) {
                return Some(begin..begin + part);
            }
        }
    })
}

/// The length of what stands before a word's first cut, and that of the cut.
fn first_part(word: &str) -> (usize, usize) {
    // Hardly a word has one, and bytes are quickly looked at: no other character begins like ’ in most texts.
    if !word.bytes().any(|byte| matches!(byte, b'\'' | b'_' | 0xe2)) {
        return (word.len(), 0);
    }
    let cut = |c: &(usize, char)| matches!(c.1, '\'' | '’' | '_');
    word.char_indices().find(cut).map_or((word.len(), 0), |(at, c)| (at, c.len_utf8()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<&str> {
        words(text).map(|word| &text[word]).collect()
    }

    fn forms(config: &str, word: &str) -> Vec<String> {
        Language::of(config).forms(word).iter().flat_map(Forms::iter).map(str::to_owned).collect()
    }

    #[test]
    fn words_end_at_signs_hyphens_and_apostrophes() {
        assert_eq!(
            split("The weir's 2.5 m; state-of-the-art!"),
            ["The", "weir", "s", "2.5", "m", "state", "of", "the", "art"]
        );
        assert_eq!(split("l’eau d'août snake_case"), ["l", "eau", "d", "août", "snake", "case"]);
        assert_eq!(split("水位計 water"), ["水", "位", "計", "water"]);
        assert!(split(" \n--- '' __ ").is_empty());
        assert!(split(&"x".repeat(500)).is_empty());
    }

    #[test]
    fn a_word_has_one_form_with_accents_or_without() {
        assert_eq!(forms("english", "Calibrated"), forms("english", "calibration"));
        let (with, without) = (forms("portuguese", "calibração"), forms("portuguese", "calibracao"));
        assert!(with.contains(&without[0]), "{with:?} {without:?}");
        for plural in ["inundações", "inundacoes"] {
            assert_eq!(forms("portuguese", plural)[0], forms("portuguese", "inundacao")[0], "{plural}");
        }
        assert_eq!(forms("simple", "Größe"), ["grosse"]);
    }

    #[test]
    fn stop_words_have_no_form_with_accents_or_without() {
        for (config, words) in
            [("english", vec!["the", "The", "s"]), ("portuguese", vec!["não", "nao", "você", "voce", "de"])]
        {
            for word in words {
                assert!(Language::of(config).forms(word).is_none(), "{config} {word}");
            }
        }
        assert!(Language::of("simple").forms("the").is_some());
        // Words that only look like stop words once their accents are gone.
        for (config, word) in [
            ("portuguese", "nó"),
            ("spanish", "té"),
            ("swedish", "år"),
            ("turkish", "su"),
            ("indonesian", "kali"),
        ] {
            assert!(Language::of(config).forms(word).is_some(), "{config} {word}");
        }
    }

    proptest! {
        #[test]
        fn every_stemmer_comes_to_an_end(word in "[a-zA-Zà-üа-яα-ωא-ت\\u{300}-\\u{310}漢字👍'0-9]{0,24}") {
            for (config, ..) in KNOWN {
                let forms = Language::of(config).make_forms(&word);
                prop_assert!(forms.is_none_or(|forms| forms.iter().all(|form| !form.is_empty())));
            }
        }
    }

    #[test]
    fn composed_and_decomposed_letters_are_the_same() {
        for (composed, decomposed) in
            [("йод", "и\u{306}од"), ("ёлка", "е\u{308}лка"), ("café", "cafe\u{301}")]
        {
            assert_eq!(forms("simple", composed), forms("simple", decomposed));
        }
    }

    #[test]
    fn every_configuration_is_known() {
        for code in [
            "ar", "hy", "eu", "ca", "da", "nl", "en", "fi", "fr", "de", "el", "hi", "hu", "id", "ga", "it",
            "lt", "ne", "no", "pt", "ro", "ru", "sr", "es", "sv", "ta", "tr", "yi", "xx",
        ] {
            let config = crate::language::configuration(code);
            assert_eq!(Language::of(config).config, config);
        }
    }
}
