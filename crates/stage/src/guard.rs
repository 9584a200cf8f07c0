//! A stage's run within its bounds: a time limit, a cancellation, and panics that end nothing else.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt;
use riacho_domain::{Lane, StageName};
use tokio_util::sync::CancellationToken;

use crate::metrics::names;

/// How a run ended.
pub(crate) enum Ended<T> {
    /// By itself.
    Returned(T),
    /// With a panic, whose message this is.
    Panicked(String),
    /// Its time was up.
    TimedOut,
    /// It was cancelled.
    Cancelled,
}

/// Runs a stage's future, for events of a lane, within its time limit, until it is cancelled, with panics caught. At the time
/// limit it cancels itself, so that what it has begun elsewhere ends too.
pub(crate) async fn guarded<T>(
    (stage, lane): (StageName, Lane),
    time_limit: Duration,
    future: impl Future<Output = T> + Send,
    cancelled: &CancellationToken,
) -> Ended<T> {
    let start = Instant::now();
    let ended = tokio::select! {
        returned = AssertUnwindSafe(future).catch_unwind() => match returned {
            Ok(value) => Ended::Returned(value),
            Err(panic) => Ended::Panicked(message_of(&*panic)),
        },
        () = cancelled.cancelled() => Ended::Cancelled,
        () = tokio::time::sleep(time_limit) => {
            cancelled.cancel();
            Ended::TimedOut
        }
    };
    metrics::histogram!(names::PROCESS, "stage" => stage.as_str(), "lane" => lane.as_str())
        .record(start.elapsed().as_secs_f64());
    ended
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
