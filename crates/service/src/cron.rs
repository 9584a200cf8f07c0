//! Cron expressions in a time zone: when something is due next. For the janitor, and for whoever shows its schedule.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

/// A cron expression that was read, with an optional first field for seconds.
#[derive(Debug, Clone)]
pub struct Cron {
    cron: croner::Cron,
    zone: Tz,
}

/// Why an expression or a time zone cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression is none, or names a time that never comes.
    #[error("cron expression {expression:?}: {reason}")]
    Expression {
        /// What was given.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such time zone.
    #[error("time zone {0:?} is not known; name one as IANA does, such as Europe/Lisbon or UTC")]
    Zone(String),
}

impl Cron {
    /// Reads an expression; the times that it names are those of the time zone, by its IANA name.
    ///
    /// # Errors
    /// An unknown zone, an expression that cannot be read, or one that never comes, such as the 30th of February.
    pub fn parse(expression: &str, zone: &str) -> Result<Cron, CronError> {
        let zone: Tz = zone.parse().map_err(|_| CronError::Zone(zone.to_owned()))?;
        let unread = |error: croner::errors::CronError| CronError::Expression {
            expression: expression.to_owned(),
            reason: error.to_string(),
        };
        let cron: croner::Cron = expression.parse().map_err(unread)?;
        cron.find_next_occurrence(&Utc::now().with_timezone(&zone), false).map_err(unread)?;
        Ok(Cron { cron, zone })
    }

    /// The next time after `now`; none where none comes any more.
    #[must_use]
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&now.with_timezone(&self.zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn next(expression: &str, zone: &str, now: &str) -> String {
        let next = Cron::parse(expression, zone).unwrap().next(now.parse().unwrap()).unwrap();
        next.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    #[test]
    fn a_time_is_that_of_the_zone_in_summer_and_in_winter() {
        let daily = "0 18 * * *";
        assert_eq!(next(daily, "UTC", "2026-07-01T12:00:00Z"), "2026-07-01T18:00:00Z");
        assert_eq!(next(daily, "Europe/Lisbon", "2026-07-01T12:00:00Z"), "2026-07-01T17:00:00Z");
        assert_eq!(next(daily, "Europe/Lisbon", "2026-12-01T12:00:00Z"), "2026-12-01T18:00:00Z");
        assert_eq!(next(daily, "America/Sao_Paulo", "2026-12-01T22:00:00Z"), "2026-12-02T21:00:00Z");
    }

    #[test]
    fn what_cannot_be_read_or_never_comes_is_said() {
        for bad in ["every day", "61 * * * *", "0 0 30 2 *"] {
            let error = Cron::parse(bad, "UTC").unwrap_err().to_string();
            assert!(error.starts_with("cron expression") && error.contains(bad), "{error}");
        }
        let error = Cron::parse("* * * * *", "Atlantis/Capital").unwrap_err().to_string();
        assert!(error.contains("Atlantis/Capital"), "{error}");
    }
}
