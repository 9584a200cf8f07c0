//! How many chunks each tenant has: many small ones, few large ones.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The smallest tenant's chunks.
const LEAST: f64 = 10.0;
/// Chunks of one document at most.
const OF_A_DOCUMENT: u32 = 20;

/// A document that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) tenant: usize,
    pub(super) number: u32,
    pub(super) chunks: u32,
}

/// Chunks of each tenant, from 10 to `largest`, evenly along a curve so that they are about `total` together.
pub(super) fn sizes(tenants: usize, largest: u32, total: u64) -> Vec<u32> {
    let of = |exponent: f64| -> Vec<u32> {
        let last = (tenants.max(2) - 1) as f64;
        (0..tenants)
            .map(|place| LEAST * (f64::from(largest) / LEAST).powf((place as f64 / last).powf(exponent)))
            .map(|size| size.round() as u32)
            .collect()
    };
    let sum = |sizes: &[u32]| sizes.iter().map(|size| u64::from(*size)).sum::<u64>();
    // The higher the exponent, the fewer are large.
    let (mut low, mut high) = (0.01, 1_000.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if sum(&of(middle)) > total {
            low = middle;
        } else {
            high = middle;
        }
    }
    of(high)
}

/// All documents in an order in which tenants follow each other by chance, as they do where many upload.
pub(super) fn documents(sizes: &[u32]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (tenant, size) in sizes.iter().enumerate() {
        for number in 0..size.div_ceil(OF_A_DOCUMENT) {
            let chunks = (size - number * OF_A_DOCUMENT).min(OF_A_DOCUMENT);
            all.push(Wanted { tenant, number, chunks });
        }
    }
    all.shuffle(&mut StdRng::seed_from_u64(1));
    all
}
