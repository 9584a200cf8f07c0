//! Arithmetic on matrices of 32-bit floats, row after row in a slice. The one place that knows the crates of rten.
//!
//! Each call computes on the calling thread alone when that thread belongs to a pool of one (see `workers.rs`).

use rten_gemm::{BiasVector, GemmError, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_simd::{SimdOp as _, SimdUnaryOp as _};
use rten_tensor::{Matrix, NdTensorView};
use rten_vecmath::{ApproxGelu, Gelu, Normalize, NormalizeOptions, Softmax, Sum, SumSquareSub};

use crate::Error;

/// Multiplies with what the processor has. It belongs to one thread, and is cheap to make.
#[derive(Default)]
pub(crate) struct Arithmetic {
    gemm: GemmExecutor,
}

/// `input * weight + bias`, with the weight in the order in which it is read.
pub(crate) struct Linear {
    weight: PackedBMatrix<f32>,
    bias: Vec<f32>,
}

/// Scales a row to mean 0 and variance 1, and then by weight and bias.
pub(crate) struct LayerNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// What a feed-forward layer does between its two multiplications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Gelu,
    /// Gelu by a hyperbolic tangent.
    ApproximateGelu,
    Relu,
}

/// A part of a matrix: rows and columns of a slice that has `stride` values in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
}

impl<'a> Block<'a> {
    fn matrix(self) -> Result<Matrix<'a>, Error> {
        NdTensorView::from_slice_with_strides([self.rows, self.columns], self.values, [self.stride, 1])
            .map_err(|error| shapes(&error))
    }
}

impl Arithmetic {
    /// A linear layer of a weight with one row for each output, as files of weights have it.
    pub(crate) fn linear(&self, weight: &[f32], bias: Vec<f32>) -> Result<Linear, Error> {
        let columns = weight.len().checked_div(bias.len()).unwrap_or(0);
        let rows = Block { values: weight, rows: bias.len(), columns, stride: columns }.matrix()?;
        Ok(Linear { weight: self.gemm.prepack_b(rows.transposed()), bias })
    }

    /// Writes the layer's answer for each row of `input` to `output`.
    pub(crate) fn apply(&self, linear: &Linear, input: &[f32], output: &mut [f32]) -> Result<(), Error> {
        self.run(linear, input, output, 0.0)
    }

    /// Adds the layer's answer for each row of `input` to `output`.
    pub(crate) fn add(&self, linear: &Linear, input: &[f32], output: &mut [f32]) -> Result<(), Error> {
        self.run(linear, input, output, 1.0)
    }

    fn run(&self, linear: &Linear, input: &[f32], output: &mut [f32], beta: f32) -> Result<(), Error> {
        let columns = linear.weight.rows();
        let rows = input.len().checked_div(columns).unwrap_or(0);
        let input = Block { values: input, rows, columns, stride: columns }.matrix()?;
        let options =
            GemmOptions { beta, bias: Some(BiasVector::Row(&linear.bias)), ..GemmOptions::default() };
        let (a, b) = (GemmInputA::Unpacked(input), GemmInputB::Packed(&linear.weight));
        self.gemm.gemm(output, a, b, options).map_err(|error: GemmError| shapes(&error))
    }

    /// `scale * a * b`, written to `output`.
    pub(crate) fn multiply(&self, a: Block<'_>, b: Block<'_>, output: &mut [f32]) -> Result<(), Error> {
        let (a, b) = (GemmInputA::Unpacked(a.matrix()?), GemmInputB::Unpacked(b.matrix()?));
        self.gemm.gemm(output, a, b, GemmOptions::default()).map_err(|error| shapes(&error))
    }

    /// `scale * a * b`, with the rows of `b` as columns, written to `output`.
    pub(crate) fn multiply_transposed(
        &self,
        a: Block<'_>,
        b: Block<'_>,
        scale: f32,
        output: &mut [f32],
    ) -> Result<(), Error> {
        let b = b.matrix()?.transposed();
        let options = GemmOptions { alpha: scale, ..GemmOptions::default() };
        self.gemm
            .gemm(output, GemmInputA::Unpacked(a.matrix()?), GemmInputB::Unpacked(b), options)
            .map_err(|error| shapes(&error))
    }
}

impl Linear {
    /// The number of values in a row of the answer.
    pub(crate) fn outputs(&self) -> usize {
        self.bias.len()
    }
}

impl LayerNorm {
    /// Normalises each row in place.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        let length = self.weight.len() as f32;
        for row in rows.chunks_exact_mut(self.weight.len()) {
            let mean = Sum::new(row).dispatch() / length;
            let variance = SumSquareSub::new(row, mean).dispatch() / length;
            let options = NormalizeOptions {
                pre_scale_bias: mean,
                scale: (variance + self.epsilon).sqrt().recip(),
                element_scale: Some(&self.weight),
                bias: 0.0,
                element_bias: Some(&self.bias),
            };
            Normalize::new_mut(row, options).dispatch();
        }
    }
}

impl Activation {
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Activation::Gelu => Gelu {}.map_mut(values),
            Activation::ApproximateGelu => ApproxGelu {}.map_mut(values),
            Activation::Relu => values.iter_mut().for_each(|value| *value = value.max(0.0)),
        }
    }
}

/// Turns each row of so many scores into weights that add up to 1.
pub(crate) fn softmax(rows: &mut [f32], columns: usize) {
    for row in rows.chunks_exact_mut(columns) {
        Softmax::new_mut(row).dispatch();
    }
}

/// Shapes are checked when a model is loaded; what still does not fit makes no vectors.
fn shapes(error: &impl std::fmt::Display) -> Error {
    Error::Protocol { reason: format!("the model's matrices do not fit each other: {error}") }
}
