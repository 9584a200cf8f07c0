//! Bytes to characters, in whatever encoding they are, and the cleaning that every text gets.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::extracted::Confidence;

/// How much of a file is looked at to tell UTF-16.
const UTF16_SAMPLE_BYTES: usize = 8192;

/// So few bytes that tell encodings apart leave every guess doubtful.
const LEAST_SPECIAL_BYTES: usize = 6;

/// A decoded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The text, without a byte order mark.
    pub text: String,
    /// The name of the encoding.
    pub encoding: &'static str,
    /// How certain it is.
    pub confidence: Confidence,
}

/// Decodes `bytes`, or says that they are no text.
///
/// A byte order mark decides, then strict UTF-8, then `declared` (what the document says of itself),
/// then the statistics of the whole file.
#[must_use]
pub fn decode(bytes: &[u8], declared: Option<&str>) -> Option<Decoded> {
    if let Some(decoded) = decode_utf32(bytes) {
        return Some(decoded);
    }
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return Some(decode_as(encoding, &bytes[mark..], Confidence::Certain));
    }
    if let Some(encoding) = utf16_without_mark(bytes) {
        return Some(decode_as(encoding, bytes, Confidence::Likely));
    }
    if is_binary(bytes) {
        return None;
    }
    // ISO-2022-JP is ASCII with escapes, so valid UTF-8 with an escape in it proves nothing.
    if !bytes.contains(&0x1b)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        // A NUL that strayed into a text is no part of it.
        let (text, encoding) = (text.replace('\0', ""), UTF_8.name());
        return Some(Decoded { text, encoding, confidence: Confidence::Certain });
    }
    if bytes.contains(&0) {
        return None;
    }
    let declared = declared.and_then(|label| Encoding::for_label(label.trim().as_bytes()));
    if let Some(encoding) = declared.filter(|encoding| *encoding != UTF_8 && encoding.is_ascii_compatible()) {
        let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
        if !had_errors {
            let (text, encoding) = (text.into_owned(), encoding.name());
            return Some(Decoded { text, encoding, confidence: Confidence::Declared });
        }
    }
    let encoding = guess(bytes);
    Some(decode_as(encoding, bytes, guess_confidence(encoding, bytes)))
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    detector.guess(None, Utf8Detection::Allow)
}

/// A guess is likely where there is enough to go by and both halves of the file lead to it.
fn guess_confidence(encoding: &'static Encoding, bytes: &[u8]) -> Confidence {
    let special = bytes.iter().filter(|byte| !byte.is_ascii() || **byte == 0x1b).count();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let agrees = |half: &[u8]| half.is_ascii() || guess(half) == encoding;
    if special >= LEAST_SPECIAL_BYTES && agrees(first) && agrees(second) {
        Confidence::Likely
    } else {
        Confidence::Doubtful
    }
}

/// Decodes. Bytes that the encoding does not have make it doubtful.
fn decode_as(encoding: &'static Encoding, bytes: &[u8], confidence: Confidence) -> Decoded {
    let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
    let confidence = if had_errors { Confidence::Doubtful } else { confidence };
    Decoded { text: text.into_owned(), encoding: encoding.name(), confidence }
}

/// UTF-32 with a byte order mark, which the Encoding Standard leaves out. Its little-endian mark
/// begins with the one of UTF-16, so it is asked first.
fn decode_utf32(bytes: &[u8]) -> Option<Decoded> {
    let (rest, little) = match bytes {
        [0xff, 0xfe, 0, 0, rest @ ..] => (rest, true),
        [0, 0, 0xfe, 0xff, rest @ ..] => (rest, false),
        _ => return None,
    };
    let text = rest
        .as_chunks::<4>()
        .0
        .iter()
        .map(|unit| if little { u32::from_le_bytes(*unit) } else { u32::from_be_bytes(*unit) })
        .map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    let encoding = if little { "UTF-32LE" } else { "UTF-32BE" };
    Some(Decoded { text, encoding, confidence: Confidence::Certain })
}

/// UTF-16 shows itself by units with an empty high half, of which a text has some in any script: its
/// spaces, its line ends, its digits. Where both byte orders give a text, the one with more is right.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let is_utf8 = || !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok();
    if bytes.len() < 4 || !bytes.len().is_multiple_of(2) || !bytes.contains(&0) || is_utf8() {
        return None;
    }
    let pairs = bytes[..bytes.len().min(UTF16_SAMPLE_BYTES)].as_chunks::<2>().0;
    let orders = [(UTF_16BE, u16::from_be_bytes as fn([u8; 2]) -> u16), (UTF_16LE, u16::from_le_bytes)];
    orders
        .into_iter()
        .map(|(encoding, unit)| (utf16_evidence(pairs.iter().map(|pair| unit(*pair)).collect()), encoding))
        .filter(|(evidence, _)| *evidence > 0)
        .max_by_key(|(evidence, _)| *evidence)
        .map(|(_, encoding)| encoding)
}

/// How many units have an empty high half; 0 where the units make no text.
///
/// Single bytes with a stray NUL among them have such units too, and two letters of them make a
/// Chinese character. But they are all letters, which half of a Chinese text's bytes are not, and
/// three quarters of the bytes of a text in hiragana are not both of a unit.
fn utf16_evidence(mut units: Vec<u16>) -> usize {
    // The sample may end in the middle of a character.
    units.pop_if(|last| (0xd800..0xdc00).contains(last));
    let mut private = 0;
    for character in char::decode_utf16(units.iter().copied()) {
        match character {
            Err(_) | Ok('\u{fff0}'..='\u{fff8}' | '\u{fffe}' | '\u{ffff}') => return 0,
            Ok(c) if c.is_control() && !c.is_whitespace() => return 0,
            Ok(c) => private += usize::from(matches!(c, '\u{e000}'..='\u{f8ff}')),
        }
    }
    let letter = |byte: u8| matches!(byte, b' '..=b'~');
    let count = |test: fn(&&u16) -> bool| units.iter().filter(test).count();
    let narrow = count(|unit| **unit < 0x100);
    let two_letters = units.iter().filter(|unit| unit.to_be_bytes().into_iter().all(letter)).count();
    let all_ascii = units.iter().all(|unit| unit & 0x8080 == 0);
    let plausible = match all_ascii {
        true => two_letters * 4 <= units.len(),
        false => two_letters * 8 <= (units.len() - narrow) * 7,
    };
    if plausible && private * 50 <= units.len() { narrow } else { 0 }
}

/// More than one control character in 50 is no text in any encoding that ends lines with one.
fn is_binary(bytes: &[u8]) -> bool {
    let control = |b: &&u8| matches!(b, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f);
    bytes.iter().filter(control).count() * 50 > bytes.len()
}

/// Brings line ends to `\n` and drops what no reader sees: NUL (which PostgreSQL cannot store) and
/// other control characters but tab, byte order marks, soft hyphens, noncharacters.
#[must_use]
pub fn clean(text: String) -> String {
    let plain = |c: char| matches!(c, ' '..='~' | '\n' | '\t' | '\u{a0}'..='\u{ac}' | '\u{ae}'..='\u{2027}' | '\u{202a}'..='\u{fefe}');
    if text.chars().all(plain) {
        return text;
    }
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                chars.next_if_eq(&'\n');
                clean.push('\n');
            }
            '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => clean.push('\n'),
            '\n' | '\t' => clean.push(c),
            '\u{ad}' | '\u{feff}' => {}
            c if c.is_control() || u32::from(c) & 0xfffe == 0xfffe => {}
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn text_in_any_encoding_is_read() {
        let text = "O nível do rio subiu à noite; a estação não respondeu às três horas da manhã.\n";
        let utf16 = |big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
        };
        let utf32: Vec<u8> = [0xff, 0xfe, 0, 0]
            .into_iter()
            .chain(text.chars().flat_map(|c| u32::from(c).to_le_bytes()))
            .collect();
        let mut marked = vec![0xfe, 0xff];
        marked.extend(utf16(true));
        for (bytes, name) in [
            (text.as_bytes().to_vec(), "UTF-8"),
            (encoding_rs::WINDOWS_1252.encode(text).0.into_owned(), "windows-1252"),
            (utf16(false), "UTF-16LE"),
            (utf16(true), "UTF-16BE"),
            (marked, "UTF-16BE"),
            (utf32, "UTF-32LE"),
        ] {
            let decoded = decode(&bytes, None).unwrap();
            assert_eq!((decoded.text.as_str(), decoded.encoding), (text, name));
        }
        let japanese = "河川の水位は観測所で一時間ごとに記録される。";
        for encoding in [encoding_rs::SHIFT_JIS, encoding_rs::EUC_JP, encoding_rs::ISO_2022_JP] {
            let bytes = encoding.encode(japanese).0;
            assert_eq!(decode(&bytes, None).unwrap().text, japanese, "{}", encoding.name());
        }
    }

    #[test]
    fn utf16_without_a_mark_is_read_in_any_script() {
        for text in [
            "The gauge at the mill.\n",
            "Anything… • “quoted”, — and more\r\n",
            "Нивелир — уровень воды №7\n",
            "Η στάθμη του ποταμού\n",
            "河川の水位は観測所で一時間ごとに記録される。\n一方、二号機は止まった。\n",
            "これはひらがなだけのぶんしょうです。\nかわのみずはつめたくてきれいでした。\n",
            "水位在夜间上升；一号站在凌晨三点没有应答。\r\n第 2 号站正常。",
            "강의 수위는 밤에 올라갔다.\n",
            "ओडिशा नदी का जल स्तर\n",
            "a 🌊 b",
        ] {
            for (big, name) in [(false, "UTF-16LE"), (true, "UTF-16BE")] {
                // Longer than what is looked at, too, whose end then falls anywhere.
                for text in [text.to_owned(), text.repeat(700), format!("x{}", text.repeat(700))] {
                    let bytes =
                        text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() });
                    let decoded = decode(&bytes.collect::<Vec<_>>(), None).unwrap();
                    assert!(
                        (decoded.text == text) && decoded.encoding == name,
                        "{name} {}: {text:.40}",
                        decoded.encoding
                    );
                }
            }
        }
    }

    #[test]
    fn a_nul_in_a_text_of_bytes_does_not_make_it_utf16() {
        // Valid UTF-8 stays what it is, without the NUL; in others the NUL may be anything.
        let long = "The gauge at the mill is read at noon, and the weir is closed at night.";
        for at in [20, 21, 40, 41] {
            for text in [
                long,
                "A régua do moinho é lida ao meio-dia, e a comporta fecha à noite.\n",
                "水位在夜间上升；一号站在凌晨三点没有应答。水位在夜间上升；一号站",
            ] {
                for tail in ["", "."] {
                    let at = text.floor_char_boundary(at);
                    let with_nul = format!("{}\0{}{tail}", &text[..at], &text[at..]);
                    let decoded = decode(with_nul.as_bytes(), None).unwrap();
                    assert_eq!((decoded.text, decoded.encoding), (format!("{text}{tail}"), "UTF-8"));
                }
            }
        }
        let latin = encoding_rs::WINDOWS_1252
            .encode("A régua é lida às três, e não à noite: há água até à ponte.\n")
            .0;
        for at in 1..latin.len() {
            let with_nul = [&latin[..at], &[0], &latin[at..]].concat();
            assert_eq!(decode(&with_nul, None), None, "a NUL at {at}");
        }
        for records in
            [&b"abc\0def\0 hello world"[..], b"abc\0def\0 hello world ", b"abc\0def\0ghi\0jkl\0", b"a\0bc"]
        {
            assert_eq!(decode(records, None), None);
        }
    }

    #[test]
    fn how_certain_an_encoding_is_depends_on_what_says_so() {
        let text = "O nível do rio subiu à noite; a estação não respondeu às três horas da manhã. ".repeat(4);
        let latin = encoding_rs::WINDOWS_1252.encode(&text).0.into_owned();
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let confidence = |bytes: &[u8], declared| decode(bytes, declared).unwrap().confidence;
        assert_eq!(confidence(text.as_bytes(), None), Confidence::Certain);
        assert_eq!(confidence(&[&[0xff, 0xfe], utf16(&text).as_slice()].concat(), None), Confidence::Certain);
        assert_eq!(confidence(&utf16(&text), None), Confidence::Likely);
        assert_eq!(confidence(&latin, Some("windows-1252")), Confidence::Declared);
        assert_eq!(confidence(&latin, None), Confidence::Likely);
        assert_eq!(confidence(b"caf\xe9", None), Confidence::Doubtful);
        // Half of it is in another encoding.
        let cyrillic =
            encoding_rs::KOI8_R.encode("Уровень воды в реке поднялся за ночь на метр. ").0.repeat(8);
        assert_eq!(confidence(&[latin, cyrillic].concat(), None), Confidence::Doubtful);
    }

    #[test]
    fn what_the_document_declares_is_used_where_it_fits() {
        let cyrillic = encoding_rs::KOI8_R.encode("вода").0.into_owned();
        assert_eq!(decode(&cyrillic, Some("koi8-r")).unwrap().text, "вода");
        assert_eq!(decode("água".as_bytes(), Some("iso-8859-1")).unwrap().text, "água");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(decode(&(0..=255).cycle().take(999).collect::<Vec<u8>>(), None), None);
        assert_eq!(decode(&[0; 64], None), None);
    }

    #[test]
    fn cleaned_text_holds_nothing_unstorable() {
        let dirty = "a\r\nb\rc\0d\u{1}e\u{ad}f\u{feff}g\u{fffe}h\u{2028}i\tj\u{1f30a}";
        assert_eq!(clean(dirty.to_owned()), "a\nb\ncdefgh\ni\tj\u{1f30a}");
    }
}
