//! When tasks run by themselves: cron expressions. A run that somebody asked for may go beside one of these.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use riacho_service::cron::Cron;
use riacho_store::PlannedTask;

use crate::{Config, Error, TaskName};

/// The parsed schedules.
#[derive(Debug)]
pub(crate) struct Timetable {
    crons: BTreeMap<TaskName, (String, Cron)>,
    zone: String,
}

impl Timetable {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let mut crons = BTreeMap::new();
        for task in TaskName::ALL.iter().copied() {
            let expression = config.schedule_of(task);
            if expression.is_empty() {
                continue;
            }
            let unread =
                |error: riacho_service::cron::CronError| Error::Schedule { task, reason: error.to_string() };
            let cron = Cron::parse(expression, &config.time_zone).map_err(unread)?;
            crons.insert(task, (expression.to_owned(), cron));
        }
        Ok(Self { crons, zone: config.time_zone.clone() })
    }

    /// The tasks that have a schedule.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = TaskName> {
        self.crons.keys().copied()
    }

    /// All tasks as they are shown to people.
    pub(crate) fn planned(&self) -> Vec<PlannedTask<'_>> {
        let planned = |task: &TaskName| PlannedTask {
            task: task.as_str(),
            describes: task.describes(),
            expression: self.crons.get(task).map(|(expression, _)| expression.as_str()),
            time_zone: &self.zone,
        };
        TaskName::ALL.iter().map(planned).collect()
    }

    /// How long until a task's next turn; none where it has no schedule, or none that still comes.
    pub(crate) fn wait(&self, task: TaskName, now: DateTime<Utc>) -> Option<Duration> {
        (self.crons.get(&task)?.1.next(now)? - now).to_std().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Schedules;

    #[test]
    fn every_task_but_those_to_be_switched_on_has_a_default_schedule_that_comes() {
        let table = Timetable::new(&Config::default()).unwrap();
        let off = |task: &&TaskName| !matches!(task, TaskName::Canary | TaskName::Backup);
        let wanted: Vec<TaskName> = TaskName::ALL.iter().filter(off).copied().collect();
        assert_eq!(table.tasks().collect::<Vec<_>>(), wanted);
        let now = "2026-01-31T23:59:58.250Z".parse().unwrap();
        assert_eq!(table.wait(TaskName::Release, now), Some(Duration::from_millis(750)));
        assert_eq!(table.wait(TaskName::Deadline, now), Some(Duration::from_millis(1750)));
        assert_eq!(
            table.wait(TaskName::Orphans, now),
            Some(Duration::from_millis((3 * 3600 + 23 * 60 + 1) * 1000 + 750))
        );
        let planned = table.planned();
        assert_eq!(planned.len(), TaskName::ALL.len());
        assert!(planned.iter().any(|task| task.task == "canary" && task.expression.is_none()));
    }

    #[test]
    fn schedules_are_of_the_time_zone() {
        let config = Config { time_zone: "America/Sao_Paulo".into(), ..Config::default() };
        let table = Timetable::new(&config).unwrap();
        let now = "2026-01-31T20:00:00Z".parse().unwrap();
        assert_eq!(table.wait(TaskName::Summary, now), Some(Duration::from_secs(3600)));
        let config = Config { time_zone: "Atlantis".into(), ..Config::default() };
        assert!(Timetable::new(&config).unwrap_err().to_string().contains("Atlantis"));
    }

    #[test]
    fn a_backup_has_a_schedule_once_it_has_a_command() {
        let mut config = Config::default();
        config.backup.command = vec!["pg_dump".into()];
        let table = Timetable::new(&config).unwrap();
        assert!(table.tasks().any(|task| task == TaskName::Backup));
    }

    #[test]
    fn an_empty_expression_turns_a_task_off() {
        let schedules = Schedules { orphans: " ".into(), ..Schedules::default() };
        let table = Timetable::new(&Config { schedules, ..Config::default() }).unwrap();
        assert_eq!(table.wait(TaskName::Orphans, Utc::now()), None);
    }

    #[test]
    fn an_expression_that_cannot_be_read_or_never_comes_names_its_task() {
        for bad in ["every day", "61 * * * *", "0 0 30 2 *"] {
            let schedules = Schedules { purge: bad.into(), ..Schedules::default() };
            let error = Timetable::new(&Config { schedules, ..Config::default() }).unwrap_err();
            assert!(error.to_string().starts_with("purge: cron expression"), "{error}");
        }
    }
}
