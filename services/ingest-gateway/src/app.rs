//! What every handler works with.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use riacho_domain::{SpaceId, TenantId};
use riacho_models::{Model, Models};
use riacho_objects::{Key, Objects};
use riacho_service::{CoreConfig, Health, Resources, outward::Outward, spend::Ledger};
use riacho_store::{Accept, Accepted, Limits, Space, Store};
use riacho_streams::Streams;
use riacho_traces::{Kind, Span, attributes};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, SERVICE,
    answers::Answers,
    http::{auth::Keys, problem::Problem},
    metrics::names,
    places::{Full, Place, Places},
    rates::Rates,
    release::Releaser,
    sampler::Sampler,
    unpack::Unpacker,
    watchers::Watchers,
};

/// How long an address that a client named may take to be connected to.
const OUTWARD_CONNECT: Duration = Duration::from_secs(10);
/// How long it may say nothing.
const OUTWARD_SILENCE: Duration = Duration::from_secs(30);
/// When a tenant whose requests with many documents are all in hand may come again.
const BULK_RETRY_SECONDS: u64 = 5;
/// For how long the live embedding space is not asked for again.
const SPACE_FRESH: Duration = Duration::from_secs(5);

/// The gateway's state; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// What goes on behind the answers.
pub(crate) struct Behind {
    /// Where what queries cost is noted.
    pub(crate) ledger: Ledger,
    /// Releases what was accepted.
    pub(crate) releaser: Releaser,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stopping: CancellationToken,
}

struct Shared {
    config: Config,
    /// What a tenant may use unless something else is set for it.
    limits: Limits,
    rates: Rates,
    answers: Answers,
    resources: Resources,
    models: Models,
    ledger: Ledger,
    keys: Keys,
    releaser: Releaser,
    sampler: Sampler,
    /// Those of requests with many documents.
    bulk_requests: Places<()>,
    /// Made when it is needed for the first time.
    unpacker: OnceLock<Unpacker>,
    watchers: Watchers,
    stopping: CancellationToken,
    /// Made when it is needed for the first time.
    outward: OnceLock<Outward>,
    /// Networks that requests to addresses of clients may go to.
    outbound_allow: Vec<String>,
    space: Mutex<Option<(Instant, Option<Space>)>>,
    /// Spaces whose model is the configured one, as it showed with known texts.
    checked: Mutex<HashSet<SpaceId>>,
}

impl App {
    pub(crate) fn new(
        config: Config,
        core: &CoreConfig,
        resources: Resources,
        models: Models,
        behind: Behind,
    ) -> App {
        let Behind { ledger, releaser, stopping } = behind;
        let keys = Keys::new(config.key_cache());
        let rates = Rates::default();
        let answers = Answers::new(config.search_cache(), config.search_cache_bytes);
        let bulk_requests = Places::new(config.bulk.max_requests, config.bulk.max_requests_per_tenant);
        let watchers = Watchers::new(config.max_event_streams, config.max_event_streams_per_tenant);
        App(Arc::new(Shared {
            config,
            limits: core.limits,
            rates,
            answers,
            resources,
            models,
            ledger,
            keys,
            releaser,
            sampler: Sampler::default(),
            bulk_requests,
            unpacker: OnceLock::new(),
            watchers,
            stopping,
            outward: OnceLock::new(),
            outbound_allow: core.http.outbound_allow.clone(),
            space: Mutex::default(),
            checked: Mutex::default(),
        }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.resources.store
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.0.resources.objects
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.0.resources.streams
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.resources.health
    }

    pub(crate) fn models(&self) -> &Models {
        &self.0.models
    }

    /// Where what queries cost is noted.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// The client for addresses that clients name.
    pub(crate) fn outward(&self) -> Result<&Outward, Problem> {
        if let Some(outward) = self.0.outward.get() {
            return Ok(outward);
        }
        let made = Outward::new(&self.0.outbound_allow, OUTWARD_CONNECT, OUTWARD_SILENCE);
        let made = made.map_err(|error| Problem::internal(&error))?;
        Ok(self.0.outward.get_or_init(|| made))
    }

    /// What a tenant may use unless something else is set for it.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.0.rates
    }

    /// Answers to searches that are kept for a while.
    pub(crate) fn answers(&self) -> &Answers {
        &self.0.answers
    }

    /// The figures of the streams.
    pub(crate) fn sampler(&self) -> &Sampler {
        &self.0.sampler
    }

    /// Cancelled when the gateway begins to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Who is sent events.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    /// A place among the requests with many documents.
    pub(crate) fn bulk_request(&self, tenant: &TenantId) -> Result<Place<()>, Problem> {
        self.0.bulk_requests.enter(tenant).map_err(|full| match full {
            Full::All => Problem::unavailable("too many requests with many documents are in hand"),
            Full::Tenant => Problem::over_rate("requests with many documents at once", BULK_RETRY_SECONDS),
        })
    }

    /// Starts the processes that unpack archives.
    pub(crate) fn unpacker(&self) -> Result<&Unpacker, Problem> {
        if let Some(unpacker) = self.0.unpacker.get() {
            return Ok(unpacker);
        }
        let bulk = &self.0.config.bulk;
        let made = Unpacker::new(bulk.command.clone(), bulk.unpack_memory_bytes);
        let made = made.map_err(|error| Problem::internal(&error))?;
        Ok(self.0.unpacker.get_or_init(|| made))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The live embedding space, as it was a few seconds ago at most.
    pub(crate) async fn live_space(&self) -> Result<Option<Space>, riacho_store::Error> {
        let known = self.0.space.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((since, space)) = known
            && since.elapsed() < SPACE_FRESH
        {
            return Ok(space);
        }
        let space = self.store().live_space().await?;
        *self.0.space.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), space.clone()));
        Ok(space)
    }

    /// Checks once that a model is the one that a space was made with. It is taken to be as long as that cannot be found out.
    ///
    /// # Errors
    /// Where it is another one.
    pub(crate) async fn check_model(
        &self,
        model: &dyn Model,
        space: SpaceId,
    ) -> Result<(), riacho_models::Error> {
        if self.0.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(&space) {
            return Ok(());
        }
        match riacho_service::check_known_model(self.store(), model, space).await {
            Ok(true) => {
                self.0.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(space);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error @ riacho_models::Error::Misconfigured { .. }) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Lets the live embedding space be asked for again: the one that is known is gone.
    pub(crate) fn forget_space(&self) {
        *self.0.space.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Writes the document's row, and releases it behind the answer. An object that no row names
    /// afterwards is deleted, where that is certain.
    pub(crate) async fn accept(&self, accept: &Accept, key: &Key) -> Result<Accepted, riacho_store::Error> {
        let result = self.write(accept).await;
        let unused = match &result {
            Ok(accepted) => accepted.duplicate || accepted.replayed,
            // After a lost connection the row may be there; the janitor finds orphans.
            Err(error) => !error.is_retryable(),
        };
        if unused {
            self.discard(key.clone());
        }
        if let Ok(accepted) = &result {
            self.accepted(&accept.tenant, &accept.traceparent, accepted);
        }
        result
    }

    /// Writes the row of a document that is made of a file, and releases it behind the answer. The object is the file's.
    pub(crate) async fn attach(&self, accept: &Accept) -> Result<Accepted, riacho_store::Error> {
        let accepted = self.write(accept).await?;
        self.accepted(&accept.tenant, &accept.traceparent, &accepted);
        Ok(accepted)
    }

    /// Writes the row, in a span of its own.
    async fn write(&self, accept: &Accept) -> Result<Accepted, riacho_store::Error> {
        let mut span = Span::below(SERVICE, Kind::Client, "postgres accept", &accept.traceparent, || {
            [
                (attributes::DB_SYSTEM, "postgresql".into()),
                (attributes::DB_OPERATION, "accept".into()),
                (attributes::TENANT, accept.tenant.to_string().into()),
            ]
        });
        let result = self.store().accept(accept).await;
        match &result {
            Ok(accepted) => {
                span.set(attributes::DOCUMENT, accepted.document.to_string());
                span.set(attributes::VERSION, i64::from(accepted.version));
                span.set(attributes::OUTCOME, outcome(accepted));
            }
            Err(_) => span.fail("refused"),
        }
        result
    }

    /// Tells of what a request was answered, and releases what it made.
    pub(crate) fn accepted(&self, tenant: &TenantId, traceparent: &str, accepted: &Accepted) {
        let outcome = outcome(accepted);
        tell_accepted(tenant, accepted, traceparent, "http");
        metrics::counter!(names::ACCEPTED, "source" => "http", "outcome" => outcome).increment(1);
        self.release(accepted);
    }

    /// Releases what was just written, behind the answer.
    pub(crate) fn release(&self, accepted: &Accepted) {
        if let Some(plan) = &accepted.release {
            self.0.releaser.submit(plan.clone());
        }
    }

    /// Deletes an object that nothing names, in the background.
    pub(crate) fn discard(&self, key: Key) {
        let objects = self.objects().clone();
        tokio::spawn(async move {
            if let Err(error) = objects.delete(&key).await {
                tracing::debug!(%error, "an unused object stays until the janitor finds it");
            }
        });
    }
}

/// What an upload came to.
const fn outcome(accepted: &Accepted) -> &'static str {
    match (accepted.replayed, accepted.duplicate) {
        (true, _) => "replayed",
        (_, true) => "duplicate",
        _ => "new",
    }
}

/// Says in the log that a document was accepted, or is there already. Before its release, so that the log is in order.
pub(crate) fn tell_accepted(tenant: &TenantId, accepted: &Accepted, traceparent: &str, source: &'static str) {
    let (document, version) = (accepted.document, accepted.version);
    let trace_id = riacho_service::release::trace_id(traceparent);
    let step = match outcome(accepted) {
        "new" if version > 1 => "replaced",
        "new" => "accepted",
        _ => "deduplicated",
    };
    let text = match step {
        "accepted" => "the document is accepted",
        "replaced" => "the document gets a new version",
        _ => "the document is there already",
    };
    tracing::info!(step, %tenant, %document, version, state = accepted.state.as_str(), source, trace_id, "{text}");
}
