//! How reads are split over the lanes.

/// Splits reads over the lanes by weight, and remembers what a lane is owed, so that the lowest
/// gets its share even when there is room for one entry at a time.
pub(crate) struct Shares {
    weights: [u32; 3],
    credit: [i64; 3],
}

impl Shares {
    pub(crate) fn new(weights: [u32; 3]) -> Self {
        Self { weights, credit: [0; 3] }
    }

    /// How many of `free` entries to ask of each lane.
    pub(crate) fn split(&mut self, free: usize) -> [usize; 3] {
        let total: i64 = self.weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut counts = [0; 3];
        for _ in 0..free {
            for (credit, weight) in self.credit.iter_mut().zip(self.weights) {
                *credit += i64::from(weight);
            }
            let richest = (0..3).max_by_key(|lane| (self.credit[*lane], 2 - lane)).unwrap_or(0);
            self.credit[richest] -= total;
            counts[richest] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_get_their_weight_and_the_lowest_its_floor() {
        let mut shares = Shares::new([8, 3, 1]);
        assert_eq!(shares.split(12), [8, 3, 1]);
        let mut sum = [0; 3];
        for _ in 0..24 {
            for (total, count) in sum.iter_mut().zip(shares.split(1)) {
                *total += count;
            }
        }
        assert_eq!(sum, [16, 6, 2], "one at a time, over two rounds");
    }
}
