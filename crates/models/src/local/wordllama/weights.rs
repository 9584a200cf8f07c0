//! The table of token vectors.

use std::{fs, path::Path};

use half::{f16, slice::HalfFloatSliceExt};
use safetensors::{Dtype, SafeTensors};

use crate::Error;

/// The name of the table in the file.
const TENSOR: &str = "embedding.weight";

/// One vector for each token of the vocabulary.
pub(crate) struct Weights {
    values: Vec<f32>,
    dimensions: usize,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({} x {})", self.vocabulary(), self.dimensions)
    }
}

impl Weights {
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Files { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(|error| damaged(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let table = file.tensor(TENSOR).map_err(|error| damaged(error.to_string()))?;
        let &[rows, dimensions] = table.shape() else {
            return Err(damaged(format!("{TENSOR} is no table")));
        };
        if table.dtype() != Dtype::F16 || rows == 0 || dimensions == 0 {
            return Err(damaged(format!("{TENSOR} is not a table of 16-bit floats")));
        }
        let halves: Vec<f16> =
            table.data().chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])).collect();
        let mut values = vec![0.0; halves.len()];
        halves.convert_to_f32_slice(&mut values);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(damaged(format!("{TENSOR} has values that are no numbers")));
        }
        Ok(Self { values, dimensions })
    }

    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub(crate) fn vocabulary(&self) -> usize {
        self.values.len() / self.dimensions
    }

    fn row(&self, id: u32) -> &[f32] {
        let start = id as usize * self.dimensions;
        &self.values[start..start + self.dimensions]
    }

    /// The mean of the tokens' vectors; zero where there are none. The ids are below [`Self::vocabulary`].
    pub(crate) fn mean(&self, ids: &[u32]) -> Vec<f32> {
        let mut sum = vec![0.0; self.dimensions];
        // Four rows at a time: they come from memory side by side, and the sum is loaded and stored once. The
        // order of additions shows in the last bits only, which 16-bit floats hardly ever keep.
        let (fours, rest) = ids.as_chunks::<4>();
        for four in fours {
            let [a, b, c, d] = four.map(|id| self.row(id));
            for ((((sum, a), b), c), d) in sum.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum += (a + b) + (c + d);
            }
        }
        for id in rest {
            for (sum, value) in sum.iter_mut().zip(self.row(*id)) {
                *sum += value;
            }
        }
        let count = ids.len().max(1) as f32;
        for value in &mut sum {
            *value /= count;
        }
        sum
    }
}
