//! Carries out each step on the server and in the model, and compares what they answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use riacho_domain::{DelayClass, Lane, ReleaseId, StageName};
use riacho_streams::{Entry, Error, HANDED_BACK, Reader, ReleaseOutcome, Target};

use crate::{
    CAP,
    model::{Expected, Given, Model, Output},
    op::{CONSUMERS, Op, STAGES},
    seen::{self, Seen},
    support::Server,
};

/// Whether a step went as it should, and if not, why.
pub(crate) type Step = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition { return Err(format!($($text)+)); }
    };
}
pub(crate) use ensure;

/// A delivery that a consumer got at some time; it may be long over.
pub(crate) struct Delivery {
    pub(crate) stage: StageName,
    pub(crate) by: &'static str,
    pub(crate) entry: Entry,
    pub(crate) name: String,
}

/// What became of all envelopes of one id.
#[derive(Debug, Default, Clone)]
pub(crate) struct Account {
    pub(crate) added: usize,
    pub(crate) settled: usize,
    pub(crate) destroyed: usize,
}

/// How long an entry has waited in its delay class: since when, and what was let pass.
pub(crate) type Waits = BTreeMap<(Target, String), (Instant, Duration)>;

pub(crate) struct Driver {
    pub(crate) server: Server,
    readers: HashMap<(StageName, &'static str), Reader>,
    pub(crate) model: Model,
    pub(crate) deliveries: Vec<Delivery>,
    releases: [ReleaseId; 24],
    pub(crate) names: u32,
    pub(crate) accounts: HashMap<String, Account>,
    pub(crate) waits: Waits,
    /// What was seen after the step before.
    pub(crate) seen: Vec<Seen>,
}

impl Driver {
    pub(crate) async fn new(server: Server) -> Driver {
        let mut readers = HashMap::new();
        for stage in STAGES {
            for by in CONSUMERS {
                readers.insert((stage, by), server.streams.reader(0, stage, by).await.unwrap());
            }
        }
        Driver {
            server,
            readers,
            model: Model::new(CAP),
            deliveries: Vec::new(),
            releases: std::array::from_fn(|_| ReleaseId::new()),
            names: 0,
            accounts: HashMap::new(),
            waits: Waits::new(),
            seen: Vec::new(),
        }
    }

    /// Carries out a sequence from empty streams on.
    pub(crate) async fn run(&mut self, ops: &[Op]) -> Step {
        self.server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
        self.server.raw(&["FLUSHALL"]);
        self.model = Model::new(CAP);
        self.releases = std::array::from_fn(|_| ReleaseId::new());
        (self.names, self.deliveries, self.waits) = (0, Vec::new(), Waits::new());
        self.accounts.clear();
        for stage in STAGES {
            self.readers[&(stage, CONSUMERS[0])].make_groups().await.map_err(|error| error.to_string())?;
            self.model.make_groups(stage);
        }
        self.compare().await?;
        for (number, op) in ops.iter().enumerate() {
            let went = match self.step(op).await {
                Ok(()) => self.compare().await,
                wrong => wrong,
            };
            went.map_err(|why| format!("step {number}, {op:?}: {why}"))?;
        }
        self.server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
        self.figures().await
    }

    async fn step(&mut self, op: &Op) -> Step {
        match op {
            Op::Release { lane, release, bytes } => self.release(*lane, *release, *bytes).await,
            Op::Read { stage, by, counts } => self.read(*stage, by, *counts).await,
            Op::LoseReply { stage, by, lane } => self.lose_reply(*stage, by, *lane),
            Op::Recover { stage, by } => self.recover(*stage, by).await,
            Op::Settle { stage, by, picks } => self.settle(*stage, by, picks).await,
            Op::TakeDue { stage, by, count } => self.take_due(*stage, by, *count).await,
            Op::TakeFrom { stage, by, from, count } => self.take_from(*stage, by, from, *count).await,
            Op::DeleteConsumers { stage, gone } => self.delete_consumers(*stage, gone).await,
            Op::MoveDead { count } => self.move_dead(*count).await,
            Op::Pass { millis } => {
                seen::pass(&self.server, &self.keys(), *millis);
                for (_, passed) in self.waits.values_mut() {
                    *passed += Duration::from_millis(*millis);
                }
                Ok(())
            }
            other => {
                self.harm(other);
                Ok(())
            }
        }
    }

    /// What happens to the server.
    fn harm(&mut self, op: &Op) {
        match op {
            Op::Flush => {
                self.destroyed(self.model.streams.keys().copied().collect());
                self.server.raw(&["FLUSHALL"]);
                self.model.flush();
            }
            Op::DeleteStream { stage, lane } => {
                self.delete(Target::Work(*stage, *lane));
            }
            Op::Spoil { stage, lane } if !self.model.is_tight => {
                self.delete(Target::Work(*stage, *lane));
                self.server.raw(&["SET", &self.server.streams.keys().work(0, *stage, *lane), "no stream"]);
                self.model.lane(*stage, *lane).is_spoiled = true;
            }
            Op::DestroyGroup { stage, lane } => {
                let key = self.server.streams.keys().work(0, *stage, *lane);
                self.server.raw(&["XGROUP", "DESTROY", &key, stage.as_str()]);
                let stream = self.model.lane(*stage, *lane);
                stream.has_group = false;
                stream.entries.iter_mut().for_each(|entry| entry.hold = None);
                // What waited there is given to somebody anew.
                let target = Target::Work(*stage, *lane);
                self.waits.retain(|(of, _), _| *of != target);
            }
            Op::ForgetScripts => drop(self.server.raw(&["SCRIPT", "FLUSH"])),
            Op::Tight(is_tight) => {
                let limit = if *is_tight { "1" } else { "0" };
                self.server.raw(&["CONFIG", "SET", "maxmemory", limit]);
                self.model.is_tight = *is_tight;
            }
            _ => {}
        }
    }

    fn delete(&mut self, target: Target) {
        self.destroyed(vec![target]);
        self.server.raw(&["DEL", &self.key(target)]);
        *self.model.stream(target) = crate::model::Stream { size_is_stale: true, ..Default::default() };
    }

    /// Books what the server loses now, and waits until no id of it can come again.
    fn destroyed(&mut self, targets: Vec<Target>) {
        for target in targets {
            for entry in &self.model.streams[&target].entries {
                self.accounts.entry(entry.name.clone()).or_default().destroyed += 1;
            }
        }
        let now = || self.server.raw(&["TIME"]).list()[1].text().parse::<u64>().unwrap() / 1000;
        let last = now();
        while now() == last {
            std::thread::yield_now();
        }
    }

    pub(crate) fn added(&mut self, (_, name, _): &Output) {
        self.accounts.entry(name.clone()).or_default().added += 1;
    }

    async fn release(&mut self, lane: Lane, release: u8, bytes: usize) -> Step {
        let target = Target::Work(StageName::Extract, lane);
        let name = format!("<release-{release:04}>");
        let body = body(&name, bytes);
        let id = self.releases[usize::from(release)];
        let answer = self.server.streams.release(0, lane, body.as_bytes(), id).await;
        if self.model.released.contains(&release) {
            ensure!(
                matches!(answer, Ok(ReleaseOutcome::AlreadyThere)),
                "sent before, and answered {answer:?}"
            );
            return Ok(());
        }
        match self.model.fits(target, body.len()) {
            Err(Expected::Refused) => ensure!(answer.is_err(), "no stream, and answered {answer:?}"),
            Err(_) => ensure!(matches!(answer, Ok(ReleaseOutcome::Full)), "full, and answered {answer:?}"),
            Ok(()) if self.model.is_tight => {
                ensure!(matches!(answer, Err(Error::OutOfMemory)), "no memory, and answered {answer:?}");
            }
            Ok(()) => {
                ensure!(matches!(answer, Ok(ReleaseOutcome::Added)), "new, and answered {answer:?}");
                self.model.released.insert(release);
                self.added(&(target, name, body.len()));
                self.model.add(target, format!("<release-{release:04}>"), body.len());
            }
        }
        Ok(())
    }

    async fn read(&mut self, stage: StageName, by: &'static str, counts: [usize; 3]) -> Step {
        let answer = self.readers[&(stage, by)].read_lanes(counts).await;
        let mut given = Vec::new();
        let mut fails = false;
        for (lane, count) in Lane::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            fails |= !self.model.lane(stage, lane).has_group;
            if self.model.lane(stage, lane).has_group {
                given.extend(self.model.read(stage, lane, by, count));
            }
        }
        match answer {
            Err(error) => {
                ensure!(fails && given.is_empty(), "{error}, and expected {given:?}");
                let made = self.readers[&(stage, by)].make_groups().await;
                ensure!(made.is_ok() == self.model.make_groups(stage), "making the groups: {made:?}");
                Ok(())
            }
            Ok(entries) => {
                ensure!(!fails || !given.is_empty(), "no group, and read {entries:?}");
                self.given(stage, by, entries, &given)
            }
        }
    }

    fn lose_reply(&mut self, stage: StageName, by: &'static str, lane: Lane) -> Step {
        let key = self.server.streams.keys().work(0, stage, lane);
        let group = stage.as_str();
        self.server.raw(&["XREADGROUP", "GROUP", group, by, "COUNT", "1", "STREAMS", &key, ">"]);
        if self.model.lane(stage, lane).has_group {
            self.model.read(stage, lane, by, 1);
        }
        Ok(())
    }

    async fn recover(&mut self, stage: StageName, by: &'static str) -> Step {
        let answer = self.readers[&(stage, by)].own_pending().await;
        let has_all = Lane::ALL.iter().all(|lane| self.model.lane(stage, *lane).has_group);
        let own = match answer {
            Err(error) => {
                ensure!(!has_all, "own pending list: {error}");
                return Ok(());
            }
            Ok(own) => own,
        };
        let mut expected = Vec::new();
        for lane in Lane::ALL {
            let held = self.model.lane(stage, lane).entries.iter();
            let held = held.filter_map(|entry| Some((entry, entry.hold.as_ref()?)));
            expected.extend(held.filter(|(_, hold)| hold.consumer == by).map(|(entry, hold)| Given {
                lane,
                id: entry.id.clone(),
                name: entry.name.clone(),
                deliveries: hold.deliveries,
            }));
        }
        let ids: Vec<_> = expected.iter().map(|given| (given.lane, given.id.clone())).collect();
        ensure!(own == ids, "own pending list {own:?}, expected {ids:?}");
        for lane in Lane::ALL {
            let expected: Vec<Given> = expected.iter().filter(|given| given.lane == lane).cloned().collect();
            let ids: Vec<String> = expected.iter().map(|given| given.id.clone()).collect();
            if !ids.is_empty() {
                let entries = self.readers[&(stage, by)].recover(lane, &ids).await;
                self.given(stage, by, entries.map_err(|error| error.to_string())?, &expected)?;
            }
        }
        Ok(())
    }

    async fn take_due(&mut self, stage: StageName, by: &'static str, count: usize) -> Step {
        let start = Instant::now();
        let answer = self.server.streams.take_due(0, stage, by, count).await;
        let entries = answer.map_err(|error| error.to_string())?;
        let took = u64::try_from(start.elapsed().as_millis()).unwrap() + 5;
        let mut model = self.model.clone();
        let mut given = model.take(stage, by, count, &self.due(0));
        // Time passes on the server too: what became due meanwhile may have been taken as well.
        if given.len() != entries.len() {
            model = self.model.clone();
            given = model.take(stage, by, count, &self.due(took));
        }
        self.model = model;
        self.given(stage, by, entries, &given)
    }

    /// Whose entries are due, by what was seen last and `more_ms` later.
    fn due(&self, more_ms: u64) -> Vec<(String, BTreeSet<String>)> {
        let classes = DelayClass::ALL.map(|class| (class.consumer(), class.delay()));
        let all = [(HANDED_BACK, Duration::ZERO)].into_iter().chain(classes);
        let due = |name: &str, delay: Duration| {
            let held = self.seen.iter().filter_map(|seen| seen.group.as_ref()).flat_map(|group| &group.held);
            let held = held.filter(|held| held.consumer == name);
            let due = held.filter(|held| u128::from(held.idle_ms + more_ms) >= delay.as_millis());
            due.map(|held| held.id.clone()).collect()
        };
        all.map(|(name, delay)| (name.to_owned(), due(name, delay))).collect()
    }

    async fn take_from(&mut self, stage: StageName, by: &'static str, from: &str, count: usize) -> Step {
        let answer = self.server.streams.take_from(0, stage, by, count, &[from.to_owned()]).await;
        let entries = answer.map_err(|error| error.to_string())?;
        let all = self.model.streams.values().flat_map(|stream| &stream.entries);
        let from = [(from.to_owned(), all.map(|entry| entry.id.clone()).collect())];
        let given = self.model.take(stage, by, count, &from);
        self.given(stage, by, entries, &given)
    }

    /// Compares what a consumer got with what it should, and remembers it.
    fn given(&mut self, stage: StageName, by: &'static str, entries: Vec<Entry>, expected: &[Given]) -> Step {
        let got = entries.iter().map(|entry| Given {
            lane: entry.lane,
            id: entry.id.clone(),
            name: name(&entry.body),
            deliveries: entry.deliveries,
        });
        let got: Vec<Given> = got.collect();
        ensure!(got == expected, "got {got:?}, expected {expected:?}");
        for entry in entries {
            self.waits.remove(&(Target::Work(stage, entry.lane), entry.id.clone()));
            let name = name(&entry.body);
            self.deliveries.push(Delivery { stage, by, entry, name });
        }
        Ok(())
    }

    async fn delete_consumers(&mut self, stage: StageName, gone: &[&str]) -> Step {
        let gone: Vec<String> = gone.iter().map(|name| (*name).to_owned()).collect();
        let before = self.consumers(stage);
        let answer = self.server.streams.delete_consumers(0, stage, &gone).await;
        if Lane::ALL.iter().any(|lane| self.model.lane(stage, *lane).is_spoiled) {
            return Ok(());
        }
        let deleted = answer.map_err(|error| error.to_string())?;
        let after = self.consumers(stage);
        let fewer = (before.len() - after.len()) as u64;
        ensure!(deleted == fewer, "said {deleted} deleted, and there are {fewer} less");
        for (lane, name) in after.iter().filter(|(_, name)| gone.contains(name)) {
            let holds = |entry: &crate::model::Standing| {
                entry.hold.as_ref().is_some_and(|hold| hold.consumer == *name)
            };
            let holds_any = self.model.lane(stage, *lane).entries.iter().any(holds);
            ensure!(holds_any, "{name} holds nothing on {lane} and is still there");
        }
        Ok(())
    }

    fn consumers(&self, stage: StageName) -> Vec<(Lane, String)> {
        let mut names = Vec::new();
        for lane in Lane::ALL {
            let key = self.server.streams.keys().work(0, stage, lane);
            if let seen::Reply::List(list) = self.server.raw(&["XINFO", "CONSUMERS", &key, stage.as_str()]) {
                names.extend(list.iter().map(|consumer| (lane, consumer.list()[1].text().to_owned())));
            }
        }
        names
    }

    async fn move_dead(&mut self, count: usize) -> Step {
        let letters = self.server.streams.dead_letters(0, count).await.map_err(|error| error.to_string())?;
        let names: Vec<String> = letters.iter().map(|letter| name(&letter.envelope)).collect();
        let ids: Vec<String> = letters.into_iter().map(|letter| letter.stream_id).collect();
        let dead = &mut self.model.stream(Target::Dead).entries;
        let expected: Vec<String> = dead.drain(..count.min(dead.len())).map(|entry| entry.name).collect();
        ensure!(names == expected, "dead letters {names:?}, expected {expected:?}");
        let removed = self.server.streams.remove_dead(0, &ids).await;
        ensure!(matches!(removed, Ok(n) if n == ids.len() as u64), "removed {removed:?} of {ids:?}");
        for name in names {
            self.accounts.entry(name).or_default().settled += 1;
        }
        Ok(())
    }

    pub(crate) fn key(&self, target: Target) -> String {
        match target {
            Target::Work(stage, lane) => self.server.streams.keys().work(0, stage, lane),
            Target::Dead => self.server.streams.keys().dead(0),
        }
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.model.streams.keys().map(|target| self.key(*target)).collect()
    }
}

/// An envelope of a name and at least so many bytes.
pub(crate) fn body(name: &str, bytes: usize) -> String {
    format!("{name}{}", ".".repeat(bytes.saturating_sub(name.len())))
}

/// The name in an envelope.
pub(crate) fn name(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split_inclusive('>').next().unwrap_or_default().to_owned()
}
