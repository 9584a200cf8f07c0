//! When a partition needs a census, without I/O.
//!
//! A loss shows at once, by another server, epoch or count. What a loss took of a document that still has
//! other entries shows only when those are done, so a loss is followed by further looks. And whatever has been
//! in one state for long is looked for now and then, which finds what no rule foresaw. Age alone releases nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_streams::Road;

/// The first further look after a loss; the next ones wait twice as long each.
const FOLLOW_UP: Duration = Duration::from_secs(3);
/// Looks for what is old that found everything in its place wait up to so many times longer.
const PATIENCE: u32 = 10;

/// Why a partition is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing is known of before.
    Start,
    /// Redis lost data, or may have.
    Loss,
    /// There was a loss a moment ago.
    FollowUp,
    /// A release has been in one state for long.
    Age,
    /// Something that had been in one state for long was missing a moment ago.
    FollowUpOfAge,
}

impl Why {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Loss => "loss",
            Why::FollowUp => "follow_up",
            Why::Age => "age",
            Why::FollowUpOfAge => "follow_up_of_age",
        }
    }
}

/// What was seen of each partition by this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// How long a release stays in one state before it is looked for.
    after: Duration,
    seen: Arc<Mutex<HashMap<u16, Seen>>>,
}

#[derive(Debug)]
struct Seen {
    road: Road,
    /// How long until the next look that no loss asks for.
    wait: Duration,
    next: Instant,
    /// Whether the looks follow what age found, and not a loss.
    follows_age: bool,
}

impl Watch {
    /// Nothing was seen yet. `after` is how long a release stays in one state before it is looked for.
    pub(crate) fn new(after: Duration) -> Watch {
        Watch { after, seen: Arc::default() }
    }

    /// How long a release stays in one state before it is looked for.
    pub(crate) fn after(&self) -> Duration {
        self.after
    }

    /// Whether a partition that looks like `road` needs a census now, and why.
    pub(crate) fn needs(&self, partition: u16, road: &Road, now: Instant) -> Option<Why> {
        match self.lock().get(&partition) {
            None => Some(Why::Start),
            Some(seen) if !road.goes_on_from(&seen.road) => Some(Why::Loss),
            Some(seen) if now < seen.next => None,
            Some(seen) if seen.wait < self.after && seen.follows_age => Some(Why::FollowUpOfAge),
            Some(seen) if seen.wait < self.after => Some(Why::FollowUp),
            Some(_) => Some(Why::Age),
        }
    }

    /// Nothing is needed; the next loss is one of what was seen now.
    pub(crate) fn note(&self, partition: u16, road: Road) {
        if let Some(seen) = self.lock().get_mut(&partition) {
            seen.road = road;
        }
    }

    /// A census was done, which found that `lost` of `known` releases were missing.
    pub(crate) fn done(
        &self,
        partition: u16,
        road: Road,
        why: Why,
        (known, lost): (usize, usize),
        now: Instant,
    ) {
        let (mut all, after) = (self.lock(), self.after);
        let before = all.get(&partition).map_or(after, |seen| seen.wait);
        let wait = match why {
            // Also where nothing is in flight: what was just put onto a stream may not be written down yet.
            Why::Start | Why::Loss => FOLLOW_UP.min(after),
            _ if lost > 0 => FOLLOW_UP.min(after),
            Why::FollowUp | Why::FollowUpOfAge => (before * 2).min(after),
            Why::Age if known == 0 => after,
            Why::Age => (before * 2).min(after * PATIENCE),
        };
        let follows_age = matches!(why, Why::Age | Why::FollowUpOfAge);
        all.insert(partition, Seen { road, wait, next: now + wait, follows_age });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u16, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);

    fn road(added: u64) -> Road {
        Road::of("server", "epoch", 1, &[added])
    }

    #[test]
    fn a_census_comes_at_the_start_at_a_loss_a_few_times_after_and_then_by_age_ever_more_rarely() {
        let (watch, mut now) = (Watch::new(AFTER), Instant::now());
        let mut looks = Vec::new();
        assert_eq!(watch.needs(0, &road(5), now), Some(Why::Start));
        watch.done(0, road(5), Why::Start, (3, 0), now);
        let end = now + Duration::from_secs(1_200);
        let begin = now;
        while now < end {
            now += Duration::from_secs(1);
            if let Some(why) = watch.needs(0, &road(5), now) {
                watch.done(0, road(5), why, (3, 0), now);
                looks.push((why, now.duration_since(begin).as_secs()));
            }
        }
        let follow_ups: Vec<u64> =
            looks.iter().filter(|(why, _)| *why == Why::FollowUp).map(|(_, at)| *at).collect();
        assert_eq!(follow_ups, [3, 9, 21, 45, 93], "each wait is twice the one before, up to a minute");
        let by_age: Vec<u64> = looks.iter().filter(|(why, _)| *why == Why::Age).map(|(_, at)| *at).collect();
        assert_eq!(by_age, [153, 273, 513, 993]);
        assert_eq!(watch.needs(0, &road(4), now), Some(Why::Loss), "a count went back");
    }

    #[test]
    fn a_partition_without_releases_is_looked_at_after_a_minute() {
        let (watch, now) = (Watch::new(AFTER), Instant::now());
        watch.done(0, road(0), Why::Loss, (0, 0), now);
        assert_eq!(watch.needs(0, &road(0), now + FOLLOW_UP), Some(Why::FollowUp), "also after a loss");
        watch.done(0, road(0), Why::Age, (0, 0), now);
        assert_eq!(watch.needs(0, &road(0), now + AFTER - Duration::from_millis(1)), None);
        assert_eq!(watch.needs(0, &road(0), now + AFTER), Some(Why::Age));
    }

    #[test]
    fn what_was_found_missing_is_followed_up_soon() {
        let (watch, now) = (Watch::new(AFTER), Instant::now());
        watch.done(0, road(0), Why::Age, (9, 2), now);
        // As age found it, no loss is known: the next look counts what it finds as stalled, too.
        assert_eq!(watch.needs(0, &road(7), now + FOLLOW_UP), Some(Why::FollowUpOfAge));
        watch.note(0, road(7));
        assert_eq!(watch.needs(0, &road(6), now), Some(Why::Loss));
    }
}
