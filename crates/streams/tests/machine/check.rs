//! Compares the server with the model, and both with what has to hold whatever the model says.

use std::{collections::HashMap, time::Duration};

use riacho_domain::StageName;
use riacho_streams::Target;

use crate::{
    driver::{Driver, Step, ensure, name},
    model::Stream,
    op::STAGES,
    seen::{self, Seen},
};

impl Driver {
    /// Looks at all streams and compares them with the model, which learns the ids of what was added.
    pub(crate) async fn compare(&mut self) -> Step {
        self.seen = seen::look(&self.server, &self.server.streams, &self.keys());
        let targets: Vec<Target> = self.model.streams.keys().copied().collect();
        for (target, seen) in targets.into_iter().zip(&self.seen) {
            let stream = self.model.streams.get_mut(&target).expect("a stream of the model");
            compare_one(stream, seen).map_err(|why| format!("{target:?}: {why}"))?;
        }
        self.conserved()?;
        self.waited()
    }

    /// No envelope is lost or doubled: what was added stands somewhere, was settled, or went with the server's data.
    fn conserved(&self) -> Step {
        let mut standing: HashMap<String, usize> = HashMap::new();
        for (_, body) in self.seen.iter().flat_map(|seen| &seen.entries) {
            *standing.entry(name(body.as_bytes())).or_default() += 1;
        }
        for (name, account) in &self.accounts {
            let stands = standing.remove(name).unwrap_or(0);
            let is_even = account.added == account.settled + account.destroyed + stands;
            ensure!(is_even, "{name}: {account:?}, and stands on the streams {stands} times");
            ensure!(stands <= 1, "{name} stands on the streams {stands} times");
        }
        ensure!(standing.is_empty(), "came from nowhere: {standing:?}");
        Ok(())
    }

    /// What waits in a delay class waits since it was put there.
    fn waited(&self) -> Step {
        for (target, seen) in self.model.streams.keys().zip(&self.seen) {
            for held in seen.group.iter().flat_map(|group| &group.held) {
                let Some((since, passed)) = self.waits.get(&(*target, held.id.clone())) else { continue };
                let idle = Duration::from_millis(held.idle_ms);
                let most = *passed + since.elapsed() + Duration::from_millis(50);
                let fits = idle + Duration::from_millis(2) >= *passed && idle <= most;
                ensure!(fits, "{held:?} should be idle for {passed:?} to {most:?}");
            }
        }
        Ok(())
    }

    /// The crate's own figures say the same, and that nothing is missing.
    pub(crate) async fn figures(&mut self) -> Step {
        if self.model.is_spoiled() {
            return Ok(());
        }
        for stage in STAGES {
            let figures =
                self.server.streams.figures(stage, &[0]).await.map_err(|error| error.to_string())?;
            let entries = || self.of_stage(stage).flat_map(|stream| &stream.entries);
            let (all, held) = (entries().count(), entries().filter(|entry| entry.hold.is_some()).count());
            let retrying = entries().filter_map(|entry| entry.hold.as_ref());
            let retrying = retrying.filter(|hold| hold.consumer.starts_with("retry:")).count();
            let said = [figures.backlog, figures.pending, figures.retrying];
            let expected = [all, held, retrying].map(|number| number as u64);
            ensure!(said == expected, "{stage}: {figures:?}, expected {expected:?}");
            ensure!(figures.conservation_error == 0, "{stage}: {figures:?}");
        }
        Ok(())
    }

    fn of_stage(&self, stage: StageName) -> impl Iterator<Item = &Stream> {
        let of_stage = move |target: &Target| matches!(target, Target::Work(of, _) if *of == stage);
        self.model.streams.iter().filter(move |(target, _)| of_stage(target)).map(|(_, stream)| stream)
    }
}

fn compare_one(stream: &mut Stream, seen: &Seen) -> Step {
    let kind = match stream {
        Stream { is_spoiled: true, .. } => "string",
        Stream { exists: true, .. } => "stream",
        _ => "none",
    };
    ensure!(seen.kind == kind, "is a {}, expected a {kind}", seen.kind);
    let names: Vec<String> = seen.entries.iter().map(|(_, body)| name(body.as_bytes())).collect();
    let expected: Vec<&String> = stream.entries.iter().map(|entry| &entry.name).collect();
    ensure!(names.iter().eq(expected.iter().copied()), "has {names:?}, expected {expected:?}");
    for (entry, (id, _)) in stream.entries.iter_mut().zip(&seen.entries) {
        ensure!(entry.id.is_empty() || entry.id == *id, "{} has become {id}", entry.id);
        entry.id.clone_from(id);
    }
    ensure!(seen.group.is_some() == stream.has_group, "group: {:?}", seen.group);
    compare_group(stream, seen)?;
    let is_counted = seen.size == stream.bytes() || (stream.entries.is_empty() && stream.size_is_stale);
    ensure!(is_counted, "counted as {} bytes, has {}", seen.size, stream.bytes());
    Ok(())
}

fn compare_group(stream: &Stream, seen: &Seen) -> Step {
    let Some(group) = &seen.group else { return Ok(()) };
    let held: Vec<_> =
        group.held.iter().map(|held| (held.id.as_str(), held.consumer.as_str(), held.deliveries)).collect();
    let entries = stream.entries.iter().filter_map(|entry| Some((entry, entry.hold.as_ref()?)));
    let expected: Vec<_> =
        entries.map(|(entry, hold)| (entry.id.as_str(), hold.consumer.as_str(), hold.deliveries)).collect();
    ensure!(held == expected, "held {held:?}, expected {expected:?}");
    let unread = stream.entries.len() - expected.len();
    ensure!(group.lag.is_none_or(|lag| lag == unread), "lag {:?}, expected {unread}", group.lag);
    ensure!(group.pending == expected.len(), "pending {}, expected {}", group.pending, expected.len());
    Ok(())
}
