//! When tasks run: cron expressions, one task at a time for each name.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use croner::Cron;

use crate::{Error, Schedules, TaskName};

/// The parsed schedules.
#[derive(Debug)]
pub(crate) struct Timetable(BTreeMap<TaskName, Cron>);

impl Timetable {
    pub(crate) fn new(schedules: &Schedules) -> Result<Self, Error> {
        let mut table = BTreeMap::new();
        for task in TaskName::ALL.iter().copied() {
            let expression = schedules.of(task).trim();
            if expression.is_empty() {
                continue;
            }
            let unread = |error: croner::errors::CronError| Error::Schedule {
                task,
                reason: format!("cron expression {expression:?}: {error}"),
            };
            let cron: Cron = expression.parse().map_err(unread)?;
            // An expression can be well formed and never come, such as the 30th of February.
            cron.find_next_occurrence(&Utc::now(), false).map_err(unread)?;
            table.insert(task, cron);
        }
        Ok(Self(table))
    }

    /// The tasks that have a schedule.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = TaskName> {
        self.0.keys().copied()
    }

    /// How long until a task's next turn; none where it has no schedule, or none that still comes.
    pub(crate) fn wait(&self, task: TaskName, now: DateTime<Utc>) -> Option<Duration> {
        let next = self.0.get(&task)?.find_next_occurrence(&now, false).ok()?;
        (next - now).to_std().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_task_has_a_default_schedule_that_comes() {
        let table = Timetable::new(&Schedules::default()).unwrap();
        assert_eq!(table.tasks().collect::<Vec<_>>(), TaskName::ALL);
        let now = "2026-01-31T23:59:58.250Z".parse().unwrap();
        assert_eq!(table.wait(TaskName::Release, now), Some(Duration::from_millis(750)));
        assert_eq!(table.wait(TaskName::Deadline, now), Some(Duration::from_millis(1750)));
        assert_eq!(
            table.wait(TaskName::Orphans, now),
            Some(Duration::from_millis((3 * 3600 + 23 * 60 + 1) * 1000 + 750))
        );
    }

    #[test]
    fn an_empty_expression_turns_a_task_off() {
        let schedules = Schedules { orphans: " ".into(), ..Schedules::default() };
        let table = Timetable::new(&schedules).unwrap();
        assert_eq!(table.wait(TaskName::Orphans, Utc::now()), None);
    }

    #[test]
    fn an_expression_that_cannot_be_read_or_never_comes_names_its_task() {
        for bad in ["every day", "61 * * * *", "0 0 30 2 *"] {
            let error = Timetable::new(&Schedules { purge: bad.into(), ..Schedules::default() }).unwrap_err();
            assert!(error.to_string().starts_with("purge: cron expression"), "{error}");
        }
    }
}
