//! The forward pass of BERT (Devlin et al. 2018), from token ids to one vector for each token.
//!
//! The tokens of all texts stand in one matrix, one text behind the other, so nothing is computed for padding; only
//! attention looks at each text by itself.

use super::arithmetic::{Activation, Arithmetic, Block, LayerNorm, Linear, softmax};
use crate::Error;

/// The weights, checked against each other by `weights.rs`.
pub(crate) struct Encoder {
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// A vector for each token of the vocabulary.
    pub(crate) words: Vec<f32>,
    /// A vector for each place in a text.
    pub(crate) positions: Vec<f32>,
    pub(crate) norm: LayerNorm,
    pub(crate) layers: Vec<Layer>,
}

/// One layer: attention, then feed-forward, each added to what it was given.
pub(crate) struct Layer {
    /// Queries, keys and values side by side.
    pub(crate) attention: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) norm: LayerNorm,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({} layers of {})", self.layers.len(), self.dimensions())
    }
}

impl Encoder {
    /// The number of values of a vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.norm.weight.len()
    }

    /// The vectors of the texts' tokens, one behind the other. The ids are below the vocabulary, and no text
    /// is longer than there are positions.
    pub(crate) fn encode(&self, texts: &[&[u32]]) -> Result<Vec<f32>, Error> {
        let arithmetic = Arithmetic::default();
        let mut states = self.embed(texts);
        self.norm.apply(&mut states);
        let tokens = states.len() / self.dimensions();
        let widest = self.layers.iter().map(|layer| layer.up.outputs()).max().unwrap_or(0);
        let mut projected = vec![0.0; 3 * states.len()];
        let mut context = vec![0.0; states.len()];
        let mut inner = vec![0.0; tokens * widest];
        for layer in &self.layers {
            arithmetic.apply(&layer.attention, &states, &mut projected)?;
            self.attend(&arithmetic, texts, &projected, &mut context)?;
            arithmetic.add(&layer.attention_output, &context, &mut states)?;
            layer.attention_norm.apply(&mut states);
            let inner = &mut inner[..tokens * layer.up.outputs()];
            arithmetic.apply(&layer.up, &states, inner)?;
            self.activation.apply(inner);
            arithmetic.add(&layer.down, inner, &mut states)?;
            layer.norm.apply(&mut states);
        }
        Ok(states)
    }

    fn embed(&self, texts: &[&[u32]]) -> Vec<f32> {
        let width = self.dimensions();
        let row = |index: usize| index * width..(index + 1) * width;
        let mut states = Vec::with_capacity(texts.iter().map(|text| text.len()).sum::<usize>() * width);
        for text in texts {
            for (place, id) in text.iter().enumerate() {
                let word = &self.words[row(*id as usize)];
                let position = &self.positions[row(place)];
                states.extend(word.iter().zip(position).map(|(word, position)| word + position));
            }
        }
        states
    }

    /// Each token's mean of the values of its text's tokens, weighted by how well its query fits their keys.
    fn attend(
        &self,
        arithmetic: &Arithmetic,
        texts: &[&[u32]],
        projected: &[f32],
        context: &mut [f32],
    ) -> Result<(), Error> {
        let width = self.dimensions();
        let size = width / self.heads;
        let scale = (size as f32).sqrt().recip();
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut scores = vec![0.0; longest * longest];
        let mut means = vec![0.0; longest * size];
        let mut first = 0;
        for rows in texts.iter().map(|text| text.len()) {
            let projected = &projected[3 * width * first..3 * width * (first + rows)];
            let context = &mut context[width * first..width * (first + rows)];
            let (scores, means) = (&mut scores[..rows * rows], &mut means[..rows * size]);
            for column in (0..width).step_by(size) {
                let block = |which: usize| Block {
                    values: &projected[which * width + column..],
                    rows,
                    columns: size,
                    stride: 3 * width,
                };
                arithmetic.multiply_transposed(block(0), block(1), scale, scores)?;
                softmax(scores, rows);
                let scores = Block { values: scores, rows, columns: rows, stride: rows };
                arithmetic.multiply(scores, block(2), means)?;
                for (row, mean) in context.chunks_exact_mut(width).zip(means.chunks_exact(size)) {
                    row[column..column + size].copy_from_slice(mean);
                }
            }
            first += rows;
        }
        Ok(())
    }
}
