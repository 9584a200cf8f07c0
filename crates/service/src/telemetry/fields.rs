//! The names of fields in log lines: one for one thing, whoever writes the line.

/// What each line has, in this order; the fields of the event stand before the last.
pub const OF_EVERY_LINE: [&str; 5] = ["timestamp", "level", "service", "message", "target"];

/// Each name of a field, and what it is. A test finds names that are not here.
pub const FIELDS: &[(&str, &str)] = &[
    // What a line is about.
    ("tenant", "the tenant"),
    ("document", "the document's id"),
    ("version", "the document's version"),
    ("step", "what happened to the document, of a fixed set"),
    ("stage", "the stage: extract, embed, index"),
    ("event", "the id of an event on its way"),
    ("release", "what put the version onto the streams"),
    ("attempt", "which run of the event, or which attempt, from 1"),
    ("lane", "interactive, bulk or background"),
    ("worker", "the consumer that works: a stage in a process"),
    ("trace_id", "the trace, as in the traces that are exported"),
    ("request_id", "the request, as its answer's header x-request-id says"),
    ("webhook", "the webhook's id"),
    ("partition", "the partition of the streams"),
    ("entry", "the id of an entry on a stream"),
    ("space", "the embedding space"),
    ("model", "the embedding model"),
    ("task", "the janitor's task"),
    ("key", "the id of an API key, never the key"),
    ("object_key", "the key of an object in the store"),
    ("source", "where an upload or an event comes from"),
    // How it went.
    ("reason", "why, as a code or in a few words"),
    ("error", "what went wrong, for people"),
    ("status", "the HTTP status"),
    ("state", "the document's state"),
    ("class", "the delay class that an event waits in"),
    ("counts", "whether a failure is an attempt"),
    ("seconds", "how long it took"),
    ("summary", "what a task did"),
    ("by", "who asked for it"),
    ("dry_run", "whether it only looked"),
    // How much.
    ("accepted", "documents accepted"),
    ("batch", "which batch of the document, from 0"),
    ("bytes", "bytes"),
    ("chunks", "chunks"),
    ("connections", "connections"),
    ("dead_letters", "dead letters"),
    ("deleted", "documents deleted"),
    ("entries", "entries of a stream"),
    ("events", "events of a batch"),
    ("failed", "documents that failed"),
    ("in_a_row", "failures one after the other"),
    ("in_flight", "releases on their way"),
    ("letters", "dead letters of a call"),
    ("missing", "releases that are on no stream"),
    ("needed_mb", "memory that is wanted, in megabytes"),
    ("objects", "objects"),
    ("pause_seconds", "how long a pause is"),
    ("ready", "documents that became ready"),
    ("released_again", "releases sent again"),
    ("remaining", "what a call did not come to"),
    ("restarts", "how often it was started again"),
    ("spans", "spans of traces"),
    ("tenants", "tenants"),
    ("unfinished", "documents that are not at their end"),
    ("vectors", "vectors"),
    // The process and what is around it.
    ("address", "where it listens, or sends to"),
    ("dependency", "a server that is needed"),
    ("languages", "languages of text recognition"),
    ("lease", "the number of a lease"),
    ("method", "the method of a request"),
    ("noted", "what could not be written"),
    ("pid", "a process id"),
    ("process", "a process of PostgreSQL"),
    ("route", "the route of a request"),
    ("server", "a private server"),
    ("services", "the services of the process"),
    ("then", "what happens when a budget is used up"),
    ("used_up", "quotas and budgets that are used up"),
    ("verb", "what is done with dead letters"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_once_and_is_none_of_every_line() {
        let names: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), FIELDS.len());
        for name in OF_EVERY_LINE {
            assert!(!names.contains(name), "{name}");
        }
    }
}
