//! Carries out each step on the server and in the model, and compares what they answer and what stands there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use chrono::Utc;
use riacho_domain::{ReasonCode, ReleaseId, RunId, State};
use riacho_store::{
    Accept, Conflict, Error, IndexAnswer, LetterFilter, Lost, NewDeadLetter, Pace, Release, ReleaseCaps,
    ReleasePlan, Resolve, Seal, Sealed, Selection, Target,
};

use super::{
    super::database::{Database, axis, batch, seal, upload},
    model::{Doc, Expected, Known, Model, Ver},
    op::{Batch, Op, Pick, SLOTS},
};

/// Whether a step went as it should, and if not, why.
pub(super) type Step = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition { return Err(format!($($text)+)); }
    };
}

pub(super) use ensure;

/// A table of all that ever happened to states and live versions, written by triggers.
const HISTORY: &str = "
    CREATE TABLE history (n bigserial, document uuid, version int, was text, became text);
    GRANT INSERT ON history TO PUBLIC; GRANT USAGE ON SEQUENCE history_n_seq TO PUBLIC;
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO history (document, version, was, became) VALUES (NEW.document_id, NEW.version, OLD.state, NEW.state);
        RETURN NULL; END $$;
    CREATE TRIGGER note AFTER UPDATE OF state ON document_versions FOR EACH ROW
        WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION note();
    CREATE FUNCTION note_live() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO history (document, was, became) VALUES (NEW.id, coalesce(OLD.live_version, 0), coalesce(NEW.live_version, 0));
        RETURN NULL; END $$;
    CREATE TRIGGER note_live AFTER UPDATE OF live_version ON documents FOR EACH ROW
        WHEN (OLD.live_version IS DISTINCT FROM NEW.live_version) EXECUTE FUNCTION note_live()";

pub(crate) struct Driver {
    pub(super) db: Database,
    pub(super) model: Model,
    slots: [Option<usize>; SLOTS],
    /// Makes texts and letters differ.
    serial: u64,
}

pub(super) fn said(error: Error) -> String {
    error.to_string()
}

impl Driver {
    pub(crate) fn new(db: Database) -> Driver {
        let _ = db.raw.run(HISTORY);
        Driver { db, model: Model::default(), slots: [None; SLOTS], serial: 0 }
    }

    /// Carries out a sequence on documents of its own.
    pub(crate) async fn run(&mut self, ops: &[Op]) -> Step {
        let went = self.steps(ops).await;
        // Nothing of it may wait when the next one begins.
        for doc in &self.model.docs {
            self.db.store.delete_document(&self.db.acme, doc.id).await.map_err(said)?;
        }
        (self.model, self.slots) = (Model::default(), [None; SLOTS]);
        went
    }

    async fn steps(&mut self, ops: &[Op]) -> Step {
        for (number, op) in ops.iter().enumerate() {
            let went = match self.step(op).await {
                Ok(()) => self.compare(),
                wrong => wrong,
            };
            went.map_err(|why| format!("step {number}, {op:?}: {why}"))?;
        }
        self.visible().await?;
        self.history()
    }

    async fn step(&mut self, op: &Op) -> Step {
        match op {
            Op::Accept { slot, hold, totals } => {
                self.serial += 1;
                let text = format!("heron {}", self.serial);
                self.accept(*slot, text, *hold, *totals).await
            }
            Op::AcceptAgain { slot, totals } => match self.latest(*slot).map(|(_, ver)| ver.text.clone()) {
                Some(text) => self.accept(*slot, text, false, *totals).await,
                None => Ok(()),
            },
            Op::ReleaseWaiting { limit } => self.release_waiting(*limit).await,
            Op::Stale => self.stale().await,
            Op::Released(picks) => self.released(picks).await,
            Op::BackToWaiting(pick) => self.back_to_waiting(*pick).await,
            Op::Begin(pick) => self.begin(*pick).await,
            Op::Seal { pick, run } => self.seal(*pick, *run).await,
            Op::Index(batches) => self.index(batches).await,
            Op::Fail(pick) => self.fail(*pick).await,
            Op::Letter(pick) => self.letter(*pick).await,
            Op::Replay { slot } => self.replay(*slot).await,
            Op::Lost { picks, known } => self.lost(picks, *known).await,
            Op::Cancel { slot } => self.cancel(*slot).await,
            Op::Retry { slot, hold } => self.retry(*slot, *hold).await,
            Op::Delete { slot } => self.delete(*slot).await,
            Op::Overdue { slot } => self.overdue(*slot).await,
        }
    }

    /// The document in a slot, and its latest version.
    fn latest(&mut self, slot: usize) -> Option<(usize, &mut Ver)> {
        let doc = self.slots[slot]?;
        Some((doc, self.model.docs[doc].versions.last_mut()?))
    }

    fn known(&self, pick: Pick) -> Option<Known> {
        let known = self.model.known.iter().rev().copied();
        let known: Vec<_> = known.filter(|known| pick.of_any || self.model.is_current(*known)).collect();
        known.get(pick.back).or(known.last()).copied()
    }

    fn release_of(&self, known: Known) -> Release {
        Release {
            tenant: self.db.acme.clone(),
            document: self.model.docs[known.doc].id,
            version: u32::try_from(known.version).unwrap() + 1,
            release: known.release,
        }
    }

    async fn accept(&mut self, slot: usize, text: String, hold: bool, totals: [u32; 2]) -> Step {
        let existing = self.slots[slot];
        let target = existing.map_or(Target::New, |doc| Target::NewVersionOf(self.model.docs[doc].id));
        let accept = Accept { target, hold, ..upload(&self.db.acme, &text) };
        let accepted = self.db.store.accept(&accept).await.map_err(said)?;
        let ended = [State::Failed, State::Cancelled, State::Expired];
        let is_there = self
            .latest(slot)
            .is_some_and(|(_, latest)| latest.text == text && !ended.contains(&latest.state));
        ensure!(accepted.duplicate == is_there, "{accepted:?}");
        if is_there {
            return Ok(());
        }
        let doc = existing.unwrap_or(self.model.docs.len());
        if existing.is_none() {
            let id = accepted.document;
            self.model.docs.push(Doc { id, deleted: false, versions: vec![], live: None });
            self.slots[slot] = Some(doc);
        }
        self.model.cancel_unfinished(doc);
        self.model.docs[doc].versions.push(Ver {
            text,
            state: State::Waiting,
            release: None,
            runs: [RunId::new(), RunId::new()],
            totals,
            sealed: None,
            rows: BTreeSet::new(),
            losses: 0,
            stalls: 0,
            letters: 0,
        });
        let version = self.model.docs[doc].versions.len() - 1;
        ensure!(accepted.version as usize == version + 1, "{accepted:?}");
        self.started(doc, version, accepted.release, hold)
    }

    /// Notes how a version was started.
    fn started(&mut self, doc: usize, version: usize, plan: Option<ReleasePlan>, hold: bool) -> Step {
        ensure!(plan.is_some() != hold, "held: {hold}, and released: {plan:?}");
        match plan {
            Some(plan) => self.model.release(doc, version, plan.release),
            None => self.model.wait(doc, version),
        }
        Ok(())
    }

    /// Notes new releases of versions, each at most once.
    fn given(&mut self, plans: &[ReleasePlan], of: &[(usize, usize)]) -> Step {
        let mut left: BTreeMap<_, _> = of
            .iter()
            .map(|(doc, version)| ((self.model.docs[*doc].id, version + 1), (*doc, *version)))
            .collect();
        for plan in plans {
            let place = left.remove(&(plan.document, plan.version as usize));
            let Some((doc, version)) = place else { return Err(format!("released for nothing: {plan:?}")) };
            ensure!(
                self.model.known.iter().all(|known| known.release != plan.release),
                "an old id: {plan:?}"
            );
            self.model.release(doc, version, plan.release);
        }
        Ok(())
    }

    async fn release_waiting(&mut self, limit: u32) -> Step {
        let plans = self.db.janitor.release_waiting(limit, ReleaseCaps::default()).await.map_err(said)?;
        let waiting = self.model.waiting();
        ensure!(plans.len() == waiting.len().min(limit as usize), "{} of {waiting:?}", plans.len());
        self.given(&plans, &waiting)
    }

    async fn stale(&mut self) -> Step {
        let plans = self.db.janitor.stale_releasing(Duration::ZERO, 100).await.map_err(said)?;
        let found: HashSet<ReleaseId> = plans.iter().map(|plan| plan.release).collect();
        let model = &self.model;
        let releasing = model.known.iter().filter(|known| {
            model.is_current(**known)
                && model.docs[known.doc].versions[known.version].state == State::Releasing
        });
        let expected: HashSet<ReleaseId> = releasing.map(|known| known.release).collect();
        ensure!(found == expected, "{found:?}, expected {expected:?}");
        Ok(())
    }

    async fn released(&mut self, picks: &[Pick]) -> Step {
        let known: Vec<Known> = picks.iter().filter_map(|pick| self.known(*pick)).collect();
        let releases: Vec<Release> = known.iter().map(|known| self.release_of(*known)).collect();
        let changed = self.db.store.released(&releases).await.map_err(said)?;
        let mut expected = HashSet::new();
        for known in known {
            if self.model.is_current(known) && self.model.version(known).state == State::Releasing {
                self.model.version(known).state = State::Extracting;
                expected.insert(known.release);
            }
        }
        ensure!(changed == expected, "{changed:?}, expected {expected:?}");
        Ok(())
    }

    async fn back_to_waiting(&mut self, pick: Pick) -> Step {
        let Some(known) = self.known(pick) else { return Ok(()) };
        let went = self.db.store.back_to_waiting(&self.release_of(known)).await.map_err(said)?;
        let goes = self.model.is_current(known) && self.model.version(known).state == State::Releasing;
        ensure!(went == goes, "{went}, expected {goes}");
        if goes {
            self.model.wait(known.doc, known.version);
        }
        Ok(())
    }

    async fn begin(&mut self, pick: Pick) -> Step {
        let Some(known) = self.known(pick) else { return Ok(()) };
        let begun = self.db.store.begin_extraction(&self.release_of(known)).await.map_err(said)?;
        ensure!(begun.is_some() == self.model.is_current(known), "{begun:?}");
        let Some(begun) = begun else { return Ok(()) };
        let version = self.model.version(known);
        if version.state == State::Releasing {
            version.state = State::Extracting;
        }
        let sealed = version.sealed.map(|run| version.runs[run]);
        ensure!(begun.sealed.as_ref().map(|sealed| sealed.run) == sealed, "{begun:?}, expected {sealed:?}");
        Ok(())
    }

    async fn seal(&mut self, pick: Pick, run: usize) -> Step {
        let Some(known) = self.known(pick) else { return Ok(()) };
        let version = self.model.version(known).clone();
        let wanted: Seal = seal(version.runs[run], version.totals[run]);
        let answer = self.db.store.seal(&self.release_of(known), &wanted).await.map_err(said)?;
        let sealed = self.model.seal(known, run);
        let fits = match (&answer, sealed) {
            (Sealed::Superseded, None) => true,
            (Sealed::First, Some(now)) => version.sealed.is_none() && now == run,
            (Sealed::Existing(there), Some(now)) => {
                version.sealed == Some(now) && there.run == version.runs[now]
            }
            _ => false,
        };
        ensure!(fits, "{answer:?}, expected run {sealed:?}, before {:?}", version.sealed);
        Ok(())
    }

    async fn index(&mut self, batches: &[Batch]) -> Step {
        let (mut items, mut asked) = (Vec::new(), Vec::new());
        for wanted in batches {
            let Some(known) = self.known(wanted.pick) else { continue };
            let (release, space) = (self.release_of(known), self.db.space);
            let version = self.model.version(known);
            let total = version.totals[wanted.run];
            let from = wanted.from.min(total - 1);
            let chunks: Vec<u32> = (from..total.min(from + wanted.count)).collect();
            let texts: Vec<String> = chunks.iter().map(|n| format!("{} part {n}", version.text)).collect();
            let cut: Vec<_> =
                chunks.iter().zip(&texts).map(|(n, text)| (*n, text.as_str(), axis(*n as usize))).collect();
            items.push(batch(&release, version.runs[wanted.run], space, "en", &cut));
            asked.push((known, wanted.run, chunks));
        }
        let answers = self.db.store.index(&items).await.map_err(said)?;
        let expected = self.model.index(&asked);
        for (at, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
            let is_written = matches!(answer, IndexAnswer::Written { .. });
            let fits = is_written == matches!(expected, Expected::Written { .. })
                && !matches!(answer, IndexAnswer::Rejected { .. });
            ensure!(fits, "batch {at}: {answers:?}, expected {expected:?}");
        }
        let ready = answers.iter().filter(|answer| **answer == IndexAnswer::Written { ready: true }).count();
        let flips = expected.iter().filter(|one| **one == Expected::Written { flips: true }).count();
        ensure!(ready == flips, "{ready} say ready, {flips} versions went live: {answers:?}");
        Ok(())
    }

    async fn fail(&mut self, pick: Pick) -> Step {
        let Some(known) = self.known(pick) else { return Ok(()) };
        let failed =
            self.db.store.fail(&self.release_of(known), ReasonCode::Corrupt, "no").await.map_err(said)?;
        ensure!(failed == self.model.is_current(known), "{failed}");
        if failed {
            self.model.version(known).state = State::Failed;
        }
        Ok(())
    }

    async fn letter(&mut self, pick: Pick) -> Step {
        let Some(known) = self.known(pick) else { return Ok(()) };
        self.serial += 1;
        let release = self.release_of(known);
        let letter = NewDeadLetter {
            tenant: Some(release.tenant),
            document: Some(release.document),
            version: Some(release.version),
            release: Some(release.release),
            stage: "embed".into(),
            stream: "riacho:{0}:embed:interactive".into(),
            entry_id: format!("{}-0", self.serial),
            reason_code: "provider_refused".into(),
            message: "no".into(),
            attempts: 4,
            trace_id: String::new(),
            original: vec![1],
            occurred_at: Utc::now(),
        };
        ensure!(self.db.janitor.add_dead_letter(&letter).await.map_err(said)?.is_new, "it is new");
        if self.model.is_current(known) {
            self.model.version(known).state = State::Failed;
        }
        self.model.version(known).letters += 1;
        Ok(())
    }

    async fn replay(&mut self, slot: usize) -> Step {
        let Some(doc) = self.slots[slot] else { return Ok(()) };
        let document = Some(self.model.docs[doc].id);
        let selection = Selection::Filter(LetterFilter { document, ..LetterFilter::default() });
        let asked = Resolve { selection, cursor: None, limit: 1_000, dry_run: false };
        let pace = Pace { every: Duration::ZERO, at_most: Duration::from_secs(60) };
        let answer = self.db.store.replay_dead_letters(Some(&self.db.acme), &asked, pace).await;
        let answer = answer.map_err(said)?;
        let version = self.model.docs[doc].versions.len() - 1;
        let latest = &mut self.model.docs[doc].versions[version];
        let goes = latest.state == State::Failed && latest.letters > 0;
        ensure!(answer.versions.len() == usize::from(goes), "{answer:?}");
        if goes {
            ensure!(answer.letters as usize == latest.letters, "{answer:?} of {}", latest.letters);
            (latest.letters, latest.losses, latest.stalls) = (0, 0, 0);
            self.model.wait(doc, version);
        }
        Ok(())
    }

    async fn lost(&mut self, picks: &[Pick], is_known: bool) -> Step {
        let mut known: Vec<Known> = picks.iter().filter_map(|pick| self.known(*pick)).collect();
        known.dedup();
        let releases: Vec<Release> = known.iter().map(|known| self.release_of(*known)).collect();
        let how = if is_known { Lost::Loss } else { Lost::Stall };
        let deadlines = self.deadlines();
        let answer = self.db.janitor.release_lost(&releases, how).await.map_err(said)?;
        let (mut again, mut failed) = (Vec::new(), 0);
        for known in known {
            let is_owed = self.model.is_current(known) && self.model.version(known).state != State::Releasing;
            match is_owed {
                true if self.model.lose(known, is_known) => failed += 1,
                true => again.push((known.doc, known.version)),
                false => {}
            }
        }
        ensure!(
            answer.failed.len() == failed && answer.plans.len() == again.len(),
            "{answer:?}, expected {again:?}"
        );
        ensure!(self.deadlines() == deadlines, "a new release keeps its deadline");
        self.given(&answer.plans, &again)
    }

    fn deadlines(&self) -> String {
        self.db.value(
            "SELECT string_agg(deadline::text, ' ' ORDER BY document_id, version) FROM document_versions",
        )
    }

    async fn cancel(&mut self, slot: usize) -> Step {
        let Some(doc) = self.slots[slot] else { return Ok(()) };
        let answer = self.db.store.cancel(&self.db.acme, self.model.docs[doc].id).await;
        let latest = self.model.docs[doc].versions.last_mut().expect("a version");
        if latest.state.is_terminal() {
            let state = latest.state;
            let refused =
                matches!(answer, Err(Error::Conflict(Conflict::NothingToCancel(said))) if said == state);
            ensure!(refused, "it is {state}");
        } else {
            answer.map_err(said)?;
            latest.state = State::Cancelled;
        }
        Ok(())
    }

    async fn retry(&mut self, slot: usize, hold: bool) -> Step {
        let Some(doc) = self.slots[slot] else { return Ok(()) };
        let answer = self.db.store.retry(&self.db.acme, self.model.docs[doc].id, None, hold).await;
        let version = self.model.docs[doc].versions.len() - 1;
        let latest = &mut self.model.docs[doc].versions[version];
        if !matches!(latest.state, State::Failed | State::Cancelled) {
            let refused = matches!(answer, Err(Error::Conflict(Conflict::NothingToRetry(_))));
            ensure!(refused, "it is {}, and answered {answer:?}", latest.state);
            return Ok(());
        }
        (latest.losses, latest.stalls) = (0, 0);
        self.started(doc, version, answer.map_err(said)?.release, hold)
    }

    async fn delete(&mut self, slot: usize) -> Step {
        let Some(doc) = self.slots[slot].take() else { return Ok(()) };
        let deleted = self.db.store.delete_document(&self.db.acme, self.model.docs[doc].id).await;
        ensure!(deleted.map_err(said)?, "it was there");
        self.model.cancel_unfinished(doc);
        self.model.docs[doc].deleted = true;
        Ok(())
    }

    async fn overdue(&mut self, slot: usize) -> Step {
        let Some(doc) = self.slots[slot] else { return Ok(()) };
        let id = self.model.docs[doc].id;
        let _ = self.db.raw.run(&format!(
            "UPDATE document_versions SET deadline = now() - interval '1 s' WHERE document_id = '{id}' AND deadline IS NOT NULL"
        ));
        let failed = self.db.janitor.fail_overdue(100).await.map_err(said)?.len();
        let mut expected = 0;
        for version in &mut self.model.docs[doc].versions {
            if version.state.is_in_flight() {
                version.state = State::Failed;
                expected += 1;
            }
        }
        ensure!(failed == expected, "{failed} failed, expected {expected}");
        Ok(())
    }
}
