//! Tells whether two models are the same one, by what they make of known texts.
//!
//! A name does not: an address may be pointed at another server with a model of the same name, and a directory may get
//! other files. Vectors of two models in one space make searches find anything, and nobody is told.

use crate::{Embeddings, Error, vector::cosine};

/// The texts. Never change them: their vectors are kept with embedding spaces.
const TEXTS: [&str; 3] = [
    "The invoice is due in thirty days.",
    "Glaciers carve deep valleys.",
    "She plays the violin at night, and nobody in the house has ever complained about it.",
];

/// The vectors of one text by one model are at least this near: a provider's arithmetic varies a little, and kept vectors
/// are of 16 bits.
const SAME: f32 = 0.99;

pub(crate) fn texts() -> Vec<String> {
    TEXTS.map(str::to_owned).to_vec()
}

/// The vectors of the texts, one after the other.
pub(crate) fn joined(made: Embeddings) -> Result<Vec<f32>, Error> {
    match made.vectors.len() == TEXTS.len() {
        true => Ok(made.vectors.concat()),
        false => Err(Error::Protocol { reason: "known texts have no vectors".to_owned() }),
    }
}

/// Whether the vectors of known texts, as [`Model::probe`](crate::Model::probe) gives them, are of one model.
#[must_use]
pub fn is_same_model(one: &[f32], other: &[f32]) -> bool {
    let size = one.len() / TEXTS.len();
    let is_near = |(a, b): (&[f32], &[f32])| cosine(a, b) >= SAME;
    size > 0 && one.len() == other.len() && one.chunks(size).zip(other.chunks(size)).all(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_vector_makes_another_model() {
        let one = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        assert!(is_same_model(&one, &[1.0, 0.001, 0.0, 1.0, 0.6, 0.8]));
        assert!(!is_same_model(&one, &[1.0, 0.0, 0.0, 1.0, 0.8, 0.6]));
        assert!(!is_same_model(&one, &one[..3]) && !is_same_model(&[], &[]));
    }
}
