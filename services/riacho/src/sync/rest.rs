//! Paths that have changed, until they are at rest: a file that is being written is not taken half.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::scan::Stat;

/// A path as it was last seen, and since when it has looked so.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// None where nothing is there.
    stat: Option<Stat>,
    since: Instant,
}

/// The paths that have changed.
#[derive(Debug)]
pub(crate) struct Resting {
    settle: Duration,
    waiting: HashMap<PathBuf, Seen>,
    /// The same, the longest at rest first.
    order: BTreeSet<(Instant, PathBuf)>,
    /// How many of them are there.
    files: usize,
}

impl Resting {
    pub(crate) fn new(settle: Duration) -> Resting {
        Resting { settle, waiting: HashMap::new(), order: BTreeSet::new(), files: 0 }
    }

    /// Notes how a path looks. Who looks as before goes on resting.
    pub(crate) fn note(&mut self, path: &Path, stat: Option<Stat>, now: Instant) {
        let before = self.waiting.get(path).copied();
        if before.is_some_and(|seen| seen.stat == stat) {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before.since, path.to_owned()));
            self.files -= usize::from(before.stat.is_some());
        }
        self.files += usize::from(stat.is_some());
        self.waiting.insert(path.to_owned(), Seen { stat, since: now });
        self.order.insert((now, path.to_owned()));
    }

    /// When to look again; none while nothing waits.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(since, _)| *since + self.settle)
    }

    /// Whether a path waits at which there is something.
    pub(crate) fn has_files(&self) -> bool {
        self.files > 0
    }

    /// The paths that have waited long enough, with how they looked. They have to be looked at once more.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(PathBuf, Option<Stat>)> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some((_, path)) = self.order.pop_first() else { break };
            let stat = self.waiting.remove(&path).and_then(|seen| seen.stat);
            self.files -= usize::from(stat.is_some());
            due.push((path, stat));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_due_when_it_has_not_changed_for_the_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let stat = |size| Some(Stat { size, modified: 1, changed: 1 });
        let path = Path::new("/a");
        let mut resting = Resting::new(2 * second);
        assert!(resting.next().is_none() && !resting.has_files());
        resting.note(path, stat(1), start);
        resting.note(path, stat(2), start + second);
        resting.note(path, stat(2), start + 2 * second);
        assert_eq!((resting.next(), resting.has_files()), (Some(start + 3 * second), true));
        assert!(resting.due(start + 2 * second).is_empty());
        assert_eq!(resting.due(start + 3 * second), [(path.to_owned(), stat(2))]);
        assert!(resting.next().is_none() && !resting.has_files());
        resting.note(path, None, start);
        assert!(!resting.has_files());
        assert_eq!(resting.due(start + 2 * second), [(path.to_owned(), None)]);
    }
}
