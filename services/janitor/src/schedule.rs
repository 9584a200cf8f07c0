//! When tasks run by themselves: cron expressions. A run that somebody asked for may go beside one of these.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use riacho_service::cron::Cron;
use riacho_store::{PlannedTask, Schedule};

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

    /// Since when the turns of a task count for a janitor that begins to lead: since its last run, whoever ran it, or since it is
    /// known where it never ran. A task that nobody knew, or that had another schedule, begins now.
    pub(crate) fn since(&self, task: TaskName, known: &[Schedule], now: DateTime<Utc>) -> DateTime<Utc> {
        let expression = self.crons.get(&task).map(|(expression, _)| expression);
        let same = |one: &&Schedule| {
            one.task == task.as_str() && one.expression.as_ref() == expression && one.time_zone == self.zone
        };
        known.iter().find(same).map_or(now, |one| one.last_started.unwrap_or(one.known_since))
    }

    /// How long until the first turn of a task after `since`: no time at all where that has passed. None where it has no
    /// schedule, or no turn that still comes.
    pub(crate) fn wait(&self, task: TaskName, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
        // A clock that was set back must not put a task off until it is there again.
        let turn = self.crons.get(&task)?.1.next(since.min(now))?;
        Some((turn - now).to_std().unwrap_or(Duration::ZERO))
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
        assert_eq!(table.wait(TaskName::Release, now, now), Some(Duration::from_millis(750)));
        assert_eq!(table.wait(TaskName::Deadline, now, now), Some(Duration::from_millis(1750)));
        assert_eq!(
            table.wait(TaskName::Orphans, now, now),
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
        assert_eq!(table.wait(TaskName::Summary, now, now), Some(Duration::from_secs(3600)));
        let config = Config { time_zone: "Atlantis".into(), ..Config::default() };
        assert!(Timetable::new(&config).unwrap_err().to_string().contains("Atlantis"));
    }

    fn row(expression: &str, last_started: Option<&str>) -> Schedule {
        Schedule {
            task: "summary".into(),
            describes: None,
            expression: Some(expression.into()),
            time_zone: "UTC".into(),
            known_since: at("2026-01-01T00:00:00Z"),
            last_started: last_started.map(at),
            last_finished: None,
            last_seconds: None,
            last_outcome: None,
            last_summary: None,
            last_success: None,
            last_work: None,
            last_work_summary: None,
            runs: 0,
            failures: 0,
        }
    }

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    #[test]
    fn a_turn_that_passed_while_nobody_led_is_due_at_once_and_only_once() {
        let table = Timetable::new(&Config::default()).unwrap();
        let wait = |known: &[Schedule], now: &str| {
            let since = table.since(TaskName::Summary, known, at(now));
            table.wait(TaskName::Summary, since, at(now)).unwrap().as_secs()
        };
        let hours = |hours: u64| hours * 3600;
        assert_eq!(wait(&[], "2026-02-01T19:00:00Z"), hours(23), "the first start ever: not all at once");
        let ran = row("0 18 * * *", Some("2026-01-31T18:00:00Z"));
        assert_eq!(wait(std::slice::from_ref(&ran), "2026-02-01T17:00:00Z"), hours(1));
        assert_eq!(wait(std::slice::from_ref(&ran), "2026-02-01T19:00:00Z"), 0);
        assert_eq!(wait(&[ran], "2026-02-09T19:00:00Z"), 0, "after a week too");
        let again = row("0 18 * * *", Some("2026-02-09T19:00:00Z"));
        assert_eq!(wait(&[again], "2026-02-09T19:00:01Z"), hours(23) - 1);
        assert_eq!(wait(&[row("0 18 * * *", None)], "2026-01-01T18:00:01Z"), 0, "it never ran");
        let other = row("0 6 * * *", Some("2026-01-31T06:00:00Z"));
        assert_eq!(wait(&[other], "2026-02-01T19:00:00Z"), hours(23), "another schedule begins now");
    }

    #[test]
    fn a_turn_that_passed_in_a_suspend_is_due_and_a_clock_that_was_set_back_puts_nothing_off() {
        let table = Timetable::new(&Config::default()).unwrap();
        let wait =
            |since: &str, now: &str| table.wait(TaskName::Summary, at(since), at(now)).unwrap().as_secs();
        assert_eq!(wait("2026-02-01T12:00:00Z", "2026-02-01T18:20:00Z"), 0);
        assert_eq!(wait("2026-02-01T12:00:00Z", "2026-02-01T17:59:30Z"), 30);
        assert_eq!(wait("2027-02-01T12:00:00Z", "2026-02-01T17:59:30Z"), 30);
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
        assert_eq!(table.wait(TaskName::Orphans, Utc::now(), Utc::now()), None);
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
