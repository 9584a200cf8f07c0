//! From a safetensors file to the encoder's matrices. Every shape is checked here, and nowhere later.

use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{
    arithmetic::{Arithmetic, LayerNorm, Linear},
    encoder::{Encoder, Layer},
    manifest::Shape,
};
use crate::Error;

/// The table of words, by which the names of all weights are told: some files put a name before each.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// The encoder of a file's bytes.
///
/// # Errors
/// `Files` where a weight is missing, has another shape or holds what is no number.
pub(crate) fn encoder(path: &Path, bytes: &[u8], shape: &Shape) -> Result<Encoder, Error> {
    Reader::new(path, bytes, shape)?.encoder()
}

struct Reader<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
    shape: &'a Shape,
    prefix: String,
    arithmetic: Arithmetic,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, bytes: &'a [u8], shape: &'a Shape) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Files { path: path.to_owned(), reason };
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
        let prefix = file.names().into_iter().find_map(|name| name.strip_suffix(WORDS)).map(str::to_owned);
        let prefix = prefix.ok_or_else(|| damaged(format!("there is no {WORDS}")))?;
        Ok(Self { path, file, shape, prefix, arithmetic: Arithmetic::default() })
    }

    fn encoder(self) -> Result<Encoder, Error> {
        let Shape { vocabulary, width, layers, heads, activation, .. } = *self.shape;
        let layers = (0..layers).map(|index| self.layer(index)).collect::<Result<_, _>>()?;
        Ok(Encoder {
            heads,
            activation,
            words: self.tensor(WORDS, &[vocabulary, width])?,
            positions: self.positions()?,
            norm: self.norm("embeddings.LayerNorm")?,
            layers,
        })
    }

    /// The places of a text. Each also gets the vector of the first segment, which all tokens are of.
    fn positions(&self) -> Result<Vec<f32>, Error> {
        let Shape { width, positions, skipped_positions, .. } = *self.shape;
        let mut places = self.tensor("embeddings.position_embeddings.weight", &[positions, width])?;
        places.drain(..skipped_positions * width);
        let segments = self.any_rows("embeddings.token_type_embeddings.weight", width)?;
        for place in places.chunks_exact_mut(width) {
            for (value, segment) in place.iter_mut().zip(&segments) {
                *value += segment;
            }
        }
        Ok(places)
    }

    fn layer(&self, index: usize) -> Result<Layer, Error> {
        let Shape { width, inner, .. } = *self.shape;
        let at = |name: &str| format!("encoder.layer.{index}.{name}");
        let parts = ["query", "key", "value"].map(|part| at(&format!("attention.self.{part}")));
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            weight.extend(self.tensor(&format!("{part}.weight"), &[width, width])?);
            bias.extend(self.tensor(&format!("{part}.bias"), &[width])?);
        }
        Ok(Layer {
            attention: self.arithmetic.linear(&weight, bias)?,
            attention_output: self.linear(&at("attention.output.dense"), width, width)?,
            attention_norm: self.norm(&at("attention.output.LayerNorm"))?,
            up: self.linear(&at("intermediate.dense"), inner, width)?,
            down: self.linear(&at("output.dense"), width, inner)?,
            norm: self.norm(&at("output.LayerNorm"))?,
        })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        self.arithmetic.linear(&weight, self.tensor(&format!("{name}.bias"), &[outputs])?)
    }

    /// Files of the first years call weight and bias gamma and beta.
    fn norm(&self, name: &str) -> Result<LayerNorm, Error> {
        let named = |new: &str, old: &str| {
            let has_old = self.file.tensor(&format!("{}{name}.{old}", self.prefix)).is_ok();
            self.tensor(&format!("{name}.{}", if has_old { old } else { new }), &[self.shape.width])
        };
        Ok(LayerNorm {
            weight: named("weight", "gamma")?,
            bias: named("bias", "beta")?,
            epsilon: self.shape.epsilon,
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (values, found) = self.values(name)?;
        if found != shape {
            return Err(self.damaged(format!("{name} has the shape {found:?}, not {shape:?}")));
        }
        Ok(values)
    }

    /// A table with any number of rows, at least one.
    fn any_rows(&self, name: &str, width: usize) -> Result<Vec<f32>, Error> {
        let (values, found) = self.values(name)?;
        match found.as_slice() {
            [rows, columns] if *rows > 0 && *columns == width => Ok(values),
            _ => Err(self.damaged(format!("{name} has the shape {found:?}"))),
        }
    }

    fn values(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), Error> {
        let view = self.file.tensor(&format!("{}{name}", self.prefix));
        let view = view.map_err(|_| self.damaged(format!("there is no {name}")))?;
        let data = view.data();
        let pairs = || data.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            other => return Err(self.damaged(format!("{name} has values of the type {other:?}"))),
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.damaged(format!("{name} has values that are no numbers")));
        }
        Ok((values, view.shape().to_vec()))
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Files { path: self.path.to_owned(), reason }
    }
}
