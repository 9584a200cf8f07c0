//! Paths that have changed, until they are at rest: a file that is being written is not taken half.

use std::{
    collections::HashMap,
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
}

impl Resting {
    pub(crate) fn new(settle: Duration) -> Resting {
        Resting { settle, waiting: HashMap::new() }
    }

    /// Notes how a path looks. Who looks as before goes on resting.
    pub(crate) fn note(&mut self, path: &Path, stat: Option<Stat>, now: Instant) {
        let seen = self.waiting.entry(path.to_owned()).or_insert(Seen { stat, since: now });
        if seen.stat != stat {
            *seen = Seen { stat, since: now };
        }
    }

    /// When to look again; none while nothing waits.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|seen| seen.since + self.settle).min()
    }

    /// The paths that have waited long enough, with how they looked. They have to be looked at once more.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(PathBuf, Option<Stat>)> {
        let settle = self.settle;
        let due = self.waiting.extract_if(|_, seen| seen.since + settle <= now);
        due.map(|(path, seen)| (path, seen.stat)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_due_when_it_has_not_changed_for_the_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let stat = |size| Some(Stat { size, modified: 1 });
        let path = Path::new("/a");
        let mut resting = Resting::new(2 * second);
        assert!(resting.next().is_none());
        resting.note(path, stat(1), start);
        resting.note(path, stat(2), start + second);
        resting.note(path, stat(2), start + 2 * second);
        assert_eq!(resting.next(), Some(start + 3 * second));
        assert!(resting.due(start + 2 * second).is_empty());
        assert_eq!(resting.due(start + 3 * second), [(path.to_owned(), stat(2))]);
        assert!(resting.next().is_none());
        resting.note(path, None, start);
        assert_eq!(resting.due(start + 2 * second), [(path.to_owned(), None)]);
    }
}
