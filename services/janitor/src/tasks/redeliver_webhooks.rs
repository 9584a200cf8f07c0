//! Sends webhooks what they are to be told, signed as Standard Webhooks says, and again what did not come through.
//!
//! What is sent stands in the outbox, which the transactions that made it true have written. An attempt is begun in the database
//! before it is made, so two leaders do not make the same one, and one whose janitor died is made again.

mod sign;

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use chrono::Utc;
use reqwest::{Method, header};
use riacho_service::outward::{Outward, OutwardError};
use riacho_store::{AttemptOutcome, DueDelivery};
use riacho_traces::Span;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{Error, Janitor, job::Job, told};

/// Attempts of one webhook at once: one that is slow keeps no other waiting.
const OF_EACH: u32 = 4;
/// How often is looked for more while some are on their way.
const LOOK: Duration = Duration::from_millis(500);
/// A run ends after this long, so that how it went is written down.
const RUN: Duration = Duration::from_secs(30);

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("due", store.due_delivery_count().await?);
        return Ok(());
    }
    let (start, most) = (Instant::now(), job.config().webhooks.concurrency.max(1));
    // Tasks of their own: while this one waits for a connection, those that have one go on.
    let (mut running, mut busy, mut failed) = (JoinSet::new(), HashMap::<Uuid, u32>::new(), None);
    loop {
        if failed.is_none() && start.elapsed() < RUN && running.len() < most {
            let free = u32::try_from(most - running.len()).unwrap_or(u32::MAX);
            let on_their_way: Vec<_> = busy.iter().map(|(webhook, count)| (*webhook, *count)).collect();
            match store.due_deliveries(free, OF_EACH, &on_their_way).await {
                Ok(due) => {
                    for due in due {
                        *busy.entry(due.webhook).or_default() += 1;
                        running.spawn(deliver(job.janitor.clone(), due));
                    }
                }
                Err(error) => failed = Some(error.into()),
            }
        }
        let ended = tokio::select! {
            ended = tokio::time::timeout(LOOK, running.join_next()) => ended,
            // Nobody waits for an address at the stop: what is on its way is sent again.
            () = job.stopped() => return Ok(()),
        };
        match ended {
            // Nothing is on its way, and nothing was due.
            Ok(None) => return failed.map_or(Ok(()), Err),
            Ok(Some(Ok((webhook, ended)))) => {
                if let Entry::Occupied(mut count) = busy.entry(webhook) {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
                match ended {
                    Ok(ended) => ended.count(job),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            Ok(Some(Err(error))) => failed = failed.or(Some(Error::Panicked(error.to_string()))),
            Err(_) => {}
        }
    }
}

/// What an attempt came to.
struct Ended {
    is_delivered: bool,
    is_disabled: bool,
}

impl Ended {
    fn count(&self, job: &Job<'_>) {
        job.add(if self.is_delivered { "delivered" } else { "failed" }, 1);
        job.add("disabled", u64::from(self.is_disabled));
    }
}

/// Makes an attempt, and notes how it went.
async fn deliver(janitor: Janitor, due: DueDelivery) -> (Uuid, Result<Ended, Error>) {
    let ended = async {
        let mut span = told::delivering(&due);
        let outcome = attempt(&janitor, &due, &span).await?;
        told::delivered(&due, &outcome, &mut span);
        drop(span);
        let disable_after = Duration::from_secs(janitor.config.webhooks.disable_after_seconds);
        let is_disabled = janitor.store.attempt_ended(&due, &outcome, disable_after).await?;
        if is_disabled {
            tracing::warn!(tenant = %due.tenant, webhook = %due.webhook, "a webhook is disabled: nothing comes through");
        }
        Ok(Ended { is_delivered: matches!(outcome, AttemptOutcome::Delivered { .. }), is_disabled })
    };
    let ended = ended.await;
    (due.webhook, ended)
}

async fn attempt(janitor: &Janitor, due: &DueDelivery, span: &Span) -> Result<AttemptOutcome, Error> {
    let (outward, config) = (janitor.outward()?, &janitor.config.webhooks);
    let limit = Duration::from_secs(config.time_limit_seconds.max(1));
    let answer =
        tokio::time::timeout(limit, send(outward, due, span)).await.unwrap_or(Err(OutwardError::Timeout));
    let again = || {
        let place = usize::try_from(due.attempt).unwrap_or(usize::MAX).saturating_sub(1);
        // Those that failed together do not come back together.
        let spread = |seconds: &u64| Duration::from_secs(*seconds).mul_f64(rand::random_range(1.0..1.1));
        config.retry_seconds.get(place).map(spread)
    };
    Ok(match answer {
        Ok(status) if (200..300).contains(&status) => AttemptOutcome::Delivered { status },
        Ok(status) => {
            let error = format!("it answered {status}");
            AttemptOutcome::Failed { status: Some(status), error, again: again() }
        }
        Err(error) => AttemptOutcome::Failed { status: None, error: error.to_string(), again: again() },
    })
}

/// Sends a delivery once; the status that was answered. What is answered besides is not read.
async fn send(outward: &Outward, due: &DueDelivery, span: &Span) -> Result<u16, OutwardError> {
    let url = outward.check(&due.url).await?;
    let (id, at) = (format!("msg_{}", due.id.simple()), Utc::now().timestamp());
    let signature = sign::signature(&due.key, &id, at, &due.payload);
    let mut request = outward
        .request(Method::POST, &url)?
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", at.to_string())
        .header("webhook-signature", signature)
        .body(due.payload.clone());
    if let Some(parent) = span.traceparent() {
        request = request.header("traceparent", parent.to_string());
    }
    Ok(request.send().await?.status().as_u16())
}
