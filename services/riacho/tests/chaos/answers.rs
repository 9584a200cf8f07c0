//! That there were answers: nothing was left without one but by a fault, and most of what was asked for was given.

use uuid::Uuid;

use crate::{
    checks::Wrong,
    contents::Content,
    faults::Injected,
    history::History,
    oracle::{Oracle, Published},
    producer::Answer,
};

/// After so long without a fault everything is answered. Who asks gives up after half as long again.
const CALM_SECONDS: f64 = 60.0;
/// What has to be given, in percent of what was asked for: a run that refuses everybody proves nothing.
const LEAST_PERCENT: usize = 80;
/// The versions that have to be ready once, in percent of those that may be: others are cancelled, deleted or replaced
/// on their way.
const LEAST_READY_PERCENT: usize = 60;

/// What had no answer although nothing kept it away. `begun` is when the oracle's times begin.
pub(crate) fn silence(oracle: &Oracle, begun: f64, injected: &[Injected]) -> Wrong {
    let is_kept_away = |at: f64| {
        let near = |fault: &&Injected| fault.began < at && fault.ended > at - CALM_SECONDS;
        injected.iter().filter(near).any(|fault| fault.fault.keeps_answers_away())
    };
    let silent = oracle.silent.iter().filter(|(at, _)| !is_kept_away(begun + at));
    silent.map(|(at, what)| (None, format!("{what} had no answer until {at:.1} s"))).collect()
}

/// Of what too little was given.
pub(crate) fn shares(oracle: &Oracle, history: &History) -> Wrong {
    let given = oracle.given();
    let sound: Vec<&Published> = oracle.events.values().filter(|sent| sent.event.flaw.is_none()).collect();
    let is_accepted = |sent: &&&Published| matches!(sent.answer, Some(Answer::Accepted(..)));
    let accepted = sound.iter().filter(is_accepted).count();
    let may_be_ready: Vec<(Uuid, u32)> = oracle
        .documents
        .iter()
        .flat_map(|(id, record)| record.versions.iter().map(|(version, content)| (*id, *version, content)))
        .filter(|(_, _, content): &(Uuid, u32, &Content)| content.is_good())
        .map(|(id, version, _)| (id, version))
        .collect();
    let ready = may_be_ready.iter().filter(|key| history.was_ready(key)).count();
    [
        too_few("uploads were accepted", given, oracle.uploads, LEAST_PERCENT),
        too_few("events were accepted", accepted, sound.len(), LEAST_PERCENT),
        too_few("versions were ready", ready, may_be_ready.len(), LEAST_READY_PERCENT),
    ]
    .into_iter()
    .flatten()
    .map(|text| (None, text))
    .collect()
}

fn too_few(what: &str, given: usize, asked: usize, percent: usize) -> Option<String> {
    (asked == 0 || given * 100 < asked * percent)
        .then(|| format!("only {given} of {asked} {what}, {percent}% have to be"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Fault, Service};

    fn injected(fault: Fault, began: f64) -> Injected {
        Injected::new(1, fault, began, began + 5.0)
    }

    #[test]
    fn only_a_fault_of_a_moment_ago_excuses_silence() {
        let oracle = Oracle { silent: vec![(95.0, "upload 1".to_owned())], ..Oracle::default() };
        let excused = |fault, began| silence(&oracle, 1_000.0, &[injected(fault, began)]).is_empty();
        assert!(excused(Fault::KillPostgres, 1_060.0));
        assert!(!excused(Fault::KillPostgres, 1_010.0), "it was over for long");
        assert!(!excused(Fault::KillPostgres, 1_096.0), "it came later");
        assert!(!excused(Fault::Kill(Service::Embedder, 0), 1_060.0), "it answers nobody");
    }

    #[test]
    fn a_run_that_gives_nothing_is_found() {
        assert!(too_few("uploads were accepted", 0, 0, 80).is_some());
        assert!(too_few("uploads were accepted", 79, 100, 80).is_some());
        assert!(too_few("uploads were accepted", 80, 100, 80).is_none());
    }
}
