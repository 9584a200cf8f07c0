//! The sample documents of `docs/examples`, compiled in, so that `up --demo` works wherever the binary is.

include!(concat!(env!("OUT_DIR"), "/samples.rs"));

/// What `--demo` searches for, in two languages.
pub(crate) const QUESTIONS: [&str; 2] =
    ["how is the water level gauge calibrated", "como recebo um aviso de cheia"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_samples_of_several_formats() {
        let formats = SAMPLES.iter().filter_map(|(name, _)| name.rsplit('.').next());
        assert!(formats.collect::<std::collections::BTreeSet<_>>().len() >= 4);
    }
}
