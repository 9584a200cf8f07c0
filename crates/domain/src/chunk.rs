//! What is embedded of a chunk, and the hash that says whether it was embedded before.

/// The text that an embedding model sees: the document's title, the headings above the chunk and the header row of
/// the table that it goes on with (empty where it does not), then the chunk itself. The context lets a chunk be found by
/// words that stand only above it.
///
/// The extractor hashes this text and the embedder embeds it, so both must call this function.
#[must_use]
pub fn embedding_input(title: &str, heading_path: &[String], table_header: &str, text: &str) -> String {
    let mut input = String::with_capacity(title.len() + table_header.len() + text.len() + 64);
    let headings = heading_path.iter().map(String::as_str);
    let context = std::iter::once(title).chain(headings).chain(std::iter::once(table_header));
    for line in context.map(str::trim).filter(|line| !line.is_empty()) {
        input.push_str(line);
        input.push('\n');
    }
    input.push_str(text);
    input
}

/// BLAKE3 of [`embedding_input`]: chunks with equal hashes have equal vectors in every space.
#[must_use]
pub fn content_hash(title: &str, heading_path: &[String], table_header: &str, text: &str) -> [u8; 32] {
    input_hash(&embedding_input(title, heading_path, table_header, text))
}

/// The [`content_hash`] of an input that is there already.
#[must_use]
pub fn input_hash(input: &str) -> [u8; 32] {
    *blake3::hash(input.as_bytes()).as_bytes()
}

/// The title that chunks were embedded with, from the manifest that their run was sealed with; none where
/// the manifest is of another form than this build knows.
///
/// The extractor writes manifests as protobuf messages with the format in field 1 and the title in field
/// 2, first of all, so that this needs none of the rest. Formats 1 and 2 differ in the chunks only.
#[must_use]
pub fn sealed_title(manifest: &[u8]) -> Option<&str> {
    let [0x08, 1 | 2, rest @ ..] = manifest else { return None };
    // An empty title is left out.
    let Some(mut rest) = rest.strip_prefix(&[0x12]) else { return Some("") };
    let (mut length, mut shift) = (0_usize, 0_u32);
    loop {
        let (byte, tail) = rest.split_first()?;
        length |= usize::from(byte & 0x7f).checked_shl(shift)?;
        (rest, shift) = (tail, shift + 7);
        if byte & 0x80 == 0 {
            return std::str::from_utf8(rest.get(..length)?).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_comes_first_and_counts() {
        let path = vec!["Gauges".to_owned(), " ".to_owned(), "Calibration".to_owned()];
        assert_eq!(
            embedding_input("Handbook", &path, "", "Zero it."),
            "Handbook\nGauges\nCalibration\nZero it."
        );
        assert_eq!(embedding_input("", &[], "| day |", "| 1 |"), "| day |\n| 1 |");
        assert_eq!(embedding_input("", &[], "", "Zero it."), "Zero it.");
        assert_ne!(content_hash("a", &[], "", "x"), content_hash("b", &[], "", "x"));
        assert_ne!(content_hash("a", &[], "h", "x"), content_hash("a", &[], "", "x"));
        assert_eq!(content_hash("a", &path, "h", "x"), content_hash("a", &path, "h", "x"));
    }

    #[test]
    fn a_manifest_that_is_none_has_no_title() {
        for bytes in [
            &b""[..],
            b"\x08\x03\x12\x01T",
            b"\x08\x01\x12",
            b"\x08\x01\x12\x05ab",
            b"\x08\x01\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(sealed_title(bytes), None, "{bytes:?}");
        }
        assert_eq!(sealed_title(b"\x08\x01\x12\x01T\x1a"), Some("T"));
        assert_eq!(sealed_title(b"\x08\x02\x12\x01T\x1a"), Some("T"));
    }
}
