//! What is embedded of a chunk, and the hash that says whether it was embedded before.

/// The text that an embedding model sees: the document's title and the headings above the chunk,
/// then the chunk itself. The context lets a chunk be found by words that stand only above it.
///
/// The extractor hashes this text and the embedder embeds it, so both must call this function.
#[must_use]
pub fn embedding_input(title: &str, heading_path: &[String], text: &str) -> String {
    let mut input = String::with_capacity(title.len() + text.len() + 64);
    let context = std::iter::once(title).chain(heading_path.iter().map(String::as_str));
    for line in context.map(str::trim).filter(|line| !line.is_empty()) {
        input.push_str(line);
        input.push('\n');
    }
    input.push_str(text);
    input
}

/// BLAKE3 of [`embedding_input`]: chunks with equal hashes have equal vectors in every space.
#[must_use]
pub fn content_hash(title: &str, heading_path: &[String], text: &str) -> [u8; 32] {
    input_hash(&embedding_input(title, heading_path, text))
}

/// The [`content_hash`] of an input that is there already.
#[must_use]
pub fn input_hash(input: &str) -> [u8; 32] {
    *blake3::hash(input.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_comes_first_and_counts() {
        let path = vec!["Gauges".to_owned(), " ".to_owned(), "Calibration".to_owned()];
        assert_eq!(embedding_input("Handbook", &path, "Zero it."), "Handbook\nGauges\nCalibration\nZero it.");
        assert_eq!(embedding_input("", &[], "Zero it."), "Zero it.");
        assert_ne!(content_hash("a", &[], "x"), content_hash("b", &[], "x"));
        assert_eq!(content_hash("a", &path, "x"), content_hash("a", &path, "x"));
    }
}
