//! Puts accepted documents onto the extractor's stream, behind the answer to the client.
//!
//! The row says `releasing` already, so whatever is lost here (a full queue, Redis away, a crash)
//! is sent again by the janitor with the same release id.

use std::time::{Duration, Instant};

use futures::StreamExt;
use riacho_service::release::{By, Sent, send};
use riacho_store::{ReleasePlan, Store};
use riacho_streams::Streams;
use tokio::sync::mpsc;

use riacho_service::metrics::names;

use crate::SERVICE;

/// At most so many releases go together: those that came while others were on their way.
const TOGETHER: usize = 64;
/// How many of such groups are on their way at once.
const CONCURRENCY: usize = 4;
/// Releases that wait; more are left to the janitor.
const QUEUE: usize = 4_096;
/// The pause after a release that failed: the first one, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// For how long a release is tried. It is longer than a release is fresh to the janitor (10 s), so that
/// when Redis is back somebody sends each release at once.
const PATIENCE: Duration = Duration::from_secs(15);

/// Hands releases to the background.
#[derive(Clone, Debug)]
pub(crate) struct Releaser(mpsc::Sender<ReleasePlan>);

impl Releaser {
    /// The releaser, and the work behind it: it ends when all releasers are dropped and what they
    /// handed over is done.
    pub(crate) fn new(store: Store, streams: Streams) -> (Releaser, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let plans =
            futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<ReleasePlan>| async move {
                receiver.recv().await.map(|plan| (plan, receiver))
            });
        let work = plans.ready_chunks(TOGETHER).for_each_concurrent(CONCURRENCY, move |plans| {
            let (store, streams) = (store.clone(), streams.clone());
            async move { release(&store, &streams, plans).await }
        });
        (Releaser(sender), work)
    }

    /// Releases soon. Never waits: what does not fit is released by the janitor.
    pub(crate) fn submit(&self, plan: ReleasePlan) {
        if self.0.try_send(plan).is_err() {
            metrics::counter!(names::RELEASES, "reason" => "accept", "outcome" => "left").increment(1);
        }
    }
}

/// Sends releases; again and again while Redis is away, until the janitor takes them for stale.
async fn release(store: &Store, streams: &Streams, mut plans: Vec<ReleasePlan>) {
    let by = By { service: SERVICE, reason: "accept" };
    let (begin, mut pause) = (Instant::now(), PAUSE.0);
    while !plans.is_empty() {
        let mut left = Vec::new();
        let sent = send(by, store, streams, &plans).await;
        for (plan, sent) in plans.into_iter().zip(sent) {
            let outcome = match sent {
                Ok(Sent::Released) => "released",
                Ok(Sent::Full) => "full",
                Err(error) if error.is_retryable() && begin.elapsed() < PATIENCE => {
                    left.push(plan);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, release = %plan.release, "a release is left to the janitor");
                    "left"
                }
            };
            metrics::counter!(names::RELEASES, "reason" => "accept", "outcome" => outcome).increment(1);
        }
        plans = left;
        if !plans.is_empty() {
            // Leaves a server that is away in peace for a moment; the queue overflows to the janitor.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
