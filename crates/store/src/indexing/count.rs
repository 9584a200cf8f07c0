//! Counted readiness, without I/O: which batches are written, and what a version's row says after.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, ReleaseId, RunId, SpaceId, State, TenantId, Version};
use uuid::Uuid;

use super::IndexItem;

/// A version's row, locked.
#[derive(Debug, Clone)]
pub(super) struct VersionRow {
    pub(super) tenant: TenantId,
    pub(super) document: DocumentId,
    pub(super) version: Version,
    pub(super) state: State,
    pub(super) release: Option<ReleaseId>,
    pub(super) space: Option<SpaceId>,
    pub(super) sealed: Option<(RunId, u32)>,
    /// None: nothing was written. The nil UUID: rows may be there and are to be counted.
    pub(super) indexed_run: Option<Uuid>,
    pub(super) chunks_indexed: u32,
    pub(super) live_version: Option<Version>,
    pub(super) deleted: bool,
    pub(super) accepted_at: DateTime<Utc>,
}

/// What to do with an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Write,
    Superseded,
    Rejected(String),
}

impl VersionRow {
    /// Rules 2 and 3: the release is current, the space is the pinned one, and the run did not lose.
    pub(super) fn admit(&self, item: &IndexItem) -> Admission {
        let current =
            self.release == Some(item.release.release) && self.state.is_in_flight() && !self.deleted;
        let not_older = self.live_version.is_none_or(|live| live <= self.version);
        let lost = self.sealed.is_some_and(|(run, _)| run != item.run);
        if !current || !not_older || lost || self.space != Some(item.space) {
            return Admission::Superseded;
        }
        match self.sealed {
            Some((_, total)) if beyond(item, total) => {
                Admission::Rejected(format!("the batch has a chunk beyond the {total} of its sealed run"))
            }
            _ => Admission::Write,
        }
    }

    /// The run whose rows are counted from now on, when rows of `written` were just added.
    fn counted_run(&self, written: Uuid) -> Uuid {
        match (self.sealed, self.indexed_run) {
            (Some((run, _)), _) => run.0,
            (None, Some(run)) if !run.is_nil() => run,
            (None, _) => written,
        }
    }

    /// What the row becomes. `inserted` has the rows that were really added, by run; without a
    /// recount that it needs it answers the run to be counted.
    pub(super) fn settle(
        &self,
        written: Uuid,
        inserted: &HashMap<Uuid, u32>,
        recounts: &HashMap<Uuid, u32>,
    ) -> Result<Settled, Uuid> {
        let run = self.counted_run(written);
        let added = inserted.get(&run).copied().unwrap_or(0);
        let count = match (self.indexed_run, recounts.get(&run)) {
            (_, Some(count)) => *count,
            (None, None) => added,
            (Some(indexed), None) if indexed == run => self.chunks_indexed + added,
            (Some(_), None) => return Err(run),
        };
        let ready = self.sealed.is_some_and(|(sealed, total)| sealed.0 == run && count == total);
        let state = match (ready, self.sealed) {
            (true, _) => State::Ready,
            (false, Some(_)) if self.state.may_become(State::Indexing) => State::Indexing,
            (false, _) => self.state,
        };
        Ok(Settled { run, count, ready, state })
    }
}

/// What a version's row becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) run: Uuid,
    pub(super) count: u32,
    pub(super) ready: bool,
    pub(super) state: State,
}

fn beyond(item: &IndexItem, total: u32) -> bool {
    item.chunks.iter().filter_map(|embedded| embedded.chunk.as_ref()).any(|chunk| chunk.ordinal >= total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use riacho_proto::v1::{Chunk, EmbeddedChunk};

    use super::*;
    use crate::Release;

    fn row() -> VersionRow {
        VersionRow {
            tenant: "acme".parse().unwrap(),
            document: DocumentId::new(),
            version: 2,
            state: State::Embedding,
            release: Some(ReleaseId::new()),
            space: Some(1),
            sealed: None,
            indexed_run: None,
            chunks_indexed: 0,
            live_version: Some(1),
            deleted: false,
            accepted_at: Utc::now(),
        }
    }

    fn item(row: &VersionRow, run: RunId, ordinals: &[u32]) -> IndexItem {
        let release = Release {
            tenant: row.tenant.clone(),
            document: row.document,
            version: row.version,
            release: row.release.unwrap(),
        };
        let chunk = |ordinal: &u32| EmbeddedChunk {
            chunk: Some(Chunk { ordinal: *ordinal, ..Chunk::default() }),
            vector_f16: Vec::new().into(),
        };
        IndexItem {
            release,
            run,
            space: 1,
            language: "en".into(),
            chunks: ordinals.iter().map(chunk).collect(),
        }
    }

    #[test]
    fn only_the_current_release_the_pinned_space_and_the_sealed_run_are_written() {
        let (run, other) = (RunId::new(), RunId::new());
        let row = row();
        let good = item(&row, run, &[0]);
        assert_eq!(row.admit(&good), Admission::Write);
        let changed = |change: &dyn Fn(&mut VersionRow)| {
            let mut row = row.clone();
            change(&mut row);
            row.admit(&good)
        };
        assert_eq!(changed(&|r| r.release = Some(ReleaseId::new())), Admission::Superseded);
        assert_eq!(changed(&|r| r.space = Some(2)), Admission::Superseded);
        assert_eq!(changed(&|r| r.sealed = Some((other, 1))), Admission::Superseded);
        assert_eq!(changed(&|r| r.state = State::Cancelled), Admission::Superseded);
        assert_eq!(changed(&|r| r.deleted = true), Admission::Superseded);
        assert_eq!(changed(&|r| r.live_version = Some(3)), Admission::Superseded);
        assert_eq!(changed(&|r| r.sealed = Some((run, 1))), Admission::Write);
        assert!(matches!(changed(&|r| r.sealed = Some((run, 0))), Admission::Rejected(_)));
    }

    #[test]
    fn a_version_is_ready_when_the_count_of_the_sealed_run_is_complete() {
        let run = RunId::new();
        let mut row = row();
        let inserted = HashMap::from([(run.0, 2)]);
        let none = HashMap::new();
        let first = row.settle(run.0, &inserted, &none).unwrap();
        assert_eq!((first.count, first.ready, first.state), (2, false, State::Embedding));
        row.indexed_run = Some(first.run);
        row.chunks_indexed = first.count;
        row.sealed = Some((run, 4));
        let repeated = row.settle(run.0, &none, &none).unwrap();
        assert_eq!((repeated.count, repeated.ready, repeated.state), (2, false, State::Indexing));
        let last = row.settle(run.0, &inserted, &none).unwrap();
        assert_eq!((last.count, last.ready, last.state), (4, true, State::Ready));
    }

    #[test]
    fn rows_of_a_run_that_was_not_counted_are_counted_when_it_is_sealed() {
        let (counted, sealed) = (RunId::new(), RunId::new());
        let mut row = row();
        row.indexed_run = Some(counted.0);
        row.chunks_indexed = 3;
        // Before the seal the other run's rows change nothing.
        let other = row.settle(sealed.0, &HashMap::from([(sealed.0, 2)]), &HashMap::new()).unwrap();
        assert_eq!((other.run, other.count), (counted.0, 3));
        row.sealed = Some((sealed, 3));
        let inserted = HashMap::from([(sealed.0, 1)]);
        assert_eq!(row.settle(sealed.0, &inserted, &HashMap::new()), Err(sealed.0));
        let recounted = row.settle(sealed.0, &inserted, &HashMap::from([(sealed.0, 3)])).unwrap();
        assert!(recounted.ready);
        // After a new release, rows are counted again too.
        row.indexed_run = Some(Uuid::nil());
        assert_eq!(row.settle(sealed.0, &inserted, &HashMap::new()), Err(sealed.0));
    }
}
