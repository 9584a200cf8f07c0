//! Arithmetic on vectors, and their form on the wire.

use half::{f16, slice::HalfFloatSliceExt};

/// Scales the vector to length 1. False where it has no direction: zero, or not finite.
pub(crate) fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if !length.is_finite() || length <= f32::MIN_POSITIVE {
        return false;
    }
    for value in vector {
        *value /= length;
    }
    true
}

/// The cosine of two vectors of length 1.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The vector as 16-bit floats, little-endian: the form in events and in the cache.
#[must_use]
pub fn to_f16_le(vector: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; vector.len()];
    halves.convert_from_f32_slice(vector);
    halves.into_iter().flat_map(f16::to_le_bytes).collect()
}

/// The vector of [`to_f16_le`]; none where the bytes are an odd number.
#[must_use]
pub fn from_f16_le(bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vector_survives_the_wire_within_half_precision() {
        let mut vector: Vec<f32> = (0..256_u16).map(|n| (f32::from(n) * 0.37).sin()).collect();
        assert!(normalise(&mut vector));
        let bytes = to_f16_le(&vector);
        assert_eq!(bytes.len(), 512);
        let back = from_f16_le(&bytes).unwrap();
        assert!(cosine(&vector, &back) > 0.999_99);
    }

    #[test]
    fn half_precision_is_little_endian() {
        assert_eq!(to_f16_le(&[1.0, -2.0]), [0x00, 0x3c, 0x00, 0xc0]);
        assert_eq!(from_f16_le(&[0]), None);
    }

    #[test]
    fn a_vector_without_direction_is_told() {
        assert!(!normalise(&mut [0.0; 4]));
        assert!(!normalise(&mut [f32::NAN, 1.0]));
        assert!(!normalise(&mut []));
    }
}
