//! Settling entries: many in one script call, each with an answer of its own.

use std::borrow::Borrow;

use bytes::Bytes;
use riacho_domain::{DelayClass, Lane, StageName};

use crate::{
    Error, Streams,
    client::{Value, list},
    entry::{self, Entry},
};

/// At most this many outputs go into one call, so that Redis is not held up.
pub const MAX_OUTPUTS: usize = 64;
/// At most this many bytes of outputs go into one call.
pub const MAX_BYTES: usize = 1 << 20;

/// The consumer that holds entries which were handed back, due at once.
pub const HANDED_BACK: &str = "retry:now";

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The work of a stage.
    Work(StageName, Lane),
    /// The dead letters.
    Dead,
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Acknowledge and delete it, and add these.
    Done(Vec<(Target, Bytes)>),
    /// Keep it, and add these.
    Emit(Vec<(Target, Bytes)>),
    /// Let it wait in a delay class, with this delivery count.
    Retry(DelayClass, u32),
    /// Give it to whoever takes it next, with this delivery count.
    HandBack(u32),
    /// Keep it, with this delivery count.
    Mark(u32),
}

impl Action {
    fn outputs(&self) -> &[(Target, Bytes)] {
        match self {
            Action::Done(outputs) | Action::Emit(outputs) => outputs,
            Action::Retry(..) | Action::HandBack(_) | Action::Mark(_) => &[],
        }
    }

    /// How many outputs it has.
    #[must_use]
    pub fn output_count(&self) -> usize {
        self.outputs().len()
    }

    /// How many bytes its outputs have.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.outputs().iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// An entry and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The lane the entry stands in.
    pub lane: Lane,
    /// The entry's id.
    pub entry_id: String,
    /// The id of its envelope; empty where it could not be decoded.
    pub envelope_id: String,
    /// The delivery that this consumer was given.
    pub deliveries: u32,
    /// The bytes of the entry, which leave the stream with it.
    pub bytes: usize,
    /// What becomes of it.
    pub action: Action,
}

impl Settlement {
    /// Settles `entry`, whose envelope has the id `envelope_id`.
    #[must_use]
    pub fn of(entry: &Entry, envelope_id: &str, action: Action) -> Self {
        Self {
            lane: entry.lane,
            entry_id: entry.id.clone(),
            envelope_id: envelope_id.to_owned(),
            deliveries: entry.deliveries,
            bytes: entry.body.len(),
            action,
        }
    }

    /// Where its entry stands. A handoff in this order costs the server least.
    #[must_use]
    pub fn place(&self) -> (Lane, u64, u64) {
        let (millis, sequence) = entry::id_parts(&self.entry_id);
        (self.lane, millis, sequence)
    }
}

/// What the script did with an entry. Only [`Answer::Done`] changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Settled.
    Done,
    /// Another consumer holds it, or this one in a later delivery.
    Fenced,
    /// Already settled, or lost with the server's data.
    Gone,
    /// A target is at its cap, or the server at its memory limit.
    Full,
    /// A target is no stream, or refused the output.
    Refused(String),
}

impl Streams {
    /// Settles entries that `consumer` holds in one partition of a stage. One answer each, in order.
    ///
    /// Safe to repeat after an error: what was settled the first time answers [`Answer::Gone`].
    /// Except emitted outputs, which a repetition adds again, with the ids they had.
    pub async fn handoff(
        &self,
        partition: u16,
        stage: StageName,
        consumer: &str,
        settlements: &[impl Borrow<Settlement>],
    ) -> Result<Vec<Answer>, Error> {
        let mut call = Call::new(self, partition, stage, consumer, settlements.len());
        let alike = settlements
            .chunk_by(|one, next| Borrow::<Settlement>::borrow(one).is_settled_like(next.borrow()));
        for batch in alike {
            call.push(batch);
        }
        let reply = self.scripts().handoff.run(&self.conn(), &call.keys, call.args).await?;
        let answers = list(reply);
        if answers.len() != settlements.len() {
            return Err(Error::Reply("number of answers"));
        }
        answers.into_iter().map(answer).collect()
    }
}

impl Settlement {
    /// Whether the script can settle `next` in one batch with this one.
    fn is_settled_like(&self, next: &Settlement) -> bool {
        let targets = |outputs: &[(Target, Bytes)], more: &[(Target, Bytes)]| {
            outputs.iter().map(|(target, _)| target).eq(more.iter().map(|(target, _)| target))
        };
        self.lane == next.lane
            && self.deliveries == next.deliveries
            // The first entry's id is compared for all of them.
            && self.envelope_id.is_empty() == next.envelope_id.is_empty()
            && match (&self.action, &next.action) {
                (Action::Done(one), Action::Done(other)) | (Action::Emit(one), Action::Emit(other)) => {
                    targets(one, other)
                }
                (one, other) => one == other,
            }
    }
}

/// The keys and arguments of a call while they are collected.
struct Call<'a> {
    streams: &'a Streams,
    partition: u16,
    stage: StageName,
    /// Which key of `keys` a target has.
    known: Vec<(Target, i64)>,
    keys: Vec<String>,
    args: Vec<Value>,
    batches: usize,
}

/// Where the number of batches stands among the arguments.
const BATCHES: usize = 3;

impl<'a> Call<'a> {
    fn new(streams: &'a Streams, partition: u16, stage: StageName, consumer: &str, entries: usize) -> Self {
        let cap = i64::try_from(streams.config().stream_max_bytes).unwrap_or(i64::MAX);
        let mut args = Vec::with_capacity(16 + entries * 3);
        args.extend([stage.as_str().into(), consumer.into(), cap.into(), int(0)]);
        let keys = vec![streams.keys().sizes(partition)];
        Self { streams, partition, stage, known: Vec::new(), keys, args, batches: 0 }
    }

    /// The place of a target's key in `KEYS`, from 1.
    fn key(&mut self, target: Target) -> Value {
        if let Some((_, index)) = self.known.iter().find(|(known, _)| *known == target) {
            return (*index).into();
        }
        let keys = self.streams.keys();
        self.keys.push(match target {
            Target::Work(stage, lane) => keys.work(self.partition, stage, lane),
            Target::Dead => keys.dead(self.partition),
        });
        let index = i64::try_from(self.keys.len()).unwrap_or(i64::MAX);
        self.known.push((target, index));
        index.into()
    }

    /// Adds entries that are settled alike.
    fn push(&mut self, batch: &[impl Borrow<Settlement>]) {
        let Some(first) = batch.first().map(Borrow::borrow) else { return };
        self.batches += 1;
        self.args[BATCHES] = int(self.batches);
        let source = self.key(Target::Work(self.stage, first.lane));
        self.args.extend([source, i64::from(first.deliveries).into(), first.envelope_id.as_str().into()]);
        match &first.action {
            Action::Done(outputs) => self.push_outputs("done", outputs, batch),
            Action::Emit(outputs) => self.push_outputs("emit", outputs, batch),
            Action::Retry(class, count) => self.push_defer(class.consumer().into(), *count, batch),
            Action::HandBack(count) => self.push_defer(HANDED_BACK.into(), *count, batch),
            Action::Mark(count) => self.push_defer(self.args[1].clone(), *count, batch),
        }
    }

    fn push_outputs(&mut self, action: &str, outputs: &[(Target, Bytes)], batch: &[impl Borrow<Settlement>]) {
        self.args.extend([action.into(), int(outputs.len())]);
        for (target, _) in outputs {
            let key = self.key(*target);
            self.args.push(key);
        }
        self.args.push(int(batch.len()));
        for settlement in batch.iter().map(Borrow::borrow) {
            self.args.extend([settlement.entry_id.as_str().into(), int(settlement.bytes)]);
            let envelopes = settlement.action.outputs().iter();
            self.args.extend(envelopes.map(|(_, envelope)| Value::Bytes(envelope.clone())));
        }
    }

    fn push_defer(&mut self, consumer: Value, count: u32, batch: &[impl Borrow<Settlement>]) {
        self.args.extend(["defer".into(), consumer, i64::from(count).into(), int(batch.len())]);
        self.args.extend(batch.iter().map(|settlement| Value::from(settlement.borrow().entry_id.as_str())));
    }
}

fn int(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn answer(value: Value) -> Result<Answer, Error> {
    match value {
        Value::Integer(0) => Ok(Answer::Done),
        Value::Integer(1) => Ok(Answer::Fenced),
        Value::Integer(2) => Ok(Answer::Gone),
        Value::Integer(3) => Ok(Answer::Full),
        other => other.into_string().map(Answer::Refused).ok_or(Error::Reply("answer")),
    }
}
