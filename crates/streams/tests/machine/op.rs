//! What can happen to the streams, and how a sequence of it is made up.

use proptest::{collection::vec, prelude::*, sample::select};
use riacho_domain::{DelayClass, Lane, StageName};

/// The consumers. What one of them was given, any other may try to settle.
pub(crate) const CONSUMERS: [&str; 3] = ["a", "b", "c"];
/// The stages: one whose outputs go to the other, and that other.
pub(crate) const STAGES: [StageName; 2] = [StageName::Extract, StageName::Embed];

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A release is sent, perhaps not for the first time.
    Release { lane: Lane, release: u8, bytes: usize },
    /// A consumer takes so many of each lane.
    Read { stage: StageName, by: &'static str, counts: [usize; 3] },
    /// The server delivers, and the reply is lost.
    LoseReply { stage: StageName, by: &'static str, lane: Lane },
    /// A consumer compares what it holds with what it was given, and fetches the rest.
    Recover { stage: StageName, by: &'static str },
    /// A consumer settles, in one call, some of what it or another was ever given.
    Settle { stage: StageName, by: &'static str, picks: Vec<Pick> },
    /// A consumer takes what is due.
    TakeDue { stage: StageName, by: &'static str, count: usize },
    /// A consumer takes what another holds, having judged it dead.
    TakeFrom { stage: StageName, by: &'static str, from: &'static str, count: usize },
    /// Time passes for what waits in delay classes.
    Pass { millis: u64 },
    /// Consumers that hold nothing are deleted.
    DeleteConsumers { stage: StageName, gone: Vec<&'static str> },
    /// Dead letters are moved away.
    MoveDead { count: usize },
    /// The server loses everything.
    Flush,
    /// A stream is lost with its group.
    DeleteStream { stage: StageName, lane: Lane },
    /// A group is lost.
    DestroyGroup { stage: StageName, lane: Lane },
    /// A key of the wrong type stands where a stream should be.
    Spoil { stage: StageName, lane: Lane },
    /// The server forgets the scripts.
    ForgetScripts,
    /// The server reaches its memory limit, or gets room again.
    Tight(bool),
}

/// Which delivery is settled, and how.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) of: Of,
    /// How far back.
    pub(crate) back: usize,
    pub(crate) deed: Deed,
}

/// Which deliveries one is picked from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    /// What the consumer holds.
    Held,
    /// What the consumer was ever given, settled and lost ones too.
    Own,
    /// What any consumer was ever given.
    Any,
}

/// How an entry is settled.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Done, with outputs of so many bytes for the lanes of the next stage.
    Done(Vec<(Lane, usize)>),
    /// Kept, with outputs.
    Emit(Vec<(Lane, usize)>),
    /// To the dead letters.
    Dead(usize),
    /// To a delay class; counted as an attempt or not.
    Retry(DelayClass, bool),
    /// Given back.
    HandBack(bool),
    /// Kept, with another delivery count.
    Mark(u32),
}

/// A sequence of steps.
pub(crate) fn sequence() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..100)
}

fn consumer() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(CONSUMERS[0]), 1 => Just(CONSUMERS[1]), 1 => Just(CONSUMERS[2])]
}

fn stage() -> impl Strategy<Value = StageName> {
    prop_oneof![3 => Just(STAGES[0]), 1 => Just(STAGES[1])]
}

fn lane() -> impl Strategy<Value = Lane> {
    prop_oneof![4 => Just(Lane::Interactive), 2 => Just(Lane::Bulk), 1 => Just(Lane::Background)]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 8..40_usize, 1 => 100..300_usize]
}

fn outputs() -> impl Strategy<Value = Vec<(Lane, usize)>> {
    vec((lane(), bytes()), 0..4)
}

fn deed() -> impl Strategy<Value = Deed> {
    let class = select(&DelayClass::ALL[..]);
    prop_oneof![
        5 => outputs().prop_map(Deed::Done),
        2 => outputs().prop_map(Deed::Emit),
        1 => bytes().prop_map(Deed::Dead),
        3 => (class, any::<bool>()).prop_map(|(class, counts)| Deed::Retry(class, counts)),
        1 => any::<bool>().prop_map(Deed::HandBack),
        1 => (1..2_000_u32).prop_map(Deed::Mark),
    ]
}

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    let of = prop_oneof![6 => Just(Of::Held), 1 => Just(Of::Own), 1 => Just(Of::Any)];
    let pick = (of, 0..4_usize, deed());
    vec(pick.prop_map(|(of, back, deed)| Pick { of, back, deed }), 1..6)
}

fn op() -> impl Strategy<Value = Op> {
    let counts = [0..5_usize, 0..3, 0..3];
    let millis = select(&[400, 900, 1_100, 5_500, 31_000, 301_000, 3_601_000][..]);
    prop_oneof![
        40 => (lane(), 0..24_u8, bytes()).prop_map(|(lane, release, bytes)| Op::Release { lane, release, bytes }),
        40 => (stage(), consumer(), counts).prop_map(|(stage, by, counts)| Op::Read { stage, by, counts }),
        5 => (stage(), consumer(), lane()).prop_map(|(stage, by, lane)| Op::LoseReply { stage, by, lane }),
        6 => (stage(), consumer()).prop_map(|(stage, by)| Op::Recover { stage, by }),
        60 => (stage(), consumer(), picks()).prop_map(|(stage, by, picks)| Op::Settle { stage, by, picks }),
        20 => (stage(), consumer(), 1..8_usize)
            .prop_map(|(stage, by, count)| Op::TakeDue { stage, by, count }),
        10 => (stage(), consumer(), consumer(), 1..6_usize)
            .prop_map(|(stage, by, from, count)| Op::TakeFrom { stage, by, from, count }),
        10 => millis.prop_map(|millis| Op::Pass { millis }),
        3 => (stage(), vec(consumer(), 1..3))
            .prop_map(|(stage, gone)| Op::DeleteConsumers { stage, gone }),
        6 => (1..4_usize).prop_map(|count| Op::MoveDead { count }),
        1 => Just(Op::Flush),
        1 => (stage(), lane()).prop_map(|(stage, lane)| Op::DeleteStream { stage, lane }),
        1 => (stage(), lane()).prop_map(|(stage, lane)| Op::DestroyGroup { stage, lane }),
        1 => (stage(), lane()).prop_map(|(stage, lane)| Op::Spoil { stage, lane }),
        1 => Just(Op::ForgetScripts),
        2 => prop::bool::weighted(0.3).prop_map(Op::Tight),
    ]
}
