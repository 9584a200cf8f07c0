//! Events that are ready to run. Payloads that are compressed or a claim check are opened before, a few ahead in
//! each lane.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use riacho_domain::Lane;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    line::{Line, Work},
    worker::{self, Opened},
};
use crate::turns::{Ticket, Turns};

/// How many payloads of a lane are inflated or fetched at once.
const OPENED_AT_ONCE: usize = 16;
/// How many events of a lane are ready at most whose payload had to be opened.
const OPENED_MAX: usize = 64;

/// Inflates or fetches the payloads of one lane, a few ahead, until it is aborted.
pub(super) async fn unpack(line: Arc<Line>, lane: Lane, mut queue: mpsc::UnboundedReceiver<Box<Work>>) {
    let works = futures::stream::poll_fn(move |context| queue.poll_recv(context));
    let opened = works.map(|work| worker::opened(&line, work)).buffered(OPENED_AT_ONCE);
    let mut opened = pin!(opened.filter_map(std::future::ready));
    let places = Arc::new(Semaphore::new(OPENED_MAX));
    while let Some(opened) = opened.next().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        line.ready.push(lane, opened, Some(place));
    }
}

/// Ready events of a stage, by lane.
pub(super) struct Ready {
    state: Mutex<State>,
    changed: Notify,
    /// For who takes interactive events out of turn.
    out_of_turn: Notify,
}

struct State {
    /// With the place that each has here whose payload had to be opened.
    lanes: [VecDeque<(Opened, Option<OwnedSemaphorePermit>)>; 3],
    turns: Turns,
    /// Whether somebody waits for events in turn, or takes interactive ones, at this moment: then nobody takes them out of
    /// turn, which would make two small batches of one.
    is_interactive_in_turn: bool,
}

impl State {
    fn ready(&self) -> [bool; 3] {
        self.lanes.each_ref().map(|lane| !lane.is_empty())
    }

    /// Whether interactive events may be taken out of turn.
    fn has_out_of_turn(&self) -> bool {
        !self.is_interactive_in_turn && !self.lanes[Lane::Interactive.index()].is_empty()
    }

    fn take(&mut self, lane: Lane) -> Option<Opened> {
        self.lanes[lane.index()].pop_front().map(|(opened, _)| opened)
    }
}

impl Ready {
    /// Nothing is ready yet; the lanes share the running time by `weights`.
    pub(super) fn new(weights: [u32; 3]) -> Ready {
        Ready {
            state: Mutex::new(State {
                lanes: Default::default(),
                turns: Turns::new(weights),
                is_interactive_in_turn: false,
            }),
            changed: Notify::new(),
            out_of_turn: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event after all others of its lane.
    pub(super) fn add(&self, lane: Lane, opened: Opened) {
        self.push(lane, opened, None);
    }

    fn push(&self, lane: Lane, opened: Opened, place: Option<OwnedSemaphorePermit>) {
        let mut state = self.state();
        if state.lanes[lane.index()].is_empty() {
            state.turns.wakes(lane);
        }
        state.lanes[lane.index()].push_back((opened, place));
        let has_out_of_turn = state.has_out_of_turn();
        drop(state);
        self.changed.notify_waiters();
        if has_out_of_turn {
            self.out_of_turn.notify_waiters();
        }
    }

    /// Waits for the first event of a run, of the lane whose turn it is. [`Ready::filled`] is called next.
    pub(super) async fn first(&self) -> (Ticket, Opened) {
        let first = |state: &mut State| {
            state.is_interactive_in_turn = true;
            let ready = state.ready();
            let turn = state.turns.begin(ready)?;
            state.is_interactive_in_turn = turn.lane == Lane::Interactive;
            let opened = state.take(turn.lane)?;
            Some((turn, opened))
        };
        let first = self.wait(&self.changed, first).await;
        self.tell_out_of_turn();
        first
    }

    /// The run that [`Ready::first`] began takes no more events.
    pub(super) fn filled(&self) {
        self.state().is_interactive_in_turn = false;
        self.tell_out_of_turn();
    }

    /// Waits for the first event of a run of the interactive lane, out of turn.
    pub(super) async fn first_interactive(&self) -> (Ticket, Opened) {
        self.wait(&self.out_of_turn, |state| {
            let opened = state.has_out_of_turn().then(|| state.take(Lane::Interactive))??;
            Some((state.turns.begin_out_of_turn(Lane::Interactive), opened))
        })
        .await
    }

    /// Waits for the next event of a lane, for a run that began with one of that lane.
    pub(super) async fn next(&self, lane: Lane) -> Opened {
        self.wait(&self.changed, |state| state.take(lane)).await
    }

    /// Puts back what does not fit into a run, before all others of its lane.
    pub(super) fn put_back(&self, lane: Lane, opened: Opened) {
        self.state().lanes[lane.index()].push_front((opened, None));
        self.changed.notify_waiters();
        self.tell_out_of_turn();
    }

    /// A run of so many events ended after so long; none where it did not run after all.
    pub(super) fn ran(&self, ticket: Ticket, ran: Option<(Duration, usize)>) {
        self.state().turns.end(ticket, ran);
    }

    /// How many events of each lane to read, in proportion.
    pub(super) fn events_by_weight(&self) -> [f64; 3] {
        self.state().turns.events_by_weight()
    }

    fn tell_out_of_turn(&self) {
        if self.state().has_out_of_turn() {
            self.out_of_turn.notify_waiters();
        }
    }

    async fn wait<T>(&self, changed: &Notify, mut take: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // Made before the look, so that nothing that comes meanwhile is missed.
            let notified = changed.notified();
            if let Some(taken) = take(&mut self.state()) {
                return taken;
            }
            notified.await;
        }
    }
}
