//! Documents as they should be: what the store promises, said without SQL.

use std::collections::BTreeSet;

use riacho_domain::{DocumentId, ReleaseId, RunId, State};

/// A version of a document.
#[derive(Debug, Clone)]
pub(crate) struct Ver {
    pub(crate) text: String,
    pub(crate) state: State,
    pub(crate) release: Option<ReleaseId>,
    /// Two extractions of it, which cut into so many chunks.
    pub(crate) runs: [RunId; 2],
    pub(crate) totals: [u32; 2],
    pub(crate) sealed: Option<usize>,
    /// The chunks that are written, by run.
    pub(crate) rows: BTreeSet<(usize, u32)>,
    pub(crate) losses: i32,
    pub(crate) stalls: i32,
    /// Dead letters about which nothing was done.
    pub(crate) letters: usize,
}

/// A document. Versions count from 1, their places here from 0.
#[derive(Debug, Clone)]
pub(crate) struct Doc {
    pub(crate) id: DocumentId,
    pub(crate) deleted: bool,
    pub(crate) versions: Vec<Ver>,
    pub(crate) live: Option<usize>,
}

/// A release that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) doc: usize,
    pub(crate) version: usize,
    pub(crate) release: ReleaseId,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Written { flips: bool },
    Superseded,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) docs: Vec<Doc>,
    pub(crate) known: Vec<Known>,
}

impl Model {
    pub(crate) fn version(&mut self, known: Known) -> &mut Ver {
        &mut self.docs[known.doc].versions[known.version]
    }

    /// Whether a release may still write.
    pub(crate) fn is_current(&self, known: Known) -> bool {
        let version = &self.docs[known.doc].versions[known.version];
        version.release == Some(known.release) && version.state.is_in_flight()
    }

    /// Gives a version a new release.
    pub(crate) fn release(&mut self, doc: usize, version: usize, release: ReleaseId) {
        let known = Known { doc, version, release };
        self.known.push(known);
        let version = self.version(known);
        (version.state, version.release) = (State::Releasing, Some(release));
    }

    /// Lets a version wait.
    pub(crate) fn wait(&mut self, doc: usize, version: usize) {
        let version = &mut self.docs[doc].versions[version];
        (version.state, version.release) = (State::Waiting, None);
    }

    /// A newer version ends what of the document is unfinished; so does a deletion.
    pub(crate) fn cancel_unfinished(&mut self, doc: usize) {
        for version in &mut self.docs[doc].versions {
            if !version.state.is_terminal() {
                version.state = State::Cancelled;
            }
        }
    }

    /// The versions that wait for a release.
    pub(crate) fn waiting(&self) -> Vec<(usize, usize)> {
        let all = self.docs.iter().enumerate();
        let all = all.flat_map(|(n, doc)| (0..doc.versions.len()).map(move |version| (n, version)));
        all.filter(|(doc, version)| self.docs[*doc].versions[*version].state == State::Waiting).collect()
    }

    /// Seals a run: the run that is sealed then; none where the release may not write.
    pub(crate) fn seal(&mut self, known: Known, run: usize) -> Option<usize> {
        if !self.is_current(known) {
            return None;
        }
        let version = self.version(known);
        if version.sealed.is_none() && matches!(version.state, State::Releasing | State::Extracting) {
            version.state = State::Embedding;
        }
        Some(*version.sealed.get_or_insert(run))
    }

    /// Writes batches, all in one step: release, run and chunks of each.
    pub(crate) fn index(&mut self, batches: &[(Known, usize, Vec<u32>)]) -> Vec<Expected> {
        let admitted: Vec<bool> = batches.iter().map(|(known, run, _)| self.admits(*known, *run)).collect();
        for ((known, run, chunks), _) in batches.iter().zip(&admitted).filter(|(_, admitted)| **admitted) {
            self.version(*known).rows.extend(chunks.iter().map(|chunk| (*run, *chunk)));
        }
        let mut answers = Vec::new();
        for ((known, ..), admitted) in batches.iter().zip(&admitted) {
            let flips = *admitted && self.settle(*known);
            answers.push(if *admitted { Expected::Written { flips } } else { Expected::Superseded });
        }
        answers
    }

    fn admits(&self, known: Known, run: usize) -> bool {
        let sealed = self.docs[known.doc].versions[known.version].sealed;
        self.is_current(known) && sealed.is_none_or(|sealed| sealed == run)
    }

    /// Counts a version's rows after a write; whether it goes live now.
    fn settle(&mut self, known: Known) -> bool {
        let version = self.version(known);
        let Some(sealed) = version.sealed else { return false };
        if version.state == State::Ready {
            return false;
        }
        let count = version.rows.iter().filter(|(run, _)| *run == sealed).count();
        let is_ready = count == version.totals[sealed] as usize;
        version.state = if is_ready { State::Ready } else { State::Indexing };
        if is_ready {
            self.docs[known.doc].live = Some(known.version);
        }
        is_ready
    }

    /// Whether a lost release is given up, and if not, counted.
    pub(crate) fn lose(&mut self, known: Known, is_known: bool) -> bool {
        let version = self.version(known);
        let (losses, stalls) = if is_known { (1, 0) } else { (0, 1) };
        if version.losses + losses > 20 || version.stalls + stalls > 3 {
            version.state = State::Failed;
            return true;
        }
        version.losses += losses;
        version.stalls += stalls;
        false
    }
}
