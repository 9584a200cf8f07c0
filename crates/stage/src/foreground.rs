//! What somebody waits for goes before what nobody waits for, in one process.
//!
//! Stages take every processor there is, and lower priorities alone do not help a request: it waits for
//! locks (of PostgreSQL's log, of an index page) whose holder has the low priority and does not run. So
//! while requests come quickly, the runs of a process's stages take turns, which leaves processors free; and
//! while interactive events come, all other runs do. There are half as many turns as processors. Stages get
//! less done in that time. See docs/adr/0011 and 0013.

use std::{
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use riacho_domain::Lane;
use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::{Instant, timeout},
};

/// Requests are counted over so long.
const WINDOW: Duration = Duration::from_millis(200);
/// So many requests in a window are quick ones: 20 a second.
const QUICK: u16 = 4;
/// A run that takes longer gives its turn up: it waits for something else than a processor, or nobody
/// should wait for it.
const TURN: Duration = Duration::from_millis(250);
/// A run that waits longer for its turn goes without.
const PATIENCE: Duration = Duration::from_millis(500);

/// Of this process.
pub static FOREGROUND: LazyLock<Foreground> =
    LazyLock::new(|| Foreground::new(available_parallelism().map_or(1, |count| count.get() / 2).max(1)));

/// Counts requests, and gives out the turns of the runs beside them.
#[derive(Debug)]
pub struct Foreground {
    start: OnceLock<Instant>,
    /// [`Counts`], in one word: a lock would be held by threads of low priority too.
    counts: AtomicU64,
    /// The window in which the last interactive run began, plus one; 0 where none did.
    interactive: AtomicU32,
    /// Of interactive runs, and of all others: who is waited for does not wait for those that are not.
    turns: [Semaphore; 2],
}

/// Requests of a window and of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    window: u32,
    current: u16,
    previous: u16,
}

impl Counts {
    fn unpack(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
        Self {
            window: u32::from_be_bytes([a, b, c, d]),
            current: u16::from_be_bytes([e, f]),
            previous: u16::from_be_bytes([g, h]),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.window) << 32 | u64::from(self.current) << 16 | u64::from(self.previous)
    }

    /// As they are in the window of now. A clock that was read late changes nothing.
    fn at(self, now: u32) -> Self {
        match now.checked_sub(self.window) {
            None | Some(0) => self,
            Some(1) => Self { window: now, current: 0, previous: self.current },
            Some(_) => Self { window: now, current: 0, previous: 0 },
        }
    }
}

/// Held while a run has its turn; empty where there are no turns at the moment.
#[derive(Debug)]
pub struct Turn {
    #[allow(dead_code)] // its drop is what matters
    held: Option<oneshot::Sender<()>>,
}

impl Foreground {
    /// Nothing counted yet; so many turns at once.
    #[must_use]
    pub fn new(turns: usize) -> Self {
        Self {
            start: OnceLock::new(),
            counts: AtomicU64::new(0),
            interactive: AtomicU32::new(0),
            turns: [(); 2].map(|()| Semaphore::new(turns)),
        }
    }

    /// The number of the current window.
    fn now(&self) -> u32 {
        let windows = self.start.get_or_init(Instant::now).elapsed().as_millis() / WINDOW.as_millis();
        u32::try_from(windows).unwrap_or(u32::MAX)
    }

    /// Notes a request that somebody waits for.
    pub fn request(&self) {
        let now = self.now();
        let noted = |word| {
            let counts = Counts::unpack(word).at(now);
            Some(Counts { current: counts.current.saturating_add(1), ..counts }.pack())
        };
        // The closure always has an answer.
        let _ = self.counts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, noted);
    }

    /// Whether requests come quickly, so that runs take turns.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let counts = Counts::unpack(self.counts.load(Ordering::Relaxed)).at(self.now());
        counts.current.max(counts.previous) >= QUICK
    }

    /// Whether runs of a lane take turns: while requests come quickly, and others while interactive ones began a
    /// moment ago.
    fn takes_turns(&self, lane: Lane) -> bool {
        let is_recent = || {
            let last = self.interactive.load(Ordering::Relaxed);
            last > 0 && self.now() <= last
        };
        self.is_busy() || (lane != Lane::Interactive && is_recent())
    }

    /// Waits for the turn of a lane's run while there are turns, half a second at most; at other times it does
    /// not wait. Cancel safe.
    pub async fn turn(&'static self, lane: Lane) -> Turn {
        if lane == Lane::Interactive {
            self.interactive.store(self.now().saturating_add(1), Ordering::Relaxed);
        }
        if !self.takes_turns(lane) {
            return Turn { held: None };
        }
        let Ok(Ok(permit)) =
            timeout(PATIENCE, self.turns[usize::from(lane != Lane::Interactive)].acquire()).await
        else {
            return Turn { held: None };
        };
        Turn { held: Some(lend(permit)) }
    }
}

/// Gives the permit back when the sender is dropped, or when the turn is over.
fn lend(permit: SemaphorePermit<'static>) -> oneshot::Sender<()> {
    let (held, dropped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _permit = permit;
        let _ = timeout(TURN, dropped).await;
    });
    held
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn busy() -> &'static Foreground {
        let foreground: &'static Foreground = Box::leak(Box::new(Foreground::new(1)));
        (0..QUICK).for_each(|_| foreground.request());
        foreground
    }

    #[test]
    fn requests_are_counted_in_their_window_and_remembered_for_one_more() {
        let counts = Counts { window: 7, current: 5, previous: 2 };
        assert_eq!(Counts::unpack(counts.pack()), counts);
        assert_eq!(counts.at(7), counts);
        assert_eq!(counts.at(6), counts);
        assert_eq!(counts.at(8), Counts { window: 8, current: 0, previous: 5 });
        assert_eq!(counts.at(9), Counts { window: 9, current: 0, previous: 0 });
    }

    #[tokio::test]
    async fn runs_go_side_by_side_while_few_requests_come() {
        let foreground: &'static Foreground = Box::leak(Box::new(Foreground::new(1)));
        (1..QUICK).for_each(|_| foreground.request());
        let turns = [(); 3].map(|()| foreground.turn(Lane::Bulk).now_or_never());
        assert!(turns.iter().all(|turn| turn.as_ref().is_some_and(|turn| turn.held.is_none())));
    }

    #[tokio::test]
    async fn one_run_at_a_time_while_requests_come_quickly_and_many_once_they_stop() {
        let foreground = busy();
        let first = foreground.turn(Lane::Bulk).await;
        (0..QUICK).for_each(|_| foreground.request());
        let mut second = Box::pin(foreground.turn(Lane::Bulk));
        assert!(futures::poll!(&mut second).is_pending());
        // Nobody who is waited for waits for those that are not.
        let urgent = foreground.turn(Lane::Interactive).now_or_never();
        assert!(urgent.is_some_and(|turn| turn.held.is_some()));
        drop(first);
        let _second = second.await;
        while foreground.is_busy() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(foreground.turn(Lane::Bulk).now_or_never().is_some_and(|turn| turn.held.is_none()));
    }

    #[tokio::test]
    async fn others_take_turns_while_interactive_events_come() {
        let foreground: &'static Foreground = Box::leak(Box::new(Foreground::new(1)));
        assert!(foreground.turn(Lane::Bulk).await.held.is_none());
        assert!(foreground.turn(Lane::Interactive).await.held.is_none());
        assert!(foreground.interactive.load(Ordering::Relaxed) > 0);
        // As if one began at every moment.
        foreground.interactive.store(u32::MAX, Ordering::Relaxed);
        let _first = foreground.turn(Lane::Bulk).await;
        assert!(foreground.turn(Lane::Background).now_or_never().is_none());
        foreground.interactive.store(0, Ordering::Relaxed);
        assert!(foreground.turn(Lane::Background).await.held.is_none());
    }

    #[tokio::test]
    async fn a_run_that_takes_long_holds_up_the_others_for_its_turn_only() {
        let foreground = busy();
        let start = Instant::now();
        let long = foreground.turn(Lane::Bulk).await;
        let next = foreground.turn(Lane::Bulk).await;
        assert!(long.held.is_some() && next.held.is_some() && start.elapsed() >= TURN);
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_patience() {
        let foreground = busy();
        let _permit = foreground.turns[1].acquire().await;
        let start = Instant::now();
        assert!(foreground.turn(Lane::Bulk).await.held.is_none());
        assert!(start.elapsed() >= PATIENCE);
    }
}
