//! Whose turn it is when several lanes have events that are ready.

use std::time::Duration;

use riacho_domain::Lane;

/// Shares the running time of a stage over the lanes by weight.
///
/// Events differ in what they cost by orders of magnitude, so lanes are charged for the time that their runs
/// took, not for each event. This is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with the time of a
/// run, which is known only afterwards, taken to be as that of the lane's runs before, and corrected at its end.
pub(crate) struct Turns {
    weights: [f64; 3],
    /// The time that each lane's runs took, divided by its weight, in seconds.
    had: [f64; 3],
    /// What its runs that go on are expected to take, in the same way.
    expected: [f64; 3],
    /// How long a run of each lane takes, of late, in seconds.
    run_time: [f64; 3],
    /// How much of that is an event's; none as long as none has run.
    event_time: [Option<f64>; 3],
    /// What the lane had whose run began last: where a lane starts that had nothing to run for a while.
    now: f64,
}

/// A run that has begun.
#[derive(Debug, PartialEq)]
pub(crate) struct Ticket {
    pub(crate) lane: Lane,
    /// The run's time as it was expected, in seconds.
    expected: f64,
}

impl Turns {
    pub(crate) fn new(weights: [u32; 3]) -> Turns {
        Turns {
            weights: weights.map(f64::from),
            had: [0.0; 3],
            expected: [0.0; 3],
            run_time: [0.0; 3],
            event_time: [None; 3],
            now: 0.0,
        }
    }

    /// A lane has something to run again. What it did not use before is not owed to it.
    pub(crate) fn wakes(&mut self, lane: Lane) {
        let had = &mut self.had[lane.index()];
        *had = had.max(self.now);
    }

    /// A run of the lane whose turn it is, of those that have something to run, begins now.
    pub(crate) fn begin(&mut self, ready: [bool; 3]) -> Option<Ticket> {
        let lanes = Lane::ALL.into_iter().filter(|lane| ready[lane.index()]);
        let will_have = |lane: &Lane| self.had[lane.index()] + self.expected[lane.index()];
        let lane = lanes.min_by(|a, b| will_have(a).total_cmp(&will_have(b)))?;
        // Without what is expected: that may turn out to be far too much.
        self.now = self.had[lane.index()];
        Some(self.begin_out_of_turn(lane))
    }

    /// A run of a lane begins that is not chosen by turns.
    pub(crate) fn begin_out_of_turn(&mut self, lane: Lane) -> Ticket {
        let expected = self.run_time[lane.index()];
        self.expected[lane.index()] += expected / self.weights[lane.index()];
        Ticket { lane, expected }
    }

    /// A run of so many events has ended; none where it did not run after all.
    pub(crate) fn end(&mut self, Ticket { lane, expected }: Ticket, ran: Option<(Duration, usize)>) {
        let (at, weight) = (lane.index(), self.weights[lane.index()]);
        self.expected[at] = (self.expected[at] - expected / weight).max(0.0);
        let Some((took, events)) = ran.map(|(took, events)| (took.as_secs_f64(), events.max(1) as f64))
        else {
            return;
        };
        self.had[at] += took / weight;
        self.run_time[at] += (took - self.run_time[at]) / 4.0;
        let each = self.event_time[at].get_or_insert(took / events);
        *each += (took / events - *each) / 4.0;
    }

    /// How many events of each lane to read, in proportion, so that they take as much time as its weight says: who reads
    /// by other proportions fills the places with events of the lane that is slow.
    pub(crate) fn events_by_weight(&self) -> [f64; 3] {
        let known: Vec<f64> = self.event_time.iter().flatten().copied().collect();
        // A lane that has not run yet may be like the others.
        let usual = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let each = self.event_time.map(|time| time.unwrap_or(usual).max(1e-6));
        std::array::from_fn(|lane| self.weights[lane] / each[lane])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// How often each lane ran, and how long, while those of `ready` always had something.
    fn run(turns: &mut Turns, ready: [bool; 3], took: [u64; 3], seconds: u64) -> [u64; 3] {
        let (mut time, mut sum) = ([0; 3], 0);
        while sum < seconds * 1000 {
            let turn = turns.begin(ready).unwrap();
            let lane = turn.lane.index();
            turns.end(turn, Some((Duration::from_millis(took[lane]), 1)));
            time[lane] += took[lane];
            sum += took[lane];
        }
        time
    }

    #[test]
    fn lanes_share_the_time_by_weight_whatever_an_event_costs() {
        for took in [[10, 10, 10], [1, 100, 10], [100, 1, 1], [5, 300, 2]] {
            let mut turns = Turns::new([8, 3, 1]);
            let time = run(&mut turns, [true; 3], took, 120);
            for (time, wanted) in time.into_iter().zip([80_000_u64, 30_000, 10_000]) {
                assert!(time.abs_diff(wanted) <= 1000, "{took:?}: {time} ms instead of {wanted}");
            }
        }
    }

    #[test]
    fn a_lane_that_had_nothing_to_run_is_owed_nothing() {
        let mut turns = Turns::new([8, 3, 1]);
        run(&mut turns, [false, true, false], [10; 3], 60);
        turns.wakes(Lane::Interactive);
        turns.wakes(Lane::Background);
        let time = run(&mut turns, [true; 3], [10; 3], 12);
        for (time, wanted) in time.into_iter().zip([8_000_u64, 3_000, 1_000]) {
            assert!(time.abs_diff(wanted) <= 200, "{time} ms instead of {wanted}");
        }
    }

    #[test]
    fn runs_that_began_together_are_all_charged() {
        let mut turns = Turns::new([1, 1, 1]);
        // Four places at once: the lane that has them is behind the other one until that had as much.
        let began: Vec<Ticket> = (0..4).filter_map(|_| turns.begin([false, true, false])).collect();
        turns.wakes(Lane::Background);
        began.into_iter().for_each(|turn| turns.end(turn, Some((Duration::from_millis(100), 1))));
        for _ in 0..4 {
            let turn = turns.begin([false, true, true]).unwrap();
            assert_eq!(turn.lane, Lane::Background);
            turns.end(turn, Some((Duration::from_millis(99), 1)));
        }
    }

    #[test]
    fn runs_that_take_less_than_expected_hold_up_no_lane_that_woke_meanwhile() {
        let mut turns = Turns::new([1, 1, 1]);
        for _ in 0..20 {
            let turn = turns.begin([false, true, false]).unwrap();
            turns.end(turn, Some((Duration::from_secs(100), 1)));
        }
        let began: Vec<Ticket> = (0..8).filter_map(|_| turns.begin([false, true, false])).collect();
        turns.wakes(Lane::Background);
        began.into_iter().for_each(|turn| turns.end(turn, Some((Duration::from_secs(1), 1))));
        let next: Vec<Lane> = (0..2)
            .map(|_| {
                let turn = turns.begin([false, true, true]).unwrap();
                let lane = turn.lane;
                turns.end(turn, Some((Duration::from_secs(1), 1)));
                lane
            })
            .collect();
        assert!(next.contains(&Lane::Background), "{next:?}");
    }

    #[test]
    fn events_are_read_in_the_proportion_in_which_they_can_run() {
        let mut turns = Turns::new([8, 3, 1]);
        assert_eq!(turns.events_by_weight().map(|share| (share * 1e-6).round()), [8.0, 3.0, 1.0]);
        for (lane, millis, events) in [(Lane::Bulk, 100, 1), (Lane::Background, 10_000, 10)] {
            let turn = turns.begin_out_of_turn(lane);
            turns.end(turn, Some((Duration::from_millis(millis), events)));
        }
        let [interactive, bulk, background] = turns.events_by_weight();
        assert!((bulk / background - 30.0).abs() < 1e-6, "three times the time, of events that take a tenth");
        assert!((interactive - 8.0 / 0.55).abs() < 1e-6, "as long as the others on average");
    }

    #[test]
    fn what_did_not_run_after_all_costs_nothing() {
        let mut turns = Turns::new([1, 1, 1]);
        let turn = turns.begin([false, true, false]).unwrap();
        turns.end(turn, Some((Duration::from_secs(1), 1)));
        for _ in 0..5 {
            let turn = turns.begin([false, true, false]).unwrap();
            turns.end(turn, None);
        }
        assert_eq!((turns.had, turns.expected, turns.run_time[1]), ([0.0, 1.0, 0.0], [0.0; 3], 0.25));
    }
}
