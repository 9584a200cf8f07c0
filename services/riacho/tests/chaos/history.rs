//! What the database saw: each step of a version and of what is live, written down by triggers of the test's
//! own in the transaction that takes the step.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{cluster::Cluster, faults::Injected, oracle::Oracle};

/// How long after a loss a census may still find what it took: its last look comes a minute and a half after, and
/// on a busy machine later.
const AFTER_LOSS_SECONDS: f64 = 300.0;
/// A release that began so shortly after a fault may have been on its way to Redis while it lasted.
const SHORTLY_SECONDS: f64 = 2.0;

const TRIGGERS: &str = "
CREATE TABLE chaos_history (
    number bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    document uuid NOT NULL, version integer, state text, release uuid, run uuid, losses integer, stalls integer,
    partition smallint, live integer, gone boolean NOT NULL DEFAULT false);
CREATE FUNCTION chaos_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    INSERT INTO chaos_history (document, version, state, release, run, losses, stalls, partition)
    VALUES (NEW.document_id, NEW.version, NEW.state, NEW.release_id, NEW.run_id, NEW.losses, NEW.stalls,
        NEW.partition);
    RETURN NULL;
END $$;
CREATE FUNCTION chaos_document() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    INSERT INTO chaos_history (document, live, gone) VALUES (NEW.id, NEW.live_version, NEW.deleted_at IS NOT NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_new_version AFTER INSERT ON document_versions FOR EACH ROW EXECUTE FUNCTION chaos_version();
CREATE TRIGGER chaos_version AFTER UPDATE ON document_versions FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.release_id IS DISTINCT FROM NEW.release_id
          OR OLD.run_id IS DISTINCT FROM NEW.run_id)
    EXECUTE FUNCTION chaos_version();
CREATE TRIGGER chaos_document AFTER UPDATE ON documents FOR EACH ROW
    WHEN (OLD.live_version IS DISTINCT FROM NEW.live_version OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    EXECUTE FUNCTION chaos_document();
";

/// The SQL that makes the partitions active and begins to write things down.
pub(crate) fn install(partitions: u16) -> String {
    format!(
        "INSERT INTO topology SELECT number, 'active' FROM generate_series(0, {}) AS number ON CONFLICT DO NOTHING;{TRIGGERS}",
        partitions.max(1) - 1
    )
}

/// A step of a version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub(crate) at: f64,
    pub(crate) state: String,
    pub(crate) release: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) losses: u32,
    pub(crate) stalls: u32,
    pub(crate) partition: Option<u16>,
}

/// A change of what a search sees of a document.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) live: Option<u32>,
    pub(crate) gone: bool,
}

/// Everything that was written down.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) versions: BTreeMap<(Uuid, u32), Vec<Step>>,
    pub(crate) documents: BTreeMap<Uuid, Vec<Change>>,
}

/// Whether a version has a release on its way.
pub(crate) fn is_in_flight(state: &str) -> bool {
    matches!(state, "releasing" | "extracting" | "embedding" | "indexing")
}

pub(crate) fn is_end(state: &str) -> bool {
    matches!(state, "ready" | "failed" | "cancelled" | "expired")
}

impl History {
    pub(crate) fn read(cluster: &Cluster) -> Result<History, String> {
        let rows = cluster.sql(
            "SELECT extract(epoch FROM at), document, version, state, release, run, losses, stalls, live, gone, partition
             FROM chaos_history ORDER BY number",
        )?;
        let mut history = History::default();
        for row in rows {
            let text = |column: usize| row[column].clone();
            let number = |column: usize| text(column).and_then(|text| text.parse::<u32>().ok());
            let document: Uuid = text(1).unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
            let Some(version) = number(2) else {
                let change = Change { live: number(8), gone: text(9).as_deref() == Some("t") };
                history.documents.entry(document).or_default().push(change);
                continue;
            };
            history.versions.entry((document, version)).or_default().push(Step {
                at: text(0).unwrap_or_default().parse().map_err(|e| format!("{e}"))?,
                state: text(3).unwrap_or_default(),
                release: text(4),
                run: text(5),
                losses: number(6).unwrap_or(0),
                stalls: number(7).unwrap_or(0),
                partition: number(10).and_then(|partition| u16::try_from(partition).ok()),
            });
        }
        Ok(history)
    }

    /// How a fault was recovered from.
    pub(crate) fn recovery(&self, injected: &Injected) -> Recovery {
        let mut recovery = Recovery::default();
        for steps in self.versions.values() {
            let before = steps.iter().rfind(|step| step.at <= injected.began);
            if before.is_none_or(|step| is_end(&step.state)) {
                continue;
            }
            recovery.in_flight += 1;
            let later: Vec<&Step> = steps.iter().filter(|step| step.at > injected.ended).collect();
            let ended = steps.iter().find(|step| step.at > injected.began && is_end(&step.state));
            // What ended while the fault lasted did not have to recover.
            let Some(ended) = ended.filter(|step| step.at > injected.ended) else { continue };
            let seconds = |at: f64| at - injected.ended;
            let first = later.first().map_or(ended.at, |step| step.at);
            recovery.progress = Some(recovery.progress.unwrap_or(f64::MAX).min(seconds(first)));
            recovery.done = Some(recovery.done.unwrap_or(0.0).max(seconds(ended.at)));
        }
        recovery
    }

    /// Whether a version was ready at some time.
    pub(crate) fn was_ready(&self, key: &(Uuid, u32)) -> bool {
        self.versions.get(key).is_some_and(|steps| steps.iter().any(|step| step.state == "ready"))
    }

    /// How many releases followed a loss that was noticed, and how many one that was found by its age.
    pub(crate) fn released_again(&self) -> (u32, u32) {
        let sum = |of: fn(&Step) -> u32| self.versions.values().map(|steps| growth(steps, of)).sum();
        (sum(|step| step.losses), sum(|step| step.stalls))
    }

    /// What the steps say against the rules: states, runs, releases and what is live.
    pub(crate) fn violations(&self, oracle: &Oracle, injected: &[Injected]) -> Vec<(Option<Uuid>, String)> {
        let mut wrong = Vec::new();
        for ((document, version), steps) in &self.versions {
            let record = oracle.documents.get(document);
            let retries = record.and_then(|record| record.retries.get(version)).copied().unwrap_or(0);
            let found = [
                ends_hold(steps, retries),
                one_run(steps),
                no_release_returns(steps),
                releases(steps, retries),
                a_loss_for_a_fault(steps, injected),
                losses(steps, injected),
                stalls(steps),
            ];
            wrong.extend(
                found
                    .into_iter()
                    .flatten()
                    .map(|text| (Some(*document), format!("version {version} {text}"))),
            );
        }
        for (document, changes) in &self.documents {
            wrong.extend(live_goes_forward(changes).map(|text| (Some(*document), text)));
        }
        wrong
    }
}

/// How long it took after the end of a fault.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recovery {
    /// Versions that were on their way when it came.
    pub(crate) in_flight: usize,
    /// Until the first of them took a step.
    pub(crate) progress: Option<f64>,
    /// Until the last of them had ended.
    pub(crate) done: Option<f64>,
}

/// A version leaves an end by a retry only.
fn ends_hold(steps: &[Step], retries: u32) -> Option<String> {
    let left = steps.windows(2).filter(|pair| is_end(&pair[0].state) && pair[1].state != pair[0].state);
    let count = u32::try_from(left.clone().count()).unwrap_or(u32::MAX);
    let from_ready = left.clone().any(|pair| pair[0].state == "ready");
    (count > retries || from_ready).then(|| {
        let steps: Vec<&str> = steps.iter().map(|step| step.state.as_str()).collect();
        format!("left an end without a command: {}", steps.join(", "))
    })
}

/// A run that was sealed stays, unless what it left was purged.
fn one_run(steps: &[Step]) -> Option<String> {
    let runs: Vec<Option<&str>> = steps.iter().map(|step| step.run.as_deref()).collect();
    let changed = runs.windows(2).find(|pair| pair[0].is_some() && pair[1].is_some() && pair[0] != pair[1]);
    changed.map(|pair| format!("changed its sealed run from {:?} to {:?}", pair[0], pair[1]))
}

/// A release that was replaced is never current again.
fn no_release_returns(steps: &[Step]) -> Option<String> {
    let mut ids: Vec<&str> = steps.iter().filter_map(|step| step.release.as_deref()).collect();
    ids.dedup();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    (distinct.len() != ids.len()).then(|| format!("returned to an earlier release: {ids:?}"))
}

/// No fault takes a version more than once: what it lost is released again once.
fn a_loss_for_a_fault(steps: &[Step], injected: &[Injected]) -> Option<String> {
    let lossy = injected.iter().filter(|fault| fault.fault.loses_data());
    let near = lossy.filter(|fault| is_on_its_way(steps, fault)).count();
    let count = growth(steps, |step| step.losses) as usize;
    (count > near).then(|| format!("was lost {count} times, by {near} faults"))
}

/// How far a count went up, which a retry sets back.
pub(crate) fn growth(steps: &[Step], of: fn(&Step) -> u32) -> u32 {
    steps.windows(2).map(|pair| of(&pair[1]).saturating_sub(of(&pair[0]))).sum()
}

/// A release for the acceptance, one for each retry, one for each loss and stall.
fn releases(steps: &[Step], retries: u32) -> Option<String> {
    let ids: BTreeSet<&str> = steps.iter().filter_map(|step| step.release.as_deref()).collect();
    let allowed = 1 + retries + growth(steps, |step| step.losses) + growth(steps, |step| step.stalls);
    (ids.len() > allowed as usize).then(|| format!("had {} releases, {allowed} are accounted for", ids.len()))
}

/// A release is lost only where Redis lost something while it was on its way.
fn losses(steps: &[Step], injected: &[Injected]) -> Option<String> {
    let lossy = || injected.iter().filter(|injected| injected.fault.loses_data());
    let explained = |before: &Step, after: &Step| {
        let since =
            steps.iter().find(|step| step.release == before.release).map_or(before.at, |step| step.at);
        lossy().any(|fault| {
            let is_there = fault.partition.is_none() || fault.partition == before.partition;
            let was_there = since <= fault.ended + SHORTLY_SECONDS;
            let found = after.at >= fault.began && after.at <= fault.ended + AFTER_LOSS_SECONDS;
            is_there && was_there && found
        })
    };
    let unexplained =
        steps.windows(2).find(|pair| pair[1].losses > pair[0].losses && !explained(&pair[0], &pair[1]));
    unexplained
        .map(|pair| format!("was released again though nothing of it was lost, from state {}", pair[0].state))
}

/// A release is never merely missing: what Redis lost is noticed as a loss.
fn stalls(steps: &[Step]) -> Option<String> {
    let stalled = steps.iter().find(|step| step.stalls > 0);
    stalled.map(|step| format!("was missing though no loss was noticed, {} times", step.stalls))
}

/// Whether a version was on its way when a fault began, or set out while it lasted or shortly after; where it touched
/// one partition only, there.
pub(crate) fn is_on_its_way(steps: &[Step], fault: &Injected) -> bool {
    let is_touched = |step: &Step| {
        let is_there = fault.partition.is_none() || fault.partition == step.partition;
        is_in_flight(&step.state) && is_there
    };
    let before = steps.iter().rfind(|step| step.at <= fault.began);
    let mut during =
        steps.iter().filter(|step| step.at > fault.began && step.at <= fault.ended + SHORTLY_SECONDS);
    before.is_some_and(is_touched) || during.any(is_touched)
}

/// The live version only goes forward, and goes away only with the document.
fn live_goes_forward(changes: &[Change]) -> Option<String> {
    let wrong = changes.windows(2).find(|pair| match (pair[0].live, pair[1].live) {
        (Some(before), Some(after)) => after < before,
        (Some(_), None) => !pair[1].gone,
        (None, Some(_)) => pair[1].gone,
        (None, None) => false,
    });
    wrong.map(|pair| format!("the live version went from {:?} to {:?}", pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Fault;

    fn step(at: f64, state: &str, release: &str, losses: u32) -> Step {
        let (state, release) = (state.to_owned(), Some(release.to_owned()));
        Step { at, state, release, run: None, losses, stalls: 0, partition: Some(3) }
    }

    fn flush(began: f64) -> Injected {
        let fault = Fault::Flush;
        Injected::new(1, fault, began, began + 1.0)
    }

    #[test]
    fn a_good_history_is_no_violation_and_gives_the_times_of_recovery() {
        let steps = vec![
            step(1.0, "releasing", "a", 0),
            step(2.0, "extracting", "a", 0),
            step(5.5, "releasing", "b", 1),
            step(9.0, "ready", "b", 1),
        ];
        let key = (Uuid::from_u128(1), 1);
        let history = History { versions: BTreeMap::from([(key, steps)]), documents: BTreeMap::new() };
        assert_eq!(history.violations(&Oracle::default(), &[flush(3.0)]), []);
        let recovery = history.recovery(&flush(3.0));
        assert_eq!((recovery.in_flight, recovery.progress, recovery.done), (1, Some(1.5), Some(5.0)));
        assert_eq!(history.recovery(&flush(10.0)).in_flight, 0);
    }

    #[test]
    fn what_breaks_a_rule_is_found() {
        let again = [step(1.0, "ready", "a", 0), step(2.0, "failed", "a", 0)];
        assert!(ends_hold(&again, 1).is_some(), "ready does not become failed");
        let revived = [step(1.0, "failed", "a", 0), step(2.0, "releasing", "b", 0)];
        assert!(ends_hold(&revived, 0).is_some() && ends_hold(&revived, 1).is_none());
        assert!(releases(&revived, 0).is_some() && releases(&revived, 1).is_none());
        let lost = [step(1.0, "embedding", "a", 0), step(2.0, "releasing", "b", 1)];
        assert!(losses(&lost, &[]).is_some() && losses(&lost, &[flush(1.5)]).is_none());
        assert!(losses(&lost, &[flush(0.5)]).is_none(), "it set out while the fault lasted");
        let later = [step(9.0, "embedding", "a", 0), step(10.0, "releasing", "b", 1)];
        assert!(losses(&later, &[flush(1.5)]).is_some(), "it set out long after the fault");
        let elsewhere = Injected { partition: Some(4), ..flush(1.5) };
        assert!(losses(&lost, &[elsewhere]).is_some());
        let missing = [step(1.0, "embedding", "a", 0), Step { stalls: 1, ..step(2.0, "releasing", "b", 0) }];
        assert!(stalls(&missing).is_some() && stalls(&lost).is_none());
        let twice = [step(1.0, "embedding", "a", 0), step(2.0, "releasing", "b", 2)];
        assert!(a_loss_for_a_fault(&twice, &[flush(1.5)]).is_some());
        assert!(a_loss_for_a_fault(&lost, &[flush(1.5)]).is_none());
        let back = ["a", "b", "a"].map(|release| step(1.0, "releasing", release, 0));
        assert!(no_release_returns(&back).is_some() && no_release_returns(&back[..2]).is_none());
        let change = |live, gone| Change { live, gone };
        assert!(live_goes_forward(&[change(Some(2), false), change(Some(1), false)]).is_some());
        assert!(live_goes_forward(&[change(Some(2), false), change(None, false)]).is_some());
        assert!(
            live_goes_forward(&[change(Some(1), false), change(Some(2), false), change(None, true)])
                .is_none()
        );
    }
}
