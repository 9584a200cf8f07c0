//! The limits of an embedding provider, shared by all processes over Redis.

use futures::{FutureExt, future::BoxFuture};
use riacho_domain::{ProviderLimit, Turn, TurnAsked, TurnUsed};
use riacho_models::SharedLimit;
use riacho_stage::quiet_wanted;
use riacho_streams::{Error, Streams, consumer_name};
use tokio_util::sync::CancellationToken;

/// Asks Redis for turns, under a name of its own.
#[derive(Debug)]
pub(crate) struct RedisLimits {
    streams: Streams,
    replica: String,
    stop: CancellationToken,
    /// Whether calls are made by runs of a stage, which the last run of an event waits for.
    is_of_stage: bool,
}

impl RedisLimits {
    /// Nobody waits for a turn any more from `stop` on.
    pub(crate) fn new(streams: Streams, stop: CancellationToken) -> Self {
        Self { streams, replica: consumer_name(), stop, is_of_stage: false }
    }

    /// For runs of a stage: they make room for an event's last run, too.
    pub(crate) fn of_stage(self) -> Self {
        Self { is_of_stage: true, ..self }
    }
}

impl SharedLimit for RedisLimits {
    fn take<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        asked: &'a TurnAsked,
    ) -> BoxFuture<'a, Option<Turn>> {
        self.streams.take_turn(bucket, &self.replica, limit, asked).map(answered).boxed()
    }

    fn settle<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        used: &'a TurnUsed,
    ) -> BoxFuture<'a, Option<Turn>> {
        self.streams.settle_turn(bucket, &self.replica, limit, used).map(answered).boxed()
    }

    fn wait<'a>(
        &'a self,
        bucket: &'a str,
        limit: &'a ProviderLimit,
        tokens: u64,
    ) -> BoxFuture<'a, Option<std::time::Duration>> {
        self.streams.turn_wait(bucket, limit, tokens).map(answered).boxed()
    }

    fn interrupted(&self) -> BoxFuture<'_, ()> {
        async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = quiet_wanted(), if self.is_of_stage => {}
            }
        }
        .boxed()
    }
}

fn answered<T>(result: Result<T, Error>) -> Option<T> {
    result
        .inspect_err(|error| tracing::debug!(%error, "a provider's limits are kept by this process alone"))
        .ok()
}
