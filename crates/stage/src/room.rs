//! How many events a stage holds in this process.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use riacho_domain::Lane;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So much work is held ready, besides what runs: enough for reading the next events and settling the last ones
/// meanwhile, and too little to keep it from another process.
const AHEAD: Duration = Duration::from_millis(10);
/// At most so many events are held ready.
const AHEAD_MAX: usize = 256;

/// Places for events: those that run, and where runs are short, some that run next. Some are kept for the
/// interactive lane, so that its events are read while events of other lanes hold all the others.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    /// How many events run at once.
    runs: usize,
    /// How many places there are besides. Locked while places are added or taken away: two runs that end
    /// together must not take away the same ones.
    ahead: Mutex<usize>,
    /// How long a run takes, in nanoseconds, of late.
    run_ns: AtomicU64,
}

impl Room {
    /// Room for `held` events, of which `runs` run at once, and for `kept` ones more of the interactive lane.
    pub(crate) fn new(held: usize, runs: usize, kept: usize) -> Room {
        let long = u64::try_from(AHEAD.as_nanos()).unwrap_or(u64::MAX).saturating_mul(runs as u64 * 2);
        Room {
            places: Arc::new(Semaphore::new(held)),
            kept: Arc::new(Semaphore::new(kept)),
            runs,
            ahead: Mutex::new(0),
            run_ns: AtomicU64::new(long),
        }
    }

    /// How many places are free for any lane.
    pub(crate) fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// How many more are free for the interactive lane.
    pub(crate) fn kept_free(&self) -> usize {
        self.kept.available_permits()
    }

    /// Waits until a place is free that is kept for the interactive lane. Cancel safe.
    pub(crate) async fn some_kept_free(&self) {
        let _ = self.kept.acquire().await;
    }

    /// Takes a place; none where a read delivered more than was asked for. What is kept for the interactive lane is
    /// taken last, since no other lane can have it.
    pub(crate) fn take(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        place(&self.places).or_else(|| place(&self.kept).filter(|_| lane == Lane::Interactive))
    }

    /// Waits for a place for any lane, in the order in which all wait. Cancel safe.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Takes places for events that came together, of which one was taken `before`. The interactive ones come last, for
    /// whom there are more.
    pub(crate) fn take_all(
        &self,
        lanes: &[Lane],
        mut before: Option<OwnedSemaphorePermit>,
    ) -> Vec<Option<OwnedSemaphorePermit>> {
        let mut places: Vec<_> = lanes.iter().map(|_| None).collect();
        for interactive in [false, true] {
            let those = lanes.iter().zip(&mut places);
            for (lane, place) in those.filter(|(lane, _)| (**lane == Lane::Interactive) == interactive) {
                *place = before.take().or_else(|| self.take(*lane));
            }
        }
        places
    }

    /// How long a run takes, of late.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_nanos(self.run_ns.load(Ordering::Relaxed))
    }

    /// A run took this long.
    pub(crate) fn ran(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.run_ns.load(Ordering::Relaxed);
        // A moving mean over some eight runs. Two that end at once may lose one of them, which is no harm.
        self.run_ns.store(before - before / 8 + took / 8, Ordering::Relaxed);
    }

    /// Makes room ahead for as many events as can run in a moment.
    pub(crate) fn look_ahead(&self) {
        let mean = self.run_ns.load(Ordering::Relaxed);
        let moment = u64::try_from(AHEAD.as_nanos()).unwrap_or(u64::MAX).saturating_mul(self.runs as u64);
        let wanted = usize::try_from(moment / mean.max(1)).unwrap_or(AHEAD_MAX).min(AHEAD_MAX);
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *ahead {
            self.places.add_permits(wanted - *ahead);
            *ahead = wanted;
        } else if wanted < *ahead {
            // Those that are taken now go when they are given back.
            *ahead -= self.places.forget_permits(*ahead - wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(room: &Room, took: Duration) {
        room.ran(took);
        room.look_ahead();
    }

    #[test]
    fn the_interactive_lane_has_places_when_the_others_have_taken_all() {
        let room = Room::new(2, 2, 1);
        let _bulk: Vec<_> = std::iter::from_fn(|| room.take(Lane::Bulk)).collect();
        assert_eq!((room.free(), room.kept_free()), (0, 1));
        let urgent = room.take(Lane::Interactive);
        assert!(urgent.is_some() && room.take(Lane::Interactive).is_none());
        drop(urgent);
        assert!(room.take(Lane::Background).is_none() && room.take(Lane::Interactive).is_some());
    }

    #[test]
    fn the_places_of_the_interactive_lane_are_taken_last() {
        let room = Room::new(2, 2, 1);
        let _first = room.take(Lane::Interactive);
        assert_eq!((room.free(), room.kept_free()), (1, 1));
        let places = room.take_all(&[Lane::Interactive, Lane::Bulk], None);
        assert!(places.iter().all(Option::is_some));
        assert_eq!((room.free(), room.kept_free()), (0, 0));
    }

    #[test]
    fn short_runs_make_room_ahead_and_long_ones_take_it_back() {
        let room = Room::new(4, 4, 0);
        assert_eq!(room.free(), 4);
        for _ in 0..100 {
            ran(&room, Duration::from_micros(50));
        }
        assert_eq!(room.free(), 4 + AHEAD_MAX);
        for _ in 0..100 {
            ran(&room, Duration::from_millis(4));
        }
        assert!((13..=14).contains(&room.free()), "as many more as four at once run in ten milliseconds");
        for _ in 0..100 {
            ran(&room, Duration::from_secs(1));
        }
        assert_eq!(room.free(), 4, "what takes long is not held ready");
    }

    #[test]
    fn places_that_are_taken_are_given_back_before_they_go() {
        let room = Room::new(1, 1, 0);
        for _ in 0..100 {
            ran(&room, Duration::from_micros(50));
        }
        let taken: Vec<_> = std::iter::from_fn(|| room.take(Lane::Bulk)).collect();
        assert!(taken.len() > 190 && room.free() == 0, "{} were taken", taken.len());
        for _ in 0..100 {
            ran(&room, Duration::from_secs(1));
        }
        drop(taken);
        ran(&room, Duration::from_secs(1));
        assert_eq!(room.free(), 1);
    }

    #[test]
    fn runs_that_end_together_take_away_no_more_than_was_ahead() {
        let room = Room::new(8, 8, 0);
        for _ in 0..100 {
            ran(&room, Duration::from_micros(10));
        }
        let taken: Vec<_> = (0..AHEAD_MAX / 2).filter_map(|_| room.take(Lane::Bulk)).collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..200).for_each(|_| ran(&room, Duration::from_secs(1))));
            }
        });
        drop(taken);
        ran(&room, Duration::from_secs(1));
        assert_eq!(room.free(), 8);
    }
}
