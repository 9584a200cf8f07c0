//! How reads are split over the lanes.

/// Splits reads over the lanes, and remembers what a lane is owed, so that the lowest gets its share even when there is
/// room for one entry at a time.
#[derive(Default)]
pub(crate) struct Shares {
    credit: [f64; 3],
}

impl Shares {
    /// How many of `free` entries to ask of each lane, in proportion to `weights`; at most so many as `most` says of each.
    pub(crate) fn split(&mut self, free: usize, most: [usize; 3], weights: [f64; 3]) -> [usize; 3] {
        let sum: f64 = weights.iter().sum();
        let weights = weights.map(|weight| weight / sum);
        let mut counts = [0; 3];
        for _ in 0..free {
            let open = (0..3).filter(|lane| counts[*lane] < most[*lane]);
            // What a closed lane would get goes to the others, and it is owed nothing for that.
            let mut total = 0.0;
            for lane in open.clone() {
                total += weights[lane];
                self.credit[lane] += weights[lane];
            }
            // Of those that are owed as much, the most urgent.
            let richest = open.rev().max_by(|a, b| self.credit[*a].total_cmp(&self.credit[*b]));
            let Some(richest) = richest else { break };
            self.credit[richest] -= total;
            counts[richest] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [usize; 3] = [usize::MAX; 3];
    const WEIGHTS: [f64; 3] = [8.0, 3.0, 1.0];

    #[test]
    fn lanes_get_their_weight_and_the_lowest_its_floor() {
        let mut shares = Shares::default();
        assert_eq!(shares.split(12, ALL, WEIGHTS), [8, 3, 1]);
        let mut sum = [0; 3];
        for _ in 0..24 {
            for (total, count) in sum.iter_mut().zip(shares.split(1, ALL, WEIGHTS)) {
                *total += count;
            }
        }
        assert_eq!(sum, [16, 6, 2], "one at a time, over two rounds");
    }

    #[test]
    fn what_a_limited_lane_leaves_goes_to_the_others() {
        let mut shares = Shares::default();
        assert_eq!(shares.split(12, [2, usize::MAX, usize::MAX], WEIGHTS), [2, 7, 3]);
        assert_eq!(shares.split(12, [0, 5, 0], WEIGHTS), [0, 5, 0]);
        let again: usize = (0..100).map(|_| shares.split(12, ALL, WEIGHTS)[0]).sum();
        assert!((795..=805).contains(&again), "{again}: a lane that was closed is owed nothing");
    }
}
