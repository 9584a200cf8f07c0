//! The acceptance of many documents: some at once, each as if it had come alone, and their fates in order.

use std::{
    collections::HashSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderMap;
use bytes::Bytes;
use riacho_domain::TenantId;
use riacho_objects::Stored;
use riacho_store::{Limits, Target};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Hearing, Reader, Writer, answer},
    held::{Original, Paid},
    shapes::{AnswerLine, ItemBody, Place, SummaryBody},
};
use crate::{
    http::{
        App,
        auth::{Needs, Write},
        names::{clean_filename, content_type},
        problem::Problem,
        settings::Settings,
        trace::Trace,
        upload::{Received, accept_of},
    },
    places,
    rates::{self, Counted},
};

/// How long a client that reads all the time has for its answer when its request has taken as long as it may.
const READING: Duration = Duration::from_secs(600);
/// How often at most it is looked whether the key still may do this, and what its tenant may use, where keys are not remembered.
const LOOK_AT_KEY: Duration = Duration::from_secs(1);
/// Faults of ours that end a request. A single one may be of its document.
const MOST_FAULTS: u32 = 10;

/// Who sends, and what is said for all documents.
pub(super) struct Intake {
    pub(super) app: App,
    pub(super) tenant: TenantId,
    /// The public part of the key.
    pub(super) key_id: String,
    pub(super) limits: Limits,
    pub(super) trace: Trace,
    /// What a document does not say itself.
    pub(super) settings: Settings,
    /// When the request has taken long enough.
    pub(super) deadline: Instant,
}

/// A document on its way in.
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) content_type: Option<String>,
    pub(super) settings: Settings,
    pub(super) body: Body,
}

/// The bytes of a document.
pub(super) enum Body {
    /// They are here.
    Here(Bytes),
    /// They are in the object store already.
    Stored(Original, Stored),
}

/// An item of the answer, made or in the making.
enum Fate {
    Known(ItemBody),
    Coming(Place, String, JoinHandle<ItemBody>),
}

/// Takes items in. The reader of a request holds it.
pub(super) struct Run {
    intake: Arc<Intake>,
    /// What the tenant may use, as it was a while ago at most.
    limits: Limits,
    looked_at_key: Instant,
    fates: mpsc::Sender<Fate>,
    places: Arc<Semaphore>,
    concurrency: u32,
    hearing: Hearing,
    trouble: Arc<Trouble>,
    /// External ids of this request. A second version of one would be there twice when the request is repeated.
    ids: HashSet<String>,
}

/// What ends a request: something is away, and the rest would only wait for it too.
#[derive(Debug, Default)]
struct Trouble {
    first: OnceLock<Problem>,
    faults: AtomicU32,
    is_there: CancellationToken,
}

impl Trouble {
    /// Looks at what an item was refused for.
    fn note(&self, problem: &Problem) {
        let is_fault = problem.is_internal();
        if problem.is_of_server()
            || (is_fault && self.faults.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_FAULTS)
        {
            self.first.get_or_init(|| problem.clone());
            self.is_there.cancel();
        }
    }
}

/// Why no more items are taken.
pub(super) enum Stop {
    /// The client is gone.
    Unheard,
    /// What the summary says.
    Because(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Because(problem)
    }
}

/// Starts to take in what `read` reads, and gives the answer. Reading does not wait for whoever reads the answer.
pub(super) fn start<F, R>(intake: Intake, place: places::Place<()>, read: F) -> Reader
where
    F: FnOnce(Run) -> R + Send + 'static,
    R: Future<Output = Result<(), Stop>> + Send,
{
    let bulk = &intake.app.config().bulk;
    let (concurrency, idle) = (bulk.concurrency.clamp(1, 256), intake.app.config().idle_timeout());
    let until = intake.deadline + READING;
    let (fates, coming) = mpsc::channel(concurrency);
    let (lines, reader) = answer();
    let trouble = Arc::<Trouble>::default();
    let run = Run {
        limits: intake.limits,
        looked_at_key: Instant::now(),
        intake: Arc::new(intake),
        fates,
        places: Arc::new(Semaphore::new(concurrency)),
        concurrency: u32::try_from(concurrency).unwrap_or(1),
        hearing: lines.hearing(),
        trouble: Arc::clone(&trouble),
        ids: HashSet::new(),
    };
    tokio::spawn(async move {
        let reading = tokio::spawn(async move { read(run).await });
        let mut summary = tell(coming, &lines, &trouble).await;
        let stopped = match reading.await {
            Ok(Ok(())) => trouble.first.get().cloned(),
            Ok(Err(Stop::Because(problem))) => Some(problem),
            Ok(Err(Stop::Unheard)) => return,
            Err(error) => Some(Problem::internal(&error)),
        };
        summary.end(stopped);
        send(&lines, &AnswerLine::Summary { summary });
        lines.end(idle, until).await;
        drop(place);
    });
    reader
}

/// Says what became of the items, in their order.
async fn tell(mut coming: mpsc::Receiver<Fate>, lines: &Writer, trouble: &Trouble) -> SummaryBody {
    let mut summary = SummaryBody::default();
    while let Some(fate) = coming.recv().await {
        let item = match fate {
            Fate::Known(item) => item,
            Fate::Coming(place, name, task) => match task.await {
                Ok(item) => item,
                // It panicked, and could not say so itself.
                Err(error) => {
                    let problem = Problem::internal(&error);
                    trouble.note(&problem);
                    ItemBody::refused(place, Some(name), problem)
                }
            },
        };
        summary.add(&item);
        send(lines, &AnswerLine::Item(item));
    }
    summary
}

fn send(lines: &Writer, line: &AnswerLine) {
    // Lines are made of texts and numbers, which JSON can hold.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    // It may wait, and must not hold more than it is.
    lines.send(text.into_boxed_slice().into());
}

impl Run {
    pub(super) fn app(&self) -> &App {
        &self.intake.app
    }

    /// An original that is to be stored.
    pub(super) fn new_original(&self) -> Original {
        Original::new(self.app(), &self.intake.tenant)
    }

    /// Whether more items are to be read.
    fn goes_on(&self) -> Result<(), Stop> {
        let app = self.app();
        if self.hearing.is_gone() {
            Err(Stop::Unheard)
        } else if app.stopping().is_cancelled() {
            Err(stops().into())
        } else if let Some(problem) = self.trouble.first.get() {
            Err(problem.clone().into())
        } else if Instant::now() >= self.intake.deadline {
            Err(Problem::timed_out().into())
        } else {
            Ok(())
        }
    }

    /// Waits for `next`, but no longer than items are to be read.
    pub(super) async fn unless_over<T>(&self, next: impl Future<Output = T>) -> Result<T, Stop> {
        self.goes_on()?;
        let stop = tokio::select! {
            next = next => return Ok(next),
            () = self.hearing.gone() => Stop::Unheard,
            () = self.app().stopping().cancelled() => stops().into(),
            () = self.trouble.is_there.cancelled() => self.goes_on().err().unwrap_or(Stop::Unheard),
            () = tokio::time::sleep_until(self.intake.deadline) => Problem::timed_out().into(),
        };
        Err(stop)
    }

    /// Whether no earlier item of the request has this external id. Each is noted, also one that is refused later: repeated,
    /// the request has to mean the same.
    pub(super) fn is_first_of(&mut self, settings: &Settings) -> Result<(), Problem> {
        match &settings.external_id {
            Some(id) if !self.ids.insert(id.clone()) => Err(Problem::conflict(
                "external_id_repeated",
                "an earlier document of this request has the same external id; send one version of a document in a request",
            )),
            _ => Ok(()),
        }
    }

    /// Says what became of an item that is not accepted.
    pub(super) async fn say(&self, item: ItemBody) -> Result<(), Stop> {
        self.goes_on()?;
        self.fates.send(Fate::Known(item)).await.map_err(|_| Stop::Unheard)
    }

    /// Says that an item is refused. One that is refused for a server that is away ends the request.
    pub(super) async fn refuse(
        &self,
        place: Place,
        name: Option<String>,
        problem: Problem,
    ) -> Result<(), Stop> {
        self.trouble.note(&problem);
        let item = ItemBody::refused(place, name, problem);
        self.fates.send(Fate::Known(item)).await.map_err(|_| Stop::Unheard)?;
        self.goes_on()
    }

    /// Takes an upload of the tenant's rate, and waits for it within bounds: whoever sends is held up
    /// meanwhile.
    ///
    /// # Errors
    /// The inner one is of the item.
    pub(super) async fn pay(&mut self) -> Result<Result<Paid, Problem>, Stop> {
        let rate_wait = Duration::from_secs(self.app().config().bulk.rate_wait_seconds);
        let (until, mut has_waited) = (Instant::now() + rate_wait, false);
        loop {
            // Also after a wait.
            self.look_at_key().await?;
            self.goes_on()?;
            // Not given up halfway, when nobody would know whether a token was taken. It takes little time, also without Redis.
            let app = self.app();
            let taken = app.rates().take_upload(app.streams(), &self.intake.tenant, &self.limits).await;
            let wait = match taken {
                Ok(receipt) => return Ok(Ok(Paid::new(Arc::clone(&self.intake), receipt))),
                Err(wait) => wait,
            };
            if !std::mem::replace(&mut has_waited, true) {
                // What is on its way may give its token back. Without that a request that is repeated at a slow rate would pay
                // for what it knows, and never get further.
                drop(self.unless_over(self.places.acquire_many(self.concurrency)).await?);
            } else if Instant::now() + wait > until {
                return Ok(Err(rates::refused(Counted::Uploads, wait)));
            } else {
                self.unless_over(tokio::time::sleep(wait)).await?;
            }
        }
    }

    /// Whether the key still may do this, and what its tenant may use now. Keys are remembered for a while, which bounds
    /// how often they are looked up; where they are not, this does.
    async fn look_at_key(&mut self) -> Result<(), Stop> {
        let app = self.app();
        if app.config().key_cache() < LOOK_AT_KEY && self.looked_at_key.elapsed() < LOOK_AT_KEY {
            return Ok(());
        }
        let looked = Instant::now();
        let principal = self.unless_over(app.keys().of_session(app.store(), &self.intake.key_id)).await??;
        if !principal.may(Write::SCOPE) {
            return Err(Problem::forbidden(format!("the key lacks the scope `{}`", Write::SCOPE)).into());
        }
        (self.limits, self.looked_at_key) = (principal.limits.over(app.limits()), looked);
        Ok(())
    }

    /// Takes an item in that was paid for. Waits for a place, not for the end of it.
    pub(super) async fn take(&mut self, item: Item, paid: Paid) -> Result<(), Stop> {
        let permit = self.unless_over(Arc::clone(&self.places).acquire_owned()).await?;
        let permit = permit.map_err(|_| Stop::Unheard)?;
        let (intake, trouble) = (Arc::clone(&self.intake), Arc::clone(&self.trouble));
        let (place, name) = (item.place, item.name.clone());
        let task = tokio::spawn(async move {
            // Given back last: whoever has all places knows that every token is back that comes back.
            let _permit = permit;
            let name = item.name.clone();
            let accepted = take_in(&intake, item).await;
            match &accepted {
                Ok(accepted) if !accepted.duplicate => paid.used(),
                _ => paid.give_back().await,
            }
            match accepted {
                Ok(accepted) => ItemBody::accepted(place, name, &accepted),
                Err(problem) => {
                    trouble.note(&problem);
                    ItemBody::refused(place, Some(name), problem)
                }
            }
        });
        self.fates.send(Fate::Coming(place, name, task)).await.map_err(|_| Stop::Unheard)
    }
}

/// Why nothing more is taken by a gateway that is asked to stop.
pub(super) fn stops() -> Problem {
    Problem::unavailable("the gateway stops")
}

/// Stores an item and writes its row, as for a single upload.
async fn take_in(intake: &Intake, item: Item) -> Result<riacho_store::Accepted, Problem> {
    riacho_service::FOREGROUND.request();
    let app = &intake.app;
    let settings = item.settings.or(intake.settings.clone());
    let (original, stored) = match item.body {
        Body::Stored(original, stored) => (original, stored),
        Body::Here(bytes) => {
            // Before the bytes are kept.
            settings.chunking(app.config())?;
            let original = Original::new(app, &intake.tenant);
            let stored = app.objects().put(original.key(), bytes).await?;
            (original, stored)
        }
    };
    let filename = clean_filename(&item.name);
    let content_type = content_type(item.content_type.as_deref(), &filename);
    let received = Received { key: original.key().clone(), stored, filename, content_type, settings };
    let trace = intake.trace.clone();
    let accept = accept_of(app, &intake.tenant, Target::New, trace, &HeaderMap::new(), received)?;
    Ok(app.accept(&accept, &original.release()).await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn items_that_panic_are_refused_and_many_of_them_end_the_request() {
        let (trouble, (lines, _reader)) = (Trouble::default(), answer());
        for (items, ends) in [(MOST_FAULTS - 1, false), (1, true)] {
            let (fates, coming) = mpsc::channel(MOST_FAULTS as usize);
            for number in 1..=items {
                let task = tokio::spawn(async { panic!("as it is meant to") });
                let place = Place::Line(number.into());
                assert!(fates.send(Fate::Coming(place, "a.txt".to_owned(), task)).await.is_ok());
            }
            drop(fates);
            let summary = serde_json::to_value(tell(coming, &lines, &trouble).await).unwrap();
            assert_eq!((&summary["refused"], trouble.is_there.is_cancelled()), (&items.into(), ends));
        }
        assert!(trouble.first.get().unwrap().is_internal());
    }
}
