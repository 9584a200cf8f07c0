//! The intake: takes producers' events from their streams, and answers each.
//!
//! An event is deleted from its stream together with its answer, and only after its document's row
//! (or its rejection) is committed. What ends in between is read again, and answered the same.

mod event;
mod process;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream};
use riacho_domain::TenantId;
use riacho_streams::{IntakeAnswer, IntakeEntry, IntakeReader, consumer_name};
use tokio_util::sync::CancellationToken;

use crate::{app::App, metrics::names};

/// How often tenants are looked for that are new.
const TENANTS_FRESH: Duration = Duration::from_secs(2);
/// The pause after an error, so that an outage is neither hammered nor logged without end.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads events until `stop`. Errors of servers are waited out.
pub(crate) async fn run(app: App, stop: CancellationToken) {
    let mut intake = Intake {
        consumer: consumer_name(),
        app,
        tenants: Vec::new(),
        tenants_at: None,
        claimed_at: Instant::now(),
    };
    let mut reader = None;
    let mut failing = false;
    while !stop.is_cancelled() {
        match intake.round(&mut reader).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the intake waits");
                }
                failing = true;
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }
    if let Some(reader) = reader {
        reader.close().await;
    }
}

/// Why the intake waits.
#[derive(Debug, thiserror::Error)]
enum Waits {
    #[error(transparent)]
    Streams(#[from] riacho_streams::Error),
    #[error(transparent)]
    Store(#[from] riacho_store::Error),
}

struct Intake {
    app: App,
    consumer: String,
    tenants: Vec<TenantId>,
    tenants_at: Option<Instant>,
    claimed_at: Instant,
}

impl Intake {
    /// Reads once, and works on what came. A read is never dropped half way: what it delivered would
    /// wait for its claim.
    async fn round(&mut self, reader: &mut Option<IntakeReader>) -> Result<(), Waits> {
        let config = self.app.config().clone();
        if self.tenants_at.is_none_or(|at| at.elapsed() >= TENANTS_FRESH) {
            self.tenants = self.app.store().active_tenants().await?;
            self.tenants_at = Some(Instant::now());
        }
        let reader = match reader {
            Some(reader) => reader,
            none => none.insert(self.app.streams().intake_reader(&self.consumer).await?),
        };
        let entries =
            reader.read(&self.tenants, config.intake_concurrency.max(1), config.intake_poll()).await?;
        self.work_on(entries).await;
        if self.claimed_at.elapsed() >= config.intake_claim() / 2 {
            self.claimed_at = Instant::now();
            for tenant in self.tenants.clone() {
                let streams = self.app.streams();
                let taken = streams
                    .claim_intake(&tenant, &self.consumer, config.intake_claim(), config.intake_concurrency)
                    .await?;
                self.work_on(taken).await;
            }
        }
        Ok(())
    }

    async fn work_on(&self, entries: Vec<IntakeEntry>) {
        let concurrency = self.app.config().intake_concurrency.max(1);
        let mut answers: HashMap<TenantId, Vec<IntakeAnswer>> = HashMap::new();
        let mut answered = stream::iter(entries)
            .map(|entry| async move {
                let answer = AssertUnwindSafe(process::answer(&self.app, &entry)).catch_unwind().await;
                // A panic is a bug; without an answer the event would come back for ever.
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(_) => process::panicked(&self.app, &entry).await,
                };
                (entry.tenant, answer)
            })
            .buffer_unordered(concurrency);
        while let Some((tenant, answer)) = answered.next().await {
            // Without an answer (a server is away) the event stays, and is claimed again later.
            if let Some(answer) = answer {
                answers.entry(tenant).or_default().push(answer);
            }
        }
        for (tenant, answers) in answers {
            if let Err(error) = self.app.streams().answer_intake(&tenant, &answers).await {
                tracing::warn!(%error, %tenant, "answers to events were not sent; the events are read again");
                metrics::counter!(names::INTAKE, "outcome" => "unanswered").increment(answers.len() as u64);
            }
        }
    }
}
