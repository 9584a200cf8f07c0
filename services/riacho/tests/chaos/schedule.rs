//! A plan out of a seed: what is asked for in which order, and which fault comes when. Pure, so that a seed
//! always gives the same plan.

use std::fmt;

use crate::contents::{Content, Format, Kind};

/// How many clients work at once. A slot belongs to one of them, so its commands have an order.
pub(crate) const CLIENTS: usize = 6;

/// Numbers out of a seed, the same ones for ever.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, by splitmix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A service, of which there are two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Gateway,
    Extractor,
    Embedder,
    Indexer,
    Janitor,
}

impl Service {
    pub(crate) const ALL: [Service; 5] =
        [Service::Gateway, Service::Extractor, Service::Embedder, Service::Indexer, Service::Janitor];

    /// The subcommand.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Service::Gateway => "ingest-gateway",
            Service::Extractor => "extractor",
            Service::Embedder => "embedder",
            Service::Indexer => "indexer",
            Service::Janitor => "janitor",
        }
    }
}

/// A server that the second process of each service reaches through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Redis,
    Postgres,
}

/// What is done to the deployment. One more is a variant here and an arm in `faults`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL for a process, which is started again a moment later.
    Kill(Service, usize),
    /// SIGSTOP for a process, longer than it takes to be called dead, then SIGCONT.
    Pause(Service, usize),
    /// FLUSHALL.
    Flush,
    /// The longest stream of a stage is deleted.
    DeleteStream(usize),
    /// The consumer group of a stage's longest stream is destroyed.
    DestroyGroup(usize),
    /// Redis stops in good order and starts again.
    RestartRedis,
    /// Redis is killed and starts again on its data.
    KillRedis,
    /// Redis is killed and starts again without its data.
    EmptyRedis,
    /// PostgreSQL stops in good order and starts again.
    RestartPostgres,
    /// PostgreSQL is killed and recovers.
    KillPostgres,
    /// Redis closes every connection.
    CutRedis,
    /// PostgreSQL ends every session.
    CutPostgres,
    /// The janitors' lease ends again and again, so that both lead; with a FLUSHALL in the middle, perhaps.
    TwoLeaders {
        /// Whether Redis is flushed meanwhile.
        flush: bool,
    },
    /// All processes are restarted, a half at a time, with another chunk size and other batches.
    RollingRestart,
    /// Entries that no stage can read are put onto the streams.
    Poison,
    /// Answers of a server are lost on the wire: what was asked is done, and nobody hears of it.
    LoseReplies(Wire),
    /// Connections to a server are cut ten times a second.
    CutWire(Wire),
    /// Nothing comes through the connections to a server for longer than it takes to be called dead; then what
    /// waited does.
    Silence(Wire),
    /// The parsers of an extractor are killed from outside.
    KillParsers(usize),
    /// A document whose extractor is killed each time it runs.
    Deadly,
}

impl Wire {
    const fn name(self) -> &'static str {
        match self {
            Wire::Redis => "redis",
            Wire::Postgres => "postgres",
        }
    }
}

impl Fault {
    /// Whether Redis loses something that it had, or may.
    pub(crate) const fn loses_data(self) -> bool {
        matches!(
            self,
            Fault::Flush
                | Fault::DeleteStream(_)
                | Fault::KillRedis
                | Fault::EmptyRedis
                | Fault::TwoLeaders { flush: true }
        )
    }

    /// Whether clients and producers may have to wait for answers meanwhile.
    pub(crate) const fn keeps_answers_away(self) -> bool {
        let is_behind_them = matches!(
            self,
            Fault::Kill(Service::Extractor | Service::Embedder | Service::Indexer | Service::Janitor, _)
                | Fault::Pause(
                    Service::Extractor | Service::Embedder | Service::Indexer | Service::Janitor,
                    _
                )
                | Fault::Poison
                | Fault::KillParsers(_)
                | Fault::Deadly
        );
        !is_behind_them
    }

    /// What may have to be done again beside what is lost: so many times what an embedder holds, and what an extractor
    /// holds. Who had it is gone, or nobody heard that it was done. What lasts may meet what is held when it begins,
    /// and what is held when it ends.
    pub(crate) const fn repeats(self) -> (usize, usize) {
        match self {
            Fault::Kill(Service::Embedder, _) => (1, 0),
            Fault::Pause(Service::Embedder, _) => (2, 0),
            Fault::Kill(Service::Extractor, _) => (0, 1),
            Fault::Pause(Service::Extractor, _) => (0, 2),
            // Each of its runs ends an extractor.
            Fault::Deadly => (0, 4),
            // Of these the second process of each service knows only.
            Fault::LoseReplies(Wire::Redis) | Fault::CutWire(Wire::Redis) | Fault::Silence(_) => (2, 2),
            Fault::DestroyGroup(_) | Fault::CutRedis => (2, 2),
            Fault::RestartRedis | Fault::KillRedis => (4, 4),
            // An extraction that cannot seal its run is begun anew.
            Fault::RestartPostgres | Fault::KillPostgres | Fault::CutPostgres => (0, 2),
            Fault::LoseReplies(Wire::Postgres) | Fault::CutWire(Wire::Postgres) => (0, 2),
            // What goes with the data is a loss, which each version counts for itself.
            _ => (0, 0),
        }
    }

    /// Every kind once, on replicas and stages of the dice's choice, in an order of its choice.
    fn all(dice: &mut Dice) -> Vec<Fault> {
        let mut all = Vec::new();
        for service in Service::ALL {
            all.extend([Fault::Kill(service, dice.below(2)), Fault::Pause(service, dice.below(2))]);
        }
        all.extend([Fault::Flush, Fault::DeleteStream(dice.below(3)), Fault::DestroyGroup(dice.below(3))]);
        all.extend([Fault::RestartRedis, Fault::KillRedis, Fault::EmptyRedis, Fault::CutRedis]);
        all.extend([Fault::RestartPostgres, Fault::KillPostgres, Fault::CutPostgres]);
        all.extend([Fault::TwoLeaders { flush: dice.below(2) == 0 }, Fault::RollingRestart, Fault::Poison]);
        for wire in [Wire::Redis, Wire::Postgres] {
            all.extend([Fault::LoseReplies(wire), Fault::CutWire(wire), Fault::Silence(wire)]);
        }
        all.extend([Fault::KillParsers(dice.below(2)), Fault::Deadly]);
        for at in (1..all.len()).rev() {
            all.swap(at, dice.below(at + 1));
        }
        all
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STAGES: [&str; 3] = ["extract", "embed", "index"];
        match self {
            Fault::Kill(service, replica) => write!(f, "kill -9 {} {replica}", service.name()),
            Fault::Pause(service, replica) => write!(f, "SIGSTOP {} {replica}", service.name()),
            Fault::Flush => f.write_str("FLUSHALL"),
            Fault::DeleteStream(stage) => write!(f, "stream of {} deleted", STAGES[*stage]),
            Fault::DestroyGroup(stage) => write!(f, "group of {} destroyed", STAGES[*stage]),
            Fault::RestartRedis => f.write_str("redis restarted"),
            Fault::KillRedis => f.write_str("redis kill -9"),
            Fault::EmptyRedis => f.write_str("redis kill -9, data gone"),
            Fault::RestartPostgres => f.write_str("postgres restarted"),
            Fault::KillPostgres => f.write_str("postgres kill -9"),
            Fault::CutRedis => f.write_str("redis connections cut"),
            Fault::CutPostgres => f.write_str("postgres sessions ended"),
            Fault::TwoLeaders { flush: false } => f.write_str("two janitors lead"),
            Fault::TwoLeaders { flush: true } => f.write_str("two janitors lead, FLUSHALL"),
            Fault::RollingRestart => f.write_str("rolling restart, other chunk size"),
            Fault::Poison => f.write_str("poison on the streams"),
            Fault::LoseReplies(wire) => write!(f, "replies of {} lost", wire.name()),
            Fault::CutWire(wire) => write!(f, "wire to {} cut", wire.name()),
            Fault::Silence(wire) => write!(f, "wire to {} silent", wire.name()),
            Fault::KillParsers(replica) => write!(f, "parsers of extractor {replica} killed"),
            Fault::Deadly => f.write_str("document that kills its extractor"),
        }
    }
}

/// What a run is made of, beside its length.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) partitions: u16,
    /// About so many new documents in each round.
    pub(crate) new_documents: usize,
    /// The faults, a round each; all kinds in an order of the seed's choice when there are none here.
    pub(crate) faults: Option<Vec<Fault>>,
}

/// What is wrong with a producer's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It names another tenant.
    Tenant,
    /// It has no file name.
    Filename,
    /// The hash is of other bytes.
    Hash,
    /// It is no event.
    Bytes,
}

/// One command for a slot. A slot is a place for a document, which changes in the course of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) slot: usize,
    pub(crate) action: Action,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A new document; with an external id, perhaps, and then a new version where that is known.
    Upload {
        content: Content,
        external: bool,
        lane: &'static str,
    },
    /// A new document by a producer's event.
    Publish {
        content: Content,
        external: bool,
        flaw: Option<Flaw>,
        /// The event is sent a second time at once.
        twice: bool,
    },
    /// A new version; by a producer's event, perhaps, where the document has an external id.
    Replace {
        content: Content,
        by_event: bool,
    },
    /// The same bytes once more, as a new document.
    Again,
    Cancel,
    Retry,
    Delete,
}

/// A fault with what is asked for around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) number: usize,
    pub(crate) tasks: Vec<Task>,
    pub(crate) fault: Fault,
    /// A process that is killed at the same moment.
    pub(crate) beside: Option<Fault>,
    /// The fault comes when so many of the tasks are answered.
    pub(crate) after: usize,
    /// It waits, but not for long, until so many versions are on their way.
    pub(crate) busy: usize,
    /// How long it lasts, where that can be chosen.
    pub(crate) millis: u64,
    /// The next round does not wait until everything has recovered.
    pub(crate) overlaps: bool,
}

/// The rounds of a seed, one after the other.
#[derive(Debug)]
pub(crate) struct Schedule {
    setup: Setup,
    dice: Dice,
    left: Vec<Fault>,
    slots: usize,
    number: usize,
}

impl Schedule {
    pub(crate) fn new(setup: Setup) -> Self {
        let dice = Dice::new(setup.seed);
        let mut left = setup.faults.clone().unwrap_or_default();
        left.reverse();
        Self { setup, dice, left, slots: 0, number: 0 }
    }

    pub(crate) fn round(&mut self) -> Round {
        if self.left.is_empty() {
            self.left = Fault::all(&mut self.dice);
        }
        let fault = self.left.pop().unwrap_or(Fault::Flush);
        let tasks = self.tasks();
        let after = self.dice.between(tasks.len() / 3, tasks.len() * 3 / 4);
        let millis = match fault {
            // Longer than it takes to be called dead, shorter than what is purged has to wait.
            Fault::Pause(..) | Fault::Silence(_) => self.dice.between(3_500, 6_000),
            Fault::TwoLeaders { .. } => self.dice.between(4_000, 7_000),
            _ => self.dice.between(300, 2_500),
        };
        self.number += 1;
        // What was near a document that kills its process may be in its last run, which a fault would condemn it for.
        let overlaps = self.dice.below(4) == 0 && fault != Fault::Deadly;
        let beside = self.beside(fault);
        let busy = self.setup.new_documents / 2;
        let millis = millis as u64;
        Round { number: self.number, tasks, fault, beside, after, busy, millis, overlaps }
    }

    /// Now and then a server fails together with a process; only where all kinds of faults come.
    fn beside(&mut self, fault: Fault) -> Option<Fault> {
        let victim = Fault::Kill(*self.dice.pick(&Service::ALL), self.dice.below(2));
        let is_of_processes = matches!(
            fault,
            Fault::Kill(..)
                | Fault::Pause(..)
                | Fault::TwoLeaders { .. }
                | Fault::RollingRestart
                | Fault::Deadly
                | Fault::KillParsers(_)
        );
        let comes = self.dice.below(2) == 0 && !is_of_processes && self.setup.faults.is_none();
        comes.then_some(victim)
    }

    /// New documents, and between them commands on those that are there.
    fn tasks(&mut self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for _ in 0..self.setup.new_documents {
            let action = self.upload();
            tasks.push(Task { slot: self.slots, action });
            self.slots += 1;
            if self.dice.below(100) < 45 {
                // Often the slot of this moment, whose document is on its way, else one of a while ago.
                let latest = self.slots.min(3 * self.setup.new_documents);
                let back = if self.dice.below(2) == 0 { 1 } else { 1 + self.dice.below(latest) };
                let slot = self.slots - back;
                let action = self.command();
                let is_cancelled = action == Action::Cancel;
                tasks.push(Task { slot, action });
                if is_cancelled && self.dice.below(2) == 0 {
                    tasks.push(Task { slot, action: Action::Retry });
                }
            }
        }
        tasks
    }

    fn upload(&mut self) -> Action {
        const LANES: [&str; 5] = ["interactive", "interactive", "interactive", "bulk", "background"];
        let (content, external) = (self.content(), self.dice.below(4) == 0);
        if self.dice.below(4) == 0 {
            let flaw = match self.dice.below(40) {
                0 => Some(Flaw::Tenant),
                1 => Some(Flaw::Filename),
                2 => Some(Flaw::Hash),
                3 => Some(Flaw::Bytes),
                _ => None,
            };
            return Action::Publish { content, external, flaw, twice: self.dice.below(3) == 0 };
        }
        Action::Upload { content, external, lane: LANES[self.dice.below(LANES.len())] }
    }

    fn command(&mut self) -> Action {
        match self.dice.below(100) {
            0..30 => Action::Replace { content: self.content(), by_event: self.dice.below(2) == 0 },
            30..45 => Action::Again,
            45..65 => Action::Cancel,
            65..82 => Action::Retry,
            _ => Action::Delete,
        }
    }

    fn content(&mut self) -> Content {
        let kind = match self.dice.below(100) {
            0..86 => Kind::Good,
            86..90 => Kind::Blank,
            90..94 => Kind::Binary,
            94..98 => Kind::Torn,
            98 => Kind::Hanging,
            _ => Kind::Growing,
        };
        let paragraphs = match self.dice.below(100) {
            0..40 => self.dice.between(1, 8),
            40..90 => self.dice.between(20, 60),
            _ => self.dice.between(80, 160),
        };
        Content { seed: self.dice.next(), kind, format: *self.dice.pick(&Format::ALL), paragraphs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(seed: u64) -> Vec<Round> {
        let setup = Setup { seed, partitions: 1, new_documents: 30, faults: None };
        let mut schedule = Schedule::new(setup);
        (0..40).map(|_| schedule.round()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_plan_and_another_seed_another_one() {
        assert_eq!(rounds(3), rounds(3));
        assert_ne!(rounds(3), rounds(4));
        assert_eq!(Dice::new(7).next(), 0x63cb_e1e4_5932_0dd7, "a seed means the same for ever");
    }

    #[test]
    fn every_kind_of_fault_and_of_command_is_in_a_plan() {
        let rounds = rounds(1);
        let kinds = Fault::all(&mut Dice::new(1)).len();
        let first: Vec<String> = rounds[..kinds].iter().map(|round| round.fault.to_string()).collect();
        assert!(
            first.iter().all(|fault| first.iter().filter(|other| *other == fault).count() == 1),
            "{first:?}"
        );
        let tasks = || rounds.iter().flat_map(|round| &round.tasks);
        assert!(tasks().any(|task| matches!(task.action, Action::Replace { .. })));
        for wanted in [None, Some(Flaw::Tenant), Some(Flaw::Filename), Some(Flaw::Hash), Some(Flaw::Bytes)] {
            let is_wanted =
                |action: &Action| matches!(action, Action::Publish { flaw, .. } if *flaw == wanted);
            assert!(tasks().any(|task| is_wanted(&task.action)), "{wanted:?}");
        }
        for wanted in [Action::Again, Action::Cancel, Action::Retry, Action::Delete] {
            assert!(tasks().any(|task| task.action == wanted), "{wanted:?}");
        }
        let is_new = |task: &&Task| matches!(task.action, Action::Upload { .. } | Action::Publish { .. });
        assert!(tasks().filter(is_new).count() >= 1_000);
    }

    #[test]
    fn a_command_is_for_a_slot_that_is_there_and_a_fault_comes_amid_the_tasks() {
        let mut known = 0;
        for round in rounds(5) {
            for task in &round.tasks {
                match task.action {
                    Action::Upload { .. } | Action::Publish { .. } => known = known.max(task.slot + 1),
                    _ => assert!(task.slot < known),
                }
            }
            assert!(round.after < round.tasks.len());
        }
    }
}
