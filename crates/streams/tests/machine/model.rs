//! The streams as they should be: what the crate promises, said without Redis.

use std::collections::{BTreeMap, BTreeSet};

use riacho_domain::{Lane, StageName};
use riacho_streams::{Answer, Target};

use crate::op::STAGES;

/// Who holds an entry, in which delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) consumer: String,
    pub(crate) deliveries: u32,
}

/// An entry on a stream. Without a hold it was not delivered yet.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Its id on the server, empty until it was seen there.
    pub(crate) id: String,
    /// The id of its envelope.
    pub(crate) name: String,
    pub(crate) bytes: usize,
    pub(crate) hold: Option<Hold>,
}

/// What stands under a stream's key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub(crate) exists: bool,
    pub(crate) has_group: bool,
    pub(crate) is_spoiled: bool,
    pub(crate) entries: Vec<Standing>,
    /// It was deleted, and its bytes may still be counted until something is added.
    pub(crate) size_is_stale: bool,
}

/// An entry that a consumer gets, as the model expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) lane: Lane,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) deliveries: u32,
}

/// An output: where it goes, its envelope's id, its bytes.
pub(crate) type Output = (Target, String, usize);

/// What a consumer asks for one entry.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) lane: Lane,
    pub(crate) id: String,
    pub(crate) deliveries: u32,
    pub(crate) action: Wanted,
}

#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    Done(Vec<Output>),
    Emit(Vec<Output>),
    /// To this consumer, with this delivery count.
    Defer(String, u32),
}

/// An answer as far as it can be foretold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Done,
    Fenced,
    Gone,
    Full,
    Refused,
    /// One target is full and another no stream: which is said is not promised.
    FullOrRefused,
}

impl Expected {
    pub(crate) fn is_met_by(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Done => *self == Expected::Done,
            Answer::Fenced => *self == Expected::Fenced,
            Answer::Gone => *self == Expected::Gone,
            Answer::Full => matches!(self, Expected::Full | Expected::FullOrRefused),
            Answer::Refused(_) => matches!(self, Expected::Refused | Expected::FullOrRefused),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) streams: BTreeMap<Target, Stream>,
    pub(crate) released: BTreeSet<u8>,
    pub(crate) is_tight: bool,
    cap: usize,
}

impl Model {
    pub(crate) fn new(cap: usize) -> Model {
        let work = STAGES.iter().flat_map(|stage| Lane::ALL.map(|lane| Target::Work(*stage, lane)));
        let streams = work.chain([Target::Dead]).map(|target| (target, Stream::default())).collect();
        Model { streams, released: BTreeSet::new(), is_tight: false, cap }
    }

    pub(crate) fn stream(&mut self, target: Target) -> &mut Stream {
        self.streams.get_mut(&target).expect("a stream of the model")
    }

    pub(crate) fn lane(&mut self, stage: StageName, lane: Lane) -> &mut Stream {
        self.stream(Target::Work(stage, lane))
    }

    pub(crate) fn is_spoiled(&self) -> bool {
        self.streams.values().any(|stream| stream.is_spoiled)
    }

    /// Forgets everything but the memory limit.
    pub(crate) fn flush(&mut self) {
        *self = Model { is_tight: self.is_tight, ..Model::new(self.cap) };
    }

    /// Whether so many bytes fit onto a stream.
    pub(crate) fn fits(&self, target: Target, more: usize) -> Result<(), Expected> {
        let stream = &self.streams[&target];
        let size = stream.bytes();
        match () {
            () if stream.is_spoiled => Err(Expected::Refused),
            () if size > 0 && size + more > self.cap => Err(Expected::Full),
            () => Ok(()),
        }
    }

    pub(crate) fn add(&mut self, target: Target, name: String, bytes: usize) {
        let stream = self.stream(target);
        stream.exists = true;
        stream.size_is_stale = false;
        stream.entries.push(Standing { id: String::new(), name, bytes, hold: None });
    }

    /// Makes the groups in the order of the lanes, as far as it goes.
    pub(crate) fn make_groups(&mut self, stage: StageName) -> bool {
        for lane in Lane::ALL {
            if self.is_tight || self.lane(stage, lane).is_spoiled {
                return false;
            }
            let stream = self.lane(stage, lane);
            (stream.exists, stream.has_group) = (true, true);
        }
        true
    }

    /// The next entries of a lane that nobody was given.
    pub(crate) fn read(&mut self, stage: StageName, lane: Lane, by: &str, count: usize) -> Vec<Given> {
        let unread = self.lane(stage, lane).entries.iter_mut().filter(|entry| entry.hold.is_none());
        unread.take(count).map(|entry| entry.give(lane, by, 1)).collect()
    }

    /// Takes entries over from `from`, each a consumer and the ids that may be taken from it.
    pub(crate) fn take(
        &mut self,
        stage: StageName,
        by: &str,
        count: usize,
        from: &[(String, BTreeSet<String>)],
    ) -> Vec<Given> {
        let mut taken = Vec::new();
        for lane in Lane::ALL {
            for (consumer, ids) in from {
                let due = self.lane(stage, lane).entries.iter_mut();
                let due = due.filter(|entry| entry.held_by(consumer).is_some() && ids.contains(&entry.id));
                for entry in due.take(count - taken.len()) {
                    let deliveries = entry.held_by(consumer).map_or(0, |hold| hold.deliveries);
                    taken.push(entry.give(lane, by, deliveries + 1));
                }
            }
        }
        taken
    }

    /// Settles entries one after the other, as one call has to.
    pub(crate) fn settle(&mut self, stage: StageName, by: &str, asked: &[Asked]) -> Vec<Expected> {
        let before = self.clone();
        let mut settled: BTreeMap<(Lane, String), Expected> = BTreeMap::new();
        let mut has_written = false;
        let mut answers = Vec::new();
        for one in asked {
            let key = (one.lane, one.id.clone());
            let answer = match settled.get(&key) {
                Some(answer) => answer.clone(),
                None => self.settle_one(stage, by, one),
            };
            if answer == Expected::Done {
                match &one.action {
                    Wanted::Done(_) => drop(settled.insert(key, Expected::Gone)),
                    Wanted::Defer(..) => drop(settled.insert(key, Expected::Fenced)),
                    Wanted::Emit(_) => {}
                }
                has_written |= !matches!(one.action, Wanted::Emit(_));
            }
            answers.push(answer);
        }
        // At the memory limit only a call that takes something away may add something.
        if self.is_tight && !has_written {
            *self = before;
            for (one, answer) in asked.iter().zip(&mut answers) {
                let adds = matches!(&one.action, Wanted::Emit(outputs) if !outputs.is_empty());
                if adds && *answer == Expected::Done {
                    *answer = Expected::Full;
                }
            }
        }
        answers
    }

    fn settle_one(&mut self, stage: StageName, by: &str, one: &Asked) -> Expected {
        let source = self.lane(stage, one.lane);
        let Some(at) = source.entries.iter().position(|entry| entry.id == one.id) else {
            return Expected::Gone;
        };
        match &source.entries[at].hold {
            None => return Expected::Gone,
            Some(hold) if hold.consumer != by || hold.deliveries != one.deliveries => {
                return Expected::Fenced;
            }
            Some(_) => {}
        }
        let (outputs, is_kept) = match &one.action {
            Wanted::Defer(consumer, deliveries) => {
                let hold = Hold { consumer: consumer.clone(), deliveries: *deliveries };
                source.entries[at].hold = Some(hold);
                return Expected::Done;
            }
            Wanted::Done(outputs) => (outputs, false),
            Wanted::Emit(outputs) => (outputs, true),
        };
        if let Some(refused) = self.refusal(outputs) {
            return refused;
        }
        if !is_kept {
            self.lane(stage, one.lane).entries.remove(at);
        }
        for (target, name, bytes) in outputs {
            self.add(*target, name.clone(), *bytes);
        }
        Expected::Done
    }

    /// Why outputs cannot be added, all or none.
    fn refusal(&self, outputs: &[Output]) -> Option<Expected> {
        let mut more: BTreeMap<Target, usize> = BTreeMap::new();
        for (target, _, bytes) in outputs {
            *more.entry(*target).or_default() += bytes;
        }
        let refusals = more.iter().filter_map(|(target, bytes)| self.fits(*target, *bytes).err());
        refusals.reduce(|one, other| if one == other { one } else { Expected::FullOrRefused })
    }
}

impl Stream {
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

impl Standing {
    fn held_by(&self, consumer: &str) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.consumer == consumer)
    }

    fn give(&mut self, lane: Lane, to: &str, deliveries: u32) -> Given {
        self.hold = Some(Hold { consumer: to.to_owned(), deliveries });
        Given { lane, id: self.id.clone(), name: self.name.clone(), deliveries }
    }
}
