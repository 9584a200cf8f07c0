//! The language of a text.

use whatlang::{Detector, Lang};

/// How much of a text is looked at: enough to be certain, and cheap.
const SAMPLE_CHARS: usize = 1200;
/// Below this many letters every guess is as good as another.
const LEAST_LETTERS: usize = 24;

/// The language as ISO 639-1, where it has such a code and the text leaves little doubt.
#[must_use]
pub fn detect(text: &str) -> Option<String> {
    // Letters only: tables and marks say nothing about a language.
    let sample: String = text
        .split(|c: char| !c.is_alphabetic() && !matches!(c, '\'' | '’'))
        .filter(|word| !word.is_empty())
        .flat_map(|word| word.chars().chain([' ']))
        .take(SAMPLE_CHARS)
        .collect();
    if sample.len() < LEAST_LETTERS {
        return None;
    }
    let found = Detector::new().detect(&sample)?;
    (found.is_reliable() || found.confidence() > 0.6).then(|| code(found.lang())).flatten().map(str::to_owned)
}

/// The two letters of a language.
fn code(lang: Lang) -> Option<&'static str> {
    Some(match lang {
        Lang::Afr => "af",
        Lang::Aka => "ak",
        Lang::Amh => "am",
        Lang::Ara => "ar",
        Lang::Aze => "az",
        Lang::Bel => "be",
        Lang::Ben => "bn",
        Lang::Bul => "bg",
        Lang::Cat => "ca",
        Lang::Ces => "cs",
        Lang::Cmn => "zh",
        Lang::Dan => "da",
        Lang::Deu => "de",
        Lang::Ell => "el",
        Lang::Eng => "en",
        Lang::Epo => "eo",
        Lang::Est => "et",
        Lang::Fin => "fi",
        Lang::Fra => "fr",
        Lang::Guj => "gu",
        Lang::Heb => "he",
        Lang::Hin => "hi",
        Lang::Hrv => "hr",
        Lang::Hun => "hu",
        Lang::Hye => "hy",
        Lang::Ind => "id",
        Lang::Ita => "it",
        Lang::Jav => "jv",
        Lang::Jpn => "ja",
        Lang::Kan => "kn",
        Lang::Kat => "ka",
        Lang::Khm => "km",
        Lang::Kor => "ko",
        Lang::Lat => "la",
        Lang::Lav => "lv",
        Lang::Lit => "lt",
        Lang::Mal => "ml",
        Lang::Mar => "mr",
        Lang::Mkd => "mk",
        Lang::Mya => "my",
        Lang::Nep => "ne",
        Lang::Nld => "nl",
        Lang::Nob => "nb",
        Lang::Ori => "or",
        Lang::Pan => "pa",
        Lang::Pes => "fa",
        Lang::Pol => "pl",
        Lang::Por => "pt",
        Lang::Ron => "ro",
        Lang::Rus => "ru",
        Lang::Sin => "si",
        Lang::Slk => "sk",
        Lang::Slv => "sl",
        Lang::Sna => "sn",
        Lang::Spa => "es",
        Lang::Srp => "sr",
        Lang::Swe => "sv",
        Lang::Tam => "ta",
        Lang::Tel => "te",
        Lang::Tgl => "tl",
        Lang::Tha => "th",
        Lang::Tuk => "tk",
        Lang::Tur => "tr",
        Lang::Ukr => "uk",
        Lang::Urd => "ur",
        Lang::Uzb => "uz",
        Lang::Vie => "vi",
        Lang::Yid => "yi",
        Lang::Zul => "zu",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart_where_the_text_is_long_enough() {
        let cases = [
            ("The water level of the river is measured every hour by the station at the bridge.", Some("en")),
            ("O nível da água do rio é medido a cada hora pela estação que fica junto da ponte.", Some("pt")),
            (
                "El nivel del agua del río se mide cada hora en la estación que está junto al puente.",
                Some("es"),
            ),
            ("| 1 | 2 | 3 |", None),
        ];
        for (text, language) in cases {
            assert_eq!(detect(text).as_deref(), language, "{text}");
        }
    }
}
