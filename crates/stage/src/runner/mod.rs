//! The runner: reads a stage's events, runs them, and settles each exactly as it ended.
//!
//! One background role a file: `reader` reads and recovers, `interactive` reads its lane while the others hold all
//! other places, `taker` promotes retries and claims from the dead, `dispatch` decodes, `ready` holds what can run,
//! `batcher` fills and runs, `worker` prepares and concludes, `finisher` settles many in one call. What they share
//! stands in `line`.

mod alone;
mod batcher;
mod dispatch;
mod finisher;
mod interactive;
mod line;
mod reader;
mod ready;
mod taker;
mod worker;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use riacho_domain::{Lane, StageName};
use riacho_streams::{Beat, Streams, consumer_name};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::alone::quiet_wanted;
use self::{
    batcher::Driver,
    line::{Line, Partition},
    ready::Ready,
};
use crate::{
    BatchStage, Claims, Error, RunnerConfig, Stage, breaker::Breaker, held::Held, lanes::Lanes,
    outage::Outage, room::Room, stage::Single,
};

/// How long what was cancelled may take to be handed back.
const HAND_BACK: Duration = Duration::from_secs(5);

/// Runs stages. A clone is the same consumer; several stages can run at once.
#[derive(Clone)]
pub struct Runner(Arc<Shared>);

struct Shared {
    streams: Streams,
    claims: Claims,
    config: RunnerConfig,
    consumer: Arc<str>,
    /// One beat while any stage runs.
    beat: Mutex<Weak<Beat>>,
    /// What is read: what is configured, and what was added since.
    partitions: watch::Sender<Vec<u16>>,
    /// The stages that read nothing.
    paused: watch::Sender<BTreeSet<StageName>>,
}

impl Runner {
    /// A runner under a consumer name of its own.
    #[must_use]
    pub fn new(streams: Streams, claims: impl Into<Claims>, config: RunnerConfig) -> Runner {
        Runner(Arc::new(Shared {
            partitions: watch::Sender::new(config.partitions.clone()),
            paused: watch::Sender::default(),
            streams,
            claims: claims.into(),
            config,
            consumer: consumer_name().into(),
            beat: Mutex::default(),
        }))
    }

    /// The name of this process among the groups' consumers.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.0.consumer
    }

    /// Reads these partitions too, from now on; says whether any is new.
    pub fn add_partitions(&self, partitions: &[u16]) -> bool {
        self.0.partitions.send_if_modified(|known| {
            let before = known.len();
            known.extend(partitions);
            known.sort_unstable();
            known.dedup();
            known.len() > before
        })
    }

    /// Lets these stages read nothing from now on, and all others read. What they hold already is finished, and the
    /// consumer stays alive.
    pub fn set_paused(&self, stages: impl IntoIterator<Item = StageName>) {
        let paused: BTreeSet<StageName> = stages.into_iter().collect();
        self.0.paused.send_if_modified(|known| {
            let changed = *known != paused;
            for stage in known.symmetric_difference(&paused) {
                let is = if paused.contains(stage) { "paused" } else { "resumed" };
                tracing::info!(%stage, worker = %self.0.consumer, "the stage is {is}");
            }
            *known = paused;
            changed
        });
    }

    /// Runs a stage until `stop`, and returns when it is drained: what runs may finish within the
    /// grace period, what was not started is handed back.
    pub async fn run_stage<S: Stage>(&self, stage: Arc<S>, stop: CancellationToken) -> Result<(), Error> {
        let runs = self.0.config.concurrency;
        let kept = self.0.config.interactive_runs;
        self.run(Arc::new(Single(stage)), Room::new(runs, runs, kept), true, stop).await
    }

    /// Runs a stage that works in batches; otherwise as [`Runner::run_stage`].
    pub async fn run_batch_stage<S: BatchStage>(
        &self,
        stage: Arc<S>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        // One batch more than run, so that the next fills meanwhile.
        let (runs, batch) = (self.0.config.concurrency, stage.limits().max_events.max(1));
        let room = Room::new((runs + 1) * batch, runs, self.0.config.interactive_runs * batch);
        self.run(stage, room, false, stop).await
    }

    async fn run<S: BatchStage>(
        &self,
        stage: Arc<S>,
        room: Room,
        emits: bool,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let shared = &self.0;
        let partitions = shared.partitions.subscribe();
        if shared.config.concurrency == 0 || partitions.borrow().is_empty() {
            return Err(Error::Config("concurrency and partitions must not be empty"));
        }
        let beat = self.beat(stage.time_limit())?;
        let channels = Lane::ALL.map(|_| mpsc::unbounded_channel());
        let packed = channels.each_ref().map(|(sender, _)| sender.clone());
        let (settle_sender, settle) = mpsc::unbounded_channel();
        let line = Arc::new(Line {
            streams: shared.streams.clone(),
            claims: shared.claims.clone(),
            config: shared.config.clone(),
            stage: stage.name(),
            time_limit: stage.time_limit(),
            consumer: Arc::clone(&shared.consumer),
            beat: Arc::clone(&beat),
            stop,
            cancel: CancellationToken::new(),
            over: CancellationToken::new(),
            partitions: AtomicUsize::default(),
            paused: shared.paused.subscribe(),
            room,
            lanes: Lanes::new(shared.config.lanes.of(stage.name())),
            held: Held::default(),
            breaker: Breaker::new(stage.name(), shared.config.pause_after_failures),
            outage: Outage::new(stage.name(), "the streams"),
            needs: Outage::new(stage.name(), "what the stage needs"),
            newest_version: AtomicU32::default(),
            packed,
            ready: Ready::new(shared.config.weights()),
            settle: settle_sender,
        });
        let mut tasks = JoinSet::new();
        for (lane, (_, queue)) in Lane::ALL.into_iter().zip(channels) {
            tasks.spawn(ready::unpack(Arc::clone(&line), lane, queue));
        }
        let driver = Driver { line: Arc::clone(&line), stage, emits };
        tasks.spawn(driver.clone().run(shared.config.concurrency));
        tasks.spawn(driver.run_interactive(shared.config.interactive_runs));
        tasks.spawn(finisher::run(Arc::clone(&line), settle));
        tasks.spawn(tick(beat));
        line.run_until_drained(partitions).await;
        // The beat ends last, with the tasks that hold it.
        line.over.cancel();
        tasks.shutdown().await;
        Ok(())
    }

    fn beat(&self, patience: Duration) -> Result<Arc<Beat>, Error> {
        let mut current = self.0.beat.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(beat) = current.upgrade() {
            beat.allow(patience);
            return Ok(beat);
        }
        let every = Duration::from_millis(self.0.config.beat_ms.max(10));
        let beat = Arc::new(Beat::start(&self.0.streams, &self.0.consumer, every, patience)?);
        *current = Arc::downgrade(&beat);
        Ok(beat)
    }
}

async fn tick(beat: Arc<Beat>) {
    loop {
        beat.tick();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

impl Line {
    /// Reads until the stop, then waits until nothing is held any more.
    async fn run_until_drained(self: &Arc<Self>, mut partitions: watch::Receiver<Vec<u16>>) {
        let (mut intake, mut read) = (JoinSet::new(), BTreeSet::new());
        tracing::info!(stage = %self.stage, worker = %self.consumer, "stage runs");
        loop {
            for partition in partitions.borrow_and_update().iter().copied() {
                if read.insert(partition) {
                    self.partitions.fetch_add(1, Ordering::Relaxed);
                    let partition = Arc::new(Partition { number: partition, ..Partition::default() });
                    intake.spawn(reader::run(Arc::clone(self), Arc::clone(&partition)));
                    if self.config.interactive_runs > 0 {
                        intake.spawn(interactive::run(Arc::clone(self), Arc::clone(&partition)));
                    }
                    intake.spawn(taker::run(Arc::clone(self), partition));
                }
            }
            tokio::select! {
                ended = intake.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        tracing::error!(stage = %self.stage, %error, "a part of the runner ended by itself");
                        self.stop.cancel();
                    }
                    None => break,
                },
                Ok(()) = partitions.changed(), if !self.stop.is_cancelled() => {}
            }
        }
        if tokio::time::timeout(self.config.grace(), self.held.empty()).await.is_err() {
            tracing::warn!(stage = %self.stage, "the grace period is over, running events are handed back");
        }
        self.cancel.cancel();
        if tokio::time::timeout(HAND_BACK, self.held.empty()).await.is_err() {
            tracing::warn!(stage = %self.stage, "events could not be handed back; others will claim them");
        }
        tracing::info!(stage = %self.stage, worker = %self.consumer, "stage stopped");
    }
}
