//! The janitor's settings.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TaskName;

/// The least age of an object that may be taken for one without a row.
const LEAST_ORPHAN_AGE: u64 = 3600;

/// What the janitor does when. Section `janitor` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When each task runs.
    pub schedules: Schedules,
    /// The time zone of the schedules, by its IANA name, such as `Europe/Lisbon`.
    pub time_zone: String,
    /// How long a janitor leads without saying that it is still there.
    pub lease_seconds: u64,
    /// The most documents that are put onto the streams at once.
    pub release_batch: u32,
    /// The most documents on the streams before others wait in PostgreSQL. No limit when it is not set.
    pub in_flight: Option<u32>,
    /// The same for each tenant. What a tenant uploads within a second may be on the streams besides, until it
    /// is noticed.
    pub in_flight_per_tenant: Option<u32>,
    /// Tokens that all tenants together may have embedded in a month (UTC). When they are used up, the documents of all
    /// wait for the next month; what is on its way is finished. No limit when it is not set. Each tenant's own stand in
    /// section `limits`.
    pub embedding_tokens_per_month: Option<u64>,
    /// The same in money: hundredths of the currency of `models.prices`.
    pub embedding_cents_per_month: Option<u64>,
    /// A release that is not known to stand on its stream after this long is sent again.
    pub stale_releasing_seconds: u64,
    /// A release that stays in one state for this long is looked for on the streams; it is released again
    /// only if it is on none. A loss of Redis' data is noticed within seconds, whatever stands here.
    pub census_after_seconds: u64,
    /// The most documents that are released again in a second after Redis lost them.
    pub lost_per_second: u32,
    /// Originals of finished documents are removed after this long; texts and chunks stay. Files that were uploaded by
    /// themselves and have been in no collection for this long are removed too. Never when it is not set. A tenant may have
    /// another one: `riacho tenant limits`.
    pub original_retention_seconds: Option<u64>,
    /// Dead versions and deleted documents are purged this long after the commit that allows it.
    pub purge_grace_seconds: u64,
    /// Objects without a row are removed at this age. It must be longer than any upload takes, and is an hour at least: an
    /// upload's row is written after its object.
    pub orphan_age_seconds: u64,
    /// The most chunks a second that are embedded anew for a space beside the live one, unless something else is set for
    /// the space.
    pub fill_per_second: u32,
    /// The most rows or objects of one step of a task.
    pub batch: u32,
    /// How long the document of the task `canary` may take before the task fails.
    pub canary_time_limit_seconds: u64,
    /// What the task `backup` runs.
    pub backup: Backup,
    /// How webhooks are told.
    pub webhooks: Webhooks,
}

/// How webhooks are told. Section `janitor.webhooks`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// After how long a delivery that did not come through is sent again: after the first attempt, the second, and so on. After
    /// the last of these it is given up.
    pub retry_seconds: Vec<u64>,
    /// How long an address may take to answer.
    pub time_limit_seconds: u64,
    /// A webhook to which nothing came through for this long is disabled.
    pub disable_after_seconds: u64,
    /// The most deliveries on their way at once.
    pub concurrency: usize,
}

impl Default for Webhooks {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            // Three days and some hours, as Standard Webhooks proposes.
            retry_seconds: vec![5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR],
            time_limit_seconds: 15,
            disable_after_seconds: 5 * 24 * HOUR,
            concurrency: 32,
        }
    }
}

/// Backups. There are none where no command is set. Section `janitor.backup`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// The program with its arguments, run without a shell. It finds an empty folder of its own in `RIACHO_BACKUP_DIR`, writes
    /// there, and ends with 0. What it prints is kept there as `backup.log`.
    pub command: Vec<String>,
    /// Where the folders of the backups are made, each named after its time. The janitor needs to write there.
    pub directory: Option<PathBuf>,
    /// Folders older than this are removed after a backup that went well; the newest one stays.
    pub keep_days: u32,
    /// A command that runs longer is ended, and the backup failed.
    pub time_limit_seconds: u64,
}

impl Default for Backup {
    fn default() -> Self {
        Self { command: Vec::new(), directory: None, keep_days: 7, time_limit_seconds: 6 * 3600 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedules: Schedules::default(),
            time_zone: "UTC".into(),
            lease_seconds: 15,
            release_batch: 200,
            in_flight: Some(20_000),
            in_flight_per_tenant: Some(1_000),
            embedding_tokens_per_month: None,
            embedding_cents_per_month: None,
            stale_releasing_seconds: 10,
            census_after_seconds: 60,
            lost_per_second: 500,
            original_retention_seconds: Some(7 * 24 * 3600),
            purge_grace_seconds: 3600,
            orphan_age_seconds: 24 * 3600,
            fill_per_second: 500,
            batch: 500,
            canary_time_limit_seconds: 120,
            backup: Backup::default(),
            webhooks: Webhooks::default(),
        }
    }
}

impl Config {
    /// Checks what no type can say.
    ///
    /// # Errors
    /// The key below `janitor` that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        crate::schedule::Timetable::new(self).map_err(|error| ("schedules", error.to_string()))?;
        if !self.backup.command.is_empty() && self.backup.directory.is_none() {
            return Err(("backup.directory", "a backup needs a folder to write to".to_owned()));
        }
        if self.orphan_age_seconds < LEAST_ORPHAN_AGE {
            let wrong = format!("{} is less than an hour, which an upload may take", self.orphan_age_seconds);
            return Err(("orphan_age_seconds", wrong));
        }
        Ok(())
    }

    /// The cron expression of a task; empty where it runs by hand only.
    #[must_use]
    pub fn schedule_of(&self, task: TaskName) -> &str {
        match task {
            TaskName::Backup if self.backup.command.is_empty() => "",
            _ => self.schedules.of(task).trim(),
        }
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.max(3))
    }
}

/// When each task runs: cron expressions in `time_zone`, with an optional first field for seconds. A task
/// with an empty one runs by hand only.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schedules {
    /// Puts waiting documents onto the streams. It also runs when a document begins to wait.
    pub release: String,
    /// Looks whether Redis lost anything, and releases it again.
    pub census: String,
    /// Moves dead letters to PostgreSQL.
    pub dead_letters: String,
    /// Ends presigned uploads that never came, and removes originals past their retention.
    pub expire_uploads: String,
    /// Ends documents past their time to live.
    pub expire_documents: String,
    /// Removes objects that no row knows.
    pub orphans: String,
    /// Removes what dead versions and deleted documents left.
    pub purge: String,
    /// Measures tenants that have quotas or budgets. One may be passed by what arrives between two runs.
    pub quotas: String,
    /// Deletes consumers that are gone.
    pub consumers: String,
    /// Fails documents whose deadline passed.
    pub deadline: String,
    /// Fills embedding spaces beside the live one. A run lasts until nothing is missing.
    pub fill: String,
    /// Builds the vector indexes.
    pub index: String,
    /// Forgets what was kept for a while only.
    pub housekeep: String,
    /// Sends webhooks what they are to be told.
    pub redeliver_webhooks: String,
    /// Tells of the last 24 hours in numbers.
    pub summary: String,
    /// Sends a small document of the tenant `riacho-canary` through the pipeline. Off by default; `*/5 * * * *` is usual.
    pub canary: String,
    /// Makes a backup, where `backup.command` is set.
    pub backup: String,
    /// Measures. Every janitor does, not only the one that leads.
    pub health: String,
}

impl Default for Schedules {
    fn default() -> Self {
        Self {
            release: "* * * * * *".into(),
            census: "* * * * * *".into(),
            dead_letters: "* * * * * *".into(),
            expire_uploads: "*/5 * * * *".into(),
            expire_documents: "* * * * *".into(),
            orphans: "23 3 * * *".into(),
            purge: "*/5 * * * *".into(),
            quotas: "*/2 * * * * *".into(),
            consumers: "*/2 * * * *".into(),
            deadline: "* * * * *".into(),
            fill: "* * * * * *".into(),
            index: "*/10 * * * *".into(),
            housekeep: "41 * * * *".into(),
            redeliver_webhooks: "* * * * * *".into(),
            summary: "0 18 * * *".into(),
            canary: String::new(),
            backup: "17 2 * * *".into(),
            health: "*/5 * * * * *".into(),
        }
    }
}

impl Schedules {
    /// The expression of a task.
    #[must_use]
    pub fn of(&self, task: TaskName) -> &str {
        match task {
            TaskName::Release => &self.release,
            TaskName::Census => &self.census,
            TaskName::DeadLetters => &self.dead_letters,
            TaskName::ExpireUploads => &self.expire_uploads,
            TaskName::ExpireDocuments => &self.expire_documents,
            TaskName::Orphans => &self.orphans,
            TaskName::Purge => &self.purge,
            TaskName::Quotas => &self.quotas,
            TaskName::Consumers => &self.consumers,
            TaskName::Deadline => &self.deadline,
            TaskName::Fill => &self.fill,
            TaskName::Index => &self.index,
            TaskName::Housekeep => &self.housekeep,
            TaskName::RedeliverWebhooks => &self.redeliver_webhooks,
            TaskName::Summary => &self.summary,
            TaskName::Canary => &self.canary,
            TaskName::Backup => &self.backup,
            TaskName::Health => &self.health,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_of_uploads_that_may_still_be_on_their_way_are_no_orphans() {
        for (seconds, is_right) in [(0, false), (3599, false), (3600, true)] {
            let wrong = Config { orphan_age_seconds: seconds, ..Config::default() }.check();
            assert_eq!(wrong.is_ok(), is_right, "{wrong:?}");
            assert!(wrong.err().is_none_or(|(key, _)| key == "orphan_age_seconds"));
        }
    }
}
