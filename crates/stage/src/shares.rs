//! How reads are split over the lanes.

use riacho_streams::Entry;

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

    /// How many of `free` entries to ask of each lane; at most so many as `most` says of each.
    pub(crate) fn split(&mut self, free: usize, most: [usize; 3]) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..free {
            let open = (0..3).filter(|lane| counts[*lane] < most[*lane]);
            // What a closed lane would get goes to the others, and it is owed nothing for that.
            let mut total = 0;
            for lane in open.clone() {
                total += i64::from(self.weights[lane]);
                self.credit[lane] += i64::from(self.weights[lane]);
            }
            let Some(richest) = open.max_by_key(|lane| (self.credit[*lane], 2 - lane)) else { break };
            self.credit[richest] -= total;
            counts[richest] += 1;
        }
        counts
    }

    /// Puts what came of several lanes at once in the order in which the lanes take turns.
    pub(crate) fn interleave(&self, entries: &mut [Entry]) {
        let mut seen = [0_u64; 3];
        entries.sort_by_cached_key(|entry| {
            let lane = entry.lane.index();
            seen[lane] += 1;
            // The turn of a lane's nth entry, in a unit that weights divide finely.
            (seen[lane] << 32) / u64::from(self.weights[lane].max(1))
        });
    }
}

#[cfg(test)]
mod tests {
    use riacho_domain::Lane;

    use super::*;

    const ALL: [usize; 3] = [usize::MAX; 3];

    #[test]
    fn lanes_get_their_weight_and_the_lowest_its_floor() {
        let mut shares = Shares::new([8, 3, 1]);
        assert_eq!(shares.split(12, ALL), [8, 3, 1]);
        let mut sum = [0; 3];
        for _ in 0..24 {
            for (total, count) in sum.iter_mut().zip(shares.split(1, ALL)) {
                *total += count;
            }
        }
        assert_eq!(sum, [16, 6, 2], "one at a time, over two rounds");
    }

    #[test]
    fn what_a_limited_lane_leaves_goes_to_the_others() {
        let mut shares = Shares::new([8, 3, 1]);
        assert_eq!(shares.split(12, [2, usize::MAX, usize::MAX]), [2, 7, 3]);
        assert_eq!(shares.split(12, [0, 5, 0]), [0, 5, 0]);
        let again: usize = (0..100).map(|_| shares.split(12, ALL)[0]).sum();
        assert!((795..=805).contains(&again), "{again}: a lane that was closed is owed nothing");
    }

    #[test]
    fn entries_of_one_read_take_turns_by_weight() {
        let entry = |lane, n: usize| Entry {
            lane,
            id: format!("{n}-0"),
            deliveries: 1,
            body: bytes::Bytes::new(),
            is_event: true,
        };
        let mut entries: Vec<Entry> = (0..16).map(|n| entry(Lane::Interactive, n)).collect();
        entries.extend((0..6).map(|n| entry(Lane::Bulk, n)));
        entries.extend((0..2).map(|n| entry(Lane::Background, n)));
        Shares::new([8, 3, 1]).interleave(&mut entries);
        for round in entries.chunks(12) {
            let count = |lane| round.iter().filter(|entry| entry.lane == lane).count();
            assert_eq!(Lane::ALL.map(count), [8, 3, 1]);
        }
        let bulk: Vec<&str> =
            entries.iter().filter(|entry| entry.lane == Lane::Bulk).map(|entry| entry.id.as_str()).collect();
        assert_eq!(bulk, ["0-0", "1-0", "2-0", "3-0", "4-0", "5-0"], "each lane in its order");
    }
}
