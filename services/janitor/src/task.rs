//! The tasks by name.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

macro_rules! tasks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $describes:literal;)*) => {
        /// A task of the janitor.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum TaskName { $($(#[$doc])* $variant),* }

        impl TaskName {
            /// All tasks.
            pub const ALL: &[TaskName] = &[$(TaskName::$variant),*];

            /// The name, as it stands on the command line, in rows and in labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(TaskName::$variant => $name),* }
            }

            /// What it does, in a line.
            #[must_use]
            pub const fn describes(self) -> &'static str {
                match self { $(TaskName::$variant => $describes),* }
            }
        }
    };
}

tasks! {
    /// Puts documents that wait onto the streams.
    Release = "release", "puts waiting documents onto the streams, fairly by tenant; sends stale releases again";
    /// Finds what Redis lost.
    Census = "census", "finds releases that are on no stream any more, and releases them again";
    /// Moves dead letters to PostgreSQL.
    DeadLetters = "dead-letters", "moves dead letters to PostgreSQL and fails their documents";
    /// Ends uploads that never came, removes originals past their retention.
    ExpireUploads = "expire-uploads", "ends presigned uploads that never came; removes originals and unused files past their retention";
    /// Ends documents past their time to live.
    ExpireDocuments = "expire-documents", "ends documents and files past their time to live; empties deleted and unused collections";
    /// Removes objects without a row.
    Orphans = "orphans", "removes objects that no row knows";
    /// Removes what dead versions and deleted documents left.
    Purge = "purge", "removes what dead versions, deleted documents and deleted files left, with a receipt";
    /// Measures what tenants use.
    Quotas = "quotas", "measures tenants that have quotas or budgets, and tells the gateways which are used up";
    /// Removes consumers that are gone.
    Consumers = "consumers", "deletes consumers that are gone and hold nothing";
    /// Fails documents past their deadline.
    Deadline = "deadline", "fails documents whose deadline passed";
    /// Fills embedding spaces.
    Fill = "fill", "fills embedding spaces beside the live one from stored chunks";
    /// Builds the vector index.
    Index = "index", "builds the vector indexes of large tenants and counts their frequent words; removes spaces that were given up";
    /// Removes what was kept for a while only.
    Housekeep = "housekeep", "forgets old idempotency keys, intake events and batches; removes deleted tenants and drained partitions that are empty";
    /// Sends webhooks what they are to be told.
    RedeliverWebhooks = "redeliver-webhooks", "sends webhooks what they are to be told, signed, and again what did not come through";
    /// Tells of the day in numbers.
    Summary = "summary", "tells of the last 24 hours in numbers, in the log and to webhooks";
    /// Sends a small document through the pipeline.
    Canary = "canary", "sends a small document of an internal tenant through the whole pipeline, and measures how long it takes";
    /// Makes a backup.
    Backup = "backup", "runs the configured backup command, and removes backups that are older than they are kept";
    /// Measures.
    Health = "health", "measures backlogs, lag, dead letters and waiting documents";
}

impl TaskName {
    /// Whether every janitor runs it, not only the one that leads: it only looks.
    pub(crate) const fn is_for_everybody(self) -> bool {
        matches!(self, TaskName::Health)
    }

    /// Whether it runs every few seconds by default: at once when a janitor begins to lead, and
    /// without a line in the log each time.
    pub(crate) const fn is_frequent(self) -> bool {
        matches!(
            self,
            TaskName::Release
                | TaskName::Census
                | TaskName::DeadLetters
                | TaskName::Quotas
                | TaskName::Fill
                | TaskName::RedeliverWebhooks
                | TaskName::Health
        )
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TaskName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for TaskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || TaskName::ALL.iter().map(|task| task.as_str()).collect::<Vec<_>>().join(", ");
        let found = TaskName::ALL.iter().copied().find(|task| task.as_str() == text);
        found.ok_or_else(|| format!("task {text:?} is none of {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_unknown_ones_answered_with_the_known() {
        for task in TaskName::ALL {
            assert_eq!(task.as_str().parse(), Ok(*task));
        }
        let error = "cleanup".parse::<TaskName>();
        assert!(error.is_err_and(|error| error.contains("dead-letters, expire-uploads")));
    }
}
