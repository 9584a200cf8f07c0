//! Text documents for measurements: the same for a seed, no two alike.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

const WORDS: &str = "the of and river water level gauge station flow data reading sensor rain basin flood warning \
    report hourly daily value mean maximum upstream downstream bridge tributary catchment discharge velocity depth \
    sediment sample laboratory analysis quality oxygen temperature turbidity nitrate threshold alarm operator \
    maintenance battery solar antenna modem calibration field visit notebook photograph datum benchmark survey \
    cross section rating curve equation estimate error interval confidence season drought reservoir dam spillway \
    gate release schedule agreement municipality region ministry agency law permit abstraction irrigation farmer \
    crop soil moisture forest erosion bank vegetation fish migration ladder habitat species protected area tourist \
    boat ferry harbour dredging channel buoy navigation chart pilot winter ice snow melt spring peak record history \
    archive map elevation model terrain simulation forecast ensemble probability scenario climate change adaptation \
    plan budget cost benefit committee meeting minutes decision vote public hearing comment response publication";

/// A document of about `size` bytes (up to a sentence more), with headings and paragraphs.
#[must_use]
pub(crate) fn document(seed: u64, size: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut text = format!("# Station report {seed}\n\n");
    while text.len() < size {
        if random.random_ratio(1, 5) {
            text.push_str(&format!(
                "## {} {}\n\n",
                capital(pick(&words, &mut random)),
                random.random_range(1..1000)
            ));
        }
        for _ in 0..random.random_range(2..6) {
            sentence(&mut text, &words, &mut random);
        }
        text.push_str("\n\n");
    }
    text
}

/// A size between 5 and 20 KB, evenly spread.
#[must_use]
pub(crate) fn size(seed: u64) -> usize {
    StdRng::seed_from_u64(seed ^ 0x5eed).random_range(5_000..20_000)
}

fn sentence(text: &mut String, words: &[&str], random: &mut StdRng) {
    text.push_str(&capital(pick(words, random)));
    for _ in 0..random.random_range(6..20) {
        text.push(' ');
        if random.random_ratio(1, 25) {
            text.push_str(&random.random_range(1..10_000).to_string());
        } else {
            text.push_str(pick(words, random));
        }
    }
    text.push_str(". ");
}

/// Frequent words are frequent, as in a language: the place in the list falls off quadratically.
fn pick<'w>(words: &[&'w str], random: &mut StdRng) -> &'w str {
    let place = random.random::<f64>().powi(2) * words.len() as f64;
    words.get(place as usize).or_else(|| words.choose(random)).copied().unwrap_or("river")
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_document_and_another_seed_another() {
        assert_eq!(document(7, 5_000), document(7, 5_000));
        assert_ne!(document(7, 5_000), document(8, 5_000));
        assert!((5_000..5_700).contains(&document(7, 5_000).len()));
    }
}
