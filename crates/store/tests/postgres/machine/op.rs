//! What can happen to documents, and how a sequence of it is made up.

use proptest::{collection::vec, prelude::*};

/// How many documents there are at once.
pub(crate) const SLOTS: usize = 2;

/// A release that was given out at some time: of those that are current, or of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) of_any: bool,
    pub(crate) back: usize,
}

/// A batch of chunks: of which release, of which of its version's two runs, from which chunk on, how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) pick: Pick,
    pub(crate) run: usize,
    pub(crate) from: u32,
    pub(crate) count: u32,
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A new document, or a new version of the one that is there.
    Accept {
        slot: usize,
        hold: bool,
        totals: [u32; 2],
    },
    /// The bytes of the latest version once more.
    AcceptAgain {
        slot: usize,
        totals: [u32; 2],
    },
    ReleaseWaiting {
        limit: u32,
    },
    /// What may not have arrived is looked for.
    Stale,
    Released(Vec<Pick>),
    BackToWaiting(Pick),
    Begin(Pick),
    Seal {
        pick: Pick,
        run: usize,
    },
    Index(Vec<Batch>),
    Fail(Pick),
    /// A dead letter of a release.
    Letter(Pick),
    Replay {
        slot: usize,
    },
    Lost {
        picks: Vec<Pick>,
        known: bool,
    },
    Cancel {
        slot: usize,
    },
    Retry {
        slot: usize,
        hold: bool,
    },
    Delete {
        slot: usize,
    },
    /// The deadline of whatever is in flight passes.
    Overdue {
        slot: usize,
    },
}

/// A sequence of steps.
pub(crate) fn sequence() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..70)
}

fn pick() -> impl Strategy<Value = Pick> {
    (prop::bool::weighted(0.25), 0..6_usize).prop_map(|(of_any, back)| Pick { of_any, back })
}

fn run() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0_usize), 1 => Just(1)]
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (pick(), run(), 0..3_u32, 1..4_u32);
    vec(batch.prop_map(|(pick, run, from, count)| Batch { pick, run, from, count }), 1..5)
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let totals = || [1..4_u32, 1..4];
    prop_oneof![
        8 => (slot(), prop::bool::weighted(0.3), totals())
            .prop_map(|(slot, hold, totals)| Op::Accept { slot, hold, totals }),
        2 => (slot(), totals()).prop_map(|(slot, totals)| Op::AcceptAgain { slot, totals }),
        6 => (1..4_u32).prop_map(|limit| Op::ReleaseWaiting { limit }),
        2 => Just(Op::Stale),
        6 => vec(pick(), 1..4).prop_map(Op::Released),
        2 => pick().prop_map(Op::BackToWaiting),
        5 => pick().prop_map(Op::Begin),
        10 => (pick(), run()).prop_map(|(pick, run)| Op::Seal { pick, run }),
        24 => batches().prop_map(Op::Index),
        4 => pick().prop_map(Op::Fail),
        4 => pick().prop_map(Op::Letter),
        4 => slot().prop_map(|slot| Op::Replay { slot }),
        8 => (vec(pick(), 1..3), any::<bool>()).prop_map(|(picks, known)| Op::Lost { picks, known }),
        4 => slot().prop_map(|slot| Op::Cancel { slot }),
        8 => (slot(), prop::bool::weighted(0.3)).prop_map(|(slot, hold)| Op::Retry { slot, hold }),
        1 => slot().prop_map(|slot| Op::Delete { slot }),
        2 => slot().prop_map(|slot| Op::Overdue { slot }),
    ]
}
